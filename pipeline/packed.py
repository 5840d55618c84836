"""Packed: an event whose data was written as msgpack before there was an event.

Who may not keep the application's objects, or must know how large they are, writes them at once; what is made of it
later costs no second writing (encode_body), and reads it only if somebody asks for the data. Pure.
"""

from pipeline.codec import decode_msgpack
from pipeline.errors import UsageError
from pipeline.event import UNREAD, Event

_new = Event.__new__


class PackedData:
    """The origin of such an event."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body

    def load(self, event: Event) -> None:
        """Nothing is left to be read: packed_event() sets all there is."""

    def data(self, index: int) -> object:
        """The event's data, decoded anew."""
        return decode_msgpack(self.body)

    def again(self, index: int) -> list[bytes]:
        """Never: it was not sent yet."""
        raise UsageError("only an event that came from a stream is written again")


def packed_event(body: bytes, type_: str, time_ms: int, headers: dict[str, str]) -> Event:
    """An event with this data, of which nothing is checked again: valid msgpack, valid texts, a time in ms.

    The headers are not copied: events may share them, as long as nobody changes them.
    """
    event = _new(Event)
    event._data = UNREAD
    event._origin = PackedData(body)
    event._index = 0
    event._id = event.key = event.producer = ""
    event.type = type_
    event._time_ms = time_ms
    event._headers = headers
    event.number = 0
    return event
