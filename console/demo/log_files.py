"""LogFile: a real log file that the demo follows, from its last lines on: named by the person, or found."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import NotFoundError, UsageError

USUAL = (
    "/var/log/dpkg.log",
    "/var/log/apt/history.log",
    "/var/log/dnf.log",
    "/var/log/pacman.log",
    "/var/log/zypper.log",
    "/var/log/install.log",
    "/var/log/syslog",
    "/var/log/messages",
    "/var/log/system.log",
)
"""Where package managers and systems log."""
LAST_LINES = 1_000
LAST_BYTES = 1_000_000
BLOCK_BYTES = 65_536
LOOKS_BINARY = b"\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One file, and where its last lines begin."""

    path: Path
    offset: int
    """Where the first line begins that is sent, if this demo's folder does not know the file yet."""

    @property
    def whole(self) -> bool:
        """Whether it is sent from its beginning."""
        return self.offset == 0


def named(paths: Iterable[Path]) -> list[LogFile]:
    """The files that a person named.

    Raises:
        NotFoundError: there is no such file. UsageError: it cannot be read, or is no file.
    """
    return [_opened(path) for path in dict.fromkeys(path.absolute() for path in paths)]


def found(usual: Iterable[str] = USUAL) -> list[LogFile]:
    """Of the usual files those that are there, hold text, and may be read. There may be none."""
    files: list[LogFile] = []
    for path in map(Path, usual):
        try:
            file = _opened(path)
            with path.open("rb") as opened:
                first = opened.read(BLOCK_BYTES)
        except (OSError, NotFoundError, UsageError):  # not on this system, or not for us
            continue
        if first and LOOKS_BINARY not in first:
            files.append(file)
    return files


def _opened(path: Path) -> LogFile:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UsageError(f"cannot follow {path}: it is {kind}")
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return LogFile(path=path, offset=_last_lines(path, status.st_size))
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _last_lines(path: Path, end: int) -> int:
    """Where the last LAST_LINES lines begin, at most LAST_BYTES before the end."""
    lowest = max(end - LAST_BYTES, 0)
    lines = 0
    for at, block in _blocks_from_end(path, end, lowest):
        stop = len(block)
        while (newline := block.rfind(b"\n", 0, stop)) >= 0:
            lines += 1
            if lines > LAST_LINES:
                return at + newline + 1
            stop = newline
    if lowest == 0:
        return 0
    with path.open("rb") as file:  # fewer but long lines: from the first one that begins within the bytes
        file.seek(lowest)
        return lowest + len(file.readline(LAST_BYTES))


def _blocks_from_end(path: Path, end: int, lowest: int) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        while end > lowest:
            start = max(end - BLOCK_BYTES, lowest)
            file.seek(start)
            yield start, file.read(end - start)
            end = start
