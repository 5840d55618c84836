"""Sight: all that the server keeps of one stream and its groups, as of one moment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.envelope import Again, DeadLetter, read_again, read_dead, read_retry_body
from pipeline.errors import NoSuchGroupError
from pipeline.keys import GroupRef, StreamKeys, escape
from pipeline.position import EntryId, parse_entry_id
from pipeline.server.connect import Link
from pipeline.server.replies import Reply, pairs, parse_entries, text

Key = tuple[str, int]
"""An event: the id of the entry it was first appended in, and its place there."""


@dataclass(frozen=True, slots=True)
class Copy:
    """An event that goes on by itself, and what its envelope says of it."""

    key: Key
    runs: int
    crashes: int


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry in somebody's hands."""

    owner: str
    deliveries: int
    idle_ms: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a group stands on a stream."""

    last: EntryId = (0, 0)
    """The last entry delivered."""
    pending: dict[str, Pending] = field(default_factory=dict)

    def unread(self, entry_id: str) -> bool:
        """Whether the entry is still to be delivered."""
        return parse_entry_id(entry_id) > self.last


@dataclass(frozen=True, slots=True)
class GroupSight:
    """One group; a cursor is None where the group does not exist on that stream."""

    main: Cursor | None
    again: Cursor | None
    again_entries: dict[str, Copy]
    waiting: dict[str, tuple[float, Copy]]
    """Member of the retries to due time, ms, and event."""
    dead: dict[str, tuple[DeadLetter, Key]]
    facts: dict[str, str]
    """token, pos:main, …"""

    def cursor(self, *, again: bool) -> Cursor | None:
        """The cursor on the group's own stream, or on the main one."""
        return self.again if again else self.main

    def copies(self) -> Iterator[Key]:
        """The events that go on by themselves, dead ones included."""
        yield from (copy.key for copy in self.again_entries.values())
        yield from (copy.key for _, copy in self.waiting.values())
        yield from (key for _, key in self.dead.values())


@dataclass(frozen=True, slots=True)
class Sight:
    """A stream and its groups."""

    now_ms: int
    entries: frozenset[str]
    groups: dict[str, GroupSight]


def look(link: Link, keys: StreamKeys, groups: Sequence[str]) -> Sight:
    """See all there is, while nothing else happens. Not in a transaction: 6.2 refuses those when memory is out."""
    commands: list[tuple[str | int, ...]] = [
        ("TIME",),
        ("XRANGE", keys.stream, "-", "+"),
        ("HGETALL", keys.groups),
    ]
    for group in groups:
        for again in (False, True):
            ref = GroupRef(keys, group, again=again)
            commands += [("XINFO", "GROUPS", ref.key), ("XPENDING", ref.key, group, "-", "+", 10_000)]
        commands += [
            ("XRANGE", keys.again(group), "-", "+"),
            ("ZRANGE", keys.retry(group), 0, -1, "WITHSCORES"),
            ("HGETALL", keys.retry_bodies(group)),
            ("XRANGE", keys.dead(group), "-", "+"),
        ]
    now, entries, facts, *rest = link.calls(commands)
    found = {name: text(value) for name, value in pairs(facts).items()}
    return Sight(
        now_ms=int(now[0]) * 1_000 + int(now[1]) // 1_000,
        entries=frozenset(text(entry_id) for entry_id, _ in parse_entries(entries)),
        groups={group: _group(group, rest[8 * i : 8 * i + 8], found) for i, group in enumerate(groups)},
    )


def _group(group: str, replies: Sequence[Reply], facts: dict[str, str]) -> GroupSight:
    main_info, main_pending, again_info, again_pending, again, waiting, bodies, dead = replies
    prefix = f"{escape(group)}:"
    kept = pairs(bodies)
    due = {text(waiting[i]): float(waiting[i + 1]) for i in range(0, len(waiting), 2)}
    assert due.keys() == kept.keys(), f"retries without a body, or the other way round: {due} {kept}"
    return GroupSight(
        main=_cursor(group, main_info, main_pending),
        again=_cursor(group, again_info, again_pending),
        again_entries={text(entry_id): _copy(fields or []) for entry_id, fields in parse_entries(again)},
        waiting={name: (due[name], _copy(read_retry_body(kept[name]))) for name in due},
        dead={text(entry_id): _letter(fields or []) for entry_id, fields in parse_entries(dead)},
        facts={name.removeprefix(prefix): value for name, value in facts.items() if name.startswith(prefix)},
    )


def _cursor(group: str, info: Reply, pending: Reply) -> Cursor | None:
    if isinstance(pending, NoSuchGroupError):
        return None
    last = next(facts["last-delivered-id"] for facts in map(pairs, info) if text(facts["name"]) == group)
    return Cursor(
        parse_entry_id(last), {text(row[0]): Pending(text(row[1]), row[3], row[2]) for row in pending}
    )


def _copy(fields: list[bytes]) -> Copy:
    again, _ = read_again(fields)
    assert isinstance(again, Again), f"an entry of the group's own stream without an envelope: {fields}"
    return Copy((again.entry_id, again.index), again.runs, again.crashes)


def _letter(fields: list[bytes]) -> tuple[DeadLetter, Key]:
    letter, _ = read_dead(fields)
    assert letter is not None, f"a dead letter without an envelope: {fields}"
    return letter, (letter.entry_id, letter.index)
