"""Event: what an application sends and a handler gets.

An event that came from a stream keeps the bytes it came in: its data is decoded when first asked for, and it can be
written again as it was, whatever a handler did to its data meanwhile (wire.encode_again).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.cloudevents import event_arguments, structured
from pipeline.errors import DecodeError, UsageError
from pipeline.header import MAX_TIME_MS, MIN_TIME_MS

UNREAD: Any = ...
"""Stands for data that was not decoded yet. No event can carry it, and a copy of it is itself."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_time_ms(time: datetime) -> int:
    """A datetime with a zone in ms since 1970, rounded down.

    Raises:
        UsageError: not a datetime, or one without a zone.
    """
    if not isinstance(time, datetime) or time.utcoffset() is None:
        raise UsageError(f"time={time!r}: a datetime with a zone, such as datetime.now(UTC)")
    return (time - _EPOCH) // _MS


def entry_time_ms(entry_id: bytes) -> int:
    """When the server appended the entry with this id, in ms since 1970; at most the year 9999.

    Raises:
        DecodeError: not an entry id.
    """
    ms = entry_id.partition(b"-")[0]
    if not ms.isdigit() or len(ms) > 20:
        raise DecodeError(f"{entry_id[:60]!r} is not an entry id")
    return min(int(ms), MAX_TIME_MS)  # who appends with ids of their own may choose any


def _check_texts(**given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, str):
            raise UsageError(f"{name}={value!r}: an event's {name} is text")


def _own_headers(headers: Mapping[str, str], source: str) -> dict[str, str]:
    own = dict(headers)
    if source:
        own["source"] = source
    for name, value in own.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"headers[{name!r}]={value!r}: names and values of headers are text")
    return own


class Origin(Protocol):
    """Where a decoded event came from: what reads its header and data, and writes it again."""

    def load(self, event: "Event") -> None:
        """Set what the header says of an event that was made with its origin and index alone; DecodeError."""
        ...

    def data(self, index: int) -> Any:
        """The data of the entry's event with this index; DecodeError where it is corrupt."""
        ...

    def rewritten(self, index: int) -> list[bytes]:
        """The fields that hold this event alone, its id, number and time kept."""
        ...


_LOADED = frozenset(("type", "key", "producer", "number", "_id", "_headers", "_time_ms"))


class Event:
    """One event: `Event({"id": 7}, type="order.placed", key="customer-7")`.

    Args:
        data: dict, list, str, bytes, int (64 bit), float, bool, None, datetime, Decimal, UUID, in any nesting up to
            32 deep; dataclasses and pydantic models are sent as dicts of their fields. Checked when it is sent.
        type: what happened, such as "order.placed". Default: none.
        key: what it happened to, such as "customer-7"; events of one key stay in order in an ordered group.
        id: what makes it this event: within `dedupe_for`, a second one with the same id is not appended. Default:
            given when it is sent, `<producer>-<number>`.
        time: when it happened, a datetime with a zone. Default: when the server appended it.
        time_ms: the same in ms since 1970, for who has it so.
        headers: text by name, such as traceparent.
        source: who sends it, such as "/shop/checkout"; the header of that name.

    Raises:
        UsageError: an argument of the wrong type, a time without a zone, or both time and time_ms.
    """

    __slots__ = (
        "_data",
        "_headers",
        "_id",
        "_index",
        "_origin",
        "_time_ms",
        "key",
        "number",
        "producer",
        "type",
    )

    # Of an event that was read, only _data, _origin and _index are set: most handlers ask for little else, and what
    # the header says is read when first asked for (__getattr__).
    type: str
    key: str
    producer: str
    """The id of the producer that sent it; empty if it was not sent yet, or not by Millstream."""
    number: int
    """Its number among the events of that producer and stream."""
    _data: Any
    _id: str
    _time_ms: int | bytes | None
    _headers: dict[str, str] | tuple[tuple[str, str], ...]
    _origin: Any
    """An Origin, or None: what a consumer holds is one, and is asked for more than that."""
    _index: int

    def __init__(
        self,
        data: Any = None,
        *,
        type: str = "",  # noqa: A002 - CloudEvents' word
        key: str = "",
        id: str = "",  # noqa: A002
        time: datetime | None = None,
        time_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
        source: str = "",
    ) -> None:
        if not (type.__class__ is key.__class__ is id.__class__ is source.__class__ is str):
            _check_texts(type=type, key=key, id=id, source=source)
        if time is not None:
            if time_ms is not None:
                raise UsageError("an event has either time or time_ms, not both")
            time_ms = to_time_ms(time)
        elif time_ms is not None and (isinstance(time_ms, bool) or not isinstance(time_ms, int)):
            raise UsageError(f"time_ms={time_ms!r}: an int, ms since 1970")
        elif time_ms is not None and not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:
            raise UsageError(f"time_ms={time_ms:,} lies outside the years 1 to 9999")
        own: dict[str, str] = {}
        if headers or source:
            own = _own_headers(headers or {}, source)
        self._data = data
        self.type = type
        self.key = key
        self._id = id
        self._time_ms = time_ms
        self._headers = own
        self.producer = ""
        self.number = 0
        self._origin = None
        self._index = -1

    if not TYPE_CHECKING:  # to whoever checks types, an event has the attributes above and no others

        def __getattr__(self, name: str) -> Any:
            if name not in _LOADED or self._origin is None:
                raise AttributeError(f"an event has no attribute {name!r}", name=name, obj=self)
            self._origin.load(self)
            return object.__getattribute__(self, name)

    @property
    def data(self) -> Any:
        """What was sent.

        Raises:
            DecodeError: its bytes are corrupt, or exceed what a reader accepts.
        """
        if self._data is UNREAD and self._origin is not None:
            self._data = self._origin.data(self._index)
        return self._data

    @property
    def id(self) -> str:
        """The id given by the sender, else `<producer>-<number>`, else (not sent by Millstream) the entry id.

        Empty as long as neither was given and the event was not sent.
        """
        return self._id or (f"{self.producer}-{self.number}" if self.producer else "")

    @property
    def given_id(self) -> str:
        """The id given by the sender, and nothing else: what deduplication goes by."""
        return self._id if self.producer or self._origin is None else ""

    @property
    def time_ms(self) -> int:
        """When it happened, in ms since 1970; when its entry was appended, if the sender gave no time.

        Raises:
            UsageError: it was given no time, and was not sent yet.
        """
        time_ms = self._time_ms
        if time_ms.__class__ is bytes:  # the entry id: most events are never asked for their time
            time_ms = self._time_ms = entry_time_ms(time_ms)
        if time_ms is None:
            raise UsageError("the event was given no time: it has one when it is sent")
        return time_ms  # type: ignore[return-value]

    @property
    def time(self) -> datetime:
        """time_ms as a datetime in UTC."""
        return _EPOCH + self.time_ms * _MS

    @property
    def known_time_ms(self) -> int | None:
        """time_ms, or None for an event that has none yet."""
        return None if self._time_ms is None else self.time_ms

    @property
    def headers(self) -> dict[str, str]:
        """Text by name."""
        headers = self._headers
        if headers.__class__ is not dict:  # shared by the events of a pack until someone may change them
            headers = self._headers = dict(headers)
        return headers

    @property
    def source(self) -> str:
        """Who sent it: the header of that name, or empty."""
        return self.headers.get("source", "")

    def __eq__(self, other: object) -> bool:
        """The same content: id, type, key, time, headers and data."""
        if not isinstance(other, Event):
            return NotImplemented
        return (
            self.id == other.id
            and self.type == other.type
            and self.key == other.key
            and self.known_time_ms == other.known_time_ms
            and self.headers == other.headers
            and bool(self.data == other.data)
        )

    __hash__ = None  # type: ignore[assignment] # its data may change

    def __repr__(self) -> str:
        try:
            data = repr(self.data)
        except DecodeError:
            data = "<corrupt>"
        shown = data if len(data) <= 100 else data[:99] + "…"
        try:
            named = "".join(
                f", {name}={value!r}" for name in ("type", "key", "id") if (value := getattr(self, name))
            )
        except DecodeError:
            named = ", <corrupt header>"
        return f"Event({shown}{named})"

    def to_cloudevent(self, *, source: str = "millstream") -> dict[str, Any]:
        """This event as a CloudEvent in structured JSON mode: a dict of what JSON can hold.

        type and source, which CloudEvents demands, are "event" and the argument `source` where the event has none.
        Headers whose names CloudEvents allows are its extension attributes; the rest are one, as JSON text. Source:
        https://github.com/cloudevents/spec/blob/main/cloudevents/formats/json-format.md

        Raises:
            EncodeError: the data holds bytes beside other data, or something else JSON cannot hold.
            DecodeError: the event is corrupt. UsageError: it has no id yet.
        """
        return structured(
            id=self.id,
            type=self.type,
            key=self.key,
            time=None if self._time_ms is None else self.time,
            headers={**self.headers, "source": self.source or source},
            data=self.data,
        )

    @classmethod
    def from_cloudevent(cls, cloudevent: Mapping[str, Any]) -> "Event":
        """The event of a CloudEvent in structured JSON mode; subject is its key, extension attributes its headers.

        Raises:
            DecodeError: not a CloudEvent of version 1.
        """
        return cls(**event_arguments(cloudevent))
