"""Producer: sends events into streams and hands out receipts.

Stands on the sender. Encodes in the caller's thread, so that what cannot be sent is refused there and nothing of it
is queued. Loses what is not confirmed yet if killed, and says at every orderly end what that is.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from gc import is_tracked
from types import TracebackType
from typing import Any, Self, TypeAlias

from pipeline.codec import EXACT, SCALARS, Codec, pack_exact
from pipeline.errors import MillstreamError, NotConnectedError, SendError, UsageError
from pipeline.event import Event
from pipeline.observe.log import get_logger
from pipeline.options import ProducerOptions, producer_options
from pipeline.packed import PackedEvents
from pipeline.server.connect import Connector
from pipeline.units import Duration, duration_ms
from producers import at_exit
from producers.batch import Chunk, Fate, Step
from producers.chunker import Chunker
from producers.encoder import Encoder
from producers.intake import SMALL_BYTES, Frame
from producers.receipt import Receipt, ReceiptOfMany
from producers.sender import Sender, now_ms

_log = get_logger("producer")
_type = type
_NOTHING = ""

Of: TypeAlias = str | Callable[[Any], str]
"""One text for all rows, or what makes it from a row."""
Prepared: TypeAlias = tuple[Frame, int, Any]
"""Frame, number and body of Sender.send()."""


class Producer:
    """Sends events: `with Producer("redis://…") as producer: producer.send("orders", {"id": 7}, type="order.placed")`.

    Args:
        url: where the server is; without it MILLSTREAM_URL, then REDIS_URL.
        options: ProducerOptions; each may also be given by name, as people write it (`confirm="fsynced"`,
            `buffer_bytes="64MB"`, `send_timeout="10s"`, `pack=True`).
        namespace: put before every stream name, with a colon.
        on_error: called with the SendError of each failed send whose receipt was thrown away unread, from the
            producer's thread.
        connector: where to connect, instead of url; it stays the caller's, who closes it.

    Raises:
        NoServerError: no address. UsageError: an option or the address cannot be accepted.
        UnsupportedServerError: the server cannot give the confirm level. AccessDeniedError: it refuses us; both are
            known here only for levels beyond accepted, and else by the first send.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        options: ProducerOptions | None = None,
        namespace: str = "",
        on_error: Callable[[SendError], None] | None = None,
        connector: Connector | None = None,
        **given: Any,
    ) -> None:
        self.options = producer_options(options, **given)
        self._namespace = f"{namespace}:" if namespace else ""
        self._owns_connector = connector is None
        self._connector = connector or Connector(
            url, timeout_ms=min(self.options.reply_timeout_ms, self.options.send_timeout_ms)
        )
        self._encoder = Encoder(Codec.named(self.options.codec))
        self._sender = Sender(self._connector, self._encoder, self.options, on_error=on_error)
        self._intake = self._sender.intake
        self._direct = self._encoder.codec is Codec.MSGPACK
        """Most events need no Event object on their way."""
        self._closed = False
        if self._sender.level.waits:
            self._check_level()
        at_exit.keep(self)
        # Thrown away without close(): the thread sends what is held, and ends.
        self._finalizer = weakref.finalize(self, self._sender.finish)
        self._finalizer.atexit = False

    @property
    def id(self) -> str:
        """This producer's id, new in every process: the first part of its events' ids."""
        return self._encoder.producer

    @property
    def counts(self) -> dict[str, int]:
        """How many events were confirmed, failed, dropped, …, and how many batches, repeats and reconnects it took."""
        return self._sender.counts.as_dict()

    def send(
        self,
        stream: str,
        data: Any = None,
        *,
        type: str = "",  # noqa: A002 - CloudEvents' word
        key: str = "",
        id: str = "",  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: datetime | None = None,
        source: str = "",
    ) -> Receipt:
        """Queue one event; its data, or an Event. Returns at once, unless the buffer is full.

        Args:
            id: within `dedupe_for`, an event with the same id is appended once.

        Raises:
            EncodeError, EventTooLargeError: it cannot be sent. BufferFull: no room within `block`.
            ClosedError: closed. In each case nothing was queued.
        """
        if key is id is source is _NOTHING and headers is None and time is None:
            # Nearly all, and without a step that could be spared: while the sender's thread is at work, its intake
            # takes the event without a lock. The bytes are those of encode_msgpack(), which knows all that can be sent.
            intake = self._intake
            frame = intake.frames.get((stream, type))
            if (
                frame is not None
                and data.__class__ is dict
                and (not is_tracked(data) or SCALARS.issuperset(map(_type, data.values())))
            ):
                try:
                    body = pack_exact(data, None, EXACT)
                except TypeError:
                    pass
                else:
                    if len(body) <= SMALL_BYTES:
                        if len(intake.entries) >= intake.room:
                            return self._sender.send(frame, frame.number(), body)
                        receipt = Receipt()
                        receipt._ending = frame.awaited
                        receipt._number = frame.number()
                        intake.entries.extend((receipt, frame, body))
                        if not intake.room:  # the thread went to sleep meanwhile
                            self._sender.look()
                        return receipt
        return self.add_one(self.prepared(stream, data, type, key, id, headers, time, source))

    def send_many(
        self,
        stream: str,
        rows: Iterable[Any],
        *,
        type: Of = "",  # noqa: A002
        key: Of = "",
        id: Callable[[Any], str] | None = None,  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: Callable[[Any], datetime] | None = None,
        pack: int | bool | None = None,
    ) -> Receipt:
        """Queue many events, rows of data or Events, under one receipt. Blocks while the buffer is full.

        All rows are encoded before the first is queued: a row that cannot be sent is an error, and none was queued.
        If the buffer stays full midway, the rest is not sent and the receipt says how many are in the stream.

        Args:
            type, key: one text for all rows, or a function of the row. id, time: a function of the row.
            pack: events per entry, True for 100; default: as the producer's `pack`. Rows with an id go alone.

        Raises:
            As send().
        """
        chunks = self.many(rows, type=type, key=key, id=id, headers=headers, time=time, pack=pack)
        if not chunks:
            return self.nothing()
        self._sender.add_all(self._namespace + stream, chunks)
        receipt: Receipt = chunks[0].receipt
        return receipt

    def flush(self, timeout: Duration | None = None) -> None:
        """Wait until every send made so far has ended, well or not; their receipts say how.

        Raises:
            TimeoutError: not within `timeout`; sending goes on.
        """
        timeout_ms = None if timeout is None else duration_ms(timeout, "timeout")
        if not self._sender.flush(timeout_ms):
            raise TimeoutError(f"{self._sender.held:,} events are not confirmed yet")

    def close(self, timeout: Duration | None = None) -> None:
        """Send what is queued, within `timeout` (default: the send timeout), then end. May be called twice.

        Raises:
            SendError: sends failed, or could not be made within the timeout, and nobody looked at their receipts.
        """
        if self._closed:
            return
        self.end(self.options.send_timeout_ms if timeout is None else duration_ms(timeout, "timeout"))
        failures = self._sender.failures
        unread, failures.unread = failures.unread, 0
        if unread:
            raise SendError(
                f"{unread:,} sends failed and nobody looked; the first: {failures.first}"
            ) from failures.first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SendError as failure:
            if error is None:
                raise
            _log.error("producer closed with failed sends", error=str(failure))  # the first error goes on

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._sender.held:,} events held"
        return f"<Producer {self.id} at {self._connector.shown}, {state}>"

    # For AsyncProducer, the sources and the log shippers.

    @property
    def connector(self) -> Connector:
        """Where it connects."""
        return self._connector

    @property
    def held(self) -> int:
        """Events whose sending has not ended."""
        return self._sender.held

    def stream_name(self, stream: str) -> str:
        """The stream's name on the server, with the namespace."""
        return self._namespace + stream

    def add(self, stream: str, chunk: Chunk, *, block_ms: float | None = None) -> None:
        """Queue a chunk made by this producer."""
        self._sender.add(self._namespace + stream, chunk, block_ms=block_ms)

    def add_one(self, prepared: Prepared, *, block_ms: float | None = None) -> Receipt:
        """Queue an event prepared by this producer."""
        return self._sender.send(*prepared, block_ms=block_ms)

    def when_room(self, call: Callable[[], None]) -> None:
        """Call it, once and from another thread, as soon as something has left the buffer."""
        self._sender.when_room(call)

    def give_up(self, stream: str, chunks: Sequence[Chunk], error: MillstreamError) -> None:
        """End chunks that were never queued."""
        self._sender.give_up(self._namespace + stream, chunks, error)

    def carried(self, values: Sequence[bytes], events: int, step: Step) -> Chunk:
        """An entry made before, header and body, as a chunk that moves the position of its source."""
        chunk = self._sender.chunk("", now_ms())
        receipt = ReceiptOfMany(0, events)
        receipt.add_ending(chunk.ending)
        receipt._disregard()  # whoever knows the position looks after failures
        chunk.receipts.append(receipt)
        chunk.add(values, sum(map(len, values)), events=events)
        chunk.step = step
        return chunk

    def nothing(self) -> Receipt:
        """The receipt of sending nothing."""
        ending = self._sender.chunk("", now_ms()).ending
        ending.fate = Fate.CONFIRMED
        receipt = ReceiptOfMany(0, 0)
        receipt.add_ending(ending)
        return receipt

    def prepared(
        self,
        stream: str,
        data: Any,
        type: str,  # noqa: A002
        key: str,
        id: str,  # noqa: A002
        headers: Mapping[str, str] | None,
        time: datetime | None,
        source: str,
    ) -> Prepared:
        """One event, encoded: what Sender.send() takes.

        Raises:
            EncodeError, EventTooLargeError: it cannot be sent. UsageError: an argument of the wrong type.
        """
        encoder, name = self._encoder, self._namespace + stream
        if isinstance(data, Event):
            event = data
            if type or key or id or headers or time or source:
                raise UsageError("an Event says itself what its type, key, id, headers, time and source are")
        elif (
            self._direct
            and not (id or headers or source)
            and time is None
            and type.__class__ is key.__class__ is id.__class__ is source.__class__ is str
            and (body := encoder.plain_body(data, type, key)) is not None
        ):  # without an Event object
            frame = self._intake.frame(name, type, key)
            if not key:
                self._intake.remember(stream, frame)
            return frame, frame.number(), body
        else:
            event = Event(data, type=type, key=key, id=id, headers=headers, time=time, source=source)
        frame = self._intake.frame(name, event.type, event.key)
        if frame.meta is not None and not event.given_id:
            frame.meta = (event.type, event.key, event.known_time_ms, event.headers or None)
            return frame, 0, encoder.body(event)
        number = encoder.number()
        fields = encoder.single(event, number)
        frame.id, frame.header, frame.meta = event.given_id, fields[1], None
        frame.plain = len(fields) == 4 and encoder.codec is not Codec.FIELDS
        return frame, number, fields[3] if frame.plain else fields

    def many(
        self,
        rows: Iterable[Any],
        *,
        type: Of,  # noqa: A002
        key: Of,
        id: Callable[[Any], str] | None,  # noqa: A002
        headers: Mapping[str, str] | None,
        time: Callable[[Any], datetime] | None,
        pack: int | bool | None,
    ) -> list[Chunk]:
        """The rows of one send_many() as chunks under one receipt."""
        most = self.options.pack if pack is None else 100 if pack is True else int(pack)
        rows = rows if isinstance(rows, list) else list(rows)
        if (
            isinstance(type, str)
            and isinstance(key, str)
            and not (id or headers or time)
            and self._encoder.codec is Codec.MSGPACK
            and not any(issubclass(kind, Event) for kind in set(map(_type, rows)))
        ):
            return self._rows(rows, type, key, most)
        return self.entries([self._event(row, type, key, id, headers, time) for row in rows], pack=most)

    def entries(self, events: Sequence[Event], *, pack: int = 0) -> list[Chunk]:
        """Events as chunks under one receipt, packed as far as they may be.

        Raises:
            EncodeError, EventTooLargeError: an event cannot be sent.
        """
        if pack and isinstance(events, PackedEvents):
            return self._packed(events, pack)
        encoder = self._encoder
        given = {index: event.given_id for index, event in enumerate(events) if event.given_id}
        chunker = Chunker(self._sender, encoder, len(events), given)
        first = chunker.first
        plain = encoder.codec is not Codec.FIELDS

        def add_singles(start: int, end: int) -> None:
            fields = [encoder.single(events[index], first + index) for index in range(start, end)]
            if not plain:
                for each in fields:
                    chunker.add_fields(each, plain=False)
            else:
                for at in range(0, len(fields), chunker.most):
                    chunker.add_plain(
                        [value for each in fields[at : at + chunker.most] for value in each[1::2]]
                    )

        def add_packs(start: int, end: int) -> None:
            few = events[start:end]
            bodies = [encoder.body(event) for event in few]
            for made in encoder.packs(few, bodies, most=pack, first_number=first + start):
                chunker.add_pack(made)

        start = 0
        for alone in [*given, len(events)]:
            if start < alone:
                (add_packs if pack else add_singles)(start, alone)
            if alone < len(events):
                fields = encoder.single(events[alone], first + alone)
                chunker.add_fields(fields, plain=plain, dedupe=given[alone])
            start = alone + 1
        return chunker.chunks

    def _packed(self, events: PackedEvents, pack: int) -> list[Chunk]:
        """entries() for events whose data are msgpack already: without an Event object for each."""
        encoder = self._encoder
        chunker = Chunker(self._sender, encoder, len(events), {})
        for each in encoder.packed(events, most=pack, first_number=chunker.first):
            chunker.add_pack(each)
        return chunker.chunks

    def _rows(self, rows: list[Any], type_: str, key: str, pack: int) -> list[Chunk]:
        """entries() for rows that say no more than their data: without an Event object for each."""
        encoder = self._encoder
        chunker = Chunker(self._sender, encoder, len(rows), {})
        number = chunker.first
        if not pack:
            for start in range(0, len(rows), chunker.most):
                few = rows[start : start + chunker.most]
                chunker.add_plain(encoder.many_values(few, number + start, type_, key))
            return chunker.chunks
        for start in range(0, len(rows), pack):
            few = rows[start : start + pack]
            made = encoder.rows(few, number + start, type_, key)
            if made is not None:
                chunker.add_pack(made)
                continue
            events = [Event(row, type=type_, key=key) for row in few]
            bodies = [encoder.body(event) for event in events]
            for each in encoder.packs(events, bodies, most=pack, first_number=number + start):
                chunker.add_pack(each)
        return chunker.chunks

    def _event(
        self,
        row: Any,
        type: Of,  # noqa: A002
        key: Of,
        id: Callable[[Any], str] | None,  # noqa: A002
        headers: Mapping[str, str] | None,
        time: Callable[[Any], datetime] | None,
    ) -> Event:
        if isinstance(row, Event):
            return row
        return Event(
            row,
            type=type if isinstance(type, str) else type(row),
            key=key if isinstance(key, str) else key(row),
            id=id(row) if id else "",
            headers=headers,
            time=time(row) if time else None,
        )

    def at_exit(self) -> None:
        """Send what is queued, within `exit_ms`, and say what was not sent."""
        if self._closed:
            return
        left = self.end(self.options.exit_ms)
        failures = self._sender.failures
        if left or failures.unread:
            _log.error(
                "the process ends with sends that failed",
                given_up_events=left,
                unread=failures.unread,
                first=str(failures.first),
            )

    def after_fork(self) -> None:
        """In a forked child: an empty buffer, a connection and a producer id of its own."""
        if self._owns_connector:
            self._connector = Connector(self._connector.address, timeout_ms=self._connector.timeout_ms)
        self._encoder = Encoder(self._encoder.codec)
        self._sender.after_fork(self._encoder, self._connector)
        self._intake = self._sender.intake

    def end(self, timeout_ms: float) -> int:
        """Close without a word on failures; the number of events given up."""
        self._closed = True
        self._finalizer.detach()
        left = self._sender.close(timeout_ms)
        if self._owns_connector:
            self._connector.close()
        at_exit.forget(self)
        return left

    def _check_level(self) -> None:
        """Refuse at start what the server cannot give; a server that is not there yet is asked when it is."""
        try:
            self._connector.link("start").close()
        except NotConnectedError:
            return
        except MillstreamError as error:
            if getattr(error, "passing", False):
                return
            raise
        self._sender.level.check(self._connector.capabilities(), replicas_too=True)
