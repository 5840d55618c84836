"""Packs, bare: 100 events as one msgpack array, compressed with zstd, one XADD each; and the way back.

Made from dicts and not packed beforehand: with packs, it is this work that takes the time, and not the server's.
"""

import socket
import time
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import zstandard

from benchmarks.limits.address import arguments, call, command, connected
from benchmarks.limits.append import HEADER
from benchmarks.limits.consume import BODY, Replies, consume
from benchmarks.limits.event import events, expected, tally

PER_PACK = 100
IN_FLIGHT = 16


def pack_header(count: int) -> bytes:
    """The header of a pack: kind 1, compression 1."""
    return HEADER[:3] + b"\x01\x01\x01" + bytes((count,)) + HEADER[7:]


def append_packs(sock: socket.socket, key: str, rows: Sequence[dict[str, Any]]) -> float:
    """Append all; the seconds from the first event packed to the last reply."""
    pack, compress = msgpack.Packer().pack, zstandard.ZstdCompressor(level=1).compress
    replies = Replies(sock)
    in_flight = 0
    began_s = time.perf_counter()
    for at in range(0, len(rows), PER_PACK):
        few = rows[at : at + PER_PACK]
        if in_flight == IN_FLIGHT:
            replies.next()
            in_flight -= 1
        sock.sendall(command("XADD", key, "*", "h", pack_header(len(few)), "b", compress(pack(few))))
        in_flight += 1
    for _ in range(in_flight):
        replies.next()
    return time.perf_counter() - began_s


def pack_ids(entries: Sequence[Any], ids: list[str]) -> None:
    """Decode entries of many events, and keep the events' ids."""
    unpack, decompress = msgpack.unpackb, zstandard.ZstdDecompressor().decompress
    for _, fields in entries:
        ids.extend([event["request_id"] for event in unpack(decompress(fields[BODY]))])


if __name__ == "__main__":
    given = arguments(__doc__, key="millstream-limit-packs")
    link = connected(given.url)
    try:
        appended_s = append_packs(link, given.key, events(given.events))
        call(link, "XGROUP", "CREATE", given.key, "bare", "0")
        packs = -(-given.events // PER_PACK)
        consumed_s, arrived = consume(link, given.key, "bare", packs, pack_ids)
        same = tally(arrived) == expected(given.events)
        print(
            f"{given.events / appended_s:,.0f} events/s appended, {given.events / consumed_s:,.0f} consumed"
        )
        print(f"checksum {'right' if same else 'WRONG'}")
    finally:
        call(link, "DEL", given.key)
