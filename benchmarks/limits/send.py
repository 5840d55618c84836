"""Send, bare: one thread encodes events one by one and keeps an object for each, another sends what is there.

What any producer must do that is given its events one by one, and nothing else: no stream but one, no type, no check
of what an event is, no bound, no receipt that says how it ended, no retry. It runs the append script as Millstream
does, many events a call, and sends the next call before the last is answered.
"""

import gc
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Any

import ormsgpack
import zstandard

from benchmarks.limits.address import arguments, call, command, connected
from benchmarks.limits.append import HEADER
from benchmarks.limits.arrived import arrived
from benchmarks.limits.consume import Replies
from benchmarks.limits.event import events, expected
from benchmarks.limits.packs import pack_header

PER_CALL = 1_000
"""Entries a call, once so many wait."""
IN_FLIGHT = 8
NAP_S = 0.000_05
"""While nothing waits and nothing is on its way."""
LENGTHS = [b"\r\n$%d\r\n" % size for size in range(16_384)]
"""What stands before a value, by its size: none here is longer."""
_number = Struct(">I").pack


class Wire:
    """The thread that sends: takes what waits, and reads the answers."""

    def __init__(self, sock: socket.socket, key: str, producer: str, script: str, per_pack: int) -> None:
        self.waiting: list[bytes] = []
        """Events as msgpack: other threads add to its end."""
        self._sock = sock
        self._replies = Replies(sock)
        beside = f"{{{key}}}:"
        self._keys = (key, f"{beside}producer:{producer}", f"{beside}never")
        self._per_pack = per_pack
        self._compress = zstandard.ZstdCompressor(level=1).compress
        sock.sendall(command("SCRIPT", "LOAD", script))
        self._sha = self._replies.next()
        self._calls = 0

    def send(self, total: int) -> None:
        """Send so many events, as they come, and wait for all answers."""
        waiting, most = self.waiting, PER_CALL * max(self._per_pack, 1)
        taken = in_flight = 0
        while taken < total or in_flight:
            there = len(waiting)
            if there and (not in_flight or (in_flight < IN_FLIGHT and there >= most)):
                # All whole calls at once: the interpreter is given up, and waited for, at each system call.
                calls = []
                while waiting and (not in_flight or (in_flight < IN_FLIGHT and len(waiting) >= most)):
                    few = waiting[:most]
                    del waiting[:most]
                    calls.append(self._packs(few, taken) if self._per_pack else self._singles(few, taken))
                    taken += len(few)
                    in_flight += 1
                self._sock.sendall(b"".join(calls))
            elif in_flight:
                status, value = self._replies.next()
                if status != b"ok":
                    raise RuntimeError(f"the append script answered {status!r} {value!r}")
                in_flight -= 1
            else:
                time.sleep(NAP_S)

    def _singles(self, bodies: list[bytes], first: int) -> bytes:
        """A call that adds an entry for each."""
        start = HEADER[:-4]
        values = 2 * bodies
        values[::2] = [start + _number(number) for number in range(first + 1, first + 1 + len(bodies))]
        values[1::2] = bodies
        return self._call(values)

    def _packs(self, bodies: list[bytes], first: int) -> bytes:
        """A call that adds an entry for so many at a time."""
        values = []
        for at in range(0, len(bodies), self._per_pack):
            few = bodies[at : at + self._per_pack]
            array = b"\xdc" + len(few).to_bytes(2, "big") + b"".join(few)
            values += [pack_header(len(few))[:-4] + _number(first + at + 1), self._compress(array)]
        return self._call(values)

    def _call(self, values: list[bytes]) -> bytes:
        """Batch after batch of one producer."""
        self._calls += 1
        start = command(
            *("EVALSHA", self._sha, len(self._keys), *self._keys),
            *(self._calls, self._calls, 86_400_000, 0, 0, 86_400_000, "", "", 1, len(values) // 2),
        )
        words = b"*%d" % (16 + len(values))
        pieces = 2 * values
        pieces[::2] = [LENGTHS[size] for size in map(len, values)]
        pieces[1::2] = values
        return b"".join([words, start[start.index(b"\r\n") : -2], *pieces, b"\r\n"])


def send(
    sock: socket.socket,
    key: str,
    script: str,
    rows: Sequence[dict[str, Any]],
    *,
    per_pack: int = 0,
    producer: str = "bare",
) -> float:
    """Send all; the seconds from the first event encoded to the last answer.

    Args:
        script: the text of Millstream's append script. per_pack: events an entry; 0: one, and not packed.
        producer: one that has never sent to this stream before.
    """
    wire = Wire(sock, key, producer, script, per_pack)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            wire.send(len(rows))
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run, name="wire")
    waiting = wire.waiting

    def send_one(row: dict[str, Any]) -> list[bytes]:
        body = ormsgpack.packb(row)
        waiting.append(body)
        return [body]

    began_s = time.perf_counter()
    thread.start()
    kept = [send_one(row) for row in rows]
    thread.join()
    taken_s = time.perf_counter() - began_s
    if failed:
        raise failed[0]
    if len(kept) != len(rows):
        raise RuntimeError(f"{len(kept):,} of {len(rows):,} events were kept")
    return taken_s


if __name__ == "__main__":
    given = arguments(__doc__, key="millstream-limit-send", pack=0)
    text = (Path(__file__).parents[2] / "pipeline/server/lua/append.lua").read_text(encoding="utf-8")
    link, rows = connected(given.url), events(given.events)
    gc.freeze()  # what is there already is not looked through again and again
    try:
        seconds = send(link, given.key, text, rows, per_pack=given.pack)
        same = arrived(link, given.key) == expected(given.events)
        print(f"{given.events / seconds:,.0f} events/s sent, checksum {'right' if same else 'WRONG'}")
    finally:
        call(link, "DEL", given.key, f"{{{given.key}}}:producer:bare")
