"""List status: what a list queue holds and who works it, read without changing anything.

Stands on a Link. Each part costs a bounded number of commands that walk nothing; the records of old workers, which
only their names tell, are looked for by SCAN, so far as a budget of keys goes. What cannot be known is None: a plain
list carries no times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import MillstreamError, NoSuchStreamError
from pipeline.keys import StreamKeys
from pipeline.list_options import ListOptions
from pipeline.position import parse_entry_id
from pipeline.server.connect import Link
from pipeline.server.list_pop import wrong_kind
from pipeline.server.overview import SCAN_COUNT, ConsumerFacts, GroupFacts, consumers, groups
from pipeline.server.replies import Reply, parse_entries, text
from pipeline.server.scripts import Arg, script

MOST_SCORES = 20
"""Priorities that are counted each by itself, the lowest first."""
CLASSIC_PROCESSING = "processing"
"""Where classic workers hold tasks, of whichever list they took them from."""
SCANNED_KEYS = 100_000
"""Keys that are looked through for records of old workers, at most."""
MOST_RECORDS = 1_000
"""Records of old workers that are read, at most."""
RECORD = ("timestamp", "timeout", "task")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A sorted set of delayed tasks."""

    key: str
    format: str
    """unique or classic."""
    count: int
    overdue: int
    """Due by now, and not yet on the list: nobody promotes, or it is being done."""
    next_due_ms: int | None
    """When the first is due, in ms since 1970; None if there is none."""
    error: str = ""
    """Why it could not be read: the key holds something else, or may not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldWorkers:
    """What old workers hold: their processing list, which may be that of several queues, and their records."""

    key: str
    processing: int
    records: int
    """Records found (see whole)."""
    expired: int
    """Records whose timestamp + timeout has passed: their worker died, or takes longer than it said."""
    oldest_ms: int | None
    """When the oldest of these was taken, in ms since 1970; None if no record says."""
    whole: bool
    """All keys of the server were looked at; else there may be more records."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListStatus:
    """One list queue."""

    name: str
    kind: str
    """list, zset, or none: the key does not exist, so nothing waits."""
    error: str
    """Why the key itself could not be read: it is of another type."""
    depth: int
    """Tasks that wait."""
    by_priority: Sequence[tuple[float, int]] | None
    """(score, tasks) of a priority queue, the lowest first, at most 20; None for a list."""
    hand: int
    """Taken off the list for a waiting worker, and not yet begun."""
    popped: int
    """Answers to plain pops that have not yet arrived: more than a moment's are of callers who died."""
    scheduled: Sequence[Scheduled]
    groups: Sequence[GroupFacts]
    """Our workers, by group: `running` is what they hold, `waiting` what runs again later, `dead` the dead letters."""
    workers: Sequence[ConsumerFacts]
    """Who of ours holds how much."""
    oldest_taken_ms: int | None
    """When the oldest task was taken that our workers have not settled, in ms since 1970; None if there is none."""
    old: OldWorkers | None
    """None: no old workers are to be looked for (old_processing='')."""
    unnamed_processing: int
    """Tasks in CLASSIC_PROCESSING, where no old workers are to be looked for: theirs, perhaps, or another list's."""
    now_ms: int
    """The server's clock."""

    @property
    def in_progress(self) -> int:
        """Taken and not settled, by workers of ours and by old ones."""
        ours = sum(group.running + (group.unread or 0) for group in self.groups)
        return ours + (self.old.processing if self.old else 0)

    @property
    def timed_out(self) -> int:
        """Held by workers that are gone: expired records, and what leftover names of ours hold."""
        ours = sum(one.pending for one in self.workers if one.kind == "leftover")
        return ours + (self.old.expired if self.old else 0)

    @property
    def overdue(self) -> int:
        """Delayed tasks that are due and not yet on the list."""
        return sum(one.overdue for one in self.scheduled)

    @property
    def oldest_ms(self) -> int | None:
        """The oldest time that is known of a task in progress. Of tasks that wait in a list none is."""
        known = [self.oldest_taken_ms, self.old.oldest_ms if self.old else None]
        return min((one for one in known if one is not None), default=None)


def list_status(link: Link, options: ListOptions, *, scanned_keys: int = SCANNED_KEYS) -> ListStatus:
    """The status of one list queue; parts that are absent are 0 or None, those of another type say so in `error`."""
    keys = options.keys
    kind, now = link.calls([("TYPE", keys.list), ("TIME",)])
    for reply in (kind, now):
        if isinstance(reply, MillstreamError):
            raise reply
    now_ms = int(now[0]) * 1_000 + int(now[1]) // 1_000
    wrong = wrong_kind(options, text(kind))
    depth, scores = 0, None
    if wrong is None:
        depth = link.call("ZCARD" if options.is_sorted else "LLEN", keys.list)
        if options.is_sorted:
            found = link.run(script("list_scores"), [keys.list], [MOST_SCORES])
            scores = [(float(found[at]), int(found[at + 1])) for at in range(0, len(found), 2)]
    hand, popped, first, processing = link.calls(
        [
            ("LLEN", keys.hand),
            ("HLEN", keys.popped),
            ("XRANGE", keys.stream, "-", "+", "COUNT", 1),
            ("LLEN", CLASSIC_PROCESSING),
        ]
    )
    taken = [] if isinstance(first, MillstreamError) else parse_entries(first)
    facts = _groups(link, keys.tasks)
    return ListStatus(
        name=options.name,
        kind=text(kind),
        error=str(wrong) if wrong else "",
        depth=depth,
        by_priority=scores,
        hand=hand if isinstance(hand, int) else 0,
        popped=popped if isinstance(popped, int) else 0,
        scheduled=_scheduled(link, options, now_ms),
        groups=facts,
        workers=[one for group in facts for one in consumers(link, keys.stream, group.group)],
        oldest_taken_ms=parse_entry_id(taken[0][0])[0] if taken else None,
        old=_old_workers(link, options, now_ms, scanned_keys) if options.old_processing else None,
        unnamed_processing=processing if isinstance(processing, int) and not options.old_processing else 0,
        now_ms=now_ms,
    )


def list_names(link: Link, *, scanned_keys: int = SCANNED_KEYS) -> tuple[list[str], bool]:
    """The names of lists that workers of ours have worked, told by the keys beside them, and whether all keys were
    looked at. Lists that only old workers know cannot be told from any other list."""
    scanned = list(_scanned(link, "*:tasks*", scanned_keys))
    names = {_list_of(text(key)) for found, _ in scanned for key in found} - {""}
    return sorted(names), scanned[-1][1]


def _list_of(key: str) -> str:
    """The list beside which a key of ours stands; empty for other keys."""
    before, word, rest = key.partition(":tasks")
    if not word or "{" not in before or not (rest == "" or rest.startswith(":")):
        return ""
    if before.startswith("{") and before.endswith("}") and ":" not in before.rpartition("}")[2]:
        return before[1:-1]
    return before


def _scanned(link: Link, pattern: str, most: int, kind: str = "") -> Iterator[tuple[list[bytes], bool]]:
    """Keys like the pattern, and whether that was all, looking at about `most` keys."""
    cursor: bytes | int = 0
    typed: tuple[Arg, ...] = ("TYPE", kind) if kind else ()
    for _ in range(max(most // SCAN_COUNT, 1)):
        cursor, found = link.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT, *typed)
        yield found, int(cursor) == 0
        if int(cursor) == 0:
            return


def _groups(link: Link, keys: StreamKeys) -> list[GroupFacts]:
    try:
        return groups(link, keys.stream)
    except NoSuchStreamError:
        return []


def _scheduled(link: Link, options: ListOptions, now_ms: int) -> list[Scheduled]:
    found = []
    sets = [(options.keys.due, "unique", 1)]
    if options.scheduled:
        sets.append((options.scheduled, "classic", 1_000))
    for key, form, unit_ms in sets:
        count, first, overdue = link.calls(
            [
                ("ZCARD", key),
                ("ZRANGE", key, 0, 0, "WITHSCORES"),
                ("ZCOUNT", key, "-inf", repr(now_ms / unit_ms)),
            ]
        )
        problem = next((one for one in (count, first, overdue) if isinstance(one, MillstreamError)), None)
        if problem is not None:
            found.append(
                Scheduled(key=key, format=form, count=0, overdue=0, next_due_ms=None, error=str(problem))
            )
        elif count:
            due_ms = round(float(first[1]) * unit_ms) if first else None
            found.append(Scheduled(key=key, format=form, count=count, overdue=overdue, next_due_ms=due_ms))
    return found


def _old_workers(link: Link, options: ListOptions, now_ms: int, scanned_keys: int) -> OldWorkers:
    processing = link.calls([("LLEN", options.old_processing)])[0]
    keys: list[bytes] = []
    whole = False
    pattern = "".join(f"\\{c}" if c in "*?[]\\^" else c for c in options.old_records) + "*"
    for found, whole in _scanned(link, pattern, scanned_keys, "hash"):
        keys += [key for key in found if key not in keys]
        if len(keys) >= MOST_RECORDS:
            whole = False
            break
    times = [
        _record_times(reply, options.old_timeout_ms)
        for reply in link.calls([("HMGET", key, *RECORD) for key in keys[:MOST_RECORDS]])
    ]
    records = [one for one in times if one is not None]
    return OldWorkers(
        key=options.old_processing,
        processing=processing if isinstance(processing, int) else 0,
        records=len(records),
        expired=sum(
            taken_ms is not None and taken_ms + timeout_ms <= now_ms for taken_ms, timeout_ms in records
        ),
        oldest_ms=min((taken_ms for taken_ms, _ in records if taken_ms is not None), default=None),
        whole=whole,
        error=str(processing) if isinstance(processing, MillstreamError) else "",
    )


def _record_times(reply: Reply, timeout_ms: int) -> tuple[int | None, float] | None:
    """(when it was taken, its timeout), in ms; None if it is no record."""
    if isinstance(reply, MillstreamError) or not any(reply):
        return None
    taken = _number(reply[0])
    timeout = _number(reply[1])
    return (
        None if taken is None else round(taken * 1_000),
        timeout_ms if timeout is None else timeout * 1_000,
    )


def _number(value: bytes | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < 1e12 else None
