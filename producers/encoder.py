"""Encoder: events as the fields of entries, each event with its number.

Stands on the wire format. Pure. Numbers are given once and never again, also when a signal handler or a finalizer
sends in the midst of a send: taking them is one step of C.
"""

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from pipeline.codec import Codec, encode_each, encode_msgpack
from pipeline.errors import EventTooLargeError
from pipeline.event import Event
from pipeline.header import SingleHeaders
from pipeline.limits import DEFAULT_LIMITS
from pipeline.packed import PackedEvents
from pipeline.server.append import MAX_ENTRY_VALUES
from pipeline.wire import encode_body, encode_entry, encode_pack, encode_packed, encode_rows, pack_bodies
from producers.batch import Chunk, Meta

PACK_BYTES = 256_000
"""Bytes of event data per pack: beyond it packs gain nothing, and a reader must hold one as a whole."""
_SHORT_TEXT = 1_000
"""A type and key of so many ASCII characters can always be sent."""
_ROOMY_BYTES = DEFAULT_LIMITS.max_entry_bytes - DEFAULT_LIMITS.max_header_bytes
"""A body below this fits its entry, whatever its header is."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack: the fields of its entry, and which of the events given it holds."""

    fields: list[bytes]
    start: int
    events: int
    size_bytes: int


class Encoder:
    """One producer's encoder. Another process, or a forked child, needs another one."""

    def __init__(self, codec: Codec) -> None:
        self.producer = secrets.token_hex(8)
        """The producer's id: what makes `<producer>-<number>` unique everywhere."""
        self.codec = codec
        self._numbers = count(1)
        self.number: Callable[[], int] = self._numbers.__next__
        """Gives the next number."""
        self._headers = SingleHeaders(self.producer, codec, DEFAULT_LIMITS)

    def reserve(self, events: int) -> int:
        """The first of so many numbers in a row."""
        return deque(islice(self._numbers, events), maxlen=1)[0] - events + 1

    def values(self, data: Any, number: int, type_: str, key: str) -> list[bytes]:
        """Header and body of an entry that holds this event, in msgpack: single() without an Event object.

        Raises:
            EncodeError, EventTooLargeError: it cannot be sent.
        """
        body = encode_msgpack(data)
        if len(body) > _ROOMY_BYTES:
            return self.single(Event(data, type=type_, key=key), number)[1::2]
        return [self._headers.write(number, type_, key), body]

    def header(self, number: int, type_: str, key: str) -> bytes:
        """The header of an event that says no more than this, and which plain_body() has let through."""
        return self._headers.write(number, type_, key)

    def headers(self, numbers: Sequence[int], type_: str, key: str) -> list[bytes]:
        """The headers of events that say no more than this, and which plain_body() has let through."""
        return self._headers.write_each(numbers, type_, key)

    def many_values(self, rows: list[Any], first_number: int, type_: str, key: str) -> list[bytes]:
        """values() of several rows in turn.

        Raises:
            EncodeError, EventTooLargeError: one cannot be sent.
        """
        bodies = encode_each(rows)
        if bodies is None or max(map(len, bodies)) > _ROOMY_BYTES:
            each = [self.values(row, number, type_, key) for number, row in enumerate(rows, first_number)]
            return [value for values in each for value in values]
        values = 2 * bodies
        values[::2] = self._headers.write_each(range(first_number, first_number + len(rows)), type_, key)
        values[1::2] = bodies
        return values

    def single(self, event: Event, number: int) -> list[bytes]:
        """The fields of an entry that holds one event.

        Raises:
            EncodeError, EventTooLargeError: it cannot be sent.
        """
        fields = encode_entry(event, producer=self.producer, number=number, codec=self.codec)
        if len(fields) > MAX_ENTRY_VALUES:
            raise EventTooLargeError(
                f"an event of {len(fields) // 2:,} fields exceeds {MAX_ENTRY_VALUES // 2:,}, the most that "
                "codec=fields sends"
            )
        return fields

    def body(self, event: Event) -> bytes:
        """The event's data, to be packed later: what cannot be sent is refused now.

        Raises:
            EncodeError, EventTooLargeError: it cannot be sent.
        """
        return encode_body(event)

    def plain_body(self, data: Any, type_: str, key: str) -> bytes | None:
        """The data of an event that says no more than this; None if it has to be looked at as a whole.

        Raises:
            EncodeError: it cannot be sent.
        """
        if len(type_) + len(key) > _SHORT_TEXT or not (type_.isascii() and key.isascii()):
            return None
        body = encode_msgpack(data)
        return body if len(body) <= _ROOMY_BYTES else None

    def rows(self, rows: list[Any], first_number: int, type_: str, key: str) -> Pack | None:
        """All these rows as one pack, if it can be made in one go: flat dicts, and not too large together."""
        made = encode_rows(
            rows,
            producer=self.producer,
            first_number=first_number,
            type_=type_,
            key=key,
            most_bytes=PACK_BYTES,
        )
        return None if made is None else Pack(made[0], 0, len(rows), made[1])

    def packs(
        self, events: Sequence[Event], bodies: Sequence[bytes], *, most: int, first_number: int
    ) -> list[Pack]:
        """All these events in packs of at most `most`, in order, numbered from first_number."""
        packs: list[Pack] = []
        start = 0
        while start < len(events):
            end, size = start, 0
            while (
                end < len(events)
                and end - start < most
                and (end == start or size + len(bodies[end]) <= PACK_BYTES)
            ):
                size += len(bodies[end])
                end += 1
            packs += self._pack(events, bodies, start, end, first_number)
            start = end
        return packs

    def packed(self, events: PackedEvents, *, most: int, first_number: int) -> list[Pack]:
        """packs() for events whose data are msgpack already: without an Event object for each."""
        packs: list[Pack] = []
        for start in range(0, len(events), most):
            few, first = events[start : start + most], first_number + start
            size = sum(map(len, few.bodies))
            if size > PACK_BYTES:
                packs += self.packs(list(few), few.bodies, most=most, first_number=first)
                continue
            fields = encode_packed(few, producer=self.producer, first_number=first)
            packs.append(Pack(fields, start, len(few), size))
        return packs

    def gather(self, chunk: Chunk, most: int) -> None:
        """Pack what waits in the chunk for its packs; the events get their numbers here."""
        first = self.reserve(chunk.events)
        starts = []
        if len(chunk.metas) == 1:
            for start in range(0, chunk.events, most):
                few = chunk.bodies[start : start + most]
                if sum(map(len, few)) > PACK_BYTES:
                    break
                type_, key, time_ms, headers = chunk.metas[0]
                chunk.values += pack_bodies(
                    few, producer=self.producer, first_number=first + start, type_=type_, key=key,
                    time_ms=time_ms, headers=headers,
                )  # fmt: skip
                starts.append(start)
            else:
                self._gathered(chunk, first, starts)
                return
            chunk.values, starts = [], []
        metas: list[Meta] = chunk.metas if len(chunk.metas) > 1 else chunk.metas * chunk.events
        made: dict[int, Event] = {}
        events = []
        for meta in metas:
            event = made.get(id(meta))  # those that say the same are one event to the packs
            if event is None:
                type_, key, time_ms, headers = meta
                event = made[id(meta)] = Event(type=type_, key=key, time_ms=time_ms, headers=headers)
            events.append(event)
        for pack in self.packs(events, chunk.bodies, most=most, first_number=first):
            chunk.values += pack.fields[1::2]
            starts.append(pack.start)
        self._gathered(chunk, first, starts)

    def _gathered(self, chunk: Chunk, first_number: int, starts: list[int]) -> None:
        chunk.entries = len(starts)
        chunk.bodies, chunk.metas = [], []
        chunk.ending.packed(first_number, starts)

    def _pack(
        self, events: Sequence[Event], bodies: Sequence[bytes], start: int, end: int, first_number: int
    ) -> list[Pack]:
        few = bodies[start:end]
        try:
            fields = encode_pack(
                events[start:end], producer=self.producer, first_number=first_number + start, bodies=few
            )
        except EventTooLargeError:  # many large headers: each event alone is within the limits
            if end - start == 1:
                raise
            middle = (start + end) // 2
            return self._pack(events, bodies, start, middle, first_number) + self._pack(
                events, bodies, middle, end, first_number
            )
        return [Pack(fields, start, end - start, sum(map(len, few)))]
