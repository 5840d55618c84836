"""Replay of pending entries: those that their consumer abandoned run again at once, each moved in one step.

What is settled or taken over meanwhile is left alone. If killed, what was moved runs again, and the rest is pending
still: the same replay, planned anew, finds just that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from consumers.persistent import Persistent
from consumers.replay_history import as_again
from consumers.replay_throttle import Throttle
from pipeline.envelope import Again, again_fields, read_again
from pipeline.errors import DecodeError, MillstreamError, NoSuchGroupError, UnknownFormatError, UsageError
from pipeline.keys import GroupRef, StreamKeys
from pipeline.position import parse_entry_id
from pipeline.replay_plan import ReplayPlan
from pipeline.replayed import Replayed
from pipeline.selection import Part, parts_of
from pipeline.server.connect import Link
from pipeline.server.error_map import server_error
from pipeline.server.groups import Move, MovedEntry, list_of, move_command, pending_of
from pipeline.server.overview import CLAIM_AFTER_MS, GroupFacts, server_ms
from pipeline.server.replaying import done_before
from pipeline.server.replies import parse_entries, text
from pipeline.server.scripts import script
from pipeline.units import Duration, duration_ms, show_duration

PAGE_ENTRIES = 100
"""Entries looked at at a time."""
CALL_EVENTS = 200
"""Events moved in one call, about: the server adds them one by one, and does nothing else meanwhile."""
CALL_BYTES = 1 << 20


@dataclass(slots=True)
class Left:
    """One pending entry that is meant."""

    ref: GroupRef
    entry_id: bytes
    consumer: str
    idle_ms: int
    deliveries: int
    again: Again | None
    """What happened before, to an entry of the group's own stream."""
    parts: Sequence[Part] = field(default_factory=list)
    """Its events; none where it was trimmed."""

    @property
    def origin(self) -> str:
        """The entry its events were first appended in."""
        return self.again.entry_id if self.again is not None else text(self.entry_id)

    def moves(self, stream: str, why: str) -> list[Move]:
        """Each event runs again: the chosen ones as replayed, the others of a pack as ones that a crash has split.

        why: of the replay; empty: none is replayed.
        """
        found = []
        for part in self.parts:
            index = self.index_of(part)
            if part.chosen and why:
                first = self.again.stream if self.again is not None else stream
                fields = as_again(first, self.origin.encode(), part, why, index=index)
                found.append(Move("again", fields, index))
            else:
                found.append(self.split(part, stream))
        return found

    def index_of(self, part: Part) -> int:
        """Place of an event in the entry it was first appended in."""
        return self.again.index if self.again is not None and len(self.parts) == 1 else part.index

    def split(self, part: Part, stream: str) -> Move:
        """An event of a pack of which others are meant runs again as one that a crash has split."""
        before = self.again or Again(stream=stream, entry_id=self.origin)
        again = replace(
            before,
            runs=before.runs + self.deliveries,
            crashes=before.crashes + self.deliveries,
            index=self.index_of(part),
            why=before.why or "split",
        )
        return Move("again", again_fields(again, part.fields), part.index)


def least_idle_ms(group: GroupFacts, idle: Duration | None, force: bool, name: str = "idle") -> int:
    """How long an entry must have been left alone to be replayed, in ms.

    Raises:
        UsageError: shorter than live members may take to renew, and no force.
    """
    renewed_ms = group.claim_after_ms or CLAIM_AFTER_MS
    if idle is None:
        return 0 if force else renewed_ms
    idle_ms = duration_ms(idle, name)
    if idle_ms < renewed_ms and not force:
        raise UsageError(
            f"{name}={show_duration(idle_ms)} is below the {show_duration(renewed_ms)} within which live members renew "
            f"what they handle (claim_after of group {group.group!r}): it would run twice; "
            f"{'--force' if name.startswith('--') else 'force=True'} does it all the same"
        )
    return idle_ms


def counted(
    server: Persistent, keys: StreamKeys, group: str, plan: ReplayPlan, facts: GroupFacts
) -> ReplayPlan:
    """The plan with its counts."""
    entries = events = selected = running = done = 0
    renewed_ms = facts.claim_after_ms or CLAIM_AFTER_MS
    for page in pages_of(server, keys, group, plan):
        ids: list[str] = []
        for left in page:
            chosen = [part for part in left.parts if part.chosen]
            entries += 1
            events += len(left.parts)
            selected += len(chosen)
            running += len(chosen) if left.idle_ms < renewed_ms else 0
            ids += [part.event.id for part in chosen if part.event is not None]
        for start in range(0, len(ids), CALL_EVENTS):
            done += server.ask(
                lambda link, part=ids[start : start + CALL_EVENTS]: done_before(link, keys, group, part)  # type: ignore[misc]
            )
    return replace(plan, entries=entries, events=events, selected=selected, running=running, done=done)


def run(
    server: Persistent,
    keys: StreamKeys,
    group: str,
    plan: ReplayPlan,
    throttle: Throttle,
    moves_of: Callable[[Left], list[Move]] | None = None,
) -> None:
    """Move what was planned, and is pending still; moves_of: where an entry's events go, if they do not run again."""
    at_ms = server.ask(server_ms)
    why = Replayed(id=plan.id, at_ms=at_ms, again=plan.again, what=plan.what).why
    for page in pages_of(server, keys, group, plan):
        for part in calls_of(page, throttle.most()):
            throttle.before()
            moves = [
                MovedEntry(
                    one.entry_id, one.consumer, moves_of(one) if moves_of else one.moves(keys.stream, why)
                )
                for one in part
            ]
            answers = server.ask(
                lambda link, ref=part[0].ref, moves=moves: move_left(link, ref, moves, plan.idle_ms)  # type: ignore[misc]
            )
            # Asked again after a lost answer, what is not pending any more is what the first call moved.
            moved = [one for one, answer in zip(part, answers, strict=True) if answer == 1 or server.repeated]
            size = sum(len(chosen.fields[-1]) for one in moved for chosen in one.parts)
            throttle.after(sum(chosen.chosen for one in moved for chosen in one.parts), size)


def put_aside(server: Persistent, keys: StreamKeys, group: str, last_id: str, before_ms: int) -> int:
    """Have what is pending up to last_id, and was delivered before then, run from the group's own stream; how many.

    As after a crash: the runs so far are counted on. before_ms is a time of the server's clock.
    """
    plan = ReplayPlan(id="", source="pending", first_id="0-0", last_id=last_id)
    count = 0
    for page in pages_of(server, keys, group, plan, again=False):
        for part in calls_of(page, CALL_EVENTS):
            moves = [MovedEntry(one.entry_id, one.consumer, one.moves(keys.stream, "")) for one in part]
            idle_ms = server.ask(server_ms) - before_ms + 1
            answers = server.ask(
                lambda link, ref=part[0].ref, moves=moves, idle=idle_ms: move_left(link, ref, moves, idle)  # type: ignore[misc]
            )
            count += len(answers) if server.repeated else sum(answers)
    return count


def move_left(link: Link, ref: GroupRef, moves: Sequence[MovedEntry], idle_ms: int) -> list[int]:
    """Move entries that are still pending, and left alone for so long; 1 for each that was, 0 for the others."""
    command = move_command(ref, moves, min_idle_ms=max(idle_ms, 1))
    link.load(script("move"))
    answers = link.call(*command)
    for answer in answers:
        if isinstance(answer, bytes):
            raise server_error(
                answer.decode(errors="replace"), f"replaying pending entries of {ref.keys.stream!r}"
            )
    return list(answers)


def calls_of(page: Sequence[Left], most: int) -> Iterator[list[Left]]:
    """The entries in lists for one call each."""
    part: list[Left] = []
    events = size = 0
    for one in page:
        if part and (one.ref is not part[0].ref or events >= min(most, CALL_EVENTS) or size >= CALL_BYTES):
            yield part
            part, events, size = [], 0, 0
        part.append(one)
        events += len(one.parts)
        size += sum(len(field) for event in one.parts for field in event.fields)
    if part:
        yield part


def pages_of(
    server: Persistent, keys: StreamKeys, group: str, plan: ReplayPlan, *, again: bool = True
) -> Iterator[list[Left]]:
    """The pending entries that are meant, of the stream and of the group's own one, page by page."""
    private = bool(server.ask(lambda link: list_of(link, keys)))
    refs = (GroupRef(keys, group, private=private), GroupRef(keys, group, again=True))
    # Of its own stream, what is there now: what is moved comes there anew, and a member may take it at once.
    newest = server.ask(lambda link: link.call("XREVRANGE", keys.again(group), "+", "-", "COUNT", 1))
    last_again = text(newest[0][0]) if newest else "0-0"
    for ref in refs if again else refs[:1]:
        if plan.ids:
            for at in range(0, len(plan.ids), PAGE_ENTRIES):
                named = plan.ids[at : at + PAGE_ENTRIES]
                page = server.ask(lambda link, ref=ref, named=named: _named(link, ref, named, plan))  # type: ignore[misc]
                if page:
                    yield page
            continue
        start, end = ("-", last_again) if ref.again else (plan.first_id, plan.last_id)
        while True:
            rows, page = server.ask(
                lambda link, ref=ref, at=start, end=end: _page(link, ref, at, end, plan)  # type: ignore[misc]
            )
            if page:
                yield page
            if len(rows) < PAGE_ENTRIES:
                break
            start = f"({text(rows[-1][0])}"


def _page(
    link: Link, ref: GroupRef, start: str, end: str, plan: ReplayPlan
) -> tuple[list[tuple[bytes, str, int, int]], list[Left]]:
    """Rows of XPENDING up to end, and those of them that are meant."""
    last = parse_entry_id(end)
    try:
        rows = pending_of(link, ref, start=start, count=PAGE_ENTRIES, min_idle_ms=plan.idle_ms)
        rows = [row for row in rows if parse_entry_id(row[0]) <= last]
    except NoSuchGroupError:
        if not ref.again:
            raise
        return [], []  # nothing of this group has run again yet
    return rows, _meant(link, ref, rows, plan)


def _named(link: Link, ref: GroupRef, ids: Sequence[str], plan: ReplayPlan) -> list[Left]:
    """Of the entries with these ids, those that are meant."""
    idle: tuple[str | int, ...] = ("IDLE", plan.idle_ms) if plan.idle_ms else ()
    replies = link.calls([("XPENDING", ref.key, ref.group, *idle, one, one, 1) for one in ids])
    rows = []
    for reply in replies:
        if isinstance(reply, NoSuchGroupError) and ref.again:
            return []
        if isinstance(reply, MillstreamError):
            raise reply
        rows += [(row[0], text(row[1]), row[2], row[3]) for row in reply]
    return _meant(link, ref, rows, plan)


def _meant(
    link: Link, ref: GroupRef, rows: Sequence[tuple[bytes, str, int, int]], plan: ReplayPlan
) -> list[Left]:
    """Rows of XPENDING with their events, as far as they are meant."""
    replies = link.calls([("XRANGE", ref.key, row[0], row[0]) for row in rows])
    page = []
    for (entry_id, consumer, idle_ms, deliveries), reply in zip(rows, replies, strict=True):
        if isinstance(reply, MillstreamError):
            raise reply
        found = parse_entries(reply)
        left = Left(ref, entry_id, consumer, idle_ms, deliveries, None)
        if found:
            _look(left, found[0][1] or [], plan)
        elif plan.selection:
            continue  # nobody knows what it was
        wanted = any(part.chosen for part in left.parts) if found else True
        within = parse_entry_id(plan.first_id) <= parse_entry_id(left.origin) <= parse_entry_id(plan.last_id)
        if wanted and within:
            page.append(left)
    return page


def _look(left: Left, fields: Sequence[bytes], plan: ReplayPlan) -> None:
    """Take the entry apart. One whose envelope cannot be read has no parts: whoever takes it over decides about it."""
    if left.ref.again:
        try:
            left.again, fields = read_again(fields)
        except (DecodeError, UnknownFormatError):
            return
        if left.again is None:
            return
    left.parts = parts_of(left.entry_id, fields, plan.selection, origin=left.origin.encode())
