"""Wire: events as the fields of a stream entry, and back.

An entry holds one event, or a pack of many; its field `h` says which, and how its field `b` is to be read. An entry
that Millstream did not write is one event with its fields as data. Reading is total and bounded: it ends in events,
in DecodeError (corrupt: a dead letter) or in UnknownFormatError (written by a newer version: left for a member that
knows it). docs/wire.md has the exact bytes.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.codec import Codec, array_of, check_values, encode_flat, encode_msgpack, pack
from pipeline.compression import compress as zstd_frame
from pipeline.errors import DecodeError, EncodeError, EventTooLargeError, UsageError
from pipeline.event import UNREAD, Event
from pipeline.header import (
    MAGIC,
    MAX_TIME_MS,
    PACK,
    RECORDS,
    SINGLE,
    UNCOMPRESSED,
    ZSTD,
    read_header,
    write_header,
)
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.origin import FOREIGN, PackOrigin, SingleOrigin
from pipeline.packed import PackedEvents
from pipeline.text_codecs import encode_fields, encode_json

_WORTH_COMPRESSING_BYTES = 256
_LONGEST_PRODUCER = "p" * 64
_LARGEST_NUMBER = 2**63
_PACK_OF_ONE_BYTES = 4
"""What an entry has beside header and body: two names, and the array that a pack of one event is."""
_LARGEST_BARE_BYTES = 128
"""That, and a header that says neither type, key, headers nor id."""
_new = Event.__new__


def encode_body(event: Event, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The event's data as msgpack, to be given to encode_entry or encode_pack.

    Whoever gathers events calls it when an event comes in: what cannot be sent is refused then and there and not with
    its whole pack, its size is known, and what the caller does to the data afterwards changes nothing.

    Raises:
        EncodeError, EventTooLargeError: as encode_entry.
    """
    origin = event._origin
    if isinstance(origin, PackedEvents) and event._data is UNREAD:
        return origin.bodies[event._index]
    body = encode_msgpack(event.data, limits)
    size = len(body) + _LARGEST_BARE_BYTES
    if event.type or event.key or event._headers or event._id:
        size = len(body) + _PACK_OF_ONE_BYTES + len(
            write_header(
                SINGLE, Codec.MSGPACK, ZSTD, 1, _LONGEST_PRODUCER, _LARGEST_NUMBER, event.type, event.key,
                MAX_TIME_MS, event.headers, event.given_id, limits,
            )
        )  # fmt: skip
    if size > limits.max_entry_bytes:
        raise EventTooLargeError(_too_large("an event", size, limits))
    return body


def _too_large(what: str, size: int, limits: Limits) -> str:
    return f"{what} of {size:,} bytes exceeds max_entry_bytes={limits.max_entry_bytes:,} (ProducerOptions)"


def encode_entry(
    event: Event,
    *,
    producer: str,
    number: int,
    codec: Codec = Codec.MSGPACK,
    limits: Limits = DEFAULT_LIMITS,
    body: bytes | None = None,
) -> list[bytes]:
    """The fields of an entry that holds this event: names and values in turn.

    Args:
        body: what encode_body gave for it, with codec=msgpack.

    Raises:
        EncodeError: the data, the type, key, id or a header cannot be sent. EventTooLargeError: beyond the limits.
        DecodeError: the event came from a stream, and is corrupt.
    """
    time_ms = None if event._time_ms is None else event.time_ms
    header = write_header(
        SINGLE, codec, UNCOMPRESSED, 1, producer, number, event.type, event.key,
        time_ms, event.headers if event._headers else None, event._id and event.given_id, limits,
    )  # fmt: skip
    if codec == Codec.FIELDS:
        fields = [b"h", header, *encode_fields(event.data, limits)]
    elif codec == Codec.JSON:
        fields = [b"h", header, b"b", encode_json(event.data, limits)]
    else:
        fields = [b"h", header, b"b", encode_msgpack(event.data, limits) if body is None else body]
    size = sum(map(len, fields))
    if size > limits.max_entry_bytes:
        raise EventTooLargeError(_too_large("an event", size, limits))
    return fields


def encode_pack(
    events: Sequence[Event],
    *,
    producer: str,
    first_number: int,
    compress: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    bodies: Sequence[bytes] | None = None,
) -> list[bytes]:
    """The fields of one entry that holds all these events, numbered from first_number.

    Args:
        bodies: what encode_body gave for each of them.

    Raises:
        UsageError: no events, or one with an id of its own (such events are sent singly).
        EncodeError: an event cannot be sent. EventTooLargeError: one or all of them are beyond the limits.
    """
    if not events:
        raise UsageError("a pack holds at least one event")
    if len(events) > limits.max_pack_events:
        raise EventTooLargeError(
            f"a pack of {len(events):,} events exceeds max_pack_events={limits.max_pack_events:,} (pack=)"
        )
    if any(event.given_id for event in events):
        raise UsageError("an event with an id of its own is not packed: send it singly")
    if bodies is None:
        bodies = _bodies(events, limits)
    first = events[0]
    type_, key, headers, time_ms = first.type, first.key, first.headers, first.known_time_ms
    if all(
        event is first
        or (
            event.type == type_
            and event.key == key
            and event.known_time_ms == time_ms
            and event.headers == headers
        )
        for event in events
    ):
        kind = PACK
    else:
        kind = RECORDS
        times = [event.known_time_ms for event in events]
        if (
            None in times
        ):  # those without a time have the entry's, which is not known yet: no time to count from
            time_ms = None
        bodies = [
            _record(body, _since(time, time_ms), event, first)
            for body, event, time in zip(bodies, events, times, strict=True)
        ]
    return _pack_fields(
        kind,
        array_of(bodies),
        len(events),
        producer,
        first_number,
        type_,
        key,
        time_ms,
        headers,
        compress,
        limits,
    )


def encode_rows(
    rows: list[Any],
    *,
    producer: str,
    first_number: int,
    type_: str,
    key: str,
    most_bytes: int,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[list[bytes], int] | None:
    """The fields of one entry that holds these rows as events, in one go, and the bytes of their data.

    None if that cannot be: not all are flat dicts of scalars, or there are more than most_bytes of them (below
    max_entry_bytes, so that each would fit an entry of its own). encode_pack then says which, and why.
    """
    raw = encode_flat(rows)
    if raw is None or len(raw) > min(most_bytes, limits.max_values):
        return None
    return (
        _pack_fields(PACK, raw, len(rows), producer, first_number, type_, key, None, None, True, limits),
        len(raw),
    )


def pack_bodies(
    bodies: Sequence[bytes],
    *,
    producer: str,
    first_number: int,
    type_: str,
    key: str,
    time_ms: int | None,
    headers: dict[str, str] | None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[bytes]:
    """Header and body of a pack of events that differ in their data alone, given what encode_body gave for each."""
    return _pack_fields(
        PACK,
        array_of(bodies),
        len(bodies),
        producer,
        first_number,
        type_,
        key,
        time_ms,
        headers,
        True,
        limits,
    )[1::2]


def encode_packed(
    events: PackedEvents, *, producer: str, first_number: int, limits: Limits = DEFAULT_LIMITS
) -> list[bytes]:
    """The fields of one entry that holds all these events (at least one): what encode_pack makes of them, but sooner.

    Raises:
        EventTooLargeError: all together are beyond the limits.
    """
    first_type, start_ms, times_ms = events.types[0], events.times_ms[0], events.times_ms
    if start_ms is None or None in times_ms:
        return _packed_untimed(events, producer, first_number, limits)
    since = [time_ms - start_ms for time_ms in times_ms]  # type: ignore[operator] # none is None
    ends = [_SMALL[ms] if 0 <= ms < 0x80 else pack(ms) for ms in since]
    if events.types.count(first_type) == len(ends):
        records = [b"\x92" + body + end for body, end in zip(events.bodies, ends, strict=True)]
    else:
        records = [
            b"\x92" + body + end if type_ == first_type else b"\x93" + body + end + pack(type_)
            for body, end, type_ in zip(events.bodies, ends, events.types, strict=True)
        ]
    return _pack_fields(
        RECORDS, array_of(records), len(records), producer, first_number, first_type, "", start_ms,
        events.headers, True, limits,
    )  # fmt: skip


def _packed_untimed(events: PackedEvents, producer: str, first_number: int, limits: Limits) -> list[bytes]:
    """encode_packed() where some or all have the entry's time, so that there is none to count from."""
    first_type, bodies, kind = events.types[0], events.bodies, PACK
    if events.types.count(first_type) < len(bodies) or events.times_ms.count(None) < len(bodies):
        kind = RECORDS
        bodies = [
            b"\x91" + body
            if time_ms is None and type_ == first_type
            else b"\x92" + body + pack(time_ms)
            if type_ == first_type
            else b"\x93" + body + pack(time_ms) + pack(type_)
            for body, time_ms, type_ in zip(bodies, events.times_ms, events.types, strict=True)
        ]
    return _pack_fields(
        kind, array_of(bodies), len(bodies), producer, first_number, first_type, "", None, events.headers, True,
        limits,
    )  # fmt: skip


def _pack_fields(
    kind: int,
    raw: bytes,
    count: int,
    producer: str,
    first_number: int,
    type_: str,
    key: str,
    time_ms: int | None,
    headers: dict[str, str] | None,
    compress: bool,
    limits: Limits,
) -> list[bytes]:
    """The fields of a pack whose body is the array `raw`."""
    if len(raw) > limits.max_body_bytes:
        raise EventTooLargeError(
            f"a pack of {count:,} events and {len(raw):,} bytes exceeds max_body_bytes={limits.max_body_bytes:,}"
        )
    if len(raw) > limits.max_values:
        try:
            check_values(raw, limits.max_values)
        except DecodeError as error:
            raise EventTooLargeError(f"a pack of {count:,} events: {error}") from None
    body, compression = raw, UNCOMPRESSED
    if compress and len(raw) >= _WORTH_COMPRESSING_BYTES:
        frame = zstd_frame(raw, limits)
        if len(frame) < len(raw):
            body, compression = frame, ZSTD
    header = write_header(
        kind,
        Codec.MSGPACK,
        compression,
        count,
        producer,
        first_number,
        type_,
        key,
        time_ms,
        headers,
        "",
        limits,
    )
    size = len(header) + len(body) + 2
    if size > limits.max_entry_bytes:
        raise EventTooLargeError(_too_large(f"a pack of {count:,} events", size, limits))
    return [b"h", header, b"b", body]


def _bodies(events: Sequence[Event], limits: Limits) -> list[bytes]:
    bodies: list[bytes] = []
    for event in events:
        try:
            bodies.append(encode_body(event, limits))
        except (EncodeError, EventTooLargeError) as error:
            raise type(error)(f"event {len(bodies)} of the pack: {error}") from error
    return bodies


def _since(time_ms: int | None, start_ms: int | None) -> int | None:
    return time_ms if time_ms is None or start_ms is None else time_ms - start_ms or None


def _record(body: bytes, since_ms: int | None, event: Event, first: Event) -> bytes:
    rest: list[Any] = [
        since_ms,
        None if event.type == first.type else event.type,
        None if event.key == first.key else event.key,
        None if event.headers == first.headers else event.headers,
    ]
    while rest and rest[-1] is None:
        rest.pop()
    return array_of([body, *map(pack, rest)])


_SMALL = [pack(number) for number in range(0x80)]


class Entry:
    """A stream entry as read: one event, or the events of a pack.

    Attributes:
        entry_id: its id in the stream it was read from. count: how many events it holds.
        is_pack: it may hold more than one. is_foreign: it was not written by Millstream.
        size_bytes: all its field names and values.
    """

    __slots__ = ("_events", "_pack", "count", "entry_id", "is_foreign", "is_pack", "size_bytes")

    entry_id: str
    count: int
    is_pack: bool
    is_foreign: bool
    size_bytes: int
    _events: list[Event] | None
    _pack: PackOrigin | None

    @property
    def events(self) -> list[Event]:
        """Its events, their data decoded when asked for. Those of a pack are made on first use.

        Raises:
            DecodeError: the body of the pack is corrupt, or exceeds what a reader accepts.
        """
        if self._events is None:
            assert self._pack is not None
            self._events = self._pack.events()
        return self._events

    def __repr__(self) -> str:
        return f"Entry({self.entry_id}, {self.count} events, {self.size_bytes:,} bytes)"


def decode_entry(
    entry_id: bytes, fields: list[bytes], limits: Limits = DEFAULT_LIMITS, *, origin: bytes | None = None
) -> Entry:
    """The entry with this id and these fields.

    Args:
        origin: the id of the entry the event was first appended in, if this one holds it again (envelope.Again);
            what has no time or id of its own takes it from there.

    Raises:
        DecodeError: corrupt, or beyond the limits. UnknownFormatError: of a format this version does not know.
    """
    size = sum(map(len, fields))
    first_id = entry_id if origin is None else origin
    entry = _new_entry(Entry)
    entry.entry_id = entry_id.decode("latin-1")  # ASCII, and never an error
    entry.size_bytes = size
    entry._pack = None
    event = _new(Event)
    event._data = UNREAD
    event._index = 0
    event._time_ms = first_id
    # The layout of nearly every entry is looked for first; other writers may have the fields in any order.
    at = 0
    body: bytes | None
    if len(fields) == 4 and fields[2] == b"b" and fields[0] == b"h" and fields[1][:1] == MAGIC:
        body = fields[3]
    else:
        at, body = _find(fields)
        if at < 0:
            if size > limits.max_entry_bytes:
                raise DecodeError(
                    f"an entry of {size:,} bytes exceeds max_entry_bytes={limits.max_entry_bytes:,}"
                )
            entry.count = 1
            entry.is_pack = False
            entry.is_foreign = True
            event.type = event.key = event.producer = ""
            event.number = 0
            event._id = first_id.decode("latin-1")
            event._headers = ()
            event._origin = SingleOrigin(fields, 0, b"", FOREIGN, UNCOMPRESSED, first_id, limits)
            entry._events = [event]
            return entry
    header = read_header(fields[at + 1], limits)
    kind, codec, compression, count, producer, number, type_, key, time_ms, headers, event_id = header
    if codec != Codec.FIELDS and body is None:
        raise DecodeError("the entry has no field b, or more than one")
    if size > limits.max_entry_bytes and size - len(fields[at + 1]) - 2 > limits.max_entry_bytes:
        raise DecodeError(f"an entry of {size:,} bytes exceeds max_entry_bytes={limits.max_entry_bytes:,}")
    entry.count = count
    entry.is_foreign = False
    if kind != SINGLE:
        entry.is_pack = True
        entry._events = None
        entry._pack = PackOrigin(header, body or b"", first_id, limits)
        return entry
    entry.is_pack = False
    event.producer = producer
    event.number = number
    event.key = key
    event._id = event_id
    event._headers = headers
    if codec < Codec.TASK:
        event.type = type_
    else:  # many entries share a header, so it says not which event it is; the type is that of its data
        event.producer = ""
        event._id = first_id.decode("latin-1")
    if time_ms is not None:
        event._time_ms = time_ms
    event._origin = SingleOrigin(fields, at, body or b"", codec, compression, first_id, limits)
    entry._events = [event]
    return entry


def encode_again(event: Event) -> list[bytes]:
    """The fields of an entry that holds this event alone, as it was read: id, producer, number, type, key, headers.

    Its time is written out, since the new entry's id is another. Data is carried as it was read, whatever was done
    to event.data since, and also where it cannot be decoded. A foreign entry's fields are kept as they are: reading
    them again needs the first entry's id (`origin` of decode_entry).

    Raises:
        UsageError: the event did not come from a stream. DecodeError: its pack is corrupt.
    """
    if event._origin is None:
        raise UsageError("only an event that came from a stream is written again: encode_entry writes others")
    fields: list[bytes] = event._origin.rewritten(event._index)
    return fields


def pushed_payload(event: Event) -> bytes | None:
    """The bytes that were pushed to a list, of an event that carries them as they were; None of any other."""
    origin = event._origin
    return origin.body if isinstance(origin, SingleOrigin) and origin.codec >= Codec.TASK else None


_new_entry = Entry.__new__


def _find(fields: list[bytes]) -> tuple[int, bytes | None]:
    """(index of the header's name, or -1; the body, or None where it is missing or there are two)."""
    if len(fields) % 2:
        raise DecodeError("an entry has as many values as names")
    for at in range(0, len(fields), 2):
        if fields[at] == b"h" and fields[at + 1][:1] == MAGIC:
            bodies = [fields[i + 1] for i in range(0, len(fields), 2) if fields[i] == b"b"]
            return at, bodies[0] if len(bodies) == 1 else None
    return -1, None
