"""Feed: gives the lines of a source to a producer, with the source's position, and finds its place again.

Stands on the append script, which writes the position in the step that appends. Loses nothing if killed: the stored
position is that of the last line in the stream. After a failure, an unknown outcome or a position that somebody else
moved, everything unconfirmed is dropped, the position read, and the source goes on from there.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pipeline.backoff import RECONNECT
from pipeline.codec import encode_each, encode_msgpack, pack
from pipeline.errors import (
    AccessDeniedError,
    BufferFull,
    ClosedError,
    EncodeError,
    EventTooLargeError,
    MillstreamError,
    NotConfirmed,
    SendError,
    ServerRefusedError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.observe.log import Limited, get_logger
from pipeline.packed import PackedEvents
from pipeline.server.connect import Link
from pipeline.server.replies import text
from producers.batch import Chunk, Step
from producers.producer import Producer
from producers.receipt import Ending, Receipt
from producers.sources.parsers import Parser, parse_line, parse_text, valid
from producers.sources.records import RecordOptions
from producers.sources.times import TimeOf, Untimed

PACK_EVENTS = 100
PACKED_BYTES = 65_536
PACKED_TYPE = 200
STOP_CHECK_S = 0.2
Of = str | Callable[[Any], str]
"""One text for all lines, or what makes it from a line's data."""

_log = get_logger("source")


@dataclass(slots=True)
class Fed:
    """What became of the lines of a source so far."""

    lines: int = 0
    """Lines read; those read again after a failure are counted again."""
    confirmed: int = 0
    failed: int = 0
    """Lines given up; always 0 for a source that can read them again."""
    cut: int = 0
    """Lines longer than max_line_bytes, of which the beginning was sent."""
    unparsed: int = 0
    """Lines sent as text because they were not what their parser expects, or held what no event can."""
    untimed: int = 0
    """Lines whose own time cannot be right, or is missing in the field that was to have it."""
    restarts: int = 0
    """How often the stored position had to be read again."""

    def add(self, other: "Fed") -> None:
        """Count what another source counted, too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class LineOptions:
    """How a line becomes an event."""

    parser: Parser = parse_text
    type: Of = "log"
    key: Of = ""
    source: str = ""
    """The events' `source` header: who wrote the lines."""
    time: TimeOf | None = None
    """When it happened, by its data; None: when it is appended. See times.py."""
    records: RecordOptions | None = None
    """Which lines are one event together; None: each is one."""

    def packed(self, lines: Sequence[bytes], now_ms: int) -> PackedEvents | None:
        """All these lines without an object for each event; None if one has a key, a header, or is large."""
        type_, parser = self.type, self.parser
        if self.key.__class__ is not str or self.key or not lines:
            return None
        try:
            datas = [parser(line.decode()) for line in lines]
            bodies = _bodies(datas)
            if bodies is None or max(map(len, bodies)) > PACKED_BYTES:
                return None
            types = [type_] * len(datas) if isinstance(type_, str) else [valid(type_(data)) for data in datas]
            time_of = self.time
            times_ms: list[int | None] = (
                [None] * len(datas) if time_of is None else [time_of(data, now_ms) for data in datas]
            )
        except (
            ValueError,
            RecursionError,
        ):  # no UTF-8, not what the parser expects, a time that cannot be right
            return None
        if max(map(len, types)) > PACKED_TYPE:
            return None
        return PackedEvents(bodies, types, times_ms, {"source": self.source} if self.source else {})

    def event(self, line: bytes, full_bytes: int | None, fed: Fed, now_ms: int) -> Event:
        """The event of one line; full_bytes if it was cut."""
        data, headers = parse_line(line, self.parser)
        time_ms = None
        if self.time is not None:
            try:
                time_ms = self.time(data, now_ms)
            except Untimed as error:
                fed.untimed += 1
                headers = {**(headers or {}), "untimed": str(error)[:200]}
        if headers or full_bytes is not None:
            headers = dict(headers or {})
            fed.unparsed += "unparsed" in headers
            if full_bytes is not None:
                fed.cut += 1
                headers["cut"] = f"{len(line)} of {full_bytes} bytes"
        return Event(
            data,
            type=self.type if isinstance(self.type, str) else valid(self.type(data)),
            key=self.key if isinstance(self.key, str) else valid(self.key(data)),
            headers=headers,
            source=self.source,
            time_ms=time_ms,
        )


class Positions:
    """The connection over which sources of one producer read and remember positions."""

    def __init__(self, producer: Producer, stop: threading.Event) -> None:
        self._connector = producer.connector
        self._stop = stop
        self._link: Link | None = None
        self.limited = Limited(_log)

    def ask(self, *command: str) -> Any:
        """The answer to a command that may be repeated, waiting for a server that is not there.

        Raises:
            AccessDeniedError and the like: waiting does not help. ClosedError: stopped while waiting.
        """
        tries = 0
        while True:
            try:
                if self._link is None or self._link.closed:
                    self._link = self._connector.link("source")
                return self._link.call(*command)
            except MillstreamError as error:
                _raise_if_final(error)
                tries += 1
                self.limited.warning("position", "source waits for the server", why=str(error))
                if self._stop.wait(RECONNECT.wait_ms(tries) / 1_000):
                    raise ClosedError("stopped while waiting for the server") from error

    def close(self) -> None:
        """Close it; the next question opens it again."""
        link, self._link = self._link, None
        if link is not None:
            link.close()


class Feed:
    """One source of one stream. Not for several threads."""

    def __init__(
        self,
        producer: Producer,
        stream: str,
        *,
        source: str = "",
        options: LineOptions | None = None,
        pack: int = PACK_EVENTS,
        stop: threading.Event | None = None,
        fed: Fed | None = None,
        positions: "Positions | None" = None,
    ) -> None:
        self.fed = Fed() if fed is None else fed
        self._producer = producer
        self._stop = stop or threading.Event()
        self._own_positions = positions is None
        self._positions = positions or Positions(producer, self._stop)
        self._stream = stream
        source, options = valid(source), options or LineOptions()
        self._key = StreamKeys(producer.stream_name(stream)).source(source) if source else ""
        self._source = source
        self._options = replace(options, source=valid(options.source))
        self._pack = pack
        self._before = ""
        self._behind: Ending | None = None
        """The ending of what was put last, since the position was read."""
        self._receipts: deque[Receipt] = deque()
        self._limited = self._positions.limited

    def stored(self) -> str | None:
        """The source's position as the server has it, waiting for a server that is not there; None: none yet.

        Raises:
            AccessDeniedError and the like: waiting does not help. ClosedError: stopped while waiting.
        """
        reply = self._positions.ask("GET", self._key)
        position = None if reply is None else text(reply)
        self._before, self._behind = position or "", None
        return position

    def remember(self, position: str) -> None:
        """Store a position before any line, where none is stored: what comes from now on will not be missed."""
        self._positions.ask("SET", self._key, position, "NX")
        self._before, self._behind = position, None

    def forget(self) -> None:
        """Remove the stored position."""
        self._positions.ask("DEL", self._key)

    def put(
        self, lines: Sequence[bytes], cut: dict[int, int], position: Callable[[int], str] | None = None
    ) -> bool:
        """Queue lines, blocking while the buffer is full; False if the source has to find its place again.

        position gives the position behind the line with an index.
        """
        now_ms = time.time_ns() // 1_000_000
        chunks = None
        if self._pack and not cut and (packed := self._options.packed(lines, now_ms)) is not None:
            chunks = self._producer.entries(packed, pack=self._pack)
        if chunks is None:
            make = self._options.event
            made = [make(line, cut.get(index), self.fed, now_ms) for index, line in enumerate(lines)]
            chunks = self._chunks(made)
        self.fed.lines += len(lines)
        if cut:
            self._limited.warning("cut", "line is too long: its beginning was sent", bytes=max(cut.values()))
        if chunks:
            receipt: Receipt = chunks[0].receipt
            receipt._disregard()  # looked at here, or read again from the stored position
            self._receipts.append(receipt)
        for number, chunk in enumerate(chunks):
            if position is not None:
                last = chunk.ending.index + chunk.events - 1
                chunk.step = Step(self._source, self._before, position(last), behind=self._behind)
                self._before, self._behind = chunk.step.after, chunk.ending
            if not self._add(chunk):
                self._producer.give_up(self._stream, chunks[number:], SendError("the source was interrupted"))
                return False
        return self.check()

    def check(self) -> bool:
        """Count what was confirmed meanwhile; False if the source has to find its place again.

        Raises:
            MillstreamError: a failure that no repeat can mend.
        """
        while self._receipts and self._receipts[0].done:
            receipt = self._receipts.popleft()
            error = receipt.error
            if error is None or isinstance(error, NotConfirmed):
                self.fed.confirmed += receipt.events
                if error is not None:
                    self._limited.warning(
                        "level", "lines are in the stream, but not confirmed", error=str(error)
                    )
            elif not self._key:
                self.fed.failed += receipt.events
                _raise_if_final(error)
            else:
                _raise_if_final(error)
                self._limited.warning("restart", "source goes on from its stored position", why=str(error))
                return False
        return True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was put has ended, or timeout_s; False if the source has to find its place again."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self._receipts:
            try:
                self._receipts[0].result(None if until_s is None else max(until_s - time.monotonic(), 0))
            except SendError:
                pass  # check() says what it means
            except TimeoutError:
                break
            if not self.check():
                return False
        return True

    @property
    def unconfirmed(self) -> int:
        """Lines that were put and have not ended."""
        return sum(receipt.events for receipt in self._receipts if not receipt.done)

    def recover(self) -> str | None:
        """Let everything unconfirmed come to its end, and give the stored position."""
        self.fed.restarts += 1
        while self._receipts and not self._stop.is_set():
            # One after the other ends by itself, as its send times out if not before; stop ends the wait.
            try:
                self._receipts[0].result(STOP_CHECK_S)
            except NotConfirmed:
                pass  # it is in the stream
            except SendError:
                self._receipts.popleft()
                continue
            except TimeoutError:
                continue
            self.fed.confirmed += self._receipts.popleft().events
        return self.stored()

    @property
    def idle(self) -> bool:
        """Nothing that was put is still to be looked at."""
        return not self._receipts

    def close(self) -> None:
        """Close the connection used for positions, unless it is shared."""
        if self._own_positions:
            self._positions.close()

    def _chunks(self, events: list[Event]) -> list[Chunk]:
        try:
            return self._producer.entries(events, pack=self._pack)
        except (EncodeError, EventTooLargeError):
            return self._producer.entries([self._sendable(event) for event in events], pack=self._pack)

    def _sendable(self, event: Event) -> Event:
        """The event, or its data as text where no event can hold it (an int of 70 bits, 40 levels of nesting)."""
        try:
            self._producer.entries([event], pack=self._pack)
        except (EncodeError, EventTooLargeError) as error:
            self.fed.unparsed += 1
            headers = {**event.headers, "unparsed": str(error)[:200]}
            return Event(
                repr(event.data)[: 1 << 18],
                type=event.type[:200],
                key=event.key[:200],
                headers=headers,
                time_ms=event.known_time_ms,
            )
        return event

    def _add(self, chunk: Chunk) -> bool:
        """Queue it; False where it found no place: the source was stopped, or has to find its place again."""
        while True:
            try:
                self._producer.add(self._stream, chunk)
            except BufferFull as error:
                self._limited.warning("full", "source waits for the server", why=str(error))
                # Stopped: what was read from a pipe is gone if it is not queued, so one try is always made.
                if self._stop.is_set() or not self.check():
                    return False
            else:
                return True


def _bodies(datas: list[Any]) -> list[bytes] | None:
    """The data of events as bytes; None if one cannot be sent as it is."""
    try:
        if set(map(type, datas)) == {str}:
            return list(map(pack, datas))
        return encode_each(datas) or list(map(encode_msgpack, datas))
    except (EncodeError, TypeError):
        return None


def _raise_if_final(error: MillstreamError) -> None:
    """Raise what no repeat can mend: rights, types, names."""
    cause = error.__cause__ if isinstance(error, SendError) else error
    if isinstance(cause, AccessDeniedError | WrongKeyTypeError | UsageError | ClosedError):
        raise cause
    if isinstance(cause, ServerRefusedError) and not cause.passing:
        raise cause
