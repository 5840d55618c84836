"""Groups: what a member of a consumer group asks of the server, as commands to send and answers to parse.

Each operation is one script (lua/, where the argument order stands) or one command. `…_command` builds what Link.send
takes, `parse_…` turns the reply into a value: so several can be in flight on one connection.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.breaker import LAST_EVENTS, Ended
from pipeline.errors import MillstreamError, NoSuchGroupError, UsageError
from pipeline.keys import GroupRef, StreamKeys, escape
from pipeline.list_options import ListOptions
from pipeline.outcome import Outcome
from pipeline.pause import Pause, pause_text, read_pause
from pipeline.server.connect import Link
from pipeline.server.replies import Fields, Reply, pairs, text
from pipeline.server.scripts import Arg, script

MAX_IDS = 500
"""Most entry ids in one script call, so that no call holds the server up."""
FILTER_KEPT_MS = 3_600_000
"""What a member that died takes is still the group's for so long, in ms: another of its version may come."""
LIST_FIELD = ":list"
"""The field of S:groups that says of which list the stream is; all others begin with a group's name."""
Command = tuple[Arg, ...]
NOTHING_ENDED = Ended()


@dataclass(frozen=True, slots=True)
class Joined:
    """Answer of join(): whether the group was there, and where it began otherwise."""

    state: str
    """exists, created, recreated (it was lost), or own lost: what was due again for it is gone, itself is there."""
    position: str
    entries: int
    """Entries in the stream."""


@dataclass(frozen=True, slots=True)
class Duty:
    """Answer to a heartbeat."""

    now_ms: int
    on_duty: bool
    claim_after_ms: int
    """The group's: the largest of its live members'."""
    token: str
    sweep_mark: str
    """Not empty: somebody handed entries back, look at once."""
    next_due_ms: float | None
    """When the first retry is due, by the server's clock; None if nothing waits."""
    members: dict[str, tuple[int, int]]
    """Name to (claim_after_ms, ms since its last heartbeat); empty unless on duty."""
    pause: Pause | None
    """Nobody is to read for the group."""
    ended: Ended
    """Of the group's events, those that ended last, about LAST_EVENTS."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer of take(): what was taken over."""

    clock_ok: bool
    """False: the server's clock is beyond what was acceptable, and nothing was claimed."""
    now_ms: int
    cursor: str = "0-0"
    """Pass it to the next call; 0-0 when the sweep is complete."""
    token: str = ""
    entries: Sequence[tuple[bytes, Fields, int]] = ()
    """(entry id, fields, deliveries with this one)."""
    gone: Sequence[bytes] = ()
    """Ids trimmed while they were pending: settled now, never handled."""
    noted: Mapping[bytes, int] = field(default_factory=dict)
    """Entry id to deliveries of those that were noted to run alone, as it was then."""
    token_before: str = ""
    """The token that this claim replaced: what is held under it may be held under the new one."""


class Promoted(NamedTuple):
    """What a call of promote() did."""

    taken: int
    """Retries that were due."""
    next_due_ms: float | None
    """When the next one is due, by the server's clock; None if nothing waits."""
    found: int
    """Retries whose due time was gone: they are due from now on."""
    lost: list[str]
    """Names of those taken whose event was gone (`entry id:index:random`): nothing is left of them."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Answer to settle: what was acknowledged, and what was not ours any more."""

    count: int
    token: str
    group_there: bool
    taken_over: list[bytes]
    other_filter: str | None = None
    """Not None: the group's filter is this one now, and nothing was done."""


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that happens for an event when its entry is taken out of pending."""

    kind: str
    """again, dead, retry; call (an effect), emit, done (the inbox of `once=`)."""
    fields: Sequence[Arg]
    """Entry fields; for retry: due ms (server's clock), a unique member, the body; for call: the type its key may hold,
    the command, what follows the key; for emit: ms until the id expires, entry fields; for done: ms until it expires,
    what it holds."""
    event: int = 0
    """Which event of the entry it is for."""
    keys: Sequence[str] = ()
    """For call and done: the key; for emit: the stream, and its S:ids:<id>."""
    dedupe: bool = False
    """For emit: not if S:ids has it. Without it, being done in the step that settles is what makes it once."""
    outcome: Outcome | None = None
    """For dead and retry: what was decided about the event."""


@dataclass(frozen=True, slots=True)
class MovedEntry:
    """An entry to be taken out of pending, its holder, and the places its events go to (none: acknowledged only)."""

    entry_id: bytes
    consumer: str
    moves: Sequence[Move] = field(default_factory=tuple)


def nonce() -> str:
    """The random part of a claims token."""
    return secrets.token_hex(6)


def join(
    link: Link, keys: StreamKeys, group: str, *, start: str, lost: bool, queue: ListOptions | None = None
) -> Joined:
    """Make sure the group exists on the stream and its `again` stream; lost: a member saw it before.

    queue: the list whose tasks the stream holds.

    Raises:
        UsageError: the stream holds the tasks of a list, which is not said to be consumed; or the list has a group.
    """
    name = queue.name if queue is not None else ""
    reply = link.run(
        script("group"),
        [keys.stream, keys.groups, keys.again(group), keys.never],
        [group, escape(group), start, int(lost), nonce(), name],
    )
    if reply[0] == b"list" and name:
        raise UsageError(
            f"list {name!r} and list {text(reply[1])!r} would both have the stream {keys.stream!r} for what is taken "
            "from them: rename one of the two"
        )
    if reply[0] == b"list":
        raise UsageError(
            f"stream {keys.stream!r} holds what workers of the list {text(reply[1])!r} have taken: consume the list "
            f"(list={text(reply[1])!r})"
        )
    if reply[0] == b"other":
        other = text(reply[1])
        raise UsageError(
            f"list {name!r} has the group {other!r} already, and each of its tasks is done once: use that name, or "
            f"remove the group (millstream group rm {keys.stream!r} {other!r}) where nothing of it is left"
        )
    return Joined(text(reply[0]), text(reply[1]), reply[2])


def declare_filter(link: Link, keys: StreamKeys, group: str, member: str, own: str) -> str:
    """Note what a member takes (a filter of pipeline/filters.py; empty: it leaves); the group's filter now."""
    return text(
        link.run(script("filter"), [keys.groups, keys.never], [escape(group), member, own, FILTER_KEPT_MS])
    )


def heartbeat(
    link: Link,
    keys: StreamKeys,
    group: str,
    member: str,
    *,
    claim_after_ms: int,
    wants: int,
    hold_ms: int,
    swept: str,
    ended: Ended = NOTHING_ENDED,
) -> Duty:
    """One heartbeat of a member; wants 1 to hold the duty, 0 to give it up, -1 or -2 to leave; ended: here since."""
    reply = link.run(
        script("duty"),
        [
            *(keys.groups, keys.members(group), keys.duty(group), keys.retry(group), keys.never),
            keys.retry_bodies(group),
        ],
        [escape(group), member, claim_after_ms, wants, hold_ms, swept, ended.count, ended.died, LAST_EVENTS],
    )
    return Duty(
        now_ms=reply[0],
        on_duty=reply[1] == 1,
        claim_after_ms=reply[2],
        token=text(reply[3]),
        sweep_mark=text(reply[4]),
        next_due_ms=float(reply[5]) if reply[5] else None,
        members={text(reply[i]): (reply[i + 1], reply[i + 2]) for i in range(9, len(reply), 3)},
        pause=read_pause(text(reply[6])),
        ended=Ended(reply[7], reply[8]),
    )


def pause(link: Link, keys: StreamKeys, group: str, *, by: str, reason: str) -> tuple[bool, Pause]:
    """Have all members of a group read nothing more; whether this call paused it, and the pause that stands."""
    changed, kept = link.run(
        script("pause"), [keys.groups, keys.never], [escape(group), pause_text(by, reason)]
    )
    stands = read_pause(text(kept))
    assert stands is not None, "it was paused just now, or before"
    return changed == 1, stands


def resume(link: Link, keys: StreamKeys, group: str) -> Pause | None:
    """Have the members of a group read again; the pause that this ended, None if there was none."""
    _, kept = link.run(script("pause"), [keys.groups, keys.never], [escape(group), ""])
    return read_pause(text(kept))


def take(
    link: Link, ref: GroupRef, consumer: str, *, min_idle_ms: int, cursor: str, count: int, latest_ms: int
) -> Taken:
    """Take over entries idle for min_idle_ms or longer, in entry-id order from the cursor.

    Raises:
        NoSuchGroupError: the group was destroyed. NotConnectedError: what was taken is ours, but unseen.
    Source: https://redis.io/docs/latest/commands/xautoclaim/
    """
    keys, args = take_words(
        ref, consumer, min_idle_ms=min_idle_ms, cursor=cursor, count=count, latest_ms=latest_ms
    )
    return parse_taken(link.run(script("take"), keys, args))


def take_words(
    ref: GroupRef, consumer: str, *, min_idle_ms: int, cursor: str, count: int, latest_ms: int
) -> tuple[list[str], list[Arg]]:
    """The keys and arguments of take()."""
    args: list[Arg] = [ref.group, escape(ref.group), consumer, min_idle_ms, cursor, count, latest_ms, nonce()]
    return [ref.key, ref.keys.groups], [*args, ref.alone]


def parse_taken(reply: Reply) -> Taken:
    """The answer to the script `take`."""
    if reply[0] != b"ok":
        return Taken(False, reply[1])
    entries = [(entry[0], entry[1], deliveries) for entry, deliveries in zip(reply[4], reply[5], strict=True)]
    return Taken(
        clock_ok=True,
        now_ms=reply[1],
        cursor=text(reply[2]),
        token=text(reply[3]),
        entries=entries,
        gone=reply[6],
        noted=dict(zip(reply[8][::2], reply[8][1::2], strict=True)),
        token_before=text(reply[7]),
    )


def alone_command(ref: GroupRef, consumer: str, entry_id: bytes, deliveries: int) -> Command:
    """Note that an entry, delivered so often, is about to run with nothing beside it; answers 0 if it is not ours."""
    return script("alone").command(
        [ref.key, ref.keys.groups, ref.keys.never], [ref.group, ref.alone, consumer, entry_id, deliveries]
    )


def read_command(
    refs: Sequence[GroupRef], consumer: str, *, count: int, block_ms: int | None = None
) -> Command:
    """XREADGROUP of new entries from all refs of one group; block_ms None returns at once."""
    block: tuple[Arg, ...] = () if block_ms is None else ("BLOCK", block_ms)
    return (
        *("XREADGROUP", "GROUP", refs[0].group, consumer, "COUNT", count, *block, "STREAMS"),
        *(ref.key for ref in refs),
        *(">" for _ in refs),
    )


def settle_command(
    ref: GroupRef, consumer: str, token: str, ids: Sequence[bytes], *, passed_by: str = ""
) -> Command:
    """Acknowledge entries that were read under this claims token; at most MAX_IDS.

    passed_by: the group's filter by which events of theirs were passed over, if any were.
    """
    return script("settle").command(
        [ref.key, ref.keys.groups],
        [ref.group, escape(ref.group), consumer, int(ref.deletes), token, passed_by, *ids],
    )


def parse_settled(reply: Reply) -> Settled:
    """The answer to settle_command."""
    if reply[2] == 2:
        return Settled(0, text(reply[1]), True, [], text(reply[3]))
    return Settled(reply[0], text(reply[1]), reply[2] == 1, list(reply[3:]))


def renew(
    link: Link, ref: GroupRef, consumer: str, token: str, ids: Sequence[bytes]
) -> tuple[str, list[bytes]]:
    """Keep entries from going idle; the token now, and the ids that are not ours any more."""
    reply = link.run(
        script("renew"), [ref.key, ref.keys.groups], [ref.group, escape(ref.group), consumer, token, *ids]
    )
    return text(reply[0]), list(reply[1:])


def move_command(
    ref: GroupRef, entries: Iterable[MovedEntry], *, min_idle_ms: int = 0, passed_by: str = ""
) -> Command:
    """Take entries out of pending and do what their moves say, each entry in one step.

    min_idle_ms above 0 moves what others hold and have abandoned for so long, and changes the claims token.
    passed_by: as for settle_command.
    """
    keys, args = ref.keys, list[Arg]()
    used = [
        *(ref.key, keys.groups, keys.again(ref.group), keys.retry(ref.group)),
        *(keys.retry_bodies(ref.group), keys.dead(ref.group), keys.never),
    ]
    numbers: dict[str, int] = {}
    for entry in entries:
        args += (entry.entry_id, entry.consumer, len(entry.moves))
        for move in entry.moves:
            words = list[Arg]()
            for key in move.keys if move.kind != "emit" or move.dedupe else move.keys[:1]:
                if key not in numbers:
                    used.append(key)
                    numbers[key] = len(used)
                words.append(numbers[key])
            if move.kind == "emit" and len(words) == 1:
                words.append("")
            args += (move.kind, move.event, len(words) + len(move.fields), *words, *move.fields)
    return script("move").command(
        used,
        [
            *(ref.group, escape(ref.group), int(ref.deletes), min_idle_ms, nonce() if min_idle_ms else ""),
            *(passed_by, *args),
        ],
    )


def emit_command(emit: Move) -> Command:
    """Append an emitted event ahead of its settlement, once by its id."""
    return script("emit").command(emit.keys, emit.fields)


def hand_back(link: Link, ref: GroupRef, consumer: str, ids: Sequence[bytes], *, idle_ms: int) -> int:
    """Give entries up without spending the attempt; idle_ms 0 releases them, more makes them claimable at once."""
    given: int = link.run(
        script("hand_back"),
        [ref.key, ref.keys.groups, ref.keys.never],
        [ref.group, escape(ref.group), consumer, idle_ms, nonce(), ref.alone, *ids],
    )
    return given


def promote(link: Link, keys: StreamKeys, group: str, *, count: int = 200) -> Promoted:
    """Move due retries to `again`, at most `count`."""
    reply = link.run(
        script("promote"), [keys.again(group), keys.retry(group), keys.retry_bodies(group)], [count]
    )
    return Promoted(
        reply[0], float(reply[1]) if reply[1] else None, reply[2], [text(name) for name in reply[3:]]
    )


def save_position(link: Link, keys: StreamKeys, group: str) -> str:
    """Save where the group stands on the stream; the position saved."""
    return text(link.run(script("positions"), [keys.stream, keys.groups, keys.never], [group, escape(group)]))


def restamp(link: Link, ref: GroupRef) -> None:
    """Have pending entries age from now on that were delivered at a time still to come: the clock was set back."""
    start: str | None = "-"
    while start is not None:
        last = text(link.run(script("restamp"), [ref.key], [ref.group, start, MAX_IDS]))
        start = f"({last}" if last else None


def made(link: Link, keys: StreamKeys, group: str) -> str:
    """The claims token that the group had when it was created last: what was held under an older one went with it."""
    return text(link.call("HGET", keys.groups, f"{escape(group)}:made") or "")


def list_of(link: Link, keys: StreamKeys) -> str:
    """The list queue whose tasks the stream holds, as its first member said; empty for any other stream."""
    return text(link.call("HGET", keys.groups, LIST_FIELD) or "")


def names_idle(link: Link, ref: GroupRef) -> dict[str, tuple[int, int]]:
    """Consumer names of a group on one of its streams: what each holds, and for how long it did nothing, in ms."""
    reply = link.calls([("XINFO", "CONSUMERS", ref.key, ref.group)])[0]
    if isinstance(reply, MillstreamError):
        if isinstance(reply, NoSuchGroupError) or "no such key" in str(reply):
            return {}
        raise reply
    return {text(facts["name"]): (facts["pending"], facts["idle"]) for facts in map(pairs, reply)}


def names_left(link: Link, keys: StreamKeys, group: str) -> list[str]:
    """Names of members who left, and that still stand for what they held then."""
    reply = link.call("HGETALL", keys.members(group))
    return [text(name) for name, said in zip(reply[::2], reply[1::2], strict=True) if said.endswith(b":0")]


def wrong_keys(link: Link, keys: StreamKeys, group: str, *, queue: ListOptions | None = None) -> list[str]:
    """Which of a group's keys hold another type than they should, each as "KEY holds a TYPE, not a TYPE".

    queue: the list whose tasks the stream holds.
    """
    types = ({} if queue is None else queue.key_types) | {
        keys.stream: "stream",
        keys.again(group): "stream",
        keys.dead(group): "stream",
        keys.groups: "hash",
        keys.members(group): "hash",
        keys.retry_bodies(group): "hash",
        keys.retry(group): "zset",
        keys.duty(group): "string",
    }
    return of_other_types(link, types)


def of_other_types(link: Link, types: Mapping[str, str]) -> list[str]:
    """Which of these keys hold another type than this, each as "KEY holds a TYPE, not a TYPE"."""
    return [f"{key} holds a {holds}, not a {wanted}" for key, holds, wanted in other_types(link, types)]


def other_types(link: Link, types: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(key, what it holds, what it should) of those of these keys that hold another type, as far as the server says."""
    replies = link.calls([("TYPE", key) for key in types])
    return [
        (key, text(is_type), wanted)
        for (key, wanted), is_type in zip(types.items(), replies, strict=True)
        if not isinstance(is_type, MillstreamError) and text(is_type) not in ("none", wanted)
    ]


def retire(link: Link, keys: StreamKeys, group: str, consumer: str) -> bool:
    """Remove a consumer's name if it holds nothing; whether it is gone."""
    reply: int = link.run(
        script("retire"), [keys.stream, keys.again(group), keys.members(group)], [group, consumer]
    )
    return reply == 1


def pending_of(
    link: Link,
    ref: GroupRef,
    *,
    consumer: str | None = None,
    start: str = "-",
    count: int = MAX_IDS,
    min_idle_ms: int = 0,
) -> list[tuple[bytes, str, int, int]]:
    """(entry id, consumer, idle ms, deliveries) of pending entries from `start` on, in entry-id order."""
    idle: tuple[Arg, ...] = ("IDLE", min_idle_ms) if min_idle_ms else ()
    whose: tuple[Arg, ...] = () if consumer is None else (consumer,)
    reply = link.call("XPENDING", ref.key, ref.group, *idle, start, "+", count, *whose)
    return [(row[0], text(row[1]), row[2], row[3]) for row in reply]


def fetch_own(
    link: Link, ref: GroupRef, consumer: str, ids: Sequence[bytes]
) -> list[tuple[bytes, Fields, int]]:
    """(entry id, fields, deliveries) of entries that are pending with us and that we never saw; at most MAX_IDS."""
    reply = link.run(script("fetch"), [ref.key], [ref.group, consumer, *ids])
    return [(entry_id, fields, deliveries) for entry_id, fields, deliveries in reply]
