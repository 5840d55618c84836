"""Replay of a range: counts what it holds, and cuts it into steps that are handed over one by one.

Nothing here changes anything. Entries are looked at page by page, so memory is bounded however long the range is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from consumers.persistent import Persistent
from pipeline.arrival import glance
from pipeline.envelope import Again, again_fields
from pipeline.errors import MillstreamError
from pipeline.keys import GroupRef, StreamKeys
from pipeline.position import after, parse_entry_id
from pipeline.replay_plan import ReplayPlan
from pipeline.replay_record import ReplayRecord
from pipeline.selection import Part, parts_of
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS
from pipeline.server.overview import StreamFacts
from pipeline.server.replaying import (
    PAGE_ENTRIES,
    done_before,
    entries_of,
    glances,
    pending_span,
    pending_within,
)
from pipeline.server.replies import Fields, parse_entries

STEP_BYTES = 1 << 20
"""Bytes of events handed over at a time, about."""
QUIET_PAGES = 20
"""After so many pages in which nothing is selected, the position is written down all the same."""
SAMPLE_ENTRIES = 20
"""So many entries at either end of a range tell whether the group does anything once."""
Counting = Callable[[int], None]
"""Called with how many entries were looked at so far."""


@dataclass(slots=True)
class Step:
    """What is handed over in one call, and where that leaves the replay."""

    next_id: str
    next_index: int = 0
    events: list[list[bytes]] = field(default_factory=list)
    """As entries of the group's own stream."""
    size_bytes: int = 0


def counted(
    server: Persistent,
    keys: StreamKeys,
    group: str,
    plan: ReplayPlan,
    *,
    read_id: str,
    counting: Counting | None = None,
) -> ReplayPlan:
    """The plan with its counts: what the range holds, what of it is selected, unread, running, done once.

    Args:
        read_id: the entry id up to which the group has read.

    Raises:
        NoSuchGroupError: no such group.
    """
    ref = GroupRef(keys, group)
    pending = _Pending(server, ref)
    read = parse_entry_id(read_id)
    decoded = bool(plan.selection) or server.ask(lambda link: _does_once(link, keys, group, plan, read_id))
    entries = events = selected = unread = running = done = 0
    for page in _whole(server, keys, plan) if decoded else _glanced(server, keys, plan):
        held = pending.among(page[0].entry_id, page[-1].entry_id)
        for one in page:
            events += one.events
            selected += one.selected
            if parse_entry_id(one.entry_id) > read:
                unread += one.selected
            elif one.entry_id in held:
                running += one.selected
        if decoded:
            ids = [event_id for one in page for event_id in one.ids]
            for start in range(0, len(ids), MAX_IDS):
                done += server.ask(
                    lambda link, part=ids[start : start + MAX_IDS]: done_before(link, keys, group, part)  # type: ignore[misc]
                )
        entries += len(page)
        if counting is not None:
            counting(entries)
    return replace(
        plan, entries=entries, events=events, selected=selected, unread=unread, running=running, done=done
    )


def steps(server: Persistent, stream: str, record: ReplayRecord, most: int) -> Iterator[Step]:
    """What is left of a replay, in steps of at most `most` events and about STEP_BYTES; the last one finishes it."""
    why = record.replayed.why
    step, quiet = Step(record.next_id, record.next_index), 0
    first = record.next_id.encode(), record.next_index
    for page in pages(server, stream, record.next_id, record.last_id):
        for entry_id, fields in page:
            parts = parts_of(entry_id, fields, record.selection)
            for part in parts:
                if not part.chosen or (entry_id == first[0] and part.index < first[1]):
                    continue
                step.events.append(as_again(stream, entry_id, part, why))
                step.size_bytes += sum(map(len, part.fields))
                if len(step.events) >= most or step.size_bytes >= STEP_BYTES:
                    ends = part is parts[-1]
                    step.next_id = after(entry_id) if ends else entry_id.decode()
                    step.next_index = 0 if ends else part.index + 1
                    yield step
                    step, quiet = Step(step.next_id, step.next_index), 0
        quiet += 1
        if quiet >= QUIET_PAGES:
            step.next_id, step.next_index = after(page[-1][0]), 0
            yield step
            step, quiet = Step(step.next_id), 0
    step.next_id, step.next_index = after(record.last_id), 0
    yield step


def as_again(stream: str, entry_id: bytes, part: Part, why: str, *, index: int | None = None) -> list[bytes]:
    """The entry of the group's own stream that makes one event run again, its runs counted anew.

    index: its place in the entry it was first appended in, where `part` does not tell.
    """
    place = part.index if index is None else index
    again = Again(stream=stream, entry_id=entry_id.decode(), index=place, why=why)
    return again_fields(again, part.fields)


def pages(server: Persistent, stream: str, start: str, end: str) -> Iterator[list[tuple[bytes, Fields]]]:
    """The entries of a stream from start to end, both included, page by page."""
    while True:
        page = server.ask(lambda link, at=start: entries_of(link, stream, at, end))  # type: ignore[misc]
        if page:
            yield page
        if len(page) < PAGE_ENTRIES:
            return
        start = after(page[-1][0])


def starts_at(facts: StreamFacts, first_id: str) -> tuple[str, bool]:
    """The stream's first entry, if older ones from first_id on are gone, else empty; whether the server can tell."""
    if facts.first_id is None or parse_entry_id(first_id) >= parse_entry_id(facts.first_id):
        return "", True
    gone = facts.added is None or facts.added > facts.entries
    return facts.first_id if gone else "", facts.added is not None


@dataclass(frozen=True, slots=True)
class _Looked:
    """One entry that was looked at."""

    entry_id: bytes
    events: int
    selected: int
    ids: Sequence[str] = ()
    """Event ids of the selected ones, where they were read."""


def _glanced(server: Persistent, keys: StreamKeys, plan: ReplayPlan) -> Iterator[list[_Looked]]:
    """The entries of a range of which all is selected: their headers tell how many events that is."""
    start = plan.first_id
    while True:
        page = server.ask(lambda link, at=start: glances(link, keys.stream, at, plan.last_id))  # type: ignore[misc]
        counts = [(entry_id, glance(head) or 1) for entry_id, head in page]
        if counts:
            yield [_Looked(entry_id, count, count) for entry_id, count in counts]
        if len(page) < PAGE_ENTRIES:
            return
        start = after(page[-1][0])


def _whole(server: Persistent, keys: StreamKeys, plan: ReplayPlan) -> Iterator[list[_Looked]]:
    """The entries of a range, each of their events looked at."""
    for page in pages(server, keys.stream, plan.first_id, plan.last_id):
        looked = []
        for entry_id, fields in page:
            parts = parts_of(entry_id, fields, plan.selection)
            chosen = [part for part in parts if part.chosen]
            ids = [part.event.id for part in chosen if part.event is not None]
            looked.append(_Looked(entry_id, len(parts), len(chosen), ids))
        yield looked


def _does_once(link: Link, keys: StreamKeys, group: str, plan: ReplayPlan, read_id: str) -> bool:
    """Whether the group's inbox knows any of the first entries of the range, or of the last ones that it has read.

    Only then are all looked up. An inbox forgets the oldest, and knows nothing of what the group has not read.
    """
    last = min(plan.last_id, read_id, key=parse_entry_id)
    ends = link.calls(
        [
            ("XRANGE", keys.stream, plan.first_id, plan.last_id, "COUNT", SAMPLE_ENTRIES),
            ("XREVRANGE", keys.stream, last, plan.first_id, "COUNT", SAMPLE_ENTRIES),
        ]
    )
    ids: list[str] = []
    for reply in ends:
        if isinstance(reply, MillstreamError):
            raise reply
        for entry_id, fields in parse_entries(reply):
            parts = parts_of(entry_id, fields or [])
            ids += [part.event.id for part in parts[:SAMPLE_ENTRIES] if part.event is not None]
    return any(
        done_before(link, keys, group, ids[start : start + MAX_IDS]) for start in range(0, len(ids), MAX_IDS)
    )


class _Pending:
    """What of a range is pending with a group, looked up page by page where there can be any."""

    def __init__(self, server: Persistent, ref: GroupRef) -> None:
        self._server, self._ref = server, ref
        count, first, last = server.ask(lambda link: pending_span(link, ref))
        self._span = (parse_entry_id(first), parse_entry_id(last)) if count else None

    def among(self, first: bytes, last: bytes) -> set[bytes]:
        """Ids of pending entries from first to last."""
        if (
            self._span is None
            or parse_entry_id(first) > self._span[1]
            or parse_entry_id(last) < self._span[0]
        ):
            return set()
        return self._server.ask(lambda link: pending_within(link, self._ref, first, last))
