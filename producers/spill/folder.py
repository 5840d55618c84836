"""SpillFolder: where the spills of one stream lie, those of this process and those that dead ones left.

A spill is the files of one process: `<id>.lock`, which its process holds locked for as long as it lives, and segments
`<id>.<number>.spill`. What nobody holds the lock of belongs to whoever gets it.
"""

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.keys import escape
from pipeline.observe.log import Limited, get_logger
from pipeline.server.file_lock import FileLock
from producers.spill.segment import Segment

MAX_NAME_BYTES = 200
"""A folder's name may have 255 bytes on most file systems."""
_SEGMENT = re.compile(r"([0-9a-f]{16})\.(\d{8})\.spill")
_limited = Limited(get_logger("logs"))
_LOCK = re.compile(r"([0-9a-f]{16})\.lock")


def check_folder(folder: str, option: str = "spill") -> None:
    """Make the folder if it is not there, lock a file in it and write into that.

    Raises:
        UsageError: any of this cannot be done.
    """
    probe = Path(folder) / f".{secrets.token_hex(8)}.probe"
    try:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(probe)
        try:
            lock.try_acquire()  # not every system, nor every file system, has locks
            os.write(lock.fd, b".")
        finally:
            lock.close()
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{option}={folder!r}: cannot be written into: {error.strerror or error} (LogOptions)"
        ) from error


class SpillFolder:
    """The spills of one stream in a folder."""

    def __init__(self, folder: str, stream: str) -> None:
        # Escaped further than keys are: a stream's name may hold what a folder's may not, be a dot, and be longer.
        name = escape(stream).replace("/", "%2F").replace(".", "%2E")
        if len(name.encode()) > MAX_NAME_BYTES:
            digest = hashlib.sha256(stream.encode()).hexdigest()[:32]
            name = f"{name.encode()[: MAX_NAME_BYTES - 33].decode('utf-8', 'ignore')}-{digest}"
        self.path = Path(folder) / name

    def own(self, spill_id: str) -> FileLock:
        """The lock of a new spill, ours from now on.

        Raises:
            OSError: the folder cannot be written into.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            lock = FileLock(self.path / f"{spill_id}.lock")
            if lock.try_acquire() and _is_named(lock):
                return lock
            lock.close()  # somebody took it for an orphan just between its making and its locking

    def next_path(self, spill_id: str, number: int) -> Path:
        """Where the segment with this number lies."""
        return self.path / f"{spill_id}.{number:08}.spill"

    def orphans(self, besides: set[str]) -> list[tuple[str, FileLock, list[Segment]]]:
        """What dead processes left, the oldest first, its locks ours from now on.

        Raises:
            OSError: the folder cannot be read.
        """
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        matches = [match for name in names if (match := _SEGMENT.fullmatch(name) or _LOCK.fullmatch(name))]
        found: list[tuple[float, str, FileLock, list[Segment]]] = []
        for spill_id in dict.fromkeys(match[1] for match in matches):
            if spill_id in besides:
                continue
            lock = FileLock(self.path / f"{spill_id}.lock")
            try:
                if not (lock.try_acquire() and _is_named(lock)):
                    lock.close()
                    continue
                segments = self.segments(spill_id)
                if not segments:
                    self.remove(spill_id, lock)
                    continue
            except (
                OSError
            ) as error:  # it is another user's, for one: the lines of others do not wait for that
                lock.close()
                _limited.warning("lock", "log lines that another process left cannot be sent by this one",
                                 spill=spill_id, error=error.strerror or str(error))  # fmt: skip
                continue
            found.append((_changed_s(segments[0].path), spill_id, lock, segments))
        return [
            (spill_id, lock, segments) for _, spill_id, lock, segments in sorted(found, key=lambda f: f[:2])
        ]

    def segments(self, spill_id: str) -> list[Segment]:
        """The segments of a spill, in order."""
        return [
            Segment(self.path / name)
            for name in sorted(os.listdir(self.path))
            if (match := _SEGMENT.fullmatch(name)) and match[1] == spill_id
        ]

    def remove(self, spill_id: str, lock: FileLock) -> None:
        """Remove what is left of a spill, whose lock is ours."""
        for path in (self.path / f"{spill_id}.lock", *self.path.glob(f"{spill_id}.*.new")):
            path.unlink(missing_ok=True)
        lock.release()

    def size_bytes(self) -> int:
        """Bytes of all spills of the stream."""
        total = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # replayed just now
                    total += entry.stat(follow_symlinks=False).st_size
        return total


def _is_named(lock: FileLock) -> bool:
    """Whether the file that is locked is the one that has the name: it may have been removed just before."""
    try:
        return os.stat(lock.path).st_ino == os.fstat(lock.fd).st_ino
    except FileNotFoundError:
        return False


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
