"""Arrival: an entry as it came from the server, of which nothing is decoded before somebody asks for it.

A handler that looks at little costs little: the first bytes of the header say how many events there are, and that this
version can read them. What is wrong further on is found when it is looked at, and is a DecodeError then. Pure.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pipeline.codec import Codec, decode_items, decode_msgpack
from pipeline.compression import decompress
from pipeline.errors import DecodeError
from pipeline.event import UNREAD, Event
from pipeline.header import MAGIC, PACK, RECORDS, SINGLE, UNCOMPRESSED, VERSION, ZSTD, Header, read_header
from pipeline.limits import DEFAULT_LIMITS
from pipeline.origin import apply_record
from pipeline.task import decode_task, function_of
from pipeline.wire import Entry, decode_entry, encode_again

_ARRAYS = range(0x97, 0x9D)  # arrays of 7 to 12 elements
SINGLES = frozenset(
    MAGIC + bytes((array, VERSION, SINGLE, Codec.MSGPACK, UNCOMPRESSED, 1)) for array in _ARRAYS
)
TASKS = frozenset(
    MAGIC + bytes((array, VERSION, SINGLE, codec, UNCOMPRESSED, 1))
    for array in _ARRAYS
    for codec in (Codec.TASK, Codec.TASK_TEXT, Codec.TASK_JSON, Codec.TASK_MSGPACK)
)
_PACKS = frozenset(
    MAGIC + bytes((array, VERSION, kind, Codec.MSGPACK, compression))
    for array in _ARRAYS
    for kind in (PACK, RECORDS)
    for compression in (UNCOMPRESSED, ZSTD)
)
LARGEST = DEFAULT_LIMITS.max_entry_bytes
_new = Event.__new__


class Arrival:
    """An entry that was read. It is the origin of its events: they are of it as long as anybody holds one."""

    __slots__ = ("_entry", "_header", "_items", "body", "count", "entry_id", "first_id", "head", "odd")

    entry_id: bytes
    """Its id in the stream it was read from."""
    first_id: bytes
    """The id of the entry its events were first appended in."""
    count: int
    """How many events it holds, from its first bytes; 0 where it has to be decoded to know (event_count())."""
    # Of the usual layout only the two values are kept: what is not a container costs the garbage collector nothing.
    head: bytes
    body: bytes
    odd: Sequence[bytes] | None
    """All names and values of an entry of another layout."""
    _header: Header | None
    _items: list[Any] | None
    _entry: Entry | None

    @property
    def fields(self) -> Sequence[bytes]:
        """Names and values in turn, without the envelope of a group's own stream."""
        return [b"h", self.head, b"b", self.body] if self.odd is None else self.odd

    def set_fields(self, fields: Sequence[bytes]) -> None:
        """Take these names and values for those of the entry, and look at their first bytes."""
        self.head = self.body = b""
        self.odd: Sequence[bytes] | None = fields
        self.count = 0
        if len(fields) == 4 and fields[0] == b"h" and fields[2] == b"b":
            head, body = fields[1], fields[3]
            count = glance(head) if len(body) <= LARGEST else 0
            if count:
                self.head, self.body, self.odd, self.count = head, body, None, count

    def event_count(self) -> int:
        """How many events it holds, as far as it has to be decoded for that.

        Raises:
            DecodeError: corrupt, or beyond the limits. UnknownFormatError: of a format this version does not know.
        """
        return self.count or len(self._decoded().events)

    def event(self, index: int) -> Event:
        """Its event with this index, of which nothing is read yet."""
        event = _new(Event)
        event._data = UNREAD
        event._origin = self
        event._index = index
        return event

    def all_events(self) -> list[Event]:
        """All its events, of which nothing is read yet."""
        events = []
        for index in range(self.event_count()):
            event = _new(Event)
            event._data = UNREAD
            event._origin = self
            event._index = index
            events.append(event)
        return events

    @property
    def is_pack(self) -> bool:
        """Whether it may hold more than one event; DecodeError, UnknownFormatError."""
        return self.head[3] != SINGLE if self.count else self._decoded().is_pack

    def load(self, event: Event) -> None:
        """See Origin."""
        index = event._index
        if not self.count:
            read = self._decoded().events[index]
            event.type, event.key, event.producer, event.number = (
                read.type,
                read.key,
                read.producer,
                read.number,
            )
            event._id, event._headers, event._time_ms = read._id, read._headers, read._time_ms
            return
        header = self._read_header()
        kind, _, _, _, event.producer, number, event.type, event.key, time_ms, event._headers, event._id = (
            header
        )
        event.number = number + index
        event._time_ms = self.first_id if time_ms is None else time_ms
        if kind == RECORDS:
            apply_record(event, self._read_items()[index], time_ms or 0)

    def data(self, index: int) -> Any:
        """See Origin."""
        items = self._items
        if items is None:
            if not self.count:
                return self._decoded().events[index].data
            if self.head[3] == SINGLE:
                return decode_msgpack(self.body)
            items = self._read_items()
        return items[index][0] if self.head[3] == RECORDS else items[index]

    def rewritten(self, index: int) -> list[bytes]:
        """See Origin."""
        return encode_again(self._decoded().events[index])

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Have its one event carry these headers too, as whoever looks at it sees it; written again, it lacks them.

        Raises:
            DecodeError, UnknownFormatError: as event_count().
        """
        if self.count:
            *before, own, event_id = self._read_header()
            self._header = (*before, (*own, *headers.items()), event_id)  # type: ignore[assignment]
        else:
            for event in self._decoded().events:
                event._headers = {**event.headers, **headers}

    def check(self) -> None:
        """Decode it as a whole.

        Raises:
            DecodeError, UnknownFormatError: as event_count().
        """
        for event in self._decoded().events:
            _ = event.data

    def _read_header(self) -> Header:
        if self._header is None:
            self._header = read_header(self.head, DEFAULT_LIMITS)
        return self._header

    def _read_items(self) -> list[Any]:
        if self._items is None:
            kind, _, compression, count, *_ = self._read_header()
            raw = decompress(self.body, DEFAULT_LIMITS) if compression == ZSTD else self.body
            items = decode_items(raw, DEFAULT_LIMITS, records=kind == RECORDS)
            if len(items) != count:
                raise DecodeError(f"the pack holds {len(items):,} events; its header says {count:,}")
            self._items = items
        return self._items

    def _decoded(self) -> Entry:
        if self._entry is None:
            self._entry = decode_entry(self.entry_id, list(self.fields), origin=self.first_id)
        return self._entry


class TaskArrival(Arrival):
    """A task of a list: its header is that of all others, and its type stands in its data."""

    __slots__ = ()

    def load(self, event: Event) -> None:
        """See Origin."""
        super().load(event)
        if self.count:
            event.producer = ""  # a header that many share says not which of them it is
            event._id = self.first_id.decode("latin-1")
            try:
                event.type = function_of(event.data)
            except DecodeError:
                event.type = ""  # whoever looks at the data gets it

    def data(self, index: int) -> Any:
        """See Origin."""
        return decode_task(self.body, Codec(self.head[4])) if self.count else super().data(index)

    def _read_header(self) -> Header:
        if self._header is None:
            self._header = _task_header(self.head)
        return self._header


@lru_cache(maxsize=256)
def _task_header(head: bytes) -> Header:
    """The header of a list's tasks; of a priority queue there is one for each priority."""
    return read_header(head, DEFAULT_LIMITS)


def glance(head: bytes) -> int:
    """How many events an entry with this header holds, by its first bytes; 0 where these do not tell.

    What they tell is certain: the version, kind, codec and compression are known to this version.
    """
    if head[:7] in SINGLES:
        return 1
    if head[:6] not in _PACKS or len(head) < 10:
        return 0
    count = head[6]
    if count == 0xCC:
        count = head[7]
    elif count == 0xCD:
        count = head[7] << 8 | head[8]
    elif count > 0x7F:
        return 0
    return count if count <= DEFAULT_LIMITS.max_read_pack_events else 0
