"""Sockets: takes lines and messages from TCP connections, and messages from UDP.

Stands on asyncio. Nobody is answered: while there is no room a connection is not read, so that its sender waits, and a
datagram is dropped and counted. If killed, what was read and not sent is lost: no sender of these protocols knows what
arrived.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.observe.log import get_logger
from producers.sources.network.frames import Frames

TakeOne: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Queues one frame; waits while there is no room."""
TakeNow: TypeAlias = Callable[[bytes], bool]
"""Queues one datagram; False: there is no room."""

READ_BYTES = 65_536
QUIET_S = 0.1
"""While stopping, a connection that brought nothing for so long has nothing more in hand."""

_log = get_logger("intake")


@dataclass(slots=True)
class Received:
    """What came, and what became of none of it."""

    frames: int = 0
    connections: int = 0
    too_long: int = 0
    unfinished: int = 0
    """Lines that their connection ended in the midst of."""
    dropped: int = 0
    """There was no room (UDP), or no time when stopping."""
    turned_away: int = 0
    """Connections beyond the most that are allowed, or whose lines without an end were more than fit in memory."""


class Connections:
    """All TCP connections of one listener.

    Args:
        frames: cuts what a connection brings. take: queues a frame.
        whole: whether what a sender left without an end when it closed may be whole all the same.
        max_held_bytes: of what has begun and not ended, in all connections together.
    """

    def __init__(
        self,
        frames: Callable[[], Frames],
        take: TakeOne,
        whole: Callable[[bytes], bool],
        *,
        max_connections: int,
        max_held_bytes: int,
    ) -> None:
        self.received = Received()
        self._frames = frames
        self._take = take
        self._whole = whole
        self._max_connections = max_connections
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def start(self, listener: socket.socket) -> None:
        """Accept from now on."""
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=READ_BYTES)

    async def stop(self, grace_s: float) -> None:
        """Accept no more, take what has come within `grace_s`, and close."""
        self._stopping.set()
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= self._max_connections or self._stopping.is_set():
            self.received.turned_away += 1
            writer.transport.abort()
            return
        self._tasks.add(task)
        self.received.connections += 1
        try:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await self._read(reader)
        except asyncio.CancelledError:
            return  # stop() has waited long enough
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = self._frames()
        at_its_end = False
        held = 0
        waiting: list[bytes] = []
        try:
            while data := await self._next(reader):
                long = frames.too_long
                waiting = frames.feed(data)
                self.received.too_long += frames.too_long - long
                self._held_bytes += frames.held_bytes - held
                held = frames.held_bytes
                waiting.reverse()
                while waiting:
                    await self._take(waiting[-1])
                    waiting.pop()
                    self.received.frames += 1
                if held and self._held_bytes > self._max_held_bytes:
                    self.received.turned_away += 1
                    break
            else:
                at_its_end = reader.at_eof()
        except ConnectionError:
            pass  # what it leaves unfinished is counted below
        finally:
            self._held_bytes -= held
            self.received.dropped += len(waiting)
            rest = frames.rest()
            if (rest or frames.cut) and (frames.cut or not at_its_end or not self._whole(rest)):
                self.received.unfinished += 1
                rest = b""
        if rest:
            await self._take(rest)
            self.received.frames += 1

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        """What comes next; empty at the end, or if nothing comes while stopping."""
        reading = asyncio.ensure_future(reader.read(READ_BYTES))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait((reading,), timeout=QUIET_S)
            return await reading if reading.done() else b""
        finally:
            for one in (reading, stopping):
                one.cancel()
                with suppress(asyncio.CancelledError, ConnectionError):
                    await one


class Datagrams(asyncio.DatagramProtocol):
    """All datagrams to one socket."""

    def __init__(self, take: TakeNow) -> None:
        self.received = Received()
        self._take = take
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, listener: socket.socket) -> None:
        """Take them from now on."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=listener)

    async def stop(self) -> None:
        """Take what has come, and no more."""
        if self._transport is not None:
            await asyncio.sleep(QUIET_S)
            self._transport.close()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """One message."""
        message = data.rstrip(b"\r\n\0 ")
        if not message:
            return
        if self._take(message):
            self.received.frames += 1
        else:
            self.received.dropped += 1

    def error_received(self, exc: Exception) -> None:
        """Of a socket that only receives there is nothing to mend."""
        _log.warning("receiving over UDP failed", error=str(exc))
