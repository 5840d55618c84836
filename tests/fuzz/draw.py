"""Draw: structured values from the bytes that a fuzzer makes up, and the bytes that give a list of pieces."""

from collections.abc import Sequence
from typing import Any

REST = 255
"""Length byte of a piece that takes all that is left."""
MAX_PIECES = 16


class Draw:
    """Takes values off a string of bytes; when none are left, zeros and empty strings."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return max(len(self._raw) - self._at, 0)

    def byte(self) -> int:
        """0 to 255."""
        return self.take(1)[0] if self.left else 0

    def take(self, size: int) -> bytes:
        """So many bytes, or what is left of them."""
        taken = self._raw[self._at : self._at + size]
        self._at += size
        return taken

    def piece(self) -> bytes:
        """A byte string led by its length."""
        size = self.byte()
        return self.take(self.left if size == REST else size)

    def pieces(self) -> list[bytes]:
        """All that is left as byte strings."""
        found: list[bytes] = []
        while self.left and len(found) < MAX_PIECES:
            found.append(self.piece())
        return found

    def text(self) -> str:
        """A piece as text; lone surrogates among it where it is not UTF-8."""
        return self.piece().decode("utf-8", "surrogateescape")

    def value(self, depth: int = 3) -> Any:
        """Anything an application might log or a server might answer, and some that nobody would."""
        kind = self.byte() % 11
        if depth == 0 and kind > 7:
            kind -= 4
        if kind == 0:
            return None
        if kind == 1:
            return bool(self.byte() & 1)
        if kind == 2:
            return int.from_bytes(self.piece(), "big", signed=True)
        if kind == 3:
            return float(int.from_bytes(self.take(4), "big", signed=True)) / (self.byte() or 1)
        if kind in (4, 5):
            return self.text()
        if kind in (6, 7):
            return self.piece()
        if kind == 8:
            return {self.text(): self.value(depth - 1) for _ in range(self.byte() % 4)}
        if kind == 9:
            return [self.value(depth - 1) for _ in range(self.byte() % 5)]
        return object()


def joined(pieces: Sequence[bytes]) -> bytes:
    """What Draw.pieces() takes for these: all but the last are cut to what a length byte says."""
    led = [bytes([len(piece)]) + piece for piece in (one[: REST - 1] for one in pieces[:-1])]
    return b"".join(led) + (bytes([REST]) + pieces[-1] if pieces else b"")
