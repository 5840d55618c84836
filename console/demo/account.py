"""Account: a file to which one process appends a line per event, and which another reads as it grows.

A line is written whole and handed to the operating system before the event counts as confirmed, or as handled: so a
`kill -9` of the writer takes none back. A power cut may; the demo does not claim to survive that one.
"""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A line of the account of what was confirmed."""

    event_id: str
    entry_id: str

    def line(self) -> str:
        """As it is written."""
        return f"{self.entry_id} {quote(self.event_id)}\n"

    @classmethod
    def parse(cls, line: str) -> "Confirmed":
        """As it was written."""
        entry_id, event_id = line.split(" ")
        return cls(unquote(event_id), entry_id)


@dataclass(frozen=True, slots=True)
class Handled:
    """A line of a worker's account of what it handled."""

    event_id: str
    at_ms: int
    """When, in ms since 1970."""
    replayed: bool = False
    """It came by a replay that somebody asked for."""

    def line(self) -> str:
        """As it is written."""
        return f"{self.at_ms} {'replayed' if self.replayed else 'handled'} {quote(self.event_id)}\n"

    @classmethod
    def parse(cls, line: str) -> "Handled":
        """As it was written."""
        at_ms, how, event_id = line.split(" ")
        return cls(unquote(event_id), int(at_ms), how == "replayed")


def now_ms() -> int:
    """The wall clock, in ms since 1970: what accounts of several processes are compared by."""
    return int(time.time() * 1_000)


class AccountWriter:
    """Appends to one account. Safe for threads: each call is one write."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, lines: Iterable[Confirmed | Handled]) -> None:
        """Append the lines; they are the operating system's when this returns.

        Raises:
            OSError: the disk is full; then the event must not count as handled.
        """
        data = memoryview("".join(line.line() for line in lines).encode())
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class AccountReader:
    """Reads an account as it grows: each line once, and only whole ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def new_lines(self) -> Iterator[str]:
        """The lines written since the last call."""
        if not self.path.exists():  # its writer has not begun yet
            return
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._offset)
            while piece := file.read(READ_BYTES):
                self._offset += len(piece)
                *whole, self._rest = (self._rest + piece).split(b"\n")
                for line in whole:
                    yield line.decode()
