"""Frames: cuts what a connection brings into lines, or into syslog messages. Pure, and bounded whatever is sent.

Syslog over TCP (https://www.rfc-editor.org/rfc/rfc6587#section-3.4) either says how long the next message is, `83 <34>1
…`, or ends each with a newline. Which of them is seen by the first byte of each message, since every message starts
with `<`.
"""

from typing import Protocol

_DIGITS = b"0123456789"
_MOST_DIGITS = 10


class Frames(Protocol):
    """What both have."""

    too_long: int
    """Frames that were longer than allowed, and passed over."""

    def feed(self, data: bytes) -> list[bytes]:
        """What is complete now."""
        ...

    @property
    def held_bytes(self) -> int:
        """Of what has begun and not ended."""
        ...

    def rest(self) -> bytes:
        """What has begun and not ended."""
        ...

    @property
    def cut(self) -> bool:
        """Whether that is known to be a part of something longer."""
        ...


class LineFrames:
    """Lines, without their ends; empty ones are none."""

    def __init__(self, max_bytes: int) -> None:
        self.too_long = 0
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._passing_over = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in this data."""
        found: list[bytes] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if self._passing_over:
                self._passing_over = False
            elif len(self._held) + end - start > self._max_bytes:
                self.too_long += 1
            elif line := (bytes(self._held) + data[start:end]).rstrip(b"\r"):
                found.append(line)
            self._held.clear()
            start = end + 1
        if not self._passing_over:
            self._held += data[start:]
            if len(self._held) > self._max_bytes:
                self.too_long += 1
                self._passing_over = True
                self._held.clear()
        return found

    @property
    def held_bytes(self) -> int:
        """Of the line that has begun."""
        return len(self._held)

    def rest(self) -> bytes:
        """A line without its end."""
        return bytes(self._held).rstrip(b"\r")

    @property
    def cut(self) -> bool:
        """Nobody knows: some leave out the last line's end."""
        return False


class SyslogFrames:
    """Syslog messages, each framed one way or the other."""

    def __init__(self, max_bytes: int) -> None:
        self.too_long = 0
        self._max_bytes = max_bytes
        self._lines = LineFrames(max_bytes)
        self._held = bytearray()
        self._missing = 0
        """Bytes of a counted message that are still to come."""
        self._in_line = False
        self._passing_over = False

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that end in this data."""
        found: list[bytes] = []
        at = 0
        while at < len(data):
            if self._missing:
                at = self._counted(data, at, found)
            elif self._in_line:
                at = self._line(data, at, found)
            else:
                at = self._begin(data, at)
        return found

    @property
    def held_bytes(self) -> int:
        """Of the message that has begun."""
        return len(self._held) + self._lines.held_bytes

    def rest(self) -> bytes:
        """A message that did not come to its end."""
        return self._lines.rest() if self._in_line else bytes(self._held)

    @property
    def cut(self) -> bool:
        """Its length was said, and it is not there."""
        return not self._in_line and bool(self._missing or self._held)

    def _begin(self, data: bytes, at: int) -> int:
        """The first bytes of a message: digits and a space, or what is a line."""
        byte = data[at]
        if byte in _DIGITS and (self._held or byte != _DIGITS[0]) and len(self._held) < _MOST_DIGITS:
            self._held.append(byte)
            return at + 1
        if self._held and byte == 0x20:
            self._missing = int(self._held)
            self._held.clear()
            self._passing_over = self._missing > self._max_bytes
            self.too_long += self._passing_over
            return at + 1
        if not self._held and byte in b"\n\r \0":
            return at + 1
        self._in_line = True
        self._lines.feed(bytes(self._held))  # digits that counted nothing are the line's
        self._held.clear()
        return at

    def _counted(self, data: bytes, at: int, found: list[bytes]) -> int:
        part = data[at : at + self._missing]
        self._missing -= len(part)
        if not self._passing_over:
            self._held += part
        if not self._missing:
            if message := bytes(self._held).rstrip(b"\r\n\0"):
                found.append(message)
            self._held.clear()
            self._passing_over = False
        return at + len(part)

    def _line(self, data: bytes, at: int, found: list[bytes]) -> int:
        end = data.find(b"\n", at)
        self._in_line = end < 0
        before = self._lines.too_long
        end = len(data) if end < 0 else end + 1
        found += [line.rstrip(b"\0") for line in self._lines.feed(data[at:end])]
        self.too_long += self._lines.too_long - before
        return end
