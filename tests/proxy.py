"""Proxy: stands between a client and a real server, and loses, delays and cuts what passes, exactly as told.

Replies are parsed, so that the Nth one can be swallowed whole; everything else passes byte by byte. Rules hold for
all connections together, in the order in which things pass. One thread for each direction of a connection.
"""

import contextlib
import itertools
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator

from pipeline.server.locate import Address

Rule = Callable[[int, bytes], bool]
"""(number of the reply, counted from 1; its bytes) -> whether it is meant."""
Gate = Callable[[bytes], int]
"""What a client wrote in one piece -> how much of it may pass before its connection breaks; -1: all, and it stands."""


class _Replies:
    """Cuts a stream of RESP2 replies into whole replies."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The whole replies so far."""
        self._data += data
        while True:
            end = self._end(0)
            if end is None:
                return
            reply, self._data = self._data[:end], self._data[end:]
            yield reply

    def _end(self, start: int) -> int | None:
        """Where the reply at `start` ends; None if it is not there as a whole."""
        newline = self._data.find(b"\r\n", start)
        if newline < 0:
            return None
        kind, end = self._data[start : start + 1], newline + 2
        if kind == b"$":
            size = int(self._data[start + 1 : newline])
            end += size + 2 if size >= 0 else 0
            return end if end <= len(self._data) else None
        if kind == b"*":
            for _ in range(int(self._data[start + 1 : newline])):
                after = self._end(end)
                if after is None:
                    return None
                end = after
        return end


class Proxy:
    """Listens on a unix socket (or a loopback port with tcp=True) and forwards to the server at `address`.

    `with Proxy(server.address) as proxy: Producer(proxy.url)`; then set rules, at any time, from any thread:

    - `swallow = rule`: a reply for which it is true disappears, and its connection is cut at once.
    - `gate = rule`: how much of a request arrives is said by the rule.
    - `cut_after(replies=…)`, `cut_after(request_bytes=…)`, `cut_after(reply_bytes=…)`: the connection breaks there.
    - `hold()` / `release()`: replies wait. `black_hole()`: both directions swallow everything, nothing breaks;
      `deaf` / `mute`: only requests do, only replies do.
    - `half_open = True`: the server does not learn that a client has gone, until `cut()`; `hang_up()`: all have gone.
    - `refuse = True`: new connections are closed at once. `cut()`: all connections break now; `cut(reset=True)`: by RST
      (with tcp=True).
    """

    def __init__(self, address: Address, *, tcp: bool = False) -> None:
        self._address = address
        self._folder = tempfile.TemporaryDirectory(prefix="millstream-proxy-")
        self._path = os.path.join(self._folder.name, "s")
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self._path)
            self._listener.listen(64)
            self.url = f"unix://{self._path}"
        self.swallow: Rule | None = None
        self.gate: Gate | None = None
        self.refuse = False
        self.half_open = False
        self.replies = 0
        """Replies that came from the server so far."""
        self.swallowed = 0
        self.connections = 0
        self.cuts = 0
        """Connections broken where cut_after() said, or by cut()."""
        self.deaf = False
        self.mute = False
        self._lock = threading.Lock()
        self._budgets: dict[str, int] = {}
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> "Proxy":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.release()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        self._folder.cleanup()

    def swallow_every(self, nth: int, *, having: bytes = b"") -> None:
        """Every nth reply from now on that contains these bytes disappears, and its connection with it."""
        counter = itertools.count(1)
        self.swallow = lambda _number, reply: having in reply and next(counter) % nth == 0

    def cut_after(self, *, replies: int = 0, request_bytes: int = 0, reply_bytes: int = 0) -> None:
        """Break the connection on which the so-many-th reply, or byte, passes next; once."""
        with self._lock:
            wanted = {"replies": replies, "request_bytes": request_bytes, "reply_bytes": reply_bytes}
            self._budgets.update({kind: amount for kind, amount in wanted.items() if amount})

    def cut(self, *, reset: bool = False) -> None:
        """Break all connections now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.cuts += len(pairs)
        for pair in pairs:
            self._break(pair, reset=reset)

    def hang_up(self) -> None:
        """Clients find their connections closed now. With half_open, the server knows nothing of it."""
        with self._lock:
            pairs = list(self._pairs)
        for client, _ in pairs:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Keep replies back until release()."""
        self._flowing.clear()

    def release(self) -> None:
        """Let replies pass again."""
        self._flowing.set()

    def black_hole(self, on: bool = True) -> None:
        """Swallow everything in both directions without breaking anything."""
        self.deaf = self.mute = on

    def lead_to(self, address: Address) -> None:
        """Break all connections, and forward new ones to another server: a failover."""
        self._address = address
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refuse:
                client.close()
                continue
            pair = (client, self._connect())
            with self._lock:
                self._pairs.append(pair)
            for work in (self._requests, self._answers):
                thread = threading.Thread(target=work, args=(pair,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _connect(self) -> socket.socket:
        if self._address.kind == "unix":
            made = socket.socket(socket.AF_UNIX)
            made.connect(self._address.path)
            return made
        return socket.create_connection((self._address.host, self._address.port))

    def _requests(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if self.deaf:
                    continue
                part = self._within("request_bytes", data)
                let = self.gate(data) if self.gate is not None else -1
                if let >= 0:
                    server.sendall(data[:let])
                    break
                server.sendall(part)
                if len(part) < len(data):
                    break
        if not self.half_open:
            self._break(pair)

    def _answers(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        replies = _Replies()
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                for reply in replies.feed(data):
                    if not self._answer(client, reply):
                        self._break(pair)
                        return
        self._break(pair)

    def _answer(self, client: socket.socket, reply: bytes) -> bool:
        """Pass one reply on; False if the connection is to break."""
        with self._lock:
            self.replies += 1
            number = self.replies
            if self.swallow is not None and self.swallow(number, reply):
                self.swallowed += 1
                return False
        self._flowing.wait()
        if self.mute:
            return True
        part = self._within("reply_bytes", reply)
        try:
            client.sendall(part)
        except OSError:
            return self.half_open  # nobody is there to tell the server
        return len(part) == len(reply) and bool(self._within("replies", b"."))

    def _within(self, kind: str, data: bytes) -> bytes:
        """As much of the data as may pass before the cut that was asked for."""
        with self._lock:
            budget = self._budgets.get(kind)
            if budget is None:
                return data
            if budget > len(data) or (kind != "replies" and budget == len(data)):
                self._budgets[kind] = budget - len(data)
                return data
            del self._budgets[kind]
            self.cuts += 1
            return b"" if kind == "replies" else data[:budget]

    def _break(self, pair: tuple[socket.socket, socket.socket], *, reset: bool = False) -> None:
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                if (
                    reset
                ):  # closed with something unsent, it is an RST and no FIN; whoever reads it is woken first
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            end.close()
