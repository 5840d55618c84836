"""JsonLines: a batch handler that appends events to a file as JSON lines, rotated by size.

Several processes and threads may write to one file: each batch is one write under a lock on the file. A batch that
could not be written whole (full disk, killed writer) leaves no torn line behind: the next write cuts it off.
"""

import fcntl
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import Option, SinkUrl
from pipeline.errors import DecodeError, EncodeError, UsageError
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.outcome import Outcomes
from pipeline.units import Size, size_bytes


def event_line(event: Event, source: str = "millstream") -> bytes:
    """An event as one line of JSON, in CloudEvents' vocabulary (id, source, type, subject, time, data).

    What JSON cannot hold exactly (bytes beside other data, infinities) is written as json_view shows it. source: of an
    event that has none.
    """
    try:
        cloudevent = event.to_cloudevent(source=source)
    except EncodeError:
        shown = Event(
            json_view(event.data),
            type=event.type,
            key=event.key,
            id=event.id,
            time_ms=event.known_time_ms,
            headers=event.headers,
        )
        cloudevent = shown.to_cloudevent(source=source)
    text = json.dumps(cloudevent, ensure_ascii=False, separators=(",", ":"))
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
    """Appends each event to `path`; at rotate_bytes the file becomes path.1, path.1 becomes path.2, and so on.

    Example:
        app.consumer("logs", group="archive", batch=500)(JsonLines("archive.jsonl"))
    """

    def __init__(self, path: str | os.PathLike[str], *, rotate: Size = "100MB", keep: int = 10) -> None:
        """rotate: size at which the file is rotated, 0 for never; keep: how many old files stay, at least 1.

        Raises:
            UsageError: the folder does not exist or cannot be written; keep is below 1.
        """
        if keep < 1:
            raise UsageError(f"keep={keep}: at least 1 old file (rotate=0 for a file that is never rotated)")
        self._path = Path(path)
        self._rotate_bytes = size_bytes(rotate, "rotate")
        self._keep = keep
        self._file: Any = None
        self._writing = threading.Lock()  # a lock on the file holds for all threads of a process together
        folder = self._path.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"cannot write {self._path}: {folder} is not a folder that can be written")

    def __call__(self, events: list[Event]) -> Outcomes:
        """Write the events; one that JSON cannot hold, or that is corrupt, fails alone.

        Raises:
            OSError: the file cannot be written; then none of them is.
        """
        lines, outcomes = event_lines(events)
        self.write(lines)
        return outcomes

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its line end, in one piece."""
        data = b"".join(lines)
        with self._writing, self._lock() as file:
            size = self._whole_lines(file)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
            except OSError:
                if os.fstat(file).st_size != size:
                    os.ftruncate(file, size)
                raise
            if self._rotate_bytes and size + len(data) >= self._rotate_bytes:
                self._rotate()

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        with self._writing:
            self._close()

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
        """Shift path.1 … path.N by one, dropping the oldest; under the lock of the file that is moved away."""
        for number in range(self._keep, 0, -1):
            old = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if old.exists():
                old.replace(self._path.with_name(f"{self._path.name}.{number}"))


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
    return JsonLines(url.place, rotate=url.options["rotate"], keep=url.options["keep"])


KIND = SinkKind(
    make=_from_url,
    options=(
        Option("rotate", "size", "100MB", "size at which the file is rotated; 0: never"),
        Option("keep", "count", "10", "old files that stay", least=1),
    ),
)
