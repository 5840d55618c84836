"""Position: where the next line of a followed file begins, and which file that is, whatever it is called by then.

Pure. A file is known by device and inode as long as it is not copied or compressed, and by its content then: a hash of
its first bytes, and one of the last bytes before the offset. So a new file under an old name or inode is not mistaken
for it, although both begin with the same header; and of files that are new, the time says that they came later.
"""

import re
import zlib
from dataclasses import dataclass, replace
from hashlib import blake2b

HEAD_BYTES = 256
"""So many first bytes are compared at most."""
TAIL_BYTES = 256
"""And so many before the offset."""

_SHAPE = re.compile(
    r"(?P<device>[0-9a-f]+):(?P<inode>[0-9a-f]+):(?P<head_bytes>\d+):(?P<head>[0-9a-f]*):"
    r"(?:(?P<written>[0-9a-f]+):(?P<tail>[0-9a-f]*):)?(?P<offset>\d+)"
)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a line begins: the file, and the offset in it; of a compressed file, in what it holds."""

    device: int
    inode: int
    head_bytes: int
    """How many of the file's first bytes `head` covers."""
    head: str
    offset: int
    written_ns: int = 0
    """When the file was written to last, as far as we had seen; 0: not known."""
    tail: str = ""
    """Hash of the bytes before the offset; empty: not known."""

    def __str__(self) -> str:
        return f"{self.prefix}:{self.tail}:{self.offset}"

    @property
    def prefix(self) -> str:
        """All but what depends on the offset."""
        return f"{self.device:x}:{self.inode:x}:{self.head_bytes}:{self.head}:{self.written_ns:x}"

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """The position that str() wrote, also one without time and tail; None for anything else."""
        match = _SHAPE.fullmatch(text)
        if match is None:
            return None
        return cls(
            device=int(match["device"], 16),
            inode=int(match["inode"], 16),
            head_bytes=int(match["head_bytes"]),
            head=match["head"],
            offset=int(match["offset"]),
            written_ns=int(match["written"] or "0", 16),
            tail=match["tail"] or "",
        )

    def begins(self, first: bytes) -> bool:
        """Whether content that begins with these bytes is that of the file, as far as is known."""
        return not self.head_bytes or head_of(first[: self.head_bytes]) == self.head

    @property
    def beginning(self) -> "Position":
        """A position that every copy has which holds the first bytes."""
        return replace(self, offset=0, tail="")

    @property
    def tells_copies(self) -> bool:
        """Whether enough is known of the content to find a copy by it."""
        return self.head_bytes > 0 and self.head_bytes >= min(self.offset, HEAD_BYTES) // 2 + 1


def head_of(first: bytes) -> str:
    """The hash of a file's first bytes."""
    return blake2b(first, digest_size=8).hexdigest()


def tail_of(last: bytes) -> str:
    """The hash of the bytes before an offset."""
    return f"{zlib.crc32(last):08x}" if last else ""
