"""Consume, bare: XREADGROUP of 1,000 with the next read in flight while this one is decoded, acks pipelined.

No window, no lease, no retry, no handler: a reader that dies leaves its entries behind for ever. What a loop reaches
that is written for this alone, with hiredis and msgpack.
"""

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import msgpack  # type: ignore[import-untyped]

from benchmarks.limits.address import arguments, call, connected
from benchmarks.limits.append import append
from benchmarks.limits.event import bodies, expected, tally

COUNT = 1_000
BODY = 3
"""Where the body stands among an entry's fields: h, header, b, body."""


class Replies:
    """Replies from a socket, parsed in C."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = hiredis.Reader()
        self._view = memoryview(bytearray(1 << 18))

    def next(self) -> Any:
        """The next reply; an error answer is raised."""
        reply = self._reader.gets()
        while reply is False:
            size = self._sock.recv_into(self._view)
            if not size:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(self._view[:size])  # type: ignore[arg-type]
            reply = self._reader.gets()
        if isinstance(reply, Exception):
            raise reply
        return reply


def single_ids(entries: Sequence[Any], ids: list[str]) -> None:
    """Decode entries of one event each, and keep the events' ids."""
    unpack, keep = msgpack.unpackb, ids.append
    for _, fields in entries:
        keep(unpack(fields[BODY])["request_id"])


def consume(
    sock: socket.socket,
    key: str,
    group: str,
    total: int,
    decode: Callable[[Sequence[Any], list[str]], None] = single_ids,
    block_ms: int = 0,
) -> tuple[float, list[str]]:
    """Read so many entries; the seconds from the first read to the last ack's reply, and the events' ids.

    Args:
        block_ms: wait so long for what is not there yet; 0: all is there, and an empty read is an error.
    """
    wait = ("BLOCK", str(block_ms)) if block_ms else ()
    read = packed("XREADGROUP", "GROUP", group, "bare", "COUNT", str(COUNT), *wait, "STREAMS", key, ">")
    replies = Replies(sock)
    ids: list[str] = []
    ack, got, acked = b"", 0, 0
    began_s = time.perf_counter()
    sock.sendall(read)
    while got < total:
        found = replies.next()
        if found is None and not block_ms:
            raise RuntimeError(f"the stream ended after {got:,} of {total:,} entries")
        entries = found[0][1] if found else ()
        got += len(entries)
        # What was decoded before is acknowledged, and the server reads on while this is decoded.
        sock.sendall(ack + read if got < total else ack)
        decode(entries, ids)
        acked += replies.next() if ack else 0
        ack = packed("XACK", key, group, *[entry_id for entry_id, _ in entries]) if entries else b""
    if ack:
        sock.sendall(ack)
        acked += replies.next()
    taken_s = time.perf_counter() - began_s
    if acked != total:
        raise RuntimeError(f"{acked:,} of {total:,} entries were acknowledged")
    return taken_s, ids


def packed(*words: str | bytes) -> bytes:
    """One command, packed in C."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
    return command


if __name__ == "__main__":
    given = arguments(__doc__, key="millstream-limit-consume")
    link = connected(given.url)
    try:
        append(link, given.key, bodies(given.events), 1_000, 3)
        call(link, "XGROUP", "CREATE", given.key, "bare", "0")
        seconds, arrived = consume(link, given.key, "bare", given.events)
        same = tally(arrived) == expected(given.events)
        print(f"{given.events / seconds:,.0f} events/s consumed, checksum {'right' if same else 'WRONG'}")
    finally:
        call(link, "DEL", given.key)
