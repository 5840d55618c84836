"""Compression: a body as one zstd frame and back, within limits that hold before anything is allocated.

A frame says how long its content is, so a bomb is refused by its first bytes. Contexts are kept in pools: building
one costs more than compressing a pack does, and one must not be used by two threads at a time.
"""

from collections import deque

import zstandard

from pipeline.errors import DecodeError
from pipeline.limits import Limits

LEVEL = 1
"""Higher levels take several times the work for a tenth fewer bytes of log lines."""
_BLOCK_BYTES = 2_048

_compressors: deque[zstandard.ZstdCompressor] = deque(maxlen=16)
_decompressors: deque[zstandard.ZstdDecompressor] = deque(maxlen=16)


def compress(raw: bytes, limits: Limits) -> bytes:
    """One zstd frame with its content size, of a ratio that decompress() accepts."""
    try:
        compressor = _compressors.pop()
    except IndexError:
        compressor = zstandard.ZstdCompressor(level=LEVEL)
    frame = compressor.compress(raw)
    if len(raw) > limits.max_entry_bytes and len(raw) > limits.max_ratio * len(frame):
        # A block takes 4 bytes or more whatever it holds, so blocks of 2 KiB keep the ratio below 512.
        blocks = compressor.compressobj(size=len(raw))
        parts = [
            blocks.compress(raw[start : start + _BLOCK_BYTES])
            + blocks.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            for start in range(0, len(raw), _BLOCK_BYTES)
        ]
        frame = b"".join(parts) + blocks.flush()
    _compressors.append(compressor)
    return frame


def decompress(frame: bytes, limits: Limits) -> bytes:
    """The content of exactly one frame.

    Raises:
        DecodeError: not one whole frame that says its content size, or one beyond the limits.
    """
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise DecodeError(f"the body is not a zstd frame: {error}") from None
    if size < 0:
        raise DecodeError("the body's zstd frame does not say how long its content is")
    if size > limits.max_body_bytes:
        raise DecodeError(
            f"the body decompresses to {size:,} bytes, which exceeds max_body_bytes={limits.max_body_bytes:,}"
        )
    if size > limits.max_entry_bytes and size > limits.max_ratio * len(frame):
        raise DecodeError(
            f"the body's {len(frame):,} bytes decompress to {size:,}, which exceeds max_ratio={limits.max_ratio:,}"
        )
    try:
        decompressor = _decompressors.pop()
    except IndexError:
        decompressor = zstandard.ZstdDecompressor()
    try:
        raw = decompressor.decompress(frame, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DecodeError(f"the body cannot be decompressed: {error}") from None
    _decompressors.append(decompressor)
    if len(raw) != size:
        raise DecodeError(
            f"the body decompresses to {len(raw):,} bytes, not to the {size:,} its zstd frame says"
        )
    return raw
