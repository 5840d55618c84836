"""Send, bare: one thread encodes events one by one and keeps an object for each, another sends what is there.

What any producer must do that is given its events one by one, and nothing else: no stream but one, no type, no check
of what an event is, no bound, no receipt that says how it ended, no retry. It runs the append script as Millstream
does, many events a call, and sends the next call before the last is answered.

With guarded=True it does besides what the guarantees ask for each event, and each in the fewest steps we know: a look
that the event holds what can be sent, and exactly as it is; a bound on what waits; a receipt that learns how its own
event ended, though several threads may send; and a result of each, asked for in the end.
"""

import gc
import socket
import threading
import time
from collections import deque
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
MOST_WAITING = 10_000
"""Events that may wait at once, where that is bounded."""
EXACT = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS | ormsgpack.OPT_PASSTHROUGH_SUBCLASS | ormsgpack.OPT_PASSTHROUGH_TUPLE
)
SCALARS = frozenset((str, int, float, bool, bytes, type(None)))
_number = Struct(">I").pack


class Ending:
    """How the events of one call ended."""

    __slots__ = ("confirmed", "first_id")

    def __init__(self) -> None:
        self.confirmed = threading.Event()
        self.first_id = b""


class Receipt:
    """Of one event: its call, and its place there."""

    __slots__ = ("ending", "position")

    ending: Ending
    position: int


class Result:
    """What is told of an event that is in the stream."""

    __slots__ = ("receipt",)

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt


class Wire:
    """The thread that sends: takes what waits, and reads the answers."""

    parts = 1
    """Items of `waiting` per event."""

    def __init__(self, sock: socket.socket, key: str, producer: str, script: str, per_pack: int) -> None:
        self.waiting: list[Any] = []
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
            there = len(waiting) // self.parts
            if there and (not in_flight or (in_flight < IN_FLIGHT and there >= most)):
                # All whole calls at once: the interpreter is given up, and waited for, at each system call.
                calls = []
                while waiting and (
                    not in_flight or (in_flight < IN_FLIGHT and len(waiting) >= most * self.parts)
                ):
                    few = self._taken(waiting[: most * self.parts])
                    del waiting[: most * self.parts]
                    calls.append(self._packs(few, taken) if self._per_pack else self._singles(few, taken))
                    taken += len(few)
                    in_flight += 1
                self._sock.sendall(b"".join(calls))
            elif in_flight:
                status, value = self._replies.next()
                if status != b"ok":
                    raise RuntimeError(f"the append script answered {status!r} {value!r}")
                in_flight -= 1
                self._ended(value)
            else:
                time.sleep(NAP_S)

    def _taken(self, few: list[Any]) -> list[bytes]:
        """The events themselves."""
        return few

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

    def _ended(self, said: bytes) -> None:
        """A call is carried out."""

    def _call(self, values: list[bytes]) -> bytes:
        """Batch after batch of one producer."""
        self._calls += 1
        start = command(
            *("EVALSHA", self._sha, len(self._keys), *self._keys),
            *(self._calls, self._calls, 86_400_000, 0, 0, 86_400_000, "", "", 1, len(values) // 2, 0),
        )
        words = b"*%d" % (17 + len(values))
        pieces = 2 * values
        pieces[::2] = [LENGTHS[size] for size in map(len, values)]
        pieces[1::2] = values
        return b"".join([words, start[start.index(b"\r\n") : -2], *pieces, b"\r\n"])


class GuardedWire(Wire):
    """The same with a receipt for each event, which learns what becomes of it."""

    parts = 3

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._endings: deque[Ending] = deque()

    def _taken(self, few: list[Any]) -> list[bytes]:
        ending = Ending()
        self._endings.append(ending)
        for position, receipt in enumerate(few[::3]):
            receipt.position = position
            receipt.ending = ending
        return few[2::3]

    def _ended(self, said: bytes) -> None:
        ending = self._endings.popleft()
        ending.first_id = said.split(b" ", 1)[0]
        ending.confirmed.set()


def send(
    sock: socket.socket,
    key: str,
    script: str,
    rows: Sequence[dict[str, Any]],
    *,
    per_pack: int = 0,
    producer: str = "bare",
    guarded: bool = False,
) -> float:
    """Send all; the seconds from the first event encoded to the last answer.

    Args:
        script: the text of Millstream's append script. per_pack: events an entry; 0: one, and not packed.
        producer: one that has never sent to this stream before.
    """
    wire = (GuardedWire if guarded else Wire)(sock, key, producer, script, per_pack)
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

    frames, not_yet = {(key, ""): object()}, Ending()

    def send_guarded(stream: str, row: Any, type_: str = "") -> Receipt:
        frame = frames[stream, type_]
        while len(waiting) >= MOST_WAITING * 3:
            time.sleep(NAP_S)
        if row.__class__ is not dict or (
            gc.is_tracked(row) and not SCALARS.issuperset(map(type, row.values()))
        ):
            raise TypeError("this loop sends flat events only")
        receipt = Receipt()
        receipt.ending = not_yet
        waiting.extend((receipt, frame, ormsgpack.packb(row, None, EXACT)))
        return receipt

    began_s = time.perf_counter()
    thread.start()
    if guarded:
        receipts = [send_guarded(key, row) for row in rows]
        thread.join()
        kept: list[Any] = [Result(receipt) for receipt in receipts if receipt.ending.confirmed.is_set()]
    else:
        kept = [send_one(row) for row in rows]
        thread.join()
    taken_s = time.perf_counter() - began_s
    if failed:
        raise failed[0]
    if len(kept) != len(rows):
        raise RuntimeError(f"{len(kept):,} of {len(rows):,} events were kept")
    return taken_s


if __name__ == "__main__":
    given = arguments(__doc__, key="millstream-limit-send", pack=0, guarded=0)
    text = (Path(__file__).parents[2] / "pipeline/server/lua/append.lua").read_text(encoding="utf-8")
    link, rows = connected(given.url), events(given.events)
    gc.freeze()  # what is there already is not looked through again and again
    try:
        cpu_s = time.process_time()
        seconds = send(link, given.key, text, rows, per_pack=given.pack, guarded=bool(given.guarded))
        cpu_us = (time.process_time() - cpu_s) / given.events * 1e6
        same = arrived(link, given.key) == expected(given.events)
        print(
            f"{given.events / seconds:,.0f} events/s sent, {cpu_us:.2f} us of CPU each, "
            f"checksum {'right' if same else 'WRONG'}"
        )
    finally:
        call(link, "DEL", given.key, f"{{{given.key}}}:producer:bare")
