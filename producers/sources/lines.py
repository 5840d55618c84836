"""Lines: bytes as lines of bounded length, each with the offset at which it ends.

Pure. A line may come in any number of pieces; of one that is too long the beginning is kept and the rest only
counted, so a file without a newline takes no more memory than the limit. Of zero bytes that fill the beginning of a
line, as in a file that was truncated beneath its writer, none is kept, so that they leave room for the line.
"""

from dataclasses import dataclass, field

MAX_LINE_BYTES = 262_144
HOLE_BYTES = 4_096
"""So many zero bytes where a line begins are a hole."""
_HOLE = bytes(HOLE_BYTES)
HOLE_BYTES = 4_096
"""So many zero bytes where a line begins are a hole, which a truncated file has before what its writer goes on with."""


@dataclass(slots=True)
class Lines:
    """Whole lines, without their ends."""

    lines: list[bytes] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """For each line the offset just behind it, its end of line included."""
    cut: dict[int, int] = field(default_factory=dict)
    """Which lines are not whole, and how many bytes they have in full."""

    def extend(self, more: "Lines") -> None:
        """Add what comes behind them."""
        self.cut.update({index + len(self.lines): size for index, size in more.cut.items()})
        self.lines += more.lines
        self.ends += more.ends


class LineSplitter:
    """Cuts what comes in at each newline; a carriage return before it belongs to the end of line."""

    def __init__(self, offset: int = 0, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.offset = offset
        """Where the next byte to be fed stands."""
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._kept = 0
        self._zeros = 0
        """Zero bytes with which the line begins, as long as it is nothing else; then -1."""
        self._in_hole = False

    @property
    def half(self) -> int:
        """Bytes of a line whose end has not come yet."""
        return self._size

    def feed(self, block: bytes) -> Lines:
        """The lines that end in this block."""
        found = Lines()
        first, *rest = block.split(b"\n")
        if not rest:
            self._keep(first)
            self.offset += len(first)
            return found
        *whole, last = rest
        self._keep(first)
        self.offset += len(first) + 1
        self._end(found)
        offset = self.offset
        long = min(self._max_line_bytes + 1, HOLE_BYTES)
        for line in whole:
            offset += len(line) + 1
            if len(line) >= long:
                line = self._within_limit(line, found)
            elif line.endswith(b"\r"):
                line = line[:-1]
            found.lines.append(line)
            found.ends.append(offset)
        self.offset = offset + len(last)
        self._keep(last)
        return found

    def rest(self) -> Lines:
        """The last line, where the input ended without a newline; nothing if it did not."""
        found = Lines()
        if self._size:
            self._end(found)
        return found

    def _within_limit(self, line: bytes, found: Lines) -> bytes:
        kept = line.lstrip(b"\0") if line.startswith(_HOLE) else line
        if len(kept) > self._max_line_bytes or len(kept) < len(line):
            found.cut[len(found.lines)] = len(line)
            return kept[: self._max_line_bytes]
        return kept.removesuffix(b"\r")

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if part and self._zeros >= 0:
            behind = part.lstrip(b"\0")
            self._zeros += len(part) - len(behind)
            if self._zeros >= HOLE_BYTES:
                part, self._in_hole = behind, True
                self._parts, self._kept = [], 0
            if behind:
                self._zeros = -1
        room = self._max_line_bytes - self._kept
        if part and room > 0:
            self._parts.append(part[:room])
            self._kept += min(len(part), room)

    def _end(self, found: Lines) -> None:
        line = b"".join(self._parts)
        if self._size > self._max_line_bytes or self._in_hole:
            found.cut[len(found.lines)] = self._size
        elif line.endswith(b"\r"):
            line = line[:-1]
        found.lines.append(line)
        found.ends.append(self.offset)
        self._parts, self._size, self._kept, self._zeros, self._in_hole = [], 0, 0, 0, False
