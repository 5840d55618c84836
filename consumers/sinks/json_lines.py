"""JsonLines: a batch handler that appends events to a file as JSON lines, rotated by size and time.

Several processes and threads may write to one file: each batch is one write under a lock on the file. A batch that
could not be written whole (full disk, killed writer) leaves no torn line behind: the next write cuts it off.
"""

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consumers.sinks.kind import SinkKind
from consumers.sinks.rotated import SUFFIXES, Rotated, sync_folder
from consumers.sinks.sink_url import Option, SinkUrl
from pipeline.errors import DecodeError, EncodeError, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.outcome import Outcomes
from pipeline.units import Duration, Size, duration_ms, size_bytes

COMPRESSED_WITHIN_S = 5.0
"""close() waits so long for an old file to be compressed; else the next process does it. With a grace of 20 s it is
less than the 30 s after which compose/ and systemd/ kill what does not stop."""
_MEND = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
"""A person has to mend it: the folder is gone, or may not be written."""


def cloudevent_of(event: Event, source: str = "millstream") -> dict[str, Any]:
    """An event as a CloudEvent (id, source, type, subject, time, data), as JSON knows it. source: where it has none.

    What JSON cannot hold exactly (bytes beside other data, infinities) is as json_view shows it.
    """
    try:
        return event.to_cloudevent(source=source)
    except EncodeError:
        shown = Event(
            json_view(event.data),
            type=event.type,
            key=event.key,
            id=event.id,
            time_ms=event.known_time_ms,
            headers=event.headers,
        )
        return shown.to_cloudevent(source=source)


def event_line(event: Event) -> bytes:
    """An event as one line of JSON, in CloudEvents' vocabulary."""
    text = json.dumps(cloudevent_of(event), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def event_lines(events: Sequence[Event]) -> tuple[list[bytes], Outcomes]:
    """The events as lines, and the outcomes of those that cannot be one: one bad event does not fail its batch."""
    lines: list[bytes] = []
    outcomes = Outcomes()
    for index, event in enumerate(events):
        try:
            lines.append(event_line(event))
        except EncodeError as error:
            outcomes.reject(index, str(error))
        except DecodeError as error:
            outcomes.fail(index, error)
    return lines, outcomes


class JsonLines:
    """Appends each event to `path`, which is rotated: to path.1 while path.1 becomes path.2, and so on; where old files
    are compressed, to path.<time>.zst or path.<time>.gz.

    Example:
        app.consumer("logs", group="archive", batch=500)(JsonLines("archive.jsonl"))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rotate: Size = "100MB",
        every: Duration = 0,
        keep: int = 10,
        compress: str = "none",
        fsync: bool = False,
    ) -> None:
        """rotate: size at which the file is rotated, 0 for never; every: rotated too by the first write in a new period
        of this length (1h, 1d: UTC), 0 for never; keep: how many old files stay, at least 1; compress: old files with
        none, zstd or gzip; fsync: a batch is on the disk before it is acknowledged.

        Raises:
            UsageError: the folder does not exist or cannot be written; keep is below 1; there is no such compression.
        """
        if keep < 1:
            raise UsageError(f"keep={keep}: at least 1 old file (rotate=0 for a file that is never rotated)")
        if compress not in ("none", *SUFFIXES):
            raise UsageError(f"compress={compress!r}: one of none, {', '.join(SUFFIXES)}")
        self._path = Path(path)
        self._rotate_bytes = size_bytes(rotate, "rotate")
        self._every_s = duration_ms(every, "every") / 1_000
        self._keep = keep
        self._fsync = fsync
        self._rotated = Rotated(self._path, compress, keep) if compress != "none" else None
        self._file: Any = None
        self._writing = threading.Lock()  # a lock on the file holds for all threads of a process together
        folder = self._path.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"cannot write {self._path}: {folder} is not a folder that can be written")
        if self._path.is_dir():
            raise UsageError(f"cannot write {self._path}: it is a folder")
        if self._rotated is not None:
            self._rotated.tidy()  # what a killed process left plain

    def __call__(self, events: list[Event]) -> Outcomes:
        """Write the events; one that JSON cannot hold, or that is corrupt, fails alone.

        Raises:
            OSError: the file cannot be written just now; then none of them is. SinkRefused: its folder is gone, or may
            not be written.
        """
        lines, outcomes = event_lines(events)
        try:
            self.write(lines)
        except OSError as error:
            if error.errno in _MEND:
                raise SinkRefused(f"cannot write {self._path}: {error.strerror}") from None
            raise
        return outcomes

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its line end, in one piece."""
        data = b"".join(lines)
        with self._writing:
            if self._every_s:
                with self._lock() as file:
                    if self._is_of_the_past(file) and self._whole_lines(file):
                        self._rotate()
            with self._lock() as file:
                size = self._whole_lines(file)
                try:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(file, view) :]
                    if self._fsync:
                        os.fdatasync(file)
                        if not size:
                            sync_folder(self._path.parent)
                except OSError:
                    if os.fstat(file).st_size != size:
                        os.ftruncate(file, size)
                    raise
                if self._rotate_bytes and size + len(data) >= self._rotate_bytes:
                    self._rotate()

    def close(self) -> None:
        """Close the file, once old ones are compressed; a later write opens it again."""
        with self._writing:
            self._close()
        if self._rotated is not None:
            self._rotated.wait(COMPRESSED_WITHIN_S)

    def _is_of_the_past(self, file: int) -> bool:
        """Whether it was written last in an earlier period than this moment's: known to all its writers alike."""
        stat = os.fstat(file)
        return bool(stat.st_size) and stat.st_mtime // self._every_s < time.time() // self._every_s

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self) -> "_Locked":
        """The current file, locked; another process may have rotated it away since the last batch."""
        while True:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                current = os.stat(self._path)
                if (current.st_dev, current.st_ino) == _identity(self._file):
                    return _Locked(self._file)
            except FileNotFoundError:
                pass
            self._close()

    @staticmethod
    def _whole_lines(file: int) -> int:
        """The file's size, after cutting off a line that a killed writer left unfinished."""
        size = os.fstat(file).st_size
        end = size
        while end and os.pread(file, 1, end - 1) != b"\n":
            step = os.pread(file, min(end, 4_096), max(end - 4_096, 0))
            cut = step.rfind(b"\n")
            end = (
                0
                if cut < 0 and end <= 4_096
                else max(end - 4_096, 0)
                if cut < 0
                else max(end - 4_096, 0) + cut + 1
            )
        if end != size:
            os.ftruncate(file, end)
        return end

    def _rotate(self) -> None:
        """Move the file among the old ones, dropping the oldest; under the lock of the file that is moved away."""
        if self._rotated is not None:
            self._rotated.add()
            return
        names = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._keep + 1)]
        # A process that was killed in the midst of this left a gap: the ones behind it have moved already.
        gap = next((number for number, name in enumerate(names) if not name.exists()), self._keep - 1)
        for number in range(gap, -1, -1):
            (names[number - 1] if number else self._path).replace(names[number])


class _Locked:
    """A locked file for the time of a with block; closing the block frees the lock, not the file."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> int:
        return self._file

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


def _identity(file: int) -> tuple[int, int]:
    stat = os.fstat(file)
    return stat.st_dev, stat.st_ino


def _from_url(url: SinkUrl) -> JsonLines:
    if not url.place:
        raise UsageError("jsonl: names no file, as in jsonl:logs.jsonl")
    given = url.options
    return JsonLines(
        url.place,
        rotate=given["rotate"],
        every=given["every"] / 1_000,
        keep=given["keep"],
        compress=given["compress"],
        fsync=given["fsync"],
    )


KIND = SinkKind(
    make=_from_url,
    options=(
        Option("rotate", "size", "100MB", "size at which the file is rotated; 0: never"),
        Option("every", "duration", "0", "it is rotated too when a new 1h or 1d (UTC) begins; 0: never"),
        Option("keep", "count", "10", "old files that stay", least=1),
        Option("compress", "choice", "none", "old files", choices=("none", *SUFFIXES)),
        Option("fsync", "flag", "no", "a batch is on the disk before it is acknowledged"),
    ),
)
