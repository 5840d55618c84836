"""Records: lines that belong together as one event, such as a message and the traceback behind it.

Pure: the time is passed in. A record ends where the next one begins, when no line has come for a while, when it is as
long as it may be, or with its file. Until then nothing of it is given out, so that a position lies between records, and
who is killed meanwhile reads the record again from its beginning.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.errors import UsageError
from producers.sources.lines import MAX_LINE_BYTES, Lines

Rule: TypeAlias = Callable[[], Callable[[bytes], bool]]
"""Makes what says of each line of a file, in turn, whether it goes on with the record before it."""

HALF_FACTOR = 10

_TRACEBACK = re.compile(rb"(?:\s*\+ Exception Group )?Traceback \(most recent call last\):")
_GOES_ON = re.compile(
    rb"Caused by: |Suppressed: |\.\.\. \d+ (?:more|common frames omitted)|--- End of "
    rb"|(?:[A-Za-z_$][\w$]*\.)+[\w$]*(?:Exception|Error|Throwable)(?::|$)"
    rb"|During handling of the above exception, another exception occurred:"
    rb"|The above exception was the direct cause of the following exception:"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """How lines are put together."""

    rule: Rule
    max_lines: int = 1_000
    """Most lines of a record; what follows is a record of its own."""
    max_bytes: int = MAX_LINE_BYTES
    """Most bytes of a record; likewise."""
    wait_ms: float = 1_000
    """How long a record waits for another line, in ms."""


def indented() -> Callable[[bytes], bool]:
    """A line that begins with a space or a tab goes on."""
    return lambda line: line[:1] in (b" ", b"\t")


def starting_with(pattern: str) -> Rule:
    """A line in which the pattern is found begins a record; every other goes on.

    Raises:
        UsageError: it is no regular expression.
    """
    try:
        search = re.compile(os.fsencode(pattern)).search  # the bytes that were typed, UTF-8 or not
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}") from None
    return lambda: lambda line: search(line) is None


class _Tracebacks:
    """Says of each line whether it goes on: tracebacks as Python, Java and .NET print them, behind their message."""

    def __init__(self) -> None:
        self._ends_next = False
        """In a traceback of Python, whose last line is not indented."""

    def __call__(self, line: bytes) -> bool:
        if line[:1] in (b" ", b"\t"):
            if not self._ends_next:
                self._ends_next = _TRACEBACK.match(line) is not None and b"Group" not in line
            return True
        if _TRACEBACK.match(line):
            self._ends_next = True
            return True
        if self._ends_next and line:
            self._ends_next = False
            return True
        return not line or _GOES_ON.match(line) is not None


RULES: dict[str, Rule] = {"indent": indented, "traceback": _Tracebacks}


class Records:
    """The records of one file."""

    def __init__(self, options: RecordOptions) -> None:
        self._options = options
        self._goes_on = options.rule()
        self._lines: list[bytes] = []
        self._size = 0
        self._full_bytes = 0
        self._touched_ms = 0.0
        self.start = 0
        """The offset at which the record begins that is being put together."""
        self.end = 0
        """Where it ends, as far as it goes."""

    @property
    def pending(self) -> bool:
        """Whether there is one."""
        return bool(self._lines)

    def begin(self, offset: int) -> None:
        """A file, or the rest of one, begins here."""
        self._goes_on = self._options.rule()
        self._lines, self._size, self._full_bytes = [], 0, 0
        self.start = self.end = offset

    def feed(self, lines: Lines, now_ms: float) -> Lines:
        """The records that end within these lines."""
        found = Lines()
        most_lines, most_bytes = self._options.max_lines, self._options.max_bytes
        for index, line in enumerate(lines.lines):
            goes_on = self._goes_on(line)
            if self._lines and (
                not goes_on or len(self._lines) >= most_lines or self._size + len(line) > most_bytes
            ):
                self._give(found)
            self._lines.append(line)
            self._size += len(line) + 1
            self._full_bytes += lines.cut.get(index, len(line)) + 1
            self.end = lines.ends[index]
        if lines.lines:
            self._touched_ms = now_ms
        return found

    def due(self, now_ms: float, half: int = 0) -> bool:
        """Whether the record has waited long enough for another line; for one that has begun (half) it waits longer."""
        wait_ms = self._options.wait_ms * (HALF_FACTOR if half else 1)
        return bool(self._lines) and now_ms - self._touched_ms >= wait_ms

    def rest(self) -> Lines:
        """The record that is being put together, as far as it goes."""
        found = Lines()
        if self._lines:
            self._give(found)
        return found

    def _give(self, found: Lines) -> None:
        record = b"\n".join(self._lines).rstrip(b"\n")
        if self._full_bytes > self._size:  # a line of it was cut
            found.cut[len(found.lines)] = self._full_bytes - 1
        found.lines.append(record)
        found.ends.append(self.end)
        self._lines, self._size, self._full_bytes = [], 0, 0
        self.start = self.end
