"""Segment: one file of records, written at its end and read from its beginning.

If killed: what was written is there, and a last record that is not whole is passed over by whoever reads. If the
machine loses power: what was not synced may be gone.
"""

import os
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import DecodeError, UnknownFormatError
from pipeline.wire import decode_entry, encode_again
from producers.spill.record import MAGIC, Record, find_records

READ_BYTES = 262_144
datasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Segment:
    """A file of records. Opened when it is first read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes that are written, if it is ours to write."""
        self.writing = False
        self.thinned = False
        """Only what is grave is left in it."""
        self.read_from = 0
        """Where reading goes on."""
        self.damaged_bytes = 0
        self.begun = False
        """Whether something was read."""
        self._fd = -1
        self._found: list[tuple[Record, int]] = []  # read already, the first last

    @classmethod
    def create(cls, path: Path) -> "Segment":
        """A new file, for us alone.

        Raises:
            OSError: it cannot be made.
        """
        segment = cls(path)
        segment._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        segment.writing = True
        try:
            segment._append(MAGIC)
        except OSError:
            segment.remove()
            raise
        segment.read_from = segment.size
        return segment

    @property
    def fd(self) -> int:
        """Its descriptor, while it is open."""
        return self._fd

    def write(self, records: list[Record]) -> int:
        """Write records at the end, all or none; the offset of the first.

        Raises:
            OSError: none was written (no space left, for one).
        """
        at = self.size
        self._append(b"".join(record.encode() for record in records))
        return at

    def _append(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self.size + written)
        except OSError:
            # What was written of it is passed over anyway, should the cut fail, too.
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def seal(self) -> None:
        """Nothing more is written."""
        self.writing = False

    def sync(self) -> None:
        """Have it on the disk itself."""
        if self._fd >= 0:
            datasync(self._fd)

    def next(self) -> tuple[Record, int] | None:
        """The next record, and the offset it begins at; None at the end of what is written."""
        if not self._found and not self._fill():
            return None
        record, end = self._found.pop()
        at, self.read_from = self.read_from, end
        self.begun = True
        return record, at

    def rewind(self, at: int) -> None:
        """Read again from the record at this offset on."""
        self.read_from = at
        self._found.clear()

    def _fill(self) -> bool:
        """Read on; whether there is a record."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        end = self.size if self.writing else os.fstat(self._fd).st_size
        start = self.read_from
        if not start:
            if os.pread(self._fd, len(MAGIC), 0) != MAGIC:
                self.damaged_bytes += end
                self.read_from = end
                return False
            start = len(MAGIC)
        wanted = READ_BYTES
        while start < end:
            data = os.pread(self._fd, min(wanted, end - start), start)
            if not data:  # cut by somebody else
                break
            found = find_records(data, at_end=start + len(data) >= end)
            self.damaged_bytes += found.damaged_bytes
            if found.records:
                self._found = [(record, start + behind) for record, behind in reversed(found.records)]
                self.read_from = start
                return True
            start += found.end
            wanted = max(READ_BYTES, found.wanted_bytes)
        self.read_from = max(start, self.read_from)
        return False

    def thin(self, grave: Callable[[str], bool], beyond: int) -> int:
        """Leave only the events whose type is grave; the number of those that went.

        The file is replaced in one step. beyond: events up to this number are in the stream already.

        Raises:
            OSError: it could not be written anew; nothing changed.
        """
        kept: list[Record] = []
        gone = 0
        reading = Segment(self.path)
        try:
            while (one := reading.next()) is not None:
                record = one[0]
                few, count = _grave_of(record, grave, beyond)
                kept += few
                gone += count
        finally:
            reading.close()
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        made = Segment.create(fresh)
        try:
            made.write(kept)
            os.replace(fresh, self.path)
        except OSError:
            made.remove()
            raise
        made.close()
        self.close()
        self.thinned = True
        self.rewind(len(MAGIC))
        return gone

    def count(self, beyond: int) -> int:
        """How many events it holds with numbers beyond this one."""
        reading = Segment(self.path)
        events = 0
        try:
            while (one := reading.next()) is not None:
                events += one[0].events if one[0].last > beyond else 0
        finally:
            reading.close()
        return events

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def _grave_of(record: Record, grave: Callable[[str], bool], beyond: int) -> tuple[list[Record], int]:
    """What is grave of a record, as entries of one event with the numbers they had, and how many events are not."""
    if record.last <= beyond:
        return [], 0
    try:
        events = decode_entry(b"0-0", [b"h", record.header, b"b", record.body]).events
        if not any(grave(event.type) for event in events):
            return [], record.events
        kept = [event for event in events if grave(event.type)]
        if len(kept) == record.events:
            return [record], 0
        return [Record(event.number, 1, *encode_again(event)[1::2]) for event in kept], record.events - len(
            kept
        )
    except (DecodeError, UnknownFormatError):  # written by a newer version: as it is
        return [record], 0
