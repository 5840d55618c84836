"""Log call, bare: a processor of structlog that ships lines, with the steps that no shipping can do without.

In the thread that logs: are the names ones that may be shipped, the line as msgpack, the time, and a place in a list.
In a thread beside it, every 50 ms: packs of 250 lines, zstd, XADD. No level, no mask but by name, no bound, no look at
what a value is, no line of another kind, no server that is away: what a line costs at least.
"""

import socket
import threading
import time
from collections import deque
from typing import Any

import ormsgpack
import zstandard

from benchmarks.limits.address import command
from benchmarks.limits.consume import Replies
from benchmarks.limits.packs import pack_header

PER_PACK = 250
EVERY_S = 0.05


class BareShipping:
    """The processor `take`, and the thread that sends what it took."""

    def __init__(self, sock: socket.socket, key: str, names: frozenset[str]) -> None:
        self._sock = sock
        self._key = key
        self._replies = Replies(sock)
        self._compress = zstandard.ZstdCompressor(level=1).compress
        self._taken: deque[tuple[float, bytes]] = deque()
        self._over = threading.Event()
        self.sent = 0
        """Lines that are in the stream."""
        append, pack, now_s, known = self._taken.append, ormsgpack.packb, time.time, names.issuperset

        def take(_logger: Any, _method: str, fields: Any) -> Any:
            if known(fields):
                append((now_s(), pack(fields)))
            return fields

        self.take = take
        self._thread = threading.Thread(target=self._run, name="bare-logs")
        self._thread.start()

    def settle(self) -> None:
        """Wait until all that makes a pack is sent."""
        while len(self._taken) >= PER_PACK:
            time.sleep(EVERY_S / 10)

    def close(self) -> None:
        """Send the rest, and end."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(EVERY_S)
            while len(self._taken) >= (1 if over else PER_PACK):
                few = [self._taken.popleft()[1] for _ in range(min(PER_PACK, len(self._taken)))]
                array = b"\xdc" + len(few).to_bytes(2, "big") + b"".join(few)
                header = pack_header(100)[:6] + b"\xcc%c" % len(few) + pack_header(100)[7:]
                self._sock.sendall(command("XADD", self._key, "*", "h", header, "b", self._compress(array)))
                self._replies.next()
                self.sent += len(few)
