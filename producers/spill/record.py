"""Record: one entry of a stream as it lies in a file: marked, measured and checksummed.

Pure. A file may end anywhere, and any byte of it may be wrong: reading finds every record that is whole, and says how
many bytes are none.

    magic of the file: "MILLSPILL" 01 0a, then records:
    mark "\\xc1rec", crc32 of all that follows, first number (8 bytes), events, size of header and of body (4 bytes
    each), header, body; all numbers little-endian
"""

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

MAGIC = b"MILLSPILL\x01\n"
MARK = b"\xc1rec"
_HEAD = Struct("<4sIQIII")
_CHECKED_FROM = 8
HEAD_BYTES = _HEAD.size
MAX_RECORD_BYTES = 32_000_000
"""A size beyond it is not believed: no entry is so large."""


class Record(NamedTuple):
    """One entry: its fields h and b, and the numbers of its events, which are the second part of their ids."""

    first: int
    events: int
    header: bytes
    body: bytes

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self.first + self.events - 1

    def encode(self) -> bytes:
        """The record as it is written."""
        sizes = (len(self.header), len(self.body))
        head = _HEAD.pack(MARK, 0, self.first, self.events, *sizes)
        crc = zlib.crc32(self.body, zlib.crc32(self.header, zlib.crc32(head[_CHECKED_FROM:])))
        return b"".join((head[:4], crc.to_bytes(4, "little"), head[_CHECKED_FROM:], self.header, self.body))


class Found(NamedTuple):
    """What was read from a piece of a file."""

    records: Sequence[tuple[Record, int]]
    """Records, each with the offset, in the piece, of the byte behind it."""
    end: int
    """Where to go on reading: what lies before it was read, or is no record."""
    damaged_bytes: int
    """Bytes before `end` that are no records."""
    wanted_bytes: int
    """How long the piece would have to be from `end` on to hold the record that begins there; 0 if none does."""


def find_records(data: bytes, *, at_end: bool) -> Found:
    """The records in a piece of a file that begins where a record should.

    at_end: nothing comes behind the piece, so that what is not whole never will be.
    """
    records: list[tuple[Record, int]] = []
    at = damaged = 0
    while at < len(data):
        record, size = _read(data, at)
        if record is not None:
            at += size
            records.append((record, at))
            continue
        if size and at + size > len(data) and not at_end:  # it goes on behind the piece
            return Found(records, at, damaged, size)
        following = data.find(MARK, at + 1)
        if following < 0:
            # A mark may begin in the last bytes.
            following = len(data) if at_end else max(len(data) - len(MARK) + 1, at + 1)
            damaged += following - at
            return Found(records, following, damaged, 0)
        damaged += following - at
        at = following
    return Found(records, at, damaged, 0)


def _read(data: bytes, at: int) -> tuple[Record | None, int]:
    """The record at this offset, and its size; (None, size) if it is not whole, and (None, 0) if it is none."""
    if at + HEAD_BYTES > len(data):
        return None, HEAD_BYTES if data[at : at + 4] == MARK[: len(data) - at] else 0
    mark, crc, first, events, header_bytes, body_bytes = _HEAD.unpack_from(data, at)
    size = HEAD_BYTES + header_bytes + body_bytes
    if mark != MARK or size > MAX_RECORD_BYTES or not events:
        return None, 0
    if at + size > len(data):
        return None, size
    view = memoryview(data)[at + _CHECKED_FROM : at + size]
    if zlib.crc32(view) != crc:
        return None, 0
    split = at + HEAD_BYTES + header_bytes
    return Record(first, events, data[at + HEAD_BYTES : split], data[split : at + size]), size
