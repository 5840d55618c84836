"""Replaying: what a replay asks of the server: to look at history, to hand entries over, and where a replay stands.

Stands on a Link. Handing over is one script (lua/feed.lua), which also writes the replay's record: whatever breaks in
between, the record says what was handed over.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.keys import GroupRef, StreamKeys, escape
from pipeline.server.connect import Link
from pipeline.server.overview import SCAN_COUNT
from pipeline.server.replies import Fields, parse_entries, text
from pipeline.server.scripts import Arg, script

PAGE_ENTRIES = 200
"""Entries fetched, or looked at, at a time; packs of 64 kB make this 13 MB."""
KEPT_MS = 7 * 86_400_000
"""The record of a replay is kept for seven days after its last step, in ms."""
_SOURCE = "replay:"


@dataclass(frozen=True, slots=True)
class Fed:
    """Answer to feed()."""

    added: bool
    group_there: bool
    """False: the group was removed, or the server has lost its data."""
    record: str
    """The replay's record as it is kept now; empty where there is none."""
    waiting: int
    """Entries in the group's `again` stream."""


def entries_of(link: Link, stream: str, start: str, end: str) -> list[tuple[bytes, Fields]]:
    """The first PAGE_ENTRIES entries from start to end, both included."""
    entries = parse_entries(link.call("XRANGE", stream, start, end, "COUNT", PAGE_ENTRIES))
    return [(entry_id, fields or []) for entry_id, fields in entries]


def glances(link: Link, stream: str, start: str, end: str) -> list[tuple[bytes, bytes]]:
    """(entry id, first bytes of its header, or empty) of the first PAGE_ENTRIES entries from start to end."""
    reply = link.run(script("glance"), [stream], [start, end, PAGE_ENTRIES])
    return list(zip(reply[::2], reply[1::2], strict=True))


def pending_within(link: Link, ref: GroupRef, start: bytes, end: bytes) -> set[bytes]:
    """Ids of the group's pending entries from start to end, at most 1,000 of them."""
    return {row[0] for row in link.call("XPENDING", ref.key, ref.group, start, end, 1_000)}


def pending_span(link: Link, ref: GroupRef) -> tuple[int, str, str]:
    """How many entries are pending, the first and the last of them ('' where none is).

    Raises:
        NoSuchGroupError: there is no such group.
    """
    count, first, last, _ = link.call("XPENDING", ref.key, ref.group)
    return count, text(first or b""), text(last or b"")


def pending_count(link: Link, ref: GroupRef, start: str, end: str) -> int:
    """How many entries from start to end, both included, are pending with the group."""
    count = 0
    while True:
        rows = link.call("XPENDING", ref.key, ref.group, start, end, 1_000)
        count += len(rows)
        if len(rows) < 1_000:
            return count
        start = f"({text(rows[-1][0])}"


def is_ours(link: Link, keys: StreamKeys, group: str) -> bool:
    """Whether members of Millstream's have joined the group, or somebody has made it by us."""
    return bool(link.call("HEXISTS", keys.groups, f"{escape(group)}:since"))


def done_before(link: Link, keys: StreamKeys, group: str, once_ids: Sequence[str]) -> int:
    """How many of these events the group has done (`once=`), by its inbox; at most some 1,000 at a time."""
    return int(link.call("EXISTS", *(keys.done(group, one) for one in once_ids))) if once_ids else 0


def feed(
    link: Link,
    keys: StreamKeys,
    group: str,
    replay: str,
    *,
    before: str,
    after: str,
    entries: Sequence[Sequence[Arg]],
) -> Fed:
    """Add entries to the group's `again` stream if the replay's record is `before`; it then becomes `after`."""
    args: list[Arg] = [escape(group), before, after, KEPT_MS]
    for fields in entries:
        args += (len(fields), *fields)
    status, record, waiting = link.run(
        script("feed"), [keys.again(group), keys.source(_SOURCE + replay), keys.groups], args
    )
    return Fed(status == b"added", status != b"gone", text(record), waiting)


def stored_record(link: Link, keys: StreamKeys, replay: str) -> str:
    """The record of a replay; empty where none is kept (any more)."""
    stored = link.call("GET", keys.source(_SOURCE + replay))
    return "" if stored is None else text(stored)


def stored_records(link: Link, keys: StreamKeys) -> Iterator[str]:
    """The records of all replays of a stream, found by walking over the server's keys."""
    prefix = keys.source(_SOURCE)
    pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", prefix) + "*"
    cursor: bytes | int = 0
    seen: set[bytes] = set()
    while True:
        cursor, found = link.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
        for key in found:
            if key not in seen:
                seen.add(key)
                record = link.call("GET", key)
                if record is not None:
                    yield text(record)
        if int(cursor) == 0:
            return
