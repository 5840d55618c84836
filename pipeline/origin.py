"""Origin: the entry an event came in, kept until the event is done with.

It decodes the event's data when asked for it, and writes the event again as it came: under its id and number, at its
time, with the data that was sent, whatever a handler has done to its copy.
"""

from typing import Any, Final

from pipeline.codec import Codec, decode_items, decode_msgpack, encode_msgpack
from pipeline.compression import compress, decompress
from pipeline.errors import DecodeError
from pipeline.event import Event, entry_time_ms
from pipeline.header import (
    RECORDS,
    SINGLE,
    UNCOMPRESSED,
    ZSTD,
    Header,
    check_headers,
    check_text,
    check_time,
    read_header,
    write_header,
)
from pipeline.limits import Limits
from pipeline.task import decode_task, function_of
from pipeline.text_codecs import decode_fields, decode_foreign, decode_json

FOREIGN: Final = 0
"""The codec of an entry that Millstream did not write."""
_new = Event.__new__


class SingleOrigin:
    """Origin of an event that has its entry to itself."""

    __slots__ = ("at", "body", "codec", "compression", "entry_id", "fields", "limits")

    def __init__(
        self,
        fields: list[bytes],
        at: int,
        body: bytes,
        codec: int,
        compression: int,
        entry_id: bytes,
        limits: Limits,
    ) -> None:
        self.fields = fields
        self.at = at
        self.body = body
        self.codec = codec
        self.compression = compression
        self.entry_id = entry_id
        self.limits = limits

    def load(self, event: Event) -> None:
        """Set the type of what a list held, which its data tells: decode_entry reads all else from the header."""
        try:
            event.type = function_of(event.data)
        except DecodeError:
            event.type = ""  # who looks at the data gets the error; until then it asks for nothing

    def data(self, index: int) -> Any:
        """The event's data, decoded anew."""
        codec = self.codec
        if codec >= Codec.TASK:
            return decode_task(self.body, Codec(codec), self.limits)
        if codec == FOREIGN:
            return decode_foreign(self.fields)
        if codec == Codec.FIELDS:
            return decode_fields(self._rest())
        body = decompress(self.body, self.limits) if self.compression == ZSTD else self.body
        return decode_msgpack(body, self.limits) if codec == Codec.MSGPACK else decode_json(body, self.limits)

    def rewritten(self, index: int) -> list[bytes]:
        """The entry's fields, the time made explicit."""
        if self.codec == FOREIGN:
            return list(self.fields)
        kind, codec, compression, count, producer, number, type_, key, time_ms, headers, event_id = (
            read_header(self.fields[self.at + 1], self.limits)
        )
        if time_ms is None:
            time_ms = entry_time_ms(self.entry_id)
        header = write_header(
            kind,
            codec,
            compression,
            count,
            producer,
            number,
            type_,
            key,
            time_ms,
            dict(headers),
            event_id,
            _UNBOUNDED,
        )
        return [b"h", header, *self._rest()]

    def _rest(self) -> list[bytes]:
        return self.fields[: self.at] + self.fields[self.at + 2 :]


class PackOrigin:
    """Origin of the events of one pack."""

    __slots__ = ("_kept", "body", "entry_id", "header", "limits")

    def __init__(self, header: Header, body: bytes, entry_id: bytes, limits: Limits) -> None:
        self.header = header
        self.body = body
        self.entry_id = entry_id
        self.limits = limits
        self._kept: list[Event] | None = None

    def load(self, event: Event) -> None:
        """Nothing is left to be read: events() sets all there is."""

    def events(self) -> list[Event]:
        """The pack's events, made anew."""
        kind, _, compression, count, producer, number, type_, key, time_ms, headers, _ = self.header
        raw = decompress(self.body, self.limits) if compression == ZSTD else self.body
        items = decode_items(raw, self.limits, records=kind == RECORDS)
        if len(items) != count:
            raise DecodeError(f"the pack holds {len(items):,} events; its header says {count:,}")
        at = self.entry_id if time_ms is None else time_ms
        events: list[Event] = []
        for index, item in enumerate(items):
            event = _new(Event)
            event._data = item
            event.type = type_
            event.key = key
            event._id = ""
            event._time_ms = at
            event._headers = headers
            event.producer = producer
            event.number = number + index
            event._origin = self
            event._index = index
            events.append(event)
        if kind == RECORDS:
            start_ms = time_ms or 0
            for event in events:
                apply_record(event, event._data, start_ms)
        return events

    def data(self, index: int) -> Any:
        """The data of the event with this index, decoded anew."""
        return self.events()[index].data

    def rewritten(self, index: int) -> list[bytes]:
        """The fields of an entry for the event with this index alone."""
        # The events handed out may have been changed since: these are ours, and made once for all that ask.
        if self._kept is None:
            self._kept = self.events()
            for event in self._kept:
                event._origin = None  # no cycle: what a pack held is freed as soon as nobody holds it
        event = self._kept[index]
        body, compression = encode_msgpack(event.data, self.limits), UNCOMPRESSED
        if len(body) > self.limits.max_entry_bytes:  # only its neighbours' compression let it pass
            body, compression = compress(body, self.limits), ZSTD
        header = write_header(
            SINGLE, Codec.MSGPACK, compression, 1, event.producer, event.number, event.type, event.key,
            event.time_ms, event.headers, "", _UNBOUNDED,
        )  # fmt: skip
        return [b"h", header, b"b", body]


def apply_record(event: Event, record: list[Any], start_ms: int) -> None:
    """Set on the event of a pack what its record says otherwise than the header."""
    event._data = record[0]
    given = len(record)
    if given > 5:
        raise DecodeError("a record of a pack has more than 5 elements")
    if given > 1 and record[1] is not None:
        if type(record[1]) is not int:
            raise DecodeError("a record's time is not an integer")
        event._time_ms = check_time(record[1] + start_ms)
    if given > 2 and record[2] is not None:
        event.type = check_text(record[2])
    if given > 3 and record[3] is not None:
        event.key = check_text(record[3])
    if given > 4 and record[4] is not None:
        event._headers = check_headers(record[4])


# What was read within the reader's limits may be written again, a few bytes longer for its time.
_UNBOUNDED = Limits(max_header_bytes=1 << 30)
