"""Intake: listens, and sends into a stream what comes over HTTP, TCP and syslog.

Stands on two producers, one in a hurry and one with patience. A request over HTTP is answered once its events are
confirmed, so what it holds is given up soon: the sender still has it. A line over TCP or UDP has no answer: while the
server is away it is held, and its connection read no further. What is held is bounded by both buffers. If killed,
lines that were held are lost; a request that was not answered is sent again.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import (
    BufferFull,
    EncodeError,
    EventTooLargeError,
    MillstreamError,
    SendError,
    UsageError,
)
from pipeline.keys import check_stream_name
from pipeline.observe.log import get_logger
from pipeline.server.connect import Connector
from pipeline.units import Duration, Size, duration_ms, size_bytes
from producers.async_producer import AsyncProducer
from producers.producer import Of
from producers.sources.network.endpoint import Endpoint, endpoint
from producers.sources.network.frames import LineFrames, SyslogFrames
from producers.sources.network.http_app import HttpApp
from producers.sources.network.http_server import HttpServer
from producers.sources.network.record import SYSLOG_TYPE, Record, json_record, syslog_record, text_record
from producers.sources.network.sockets import Connections, Datagrams, Received
from producers.sources.parsers import parse_json, valid

TYPE = "log"
MAX_BODY = "16MB"
MAX_LINE = "1MB"
ANSWER_WITHIN = "10s"
GRACE = "10s"
PACK_EVENTS = 100
MAX_CONNECTIONS = 1_000
"""Of HTTP, of TCP and of syslog each."""
BUFFER_BYTES = 64_000_000
BUFFER_EVENTS = 100_000
PATIENCE = "11h"
"""How long a line is held while the server is away; dedupe_for has to be twice as long."""
BODY_TIMEOUT_S = 30
HEALTH_S = 1.0
"""For so long an answer about the server's health is repeated."""
SAY_EVERY_S = 10.0
BACKLOG = 512
RECEIVE_BYTES = 4_194_304
"""Asked for of the kernel, for datagrams that come faster than they are taken."""

_log = get_logger("intake")


@dataclass(frozen=True, slots=True)
class Took:
    """What an intake has taken, and what not."""

    confirmed: int = 0
    """Events in the stream."""
    lost: int = 0
    """Lines that were received and are not in the stream, or not known to be; requests over HTTP never are."""
    unparsed: int = 0
    """Lines that were not what they should be, sent as text."""
    refused_requests: int = 0
    too_long: int = 0
    """Lines longer than max_line, passed over."""
    unfinished: int = 0
    """Lines that a connection ended in the midst of."""
    turned_away: int = 0
    """Connections beyond the most, in number or in what they had begun and not ended."""
    by: dict[str, int] = field(default_factory=dict)
    """Events by the way they came: http, tcp, syslog, udp."""


class Intake:
    """Listens until stop(): `Intake("logs", http="127.0.0.1:8080", tcp="127.0.0.1:5170").run()`.

    Args:
        stream: where all goes.
        http, tcp, syslog: where to listen, HOST:PORT; the port alone is this machine's own (127.0.0.1), and port 0 any
            that is free. HTTP takes JSON, TCP JSON lines, syslog RFC 5424 and RFC 3164 over TCP and UDP.
        url, connector: the server, as for Producer.
        type, key: of the events over HTTP and TCP: text, or made from their data. Syslog's are of type `syslog`.
        token: that every HTTP request has to bring (`Authorization: Bearer …`).
        confirm: when an event counts as confirmed.
        pack: most events that share an entry; those with an idempotency key go alone.
        max_body: of a request, as it comes and decompressed. max_line: of a line or message.
        answer_within: how long a request waits for its events to be confirmed before it is answered 503.
        grace: how long stop() waits for what is in hand.

    Raises:
        UsageError: an argument that cannot be, or nothing to listen to; for HTTP, uvicorn is not installed.
    """

    def __init__(
        self,
        stream: str,
        *,
        http: str = "",
        tcp: str = "",
        syslog: str = "",
        url: str | None = None,
        connector: Connector | None = None,
        type: Of = TYPE,  # noqa: A002
        key: Of = "",
        token: str = "",
        confirm: str = "accepted",
        pack: int | bool = PACK_EVENTS,
        max_body: Size = MAX_BODY,
        max_line: Size = MAX_LINE,
        answer_within: Duration = ANSWER_WITHIN,
        grace: Duration = GRACE,
    ) -> None:
        self.stream = check_stream_name(stream)
        if not (http or tcp or syslog):
            raise UsageError("an intake listens to at least one of http, tcp and syslog")
        self._http, self._tcp, self._syslog = (
            endpoint(text, name) if text else None
            for text, name in ((http, "http"), (tcp, "tcp"), (syslog, "syslog"))
        )
        self._type, self._key, self._token = type, key, token
        self._max_line_bytes = size_bytes(max_line, "max_line")
        if not self._max_line_bytes:
            raise UsageError(f"max_line={max_line!r}: at least 1 byte")
        self._grace_s = duration_ms(grace, "grace") / 1_000
        self._connector, self._owns = (connector, False) if connector else (Connector(url), True)
        answer_within_ms = duration_ms(answer_within, "answer_within")
        self._confirm, self._pack = confirm, pack
        self._half_s = max(answer_within_ms / 2_000, 0.001)
        max_body_bytes = size_bytes(max_body, "max_body")
        self._app = HttpApp(
            self._take_request, self._healthy, token=token, max_body_bytes=max_body_bytes,
            max_held_bytes=max(4 * max_body_bytes, BUFFER_BYTES), body_timeout_s=BODY_TIMEOUT_S,
        )  # fmt: skip
        self._server = (
            HttpServer(self._app, max_connections=MAX_CONNECTIONS, grace_s=self._grace_s)
            if self._http
            else None
        )
        self._lines = Connections(
            lambda: LineFrames(self._max_line_bytes), self._take_line, _is_json,
            max_connections=MAX_CONNECTIONS, max_held_bytes=BUFFER_BYTES,
        )  # fmt: skip
        self._messages = Connections(
            lambda: SyslogFrames(self._max_line_bytes), self._take_message, lambda _: True,
            max_connections=MAX_CONNECTIONS, max_held_bytes=BUFFER_BYTES,
        )  # fmt: skip
        self._datagrams = Datagrams(self._take_datagram)
        self.addresses: dict[str, Endpoint] = {}
        """Where it listens, once it does: http, tcp, syslog."""
        self.listening = threading.Event()
        self.took = Took()
        """As of the end of run()."""
        self._unparsed = self._refused = self._unsent = 0
        self._said_s = -SAY_EVERY_S
        self._health = (-HEALTH_S, "")
        self._asking = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._stopping = asyncio.Event()
        self._requests: AsyncProducer
        self._sending: AsyncProducer

    def run(self) -> Took:
        """Listen until stop() is called from another thread, then finish what is in hand; what was taken.

        Raises:
            UsageError: it cannot listen there. MillstreamError: as Producer; the server need not be there.
        """
        try:
            return asyncio.run(self._run())
        finally:
            if self._owns:
                self._connector.close()

    def _producer(self, send_timeout: Duration, block: Duration) -> AsyncProducer:
        """In half of `answer_within` the buffer has to have room, and in the other half the events are confirmed."""
        return AsyncProducer(
            connector=self._connector, send_timeout=send_timeout, block=block, confirm=self._confirm, pack=self._pack,
            buffer_bytes=BUFFER_BYTES, buffer_events=BUFFER_EVENTS, on_error=self._failed,
        )  # fmt: skip

    def stop(self) -> None:
        """Have run() end: accept nothing more, confirm what is in hand. From any thread."""
        self._stop.set()
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                return  # it has ended

    async def _run(self) -> Took:
        with ExitStack() as sockets:
            http = self._listen(self._http, "http", sockets)
            tcp = self._listen(self._tcp, "tcp", sockets)
            syslog = self._listen(self._syslog, "syslog", sockets)
            udp = self._listen_udp(self.addresses["syslog"], sockets) if syslog else None
            self._loop = asyncio.get_running_loop()
            self._requests = self._producer(self._half_s, self._half_s)
            self._sending = self._producer(PATIENCE, PATIENCE)
            try:
                if http is not None and self._server is not None:
                    self._server.start(http)
                for listener, server in ((tcp, self._lines), (syslog, self._messages)):
                    if listener is not None:
                        await server.start(listener)
                if udp is not None:
                    await self._datagrams.start(udp)
                self.listening.set()
                if self._stop.is_set():
                    self._stopping.set()
                await self._until_told()
            finally:
                await self._end()
        return self.took

    async def _until_told(self) -> None:
        """Until stop(), or until serving HTTP fails."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        waited = {stopping} if self._server is None else {stopping, self._server.ended()}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()

    async def _end(self) -> None:
        """Finish what is in hand, as far as grace goes."""
        ends_s = time.monotonic() + self._grace_s
        try:
            await asyncio.gather(
                *([self._server.stop()] if self._server is not None else []),
                self._lines.stop(self._grace_s),
                self._messages.stop(self._grace_s),
                self._datagrams.stop(),
            )
        finally:
            for producer in (self._requests, self._sending):
                try:
                    await producer.close(max(ends_s - time.monotonic(), 1.0))
                except SendError as error:
                    if producer is self._sending:
                        _log.error("lines were not sent", error=str(error))
            self.took = self._all_taken()

    def _all_taken(self) -> Took:
        counts = self._sending.counts
        lost = sum(counts[name] for name in ("failed", "unknown", "not_reached", "dropped"))
        ways: dict[str, Received] = {
            "tcp": self._lines.received, "syslog": self._messages.received, "udp": self._datagrams.received,
        }  # fmt: skip
        each = [asdict(received) for received in ways.values()]
        total = {name: sum(one[name] for one in each) for name in each[0]}
        return Took(
            confirmed=counts["confirmed"] + self._app.events,
            lost=lost + self._unsent + total["dropped"],
            unparsed=self._unparsed,
            refused_requests=self._app.refused,
            too_long=total["too_long"],
            unfinished=total["unfinished"],
            turned_away=total["turned_away"],
            by={"http": self._app.events, **{way: one.frames for way, one in ways.items()}},
        )

    def _listen(self, where: Endpoint | None, name: str, sockets: ExitStack) -> socket.socket | None:
        if where is None:
            return None
        listener = sockets.enter_context(_bound(where, name, socket.SOCK_STREAM))
        listener.listen(BACKLOG)
        self.addresses[name] = Endpoint(where.host, listener.getsockname()[1])
        return listener

    def _listen_udp(self, where: Endpoint, sockets: ExitStack) -> socket.socket:
        listener = sockets.enter_context(_bound(where, "syslog", socket.SOCK_DGRAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        return listener

    async def _take_request(
        self, records: Sequence[Any], ids: Sequence[str] | None, headers: dict[str, str] | None
    ) -> None:
        """All of a request's events, until they are confirmed."""
        following = iter(ids or ())
        receipt = await self._requests.send_many(
            self.stream, records, type=self._type, key=self._key, headers=headers,
            id=(lambda _: next(following)) if ids else None,
        )  # fmt: skip
        await receipt

    async def _healthy(self) -> str:
        """Empty, or why the server takes nothing."""
        async with self._asking:
            asked_s, found = self._health
            if time.monotonic() - asked_s >= HEALTH_S:
                found = await asyncio.to_thread(self._ask)
                self._health = (time.monotonic(), found)
            return found

    def check_server(self) -> None:
        """Ask the server whether it is there.

        Raises:
            MillstreamError: what is wrong.
        """
        link = self._connector.link("health")
        try:
            link.call("PING")
        finally:
            link.close()

    def _ask(self) -> str:
        try:
            self.check_server()
        except MillstreamError as error:
            return str(error)
        return ""

    async def _take_line(self, line: bytes) -> None:
        record = json_record(line)
        await self._queue(line, record, _made(self._type, record.data), _made(self._key, record.data))

    async def _take_message(self, message: bytes) -> None:
        await self._queue(message, syslog_record(message, datetime.now(UTC)), SYSLOG_TYPE, "")

    async def _queue(self, line: bytes, record: Record, kind: str, key: str) -> None:
        self._count(record)
        try:
            receipt = await self._sending.send(
                self.stream, record.data, type=kind, key=key, headers=record.headers, time=record.time
            )
        except EncodeError as error:
            if isinstance(record.data, str):
                self._failed(error)
                self._unsent += 1
                return
            # JSON may hold what no event can: a number of 70 bits, half a character. It is sent as it was written.
            await self._queue(line, text_record(line, str(error)), kind, key)
            return
        except (EventTooLargeError, UsageError) as error:
            self._failed(error)
            self._unsent += 1
            return
        del receipt  # a failure is said by on_error

    def _take_datagram(self, message: bytes) -> bool:
        record = syslog_record(message, datetime.now(UTC))
        self._count(record)
        try:
            self._sending.send_now(
                self.stream, record.data, type=SYSLOG_TYPE, headers=record.headers, time=record.time
            )
        except BufferFull:
            return False
        except (EventTooLargeError, EncodeError, UsageError) as error:
            self._failed(error)
            return False
        return True

    def _count(self, record: Record) -> None:
        self._unparsed += record.headers is not None and "unparsed" in record.headers

    def _failed(self, error: MillstreamError) -> None:
        """Say it, now and then: it may be so of every line."""
        self._refused += 1
        if time.monotonic() - self._said_s >= SAY_EVERY_S:
            self._said_s = time.monotonic()
            _log.error("a line was not sent", error=str(error), so_far=self._refused)


def _bound(where: Endpoint, option: str, kind: socket.SocketKind) -> socket.socket:
    """A socket there.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            where.host, where.port, type=kind, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind)
    except OSError as error:
        raise UsageError(f"{option}={where}: {error.strerror or error}") from None
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        made.bind(address)
    except OSError as error:
        made.close()
        raise UsageError(f"{option}={where}: cannot listen there: {error.strerror or error}") from None
    return made


def _made(of: Of, data: Any) -> str:
    return of if isinstance(of, str) else valid(of(data))


def _is_json(line: bytes) -> bool:
    """Whether a line without its end is one all the same, an object or an array: a number may go on."""
    try:
        return isinstance(parse_json(line.decode()), dict | list)
    except ValueError:
        return False
