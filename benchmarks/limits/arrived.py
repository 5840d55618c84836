"""Arrived: reads a whole stream back with nothing but msgpack and zstd, and adds up the events that are in it.

Reads what the loops here wrote and what Millstream wrote, by no decoder of Millstream's.
"""

import socket
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import zstandard

from benchmarks.limits.consume import Replies, packed
from benchmarks.limits.event import Tally, tally

ZSTD = b"\x28\xb5\x2f\xfd"
COUNT = 1_000


def arrived(sock: socket.socket, key: str) -> Tally:
    """All events of the stream."""
    replies, total, after = Replies(sock), Tally(), b"-"
    while True:
        sock.sendall(packed("XRANGE", key, after, "+", "COUNT", str(COUNT)))
        entries = replies.next()
        if not entries:
            return total
        total += tally(request_ids(entries))
        after = b"(" + entries[-1][0]


def request_ids(entries: Sequence[Any]) -> list[str]:
    """The ids of the events that these entries hold."""
    decompress = zstandard.ZstdDecompressor().decompress
    ids: list[str] = []
    for _, fields in entries:
        body = fields[fields.index(b"b", 2) + 1]
        found = msgpack.unpackb(decompress(body) if body.startswith(ZSTD) else body)
        # A pack whose events differ in type or time has a list for each, which begins with its data.
        events = (
            [one[0] if isinstance(one, list) else one for one in found]
            if isinstance(found, list)
            else [found]
        )
        ids.extend([event["request_id"] for event in events])
    return ids
