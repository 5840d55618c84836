"""Inflate: the content of a compressed body, never more than so many bytes of it. Pure.

Content codings: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1 and https://www.rfc-editor.org/rfc/rfc8878.
Of deflate both readings are taken: the format of zlib, which is right, and the bare one, which some send.
"""

import zlib
from collections.abc import Callable

import zstandard

from pipeline.units import show_bytes
from producers.sources.network.refused import Refused

ACCEPTED = "gzip, deflate, zstd"
_MOST_WINDOW_BYTES = 1 << 23
"""What every decoder of RFC 8878 has to take."""


def inflated(body: bytes, coding: str, max_bytes: int) -> bytes:
    """What the body was before it was compressed.

    Raises:
        Refused: 415 for another coding; 413 for more than max_bytes; 400 for what is damaged.
    """
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    inflate = _CODINGS.get(name)
    if inflate is None:
        raise Refused(415, f"Content-Encoding {name[:80]!r}: one of {ACCEPTED}", accept_encoding=ACCEPTED)
    try:
        return inflate(body, max_bytes)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise Refused(400, f"the body is not {name}: {str(error)[:200] or 'it is cut off'}") from None


def too_large(max_bytes: int) -> Refused:
    """The answer to a body of more than so many bytes."""
    return Refused(
        413,
        f"the body is larger than {show_bytes(max_bytes)} (max_body): send smaller ones",
        connection="close",
    )


def _gzip(body: bytes, max_bytes: int) -> bytes:
    return _by_zlib(body, max_bytes, 31)


def _deflate(body: bytes, max_bytes: int) -> bytes:
    try:
        return _by_zlib(body, max_bytes, zlib.MAX_WBITS)
    except zlib.error:
        return _by_zlib(body, max_bytes, -zlib.MAX_WBITS)


def _by_zlib(body: bytes, max_bytes: int, wbits: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = body
    while True:
        stream = zlib.decompressobj(wbits)
        while rest and not stream.eof:
            part = stream.decompress(rest, max_bytes - size + 1)
            size += len(part)
            if size > max_bytes:
                raise too_large(max_bytes)
            parts.append(part)
            rest = stream.unconsumed_tail
        if not stream.eof:
            raise EOFError
        rest = stream.unused_data  # gzip: another member may follow
        if not rest:
            return b"".join(parts)


def _zstd(body: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = body
    while rest:
        stream = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES).decompressobj()
        at = 0
        while at < len(rest) and not stream.eof:
            part = stream.decompress(rest[at : at + _STEP_BYTES])
            at += _STEP_BYTES
            size += len(part)
            if size > max_bytes:
                raise too_large(max_bytes)
            parts.append(part)
        if not stream.eof:
            raise EOFError
        rest = stream.unused_data + rest[at:]
    return b"".join(parts)


_STEP_BYTES = 256
"""At once: a block of 128 KB may take four bytes, and what comes out of one step is not bounded otherwise."""
_CODINGS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "zstd": _zstd,
}  # fmt: skip
