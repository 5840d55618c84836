"""Replay: gives a group a selection of history again, through its own `again` stream; other groups see nothing.

Pending entries that their consumer abandoned are moved (added and acknowledged in one step). A range is copied, a
bounded distance ahead of the group, with the position written by the script that adds: what a lost reply hides is
found out, not repeated.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.envelope import Again, again_fields
from pipeline.errors import DecodeError, NotConnectedError, UnknownFormatError
from pipeline.keys import GroupRef, StreamKeys
from pipeline.position import after
from pipeline.server.connect import Connector, Link
from pipeline.server.groups import MAX_IDS, Move, MovedEntry, feed, move_command, pending_of
from pipeline.server.replies import Fields, parse_entries, text
from pipeline.server.scripts import script
from pipeline.wire import decode_entry, encode_again

PAGE_ENTRIES = 200
AHEAD_ENTRIES = 5_000
"""A replay waits while the group has so many entries before it that are due again."""
WAIT_S = 0.1
FEED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RangePlan:
    """What a replay of a range would do."""

    entries: int
    first_id: str
    last_id: str


def check_group(link: Link, keys: StreamKeys, group: str) -> None:
    """Raises NoSuchGroupError unless the group exists on the stream."""
    link.call("XPENDING", keys.stream, group)


def plan_range(link: Link, keys: StreamKeys, group: str, start: str, end: str) -> RangePlan:
    """Count the entries from `start` to `end` (entry ids, - and + for the ends), both included.

    Raises:
        NoSuchGroupError: no such group, so nobody to replay for.
    """
    check_group(link, keys, group)
    count, first, last = 0, "", ""
    for page in pages(link, keys.stream, start, end):
        count += len(page)
        first = first or text(page[0][0])
        last = text(page[-1][0])
    return RangePlan(count, first, last)


def pages(link: Link, stream: str, start: str, end: str) -> Iterator[list[tuple[bytes, Fields]]]:
    """Entries of a range, page by page."""
    while True:
        page = [
            (i, f)
            for i, f in parse_entries(link.call("XRANGE", stream, start, end, "COUNT", PAGE_ENTRIES))
            if f
        ]
        if page:
            yield page
        if len(page) < PAGE_ENTRIES:
            return
        start = after(page[-1][0])


def replay_range(
    connector: Connector,
    keys: StreamKeys,
    group: str,
    start: str,
    end: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Give the group all entries from start to end again; how many events that was.

    end should be an entry id that exists now ("+" would chase a stream that is being written). progress is called
    with the events fed so far and how many entries wait in `again`. A broken connection is waited out.
    """
    replay = f"replay:{secrets.token_hex(8)}"
    position, fed = start, 0
    sent = ("", 0)  # position and events of the part whose answer is outstanding
    link: Link | None = None
    while True:
        try:
            if link is None or link.closed:
                link = connector.wait_until_up(30_000)
                stored = link.call("GET", keys.source(replay))
                position = text(stored) if stored else position
                if position == sent[0]:  # it was added, only the answer was lost
                    fed += sent[1]
                sent = ("", 0)
            for page in pages(link, keys.stream, position, end):
                while (waiting := int(link.call("XLEN", keys.again(group)))) >= AHEAD_ENTRIES:
                    if progress:
                        progress(fed, waiting)
                    time.sleep(WAIT_S)
                for part in _parts(page, keys.stream):
                    upto = after(part[-1][0])
                    sent = (upto, len(part))
                    added, position = feed(
                        link, keys, group, replay, position, upto, [fields for _, fields in part]
                    )
                    sent = ("", 0)
                    if added:
                        fed += len(part)
                if progress:
                    progress(fed, 0)
            return fed
        except NotConnectedError:
            if link is not None:
                link.close()


def _parts(page: list[tuple[bytes, Fields]], stream: str) -> Iterator[list[tuple[bytes, Fields]]]:
    """The events of a page as `again` entries, an entry's events kept together, cut to bounded calls."""
    part: list[tuple[bytes, Fields]] = []
    size = 0
    for entry_id, fields in page:
        copies = [(entry_id, copy) for copy in as_again(entry_id, fields, stream, "replay range")]
        if part and (len(part) + len(copies) > MAX_IDS or size > FEED_BYTES):
            yield part
            part, size = [], 0
        part += copies
        size += sum(len(field) for _, copy in copies for field in copy)
    if part:
        yield part


def as_again(entry_id: bytes, fields: Fields, stream: str, why: str) -> list[Fields]:
    """An entry as it goes to `again`: each event of a pack alone; what cannot be decoded as it is."""

    def envelope(index: int) -> Again:
        return Again(
            runs=0, crashes=0, stream=stream, entry_id=text(entry_id), index=index, first_failed_ms=0, why=why
        )

    try:
        entry = decode_entry(entry_id, fields)
        if not entry.is_pack:
            return [again_fields(envelope(0), fields)]
        return [again_fields(envelope(i), encode_again(event)) for i, event in enumerate(entry.events)]
    except (DecodeError, UnknownFormatError):
        return [again_fields(envelope(0), fields)]


def abandoned(link: Link, keys: StreamKeys, group: str, min_idle_ms: int) -> int:
    """How many pending entries of the stream are idle for min_idle_ms or longer."""
    return sum(len(rows) for rows in _pending_pages(link, GroupRef(keys, group), min_idle_ms))


def replay_pending(link: Link, keys: StreamKeys, group: str, *, min_idle_ms: int) -> int:
    """Move pending entries idle for min_idle_ms or longer to `again`, to run at once; how many entries."""
    ref = GroupRef(keys, group)
    link.load(script("move"))
    moved = 0
    for rows in _pending_pages(link, ref, min_idle_ms):
        entries = []
        for entry_id, consumer, _, _ in rows:
            found = parse_entries(link.call("XRANGE", keys.stream, entry_id, entry_id))
            copies = as_again(entry_id, found[0][1] or [], keys.stream, "replay pending") if found else []
            entries.append(MovedEntry(entry_id, consumer, [Move("again", copy) for copy in copies]))
        moved += sum(
            answer == 1 for answer in link.call(*move_command(ref, entries, min_idle_ms=max(min_idle_ms, 1)))
        )
    return moved


def _pending_pages(
    link: Link, ref: GroupRef, min_idle_ms: int
) -> Iterator[list[tuple[bytes, str, int, int]]]:
    start = "-"
    while True:
        rows = pending_of(link, ref, start=start, count=100, min_idle_ms=min_idle_ms)
        if rows:
            yield rows
        if len(rows) < 100:
            return
        start = f"({text(rows[-1][0])}"
