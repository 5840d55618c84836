"""Overview: what streams, groups and consumers look like just now, read without changing anything.

Stands on a Link. Each function costs a bounded number of commands per thing shown, none of which walks a whole stream
or keyspace at once. What the server cannot say is None: lag below 7.0 and after deletions, memory where it is denied.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import MillstreamError, NoSuchGroupError, NoSuchStreamError, ServerRefusedError
from pipeline.filters import shown_types
from pipeline.keys import GroupRef, StreamKeys, escape, stream_of
from pipeline.pause import read_pause
from pipeline.position import parse_entry_id
from pipeline.server.connect import Link
from pipeline.server.groups import LIST_FIELD, pending_of
from pipeline.server.replies import RawEntry, Reply, pairs, parse_entries, text
from pipeline.server.scripts import Arg, script

SCAN_COUNT = 1_000
"""Keys the server looks at per SCAN."""
COUNT_STEP = 200
"""Entries the server looks at per step of counting; packs of 64 kB make this 13 MB."""
MANY_CONSUMERS = 1_000
"""A group with more names than this is not asked for each of them when only its state is wanted."""
ATTENDED_MS = 60_000
"""A consumer that is no member of Millstream's counts as being there if it asked for entries within this time."""
ALIVE_MS = 5_000
"""A member beats twice a second; one that was silent for longer than this is not shown as alive."""
LAGGING_MS = 10_000
"""A group lags when its oldest unread entry has waited longer than this."""
CLAIM_AFTER_MS = 30_000
"""Taken for members whose record says nothing else: the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """One stream."""

    name: str
    entries: int
    first_id: str | None
    """Id of the oldest entry; None if the stream is empty."""
    last_id: str | None
    """Id of the newest entry there; None if the stream is empty."""
    newest_id: str
    """The highest id ever given; 0-0 if none."""
    memory_bytes: int | None
    groups: int
    added: int | None
    """Entries ever added; None below 7.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """One group: what it has not read, what it runs, what waits to run again, and what died."""

    stream: str
    group: str
    state: str
    """drained, working, lagging, stuck, or paused."""
    unread: int | None
    """Entries it has not read; None where the server cannot tell."""
    behind_ms: int
    """How long its oldest unread entry has waited; 0 if it has read all."""
    running: int
    """Entries read and not settled: running, or held by a consumer that died."""
    waiting: int
    """Events due again later, or due and not yet read."""
    next_due_ms: int | None
    """Time until the first of them is due, 0 if it is; None if nothing waits for a time."""
    dead: int
    members: int
    """Live members."""
    consumers: int
    """Names on the stream, live or left over."""
    last_read_id: str
    """The entry id up to which the group has read."""
    claim_after_ms: int | None
    """None for a group that no member of Millstream's has joined."""
    types: str
    """Which event types its members take; those of unlike members are divided by |."""
    paused_ms: int | None
    """When it was paused, in ms since 1970; None if it is not."""
    paused_by: str
    """Who paused it: a member whose breaker tripped, or a person."""
    paused_reason: str
    of_list: str
    """The list queue whose tasks the stream holds, from being taken until they are settled; empty for other streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerFacts:
    """One consumer's name in a group."""

    name: str
    kind: str
    """member (alive), foreign (no member of Millstream's, but asking for entries), or leftover (nobody behind it)."""
    pending: int
    idle_ms: int | None
    """Since it last asked for entries, or renewed what it holds; None if it was never given one."""
    heartbeat_ms: int | None
    """Since its last heartbeat as a member; None if it has left or never was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingFacts:
    """One entry that was read and not settled."""

    entry_id: str
    again: bool
    """It stands in the group's own `again` stream."""
    consumer: str
    idle_ms: int
    """Since it was read, renewed or taken over."""
    deliveries: int


def server_ms(link: Link) -> int:
    """The server's clock, in ms since 1970: entry ids are made from it."""
    seconds, micros = link.call("TIME")
    return int(seconds) * 1_000 + int(micros) // 1_000


def stream_keys(link: Link, *, match: str | None = None) -> Iterator[bytes]:
    """The keys of streams, each once, as the server comes upon them; Millstream's own beside them are left out."""
    cursor: bytes | int = 0
    matching: tuple[Arg, ...] = ("MATCH", match) if match else ()
    seen: set[bytes] = set()
    while True:
        cursor, keys = link.call("SCAN", cursor, *matching, "COUNT", SCAN_COUNT, "TYPE", "stream")
        for key in keys:
            if key not in seen and stream_of(text(key)) is None:
                seen.add(key)
                yield key
        if int(cursor) == 0:
            return


def streams(link: Link, keys: Sequence[bytes]) -> list[StreamFacts]:
    """The facts of these streams; one that is gone meanwhile is left out."""
    commands = [command for key in keys for command in _stream_commands(key)]
    replies = link.calls(commands)
    found = []
    for at, key in enumerate(keys):
        info, memory = replies[2 * at : 2 * at + 2]
        if not isinstance(info, MillstreamError):
            found.append(_read_facts(text(key), info, memory))
    return found


def stream_facts(link: Link, name: str) -> StreamFacts:
    """The facts of one stream.

    Raises:
        NoSuchStreamError: no such key. WrongKeyTypeError: the key holds something else.
    """
    info, memory = link.calls(_stream_commands(name.encode()))
    if isinstance(info, MillstreamError):
        raise named(info, name)
    return _read_facts(name, info, memory)


def groups(link: Link, name: str, *, only: str | None = None) -> list[GroupFacts]:
    """The groups of a stream, or only the one named.

    Raises:
        NoSuchStreamError: no such stream. NoSuchGroupError: no group `only`.
    """
    keys = StreamKeys(name)
    info, listed, now = link.calls([("XINFO", "STREAM", name), ("XINFO", "GROUPS", name), ("TIME",)])
    for reply in (info, listed, now):
        if isinstance(reply, MillstreamError):
            raise named(reply, name)
    now_ms = int(now[0]) * 1_000 + int(now[1]) // 1_000
    facts = _read_facts(name, info, None)
    chosen = [row for row in map(pairs, listed) if only is None or text(row["name"]) == only]
    if only is not None and not chosen:
        raise NoSuchGroupError(f"stream {name!r} has no group {only!r}")
    return [_group_facts(link, keys, facts, row, now_ms) for row in chosen]


def consumers(link: Link, name: str, group: str) -> list[ConsumerFacts]:
    """The consumers of a group, on the stream and on the group's own `again` stream together.

    Raises:
        NoSuchStreamError, NoSuchGroupError: there is none.
    """
    keys = StreamKeys(name)
    main, again, members, now = link.calls(
        [
            ("XINFO", "CONSUMERS", name, group),
            ("XINFO", "CONSUMERS", keys.again(group), group),
            ("HGETALL", keys.members(group)),
            ("TIME",),
        ]
    )
    if isinstance(main, MillstreamError):
        raise named(main, name, group)
    beats = _heartbeats(members, int(now[0]) * 1_000 + int(now[1]) // 1_000)
    # Below 7.2 a member has no name in the group until it was given an entry.
    pending = dict.fromkeys(beats, 0)
    idle: dict[str, int] = {}
    for row in [*map(pairs, main), *([] if isinstance(again, MillstreamError) else map(pairs, again))]:
        who = text(row["name"])
        pending[who] = pending.get(who, 0) + int(row["pending"])
        idle[who] = min(idle.get(who, row["idle"]), row["idle"])
    return [
        ConsumerFacts(
            name=who,
            kind=_kind(beats.get(who), idle.get(who, 0)),
            pending=pending[who],
            idle_ms=idle.get(who),
            heartbeat_ms=beats[who][0] if who in beats else None,
        )
        for who in sorted(pending)
    ]


def pending(
    link: Link,
    ref: GroupRef,
    *,
    start: str = "-",
    count: int,
    consumer: str | None = None,
    min_idle_ms: int = 0,
) -> list[PendingFacts]:
    """Pending entries of a group on one of its streams, in entry-id order from start on.

    Raises:
        NoSuchStreamError, NoSuchGroupError: there is none. An `again` stream that is not there has none pending.
    """
    try:
        rows = pending_of(link, ref, consumer=consumer, start=start, count=count, min_idle_ms=min_idle_ms)
    except NoSuchGroupError:
        if not ref.again:
            stream_facts(link, ref.keys.stream)
            raise NoSuchGroupError(f"stream {ref.keys.stream!r} has no group {ref.group!r}") from None
        return []
    except MillstreamError as error:
        raise named(error, ref.keys.stream, ref.group) from None
    return [
        PendingFacts(
            entry_id=text(entry_id), again=ref.again, consumer=who, idle_ms=idle_ms, deliveries=deliveries
        )
        for entry_id, who, idle_ms, deliveries in rows
    ]


def dead_letters(
    link: Link, name: str, group: str, *, start: str = "-", end: str = "+", count: int, newest: bool = False
) -> list[RawEntry]:
    """Dead letters of a group as they are kept, oldest first: those from start on, or the newest up to end.

    Raises:
        NoSuchStreamError, NoSuchGroupError: there is none, nor any dead letter kept for it.
    """
    key = StreamKeys(name).dead(group)
    command = ("XREVRANGE", key, end, start) if newest else ("XRANGE", key, start, end)
    found, length = link.calls([(*command, "COUNT", count), ("XLEN", key)])
    if isinstance(found, MillstreamError):
        raise named(found, name)
    if not length:
        groups(link, name, only=group)
    entries = parse_entries(found)
    return entries[::-1] if newest else entries


def count_entries(link: Link, name: str, start: str = "-", end: str = "+") -> Iterator[int]:
    """Count the entries from start to end, both included, without fetching them; yields what each step counted."""
    while True:
        counted, last = link.run(script("count"), [name], [start, end, COUNT_STEP])
        if not counted:
            return
        yield counted
        start = f"({text(last)}"


def group_state(
    *,
    unread: int | None,
    behind_ms: int,
    running: int,
    waiting: int,
    attended: bool,
    idle_ms: int,
    patience_ms: int | None,
    paused: bool = False,
) -> str:
    """One word for where a group stands.

    Args:
        attended: somebody is there to work.
        idle_ms: how long its oldest pending entry, or what is due again, has been left alone.
        patience_ms: idle for longer than this means that nobody takes it over; None: no such limit is known.
        paused: nobody is to read for it, whatever there is to do.
    """
    if paused:
        return "paused"
    if unread == 0 and not running and not waiting:
        return "drained"
    if not attended or (patience_ms is not None and idle_ms > patience_ms):
        return "stuck"
    return "lagging" if behind_ms > LAGGING_MS else "working"


def named(error: MillstreamError, name: str, group: str = "") -> MillstreamError:
    """The server's answer as an error that names the stream and group it is about."""
    if isinstance(error, NoSuchGroupError):
        return NoSuchGroupError(f"stream {name!r} has no group {group!r}")
    if isinstance(error, ServerRefusedError) and "no such key" in str(error):
        return NoSuchStreamError(f"there is no stream {name!r}")
    return type(error)(f"stream {name!r}: {error}") if type(error) is not ServerRefusedError else error


def _stream_commands(key: bytes) -> list[tuple[Arg, ...]]:
    return [("XINFO", "STREAM", key), ("MEMORY", "USAGE", key)]


def _read_facts(name: str, info: Reply, memory: Reply) -> StreamFacts:
    about = pairs(info)
    return StreamFacts(
        name=name,
        entries=about["length"],
        first_id=_id_of(about["first-entry"]),
        last_id=_id_of(about["last-entry"]),
        newest_id=text(about["last-generated-id"]),
        memory_bytes=memory if isinstance(memory, int) else None,
        groups=about["groups"],
        added=about.get("entries-added"),
    )


def _id_of(entry: Reply) -> str | None:
    return text(entry[0]) if entry else None


def _group_facts(
    link: Link, keys: StreamKeys, facts: StreamFacts, row: dict[str, Reply], now_ms: int
) -> GroupFacts:
    group, read_id = text(row["name"]), text(row["last-delivered-id"])
    unread_now = facts.last_id is not None and parse_entry_id(facts.last_id) > parse_entry_id(read_id)
    replies = link.calls(
        [
            ("XLEN", keys.again(group)),
            ("XPENDING", keys.again(group), group),
            ("ZCARD", keys.retry(group)),
            ("ZRANGE", keys.retry(group), 0, 0, "WITHSCORES"),
            ("XLEN", keys.dead(group)),
            ("HGETALL", keys.members(group)),
            ("HGET", keys.groups, f"{escape(group)}:claim_after"),
            ("HGET", keys.groups, f"{escape(group)}:paused"),
            ("HGET", keys.groups, f"{escape(group)}:filter"),
            ("HGET", keys.groups, LIST_FIELD),
            ("XPENDING", keys.stream, group, "-", "+", 1),
            ("XRANGE", keys.stream, f"({read_id}", "+", "COUNT", 1 if unread_now else 0),
        ]
    )
    for reply in replies:
        # The group may have no `again` stream, and may vanish while we look; what else is refused must be said.
        if isinstance(reply, MillstreamError) and not isinstance(reply, NoSuchGroupError):
            raise named(reply, keys.stream)
    there: list[Reply] = [() if isinstance(reply, NoSuchGroupError) else reply for reply in replies]
    (
        again,
        again_pending,
        retries,
        first_retry,
        dead,
        members,
        claim_after,
        kept,
        types,
        listed,
        oldest,
        next_unread,
    ) = there
    pause = read_pause(text(kept or b""))
    again_running = again_pending[0] if again_pending else 0
    beats = _heartbeats(members, now_ms)
    live = sum(_kind(beat, ATTENDED_MS) == "member" for beat in beats.values())
    next_due_ms = round(float(first_retry[1])) - now_ms if first_retry else None
    unread = _unread(row.get("lag"), facts, read_id, unread_now)
    if listed:  # what is settled is deleted: all else in the stream is pending, or unread
        unread = max(facts.entries - row["pending"], 0)
    first_unread = parse_entries(next_unread)
    behind_ms = max(now_ms - parse_entry_id(first_unread[0][0])[0], 0) if first_unread else 0
    running = row["pending"] + again_running
    waiting = retries + max(again - again_running, 0)
    idle_ms = max(oldest[0][2] if oldest else 0, -next_due_ms if next_due_ms is not None else 0)
    return GroupFacts(
        stream=keys.stream,
        group=group,
        state=group_state(
            unread=unread,
            behind_ms=behind_ms,
            running=running,
            waiting=waiting,
            attended=live > 0 or _anyone_asks(link, keys, group, row["consumers"]),
            idle_ms=idle_ms,
            patience_ms=2 * int(claim_after) if claim_after else None,
            paused=pause is not None,
        ),
        unread=unread,
        behind_ms=behind_ms,
        running=running,
        waiting=waiting,
        next_due_ms=max(next_due_ms, 0) if next_due_ms is not None else None,
        dead=dead,
        members=live,
        consumers=row["consumers"],
        last_read_id=read_id,
        claim_after_ms=int(claim_after) if claim_after else None,
        types=shown_types(text(types or b"")),
        paused_ms=pause.since_ms if pause else None,
        paused_by=pause.by if pause else "",
        paused_reason=pause.reason if pause else "",
        of_list=text(listed or b""),
    )


def _unread(lag: int | None, facts: StreamFacts, read_id: str, unread_now: bool) -> int | None:
    """Entries beyond read_id: known from the ids at both ends of the stream, else the server's lag, else unknown."""
    if not unread_now:
        return 0
    if facts.first_id is not None and parse_entry_id(read_id) < parse_entry_id(facts.first_id):
        return facts.entries
    return None if lag is None else min(lag, facts.entries)


def _anyone_asks(link: Link, keys: StreamKeys, group: str, names: int) -> bool:
    """Whether a consumer that is no member of ours asked for entries lately."""
    if not 0 < names <= MANY_CONSUMERS:
        return names > 0
    reply = link.calls([("XINFO", "CONSUMERS", keys.stream, group)])[0]
    if isinstance(reply, MillstreamError):
        return False
    return any(row["idle"] < ATTENDED_MS for row in map(pairs, reply))


def _heartbeats(members: Reply, now_ms: int) -> dict[str, tuple[int, int]]:
    """Member to (ms since its last heartbeat, its claim_after in ms)."""
    beats = {}
    for who, record in pairs(members or ()).items():
        claim_after, _, seen = text(record).partition(":")
        if claim_after.isdigit() and seen.isdigit():
            beats[who] = (max(now_ms - int(seen), 0), int(claim_after))
    return beats


def _kind(beat: tuple[int, int] | None, idle_ms: int) -> str:
    if beat is not None:
        return "member" if beat[0] <= min(beat[1], ALIVE_MS) else "leftover"
    return "foreign" if idle_ms < ATTENDED_MS else "leftover"


def in_batches(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """The keys in lists of at most `size`, so that each is one round trip."""
    batch: list[bytes] = []
    for key in keys:
        batch.append(key)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
