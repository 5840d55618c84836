"""Opened files: one that is being written, or one that was compressed, read in blocks from an offset on.

Stands on the file system. What an opened file gives is its content as it was when it was opened and what was appended
since, whatever its name becomes; a plain one says when what was read is no longer there.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from typing import IO, Any, Protocol

import zstandard

from pipeline.errors import UsageError
from producers.sources.place import HEAD_BYTES, TAIL_BYTES, Position, tail_of

BLOCK_BYTES = 262_144
ENDINGS = (".gz", ".zst", ".bz2", ".xz")
"""Of the names of compressed files."""
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_MAGIC_BYTES = max(map(len, _MAGIC))
_MOST_WINDOW_BYTES = 1 << 27


class Damaged(UsageError):
    """A compressed file is cut off or corrupt."""


class Opened(Protocol):
    """What both have."""

    path: str
    device: int
    inode: int
    offset: int
    """Where the next byte to be read stands."""
    written_ns: int
    """When it was written to last, as of the last read."""
    first: bytes
    """The first bytes of what was read or skipped, at most HEAD_BYTES."""
    last: bytes
    """The bytes before the offset, at most TAIL_BYTES."""
    compressed: bool

    def read(self) -> bytes | None:
        """The next bytes; none at its present end. None: what was read before is no longer there."""
        ...

    def holds(self, known: Position) -> bool:
        """Whether a position may have been taken in this content. For a file that was just opened, at 0."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


def open_file(path: str, offset: int) -> Opened:
    """Open a file, compressed or not, at an offset of what it holds.

    Raises:
        OSError: it cannot be opened. UsageError: not a regular file. Damaged: compressed, and shorter than that.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold us
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(what_it_is(path, status.st_mode))
        kind = kind_of(path, descriptor)
        return CompressedFile(path, descriptor, kind, offset) if kind else PlainFile(path, descriptor, offset)
    except BaseException:
        os.close(descriptor)
        raise


def kind_of(path: str, descriptor: int) -> str:
    """How it is compressed, as name and first bytes say; empty: it is not."""
    if not path.endswith(ENDINGS):
        return ""
    begins = os.pread(descriptor, _MAGIC_BYTES, 0)
    return next((kind for magic, kind in _MAGIC.items() if begins.startswith(magic)), "")


def what_it_is(path: str, mode: int) -> str:
    """Why something that is no regular file is not followed."""
    if stat.S_ISDIR(mode):
        return f"cannot follow {path}: it is a folder (for the files in it: '{os.path.join(path, '*')}')"
    return f"cannot follow {path}: it is not a regular file: give it as standard input"


class PlainFile:
    """A file as it is, which may grow."""

    compressed = False

    def __init__(self, path: str, descriptor: int, offset: int) -> None:
        self.path = path
        self.offset = offset
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.device, self.inode, self.written_ns = status.st_dev, status.st_ino, status.st_mtime_ns
        self.size_bytes = status.st_size
        self.links = status.st_nlink
        self.first = os.pread(descriptor, min(offset, HEAD_BYTES), 0)
        self.last = os.pread(descriptor, min(offset, TAIL_BYTES), max(offset - TAIL_BYTES, 0))

    def read(self) -> bytes | None:
        descriptor, offset = self._descriptor, self.offset
        block = os.pread(descriptor, BLOCK_BYTES, offset)
        # Only now: what was truncated, and has grown beyond our place meanwhile, would give us lines from their midst.
        status = os.fstat(descriptor)
        if (
            status.st_size < offset
            or os.pread(descriptor, len(self.first), 0) != self.first
            or os.pread(descriptor, len(self.last), offset - len(self.last)) != self.last
        ):
            return None
        self.written_ns, self.size_bytes, self.links = status.st_mtime_ns, status.st_size, status.st_nlink
        if block:
            if len(self.first) < HEAD_BYTES:
                self.first += block[: HEAD_BYTES - len(self.first)]
            self.last = block[-TAIL_BYTES:] if len(block) >= TAIL_BYTES else (self.last + block)[-TAIL_BYTES:]
            self.offset = offset + len(block)
        return block

    def holds(self, known: Position) -> bool:
        tail_bytes = min(known.offset, TAIL_BYTES)
        return (
            self.size_bytes >= max(known.offset, known.head_bytes)
            and known.begins(os.pread(self._descriptor, known.head_bytes, 0))
            and known.tail in ("", tail_of(os.pread(self._descriptor, tail_bytes, known.offset - tail_bytes)))
        )

    def close(self) -> None:
        os.close(self._descriptor)


class CompressedFile:
    """What a compressed file holds. It ends where it ends: nobody appends to it."""

    compressed = True

    def __init__(self, path: str, descriptor: int, kind: str, offset: int) -> None:
        self.path = path
        self.offset = 0
        self.first = self.last = b""
        status = os.fstat(descriptor)
        self.device, self.inode, self.written_ns = status.st_dev, status.st_ino, status.st_mtime_ns
        self._raw = os.fdopen(descriptor, "rb", closefd=False)
        self._descriptor = descriptor
        self._stream = _decompressing(self._raw, kind)
        try:
            self._skip_to(offset)
        except BaseException:
            self._stream.close()
            self._raw.close()
            raise

    def read(self) -> bytes:
        return self._next(BLOCK_BYTES)

    def holds(self, known: Position) -> bool:
        self._skip_to(known.head_bytes)
        if not known.begins(self.first):
            return False
        if known.offset < self.offset:  # it is all in the head
            return known.tail in ("", tail_of(self.first[: known.offset][-TAIL_BYTES:]))
        self._skip_to(known.offset)
        return known.tail in ("", tail_of(self.last))

    def close(self) -> None:
        self._stream.close()
        self._raw.close()
        os.close(self._descriptor)

    def _skip_to(self, offset: int) -> None:
        while self.offset < offset:
            if not self._next(min(offset - self.offset, BLOCK_BYTES)):
                raise Damaged(f"{self.path} holds {self.offset:,} bytes only, and not {offset:,}")

    def _next(self, size: int) -> bytes:
        try:
            block: bytes = self._stream.read(size)
        except EOFError:
            raise Damaged(f"cannot read {self.path}: it is cut off, or still being written") from None
        except (OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            raise Damaged(f"cannot read {self.path}: {error}") from None
        if len(self.first) < HEAD_BYTES:
            self.first += block[: HEAD_BYTES - len(self.first)]
        self.last = (self.last + block)[-TAIL_BYTES:] if len(block) < TAIL_BYTES else block[-TAIL_BYTES:]
        self.offset += len(block)
        return block


def _decompressing(raw: IO[bytes], kind: str) -> Any:
    """A stream of what the file holds; several parts behind each other are one."""
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if kind == "bzip2":
        return bz2.BZ2File(raw)
    if kind == "xz":
        return lzma.LZMAFile(raw)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
    return _Zstd(raw, decompressor)


class _Zstd(io.RawIOBase):
    """Frames of zstd; unlike the library's own reader it tells a frame that is cut off."""

    def __init__(self, raw: IO[bytes], decompressor: zstandard.ZstdDecompressor) -> None:
        super().__init__()
        self._raw = raw
        self._decompressor = decompressor
        self._frame: Any = None
        self._input = b""
        self._ready = bytearray()

    def read(self, size: int = -1) -> bytes:
        while not self._ready:
            piece = self._input or self._raw.read(1 << 10)  # which may hold some 30 MB
            self._input = b""
            if not piece:
                if self._frame is not None:
                    raise EOFError
                return b""
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            self._ready += self._frame.decompress(piece)
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        given = bytes(self._ready[:size])
        del self._ready[:size]
        return given


def matches(path: str, known: Position, *, by_inode: bool) -> bool:
    """Whether the file under a path holds what a position was taken in: the same file, or (not by_inode) a copy of it.

    What cannot be read is not it.
    """
    return bool(_holds(path, known, by_inode=by_inode))


def is_another(path: str, known: Position) -> bool:
    """Whether the file under a path, which has the inode of a position, is another one for certain."""
    return _holds(path, known, by_inode=True) is False


def _holds(path: str, known: Position, *, by_inode: bool) -> bool | None:
    """None: it cannot be read."""
    try:
        file = open_file(path, 0)
    except (OSError, UsageError):
        return None
    try:
        if by_inode and (file.device, file.inode) != (known.device, known.inode):
            return False
        return file.holds(known)
    except Damaged:
        return False
    except OSError:
        return None
    finally:
        file.close()
