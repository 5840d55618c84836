"""Packed: events whose data was written as msgpack before there were events.

Who may not keep the application's objects, or must know how large they are, writes them at once. What is sent of them
is made from the bytes in a few steps of C (wire.encode_packed); an Event is made where somebody asks for one. Pure.
"""

from collections.abc import Iterator, Sequence
from typing import overload

from pipeline.codec import decode_msgpack
from pipeline.errors import UsageError
from pipeline.event import UNREAD, Event

_new = Event.__new__


class PackedEvents(Sequence[Event]):
    """Events as columns: valid msgpack, valid texts, times in ms since 1970 or None; nothing is checked again.

    They share the headers, so nobody may change them. None has a key or an id of its own.
    """

    __slots__ = ("bodies", "headers", "times_ms", "types")

    def __init__(
        self,
        bodies: Sequence[bytes],
        types: Sequence[str],
        times_ms: Sequence[int | None],
        headers: dict[str, str],
    ) -> None:
        self.bodies = bodies
        self.types = types
        self.times_ms = times_ms
        self.headers = headers

    def __len__(self) -> int:
        return len(self.bodies)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedEvents": ...
    def __getitem__(self, index: int | slice) -> "Event | PackedEvents":
        if isinstance(index, slice):
            return PackedEvents(self.bodies[index], self.types[index], self.times_ms[index], self.headers)
        return self._event(range(len(self.bodies))[index])

    def __iter__(self) -> Iterator[Event]:
        return map(self._event, range(len(self.bodies)))

    def load(self, event: Event) -> None:
        """As origin of its events: nothing is left to be read."""

    def data(self, index: int) -> object:
        """As origin of its events: the data of one of them, decoded anew."""
        return decode_msgpack(self.bodies[index])

    def rewritten(self, index: int) -> list[bytes]:
        """As origin of its events: never, since none was sent yet."""
        raise UsageError("only an event that came from a stream is written again")

    def _event(self, index: int) -> Event:
        event = _new(Event)
        event._data = UNREAD
        event._origin = self
        event._index = index
        event._id = event.key = event.producer = ""
        event.type = self.types[index]
        event._time_ms = self.times_ms[index]
        event._headers = self.headers
        event.number = 0
        return event
