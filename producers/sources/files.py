"""FollowedFile: reads the lines of a log file across rotation, truncation and restarts.

Stands on the file system alone. A position names the file by device, inode and a fingerprint of its first bytes, and
the offset of the next line, so that a renamed file is finished, and a new one under an old name or number is not
mistaken for it. A line without its end waits for it, also across restarts.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.errors import NotFoundError, UsageError
from pipeline.observe.log import Limited, get_logger
from producers.sources.lines import MAX_LINE_BYTES, Lines, LineSplitter

BLOCK_BYTES = 262_144
FINGERPRINT_BYTES = 256
FINISHED_MS = 1_000
"""How long a file that was renamed may go without a new line before it counts as finished, in ms."""

_log = get_logger("source")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a line begins: the file, and the offset in it."""

    device: int
    inode: int
    fingerprint_bytes: int
    """How many of the file's first bytes the fingerprint covers."""
    fingerprint: str
    offset: int

    def __str__(self) -> str:
        return f"{self.prefix}:{self.offset}"

    @property
    def prefix(self) -> str:
        """All but the offset."""
        return f"{self.device:x}:{self.inode:x}:{self.fingerprint_bytes}:{self.fingerprint}"

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """The position that str() wrote; None for anything else."""
        match = re.fullmatch(r"([0-9a-f]+):([0-9a-f]+):(\d+):([0-9a-f]*):(\d+)", text)
        if match is None:
            return None
        return cls(int(match[1], 16), int(match[2], 16), int(match[3]), match[4], int(match[5]))


@dataclass(slots=True)
class Read:
    """Lines of one file, and for each the position behind it."""

    lines: list[bytes] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    cut: dict[int, int] = field(default_factory=dict)
    prefix: str = ""

    def position(self, index: int) -> str:
        """The position behind the line with this index."""
        return f"{self.prefix}:{self.ends[index]}"


class _OpenFile:
    """A file held open, which stays the same whatever its name becomes."""

    def __init__(self, path: str, offset: int, max_line_bytes: int) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold us
        status = os.fstat(self.descriptor)
        self.device, self.inode = status.st_dev, status.st_ino
        self.splitter = LineSplitter(offset, max_line_bytes)
        os.lseek(self.descriptor, offset, os.SEEK_SET)
        self.last_ms = now_ms()
        """When it last had something new."""
        self._fingerprint = _fingerprint(self.descriptor, min(offset, FINGERPRINT_BYTES))

    def close(self) -> None:
        """Let it go."""
        os.close(self.descriptor)

    def read(self) -> bytes:
        """The next bytes; none at its present end."""
        block = os.read(self.descriptor, BLOCK_BYTES)
        if block:
            self.last_ms = now_ms()
        return block

    def position(self, offset: int) -> Position:
        """The position at an offset up to which the file was read."""
        covered = min(offset, FINGERPRINT_BYTES)
        if self._fingerprint[0] < covered:
            self._fingerprint = _fingerprint(self.descriptor, covered)
        return Position(self.device, self.inode, *self._fingerprint, offset)

    def changed_before(self, offset: int) -> bool:
        """Whether what was read is no longer there: truncated, or truncated and written anew."""
        if os.fstat(self.descriptor).st_size < offset:
            return True
        covered, known = self._fingerprint
        return _fingerprint(self.descriptor, covered)[1] != known


class FollowedFile:
    """The lines written under one path. With follow=False: those that are there now, each file read to its end.

    Raises:
        NotFoundError: no such file (with follow=True it is waited for). UsageError: unreadable, or not a file.
    """

    def __init__(
        self, path: str, *, follow: bool = True, from_end: bool = False, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        self.path = os.path.abspath(path)
        self.finished = False
        """With follow=False: everything was read."""
        self._follow = follow
        self._from_end = from_end
        self._max_line_bytes = max_line_bytes
        self._file: _OpenFile | None = None
        self._gone_ms: float | None = None
        self._limited = Limited(_log)
        with contextlib.suppress(FileNotFoundError) if follow else contextlib.nullcontext():
            self._check()

    def resume(self, position: str | None) -> None:
        """Go on from a stored position, in whatever file it has become; None: from the start, or the present end."""
        self.close()
        self.finished = False
        known = Position.parse(position) if position else None
        if known is None:
            if position:
                _log.warning(
                    "stored position is not one of a file: starting at its beginning", position=position
                )
            self._open(self.path, 0, at_end=self._from_end and not position)
            return
        path = self._find(known)
        if path is None:
            _log.warning(
                "the file read before is gone: lines may be missing", path=self.path, offset=known.offset
            )
            self._open(self.path, 0)
        else:
            self._open(path, known.offset)

    def read(self) -> Read | None:
        """The next lines; an empty Read in the midst of a long line; None if there is nothing new now."""
        if self.finished or (self._file is None and not self._open(self.path, 0)):
            return None
        file = self._file
        assert file is not None, "opened"
        try:
            block = file.read()
        except OSError as error:
            raise UsageError(f"cannot read {file.path}: {error.strerror}") from None
        if block:
            return self._read(file, file.splitter.feed(block))
        return self._at_end(file)

    def close(self) -> None:
        """Let the file go; resume() opens one again."""
        file, self._file = self._file, None
        self._gone_ms = None
        if file is not None:
            file.close()

    def position(self) -> str:
        """Where the first line that was not given out yet begins; empty while there is no file."""
        file = self._file
        return str(file.position(file.splitter.offset - file.splitter.half)) if file else ""

    def _at_end(self, file: _OpenFile) -> Read | None:
        offset = file.splitter.offset
        if not self._follow:
            return self._finish(file)
        if file.changed_before(offset):
            return self._truncated(file)
        try:
            here = os.stat(self.path)
        except OSError:
            return None  # renamed, and nothing new yet under its name: it may still be written to
        if (here.st_dev, here.st_ino) == (file.device, file.inode):
            self._gone_ms = None
            return None
        self._gone_ms = self._gone_ms or now_ms()
        # Whoever wrote to the old file may do so until it notices; then its last line ends where the file does.
        if now_ms() - max(self._gone_ms, file.last_ms) < FINISHED_MS:
            return None
        return self._finish(file)

    def _truncated(self, file: _OpenFile) -> Read | None:
        """copytruncate: what was not read yet may be in the copy; then from the start."""
        known = file.position(file.splitter.offset - file.splitter.half)
        copy = self._find(known)
        _log.info("file was truncated", path=self.path, read_to=known.offset, copy=copy or "none")
        self.close()
        self._open(copy or self.path, known.offset if copy else 0)
        return None

    def _finish(self, file: _OpenFile) -> Read | None:
        """The rest of a file that ends here; afterwards the next is read, if there is one."""
        rest = self._read(file, file.splitter.rest())
        finished = os.fstat(file.descriptor)
        following = None
        with contextlib.suppress(OSError):
            here = os.stat(self.path)
            if (here.st_dev, here.st_ino) != (file.device, file.inode):
                following = next(iter(self._newer(finished)), self.path)
        self.close()
        if following is not None:
            self._open(following, 0)
        elif not self._follow:
            self.finished = True
        return rest

    def _read(self, file: _OpenFile, lines: Lines) -> Read:
        if not lines.lines:
            return Read()
        return Read(lines.lines, lines.ends, lines.cut, file.position(lines.ends[-1]).prefix)

    def _open(self, path: str, offset: int, *, at_end: bool = False) -> bool:
        try:
            if path == self.path:
                self._check()
            self._file = _OpenFile(path, _last_line(path) if at_end else offset, self._max_line_bytes)
        except FileNotFoundError:
            if not self._follow:
                raise NotFoundError(f"no such file: {path}") from None
            return False
        except (OSError, UsageError) as error:
            if not self._follow:
                raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
            self._limited.warning("open", "file cannot be read just now", path=path, error=str(error))
            return False
        self._gone_ms = None
        return True

    def _check(self) -> None:
        """Refuse what is not a regular file, or cannot be read."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            if self._follow:
                raise
            raise NotFoundError(f"no such file: {self.path}") from None
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            kind = (
                "a folder"
                if stat.S_ISDIR(status.st_mode)
                else "not a regular file: give it as standard input"
            )
            raise UsageError(f"cannot follow {self.path}: it is {kind}")
        if not os.access(self.path, os.R_OK):
            raise UsageError(f"cannot read {self.path}: {os.strerror(errno.EACCES)}")

    def _find(self, known: Position) -> str | None:
        """The path under which the file of a position stands now: its own, a renamed one, or a copy of it."""
        for by_inode in (True, False):
            for path in (self.path, *self._neighbours(all_names=by_inode)):
                if self._is(path, known, by_inode=by_inode):
                    return path
        return None

    def _is(self, path: str, known: Position, *, by_inode: bool) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size < known.offset:
                return False
            if by_inode and (status.st_dev, status.st_ino) != (known.device, known.inode):
                return False
            if not by_inode and known.fingerprint_bytes < min(known.offset, FINGERPRINT_BYTES) // 2 + 1:
                return False  # too little to tell a copy by
            return _fingerprint(descriptor, known.fingerprint_bytes)[1] == known.fingerprint
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def _neighbours(self, *, all_names: bool) -> Sequence[str]:
        """Files of the same folder: all, or those named like the rotated ones of this path, newest first."""
        folder, name = os.path.split(os.path.realpath(self.path))
        rotated = re.compile(re.escape(name) + r"[.\-_][0-9][0-9T.\-_:]*")
        try:
            with os.scandir(folder) as found:
                entries = [
                    (entry.stat().st_mtime_ns, entry.path)
                    for entry in found
                    if entry.name != name and (all_names or rotated.fullmatch(entry.name)) and entry.is_file()
                ]
            return [path for _, path in sorted(entries, reverse=True)]
        except OSError:
            return []

    def _newer(self, finished: os.stat_result) -> deque[str]:
        """Rotated files that were written after the one just finished, oldest first: we were not there meanwhile."""
        newer: deque[str] = deque()
        for path in self._neighbours(all_names=False):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                same = (status.st_dev, status.st_ino) == (finished.st_dev, finished.st_ino)
                if not same and status.st_mtime_ns > finished.st_mtime_ns and stat.S_ISREG(status.st_mode):
                    newer.appendleft(path)
        return newer


def position_at(path: str, offset: int) -> Position:
    """The position of an offset at which a line begins, to be stored so that a source begins there.

    Raises:
        OSError: the file cannot be read.
    """
    file = _OpenFile(path, offset, MAX_LINE_BYTES)
    try:
        return file.position(offset)
    finally:
        file.close()


def now_ms() -> float:
    """The steady clock, in ms."""
    return time.monotonic() * 1_000


def _last_line(path: str) -> int:
    """Where the line begins that is being written now: behind the file's last newline."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        return start + newline + 1 if newline >= 0 else end if start else 0


def _fingerprint(descriptor: int, covered: int) -> tuple[int, str]:
    """(how many first bytes, their hash)."""
    first = os.pread(descriptor, covered, 0)
    return len(first), hashlib.blake2b(first, digest_size=8).hexdigest()
