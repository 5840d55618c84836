"""Encoder: events as the fields of entries, each event with its number.

Stands on the wire format. Pure. Numbers are given once and never again, also when a signal handler or a finalizer
sends in the midst of a send: taking them is one step of C.
"""

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice

from pipeline.codec import Codec
from pipeline.errors import EventTooLargeError
from pipeline.event import Event
from pipeline.server.append import MAX_ENTRY_VALUES
from pipeline.wire import encode_body, encode_entry, encode_pack
from producers.batch import Entry

PACK_BYTES = 256_000
"""Bytes of event data per pack: beyond it packs gain nothing, and a reader must hold one as a whole."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack: the fields of its entry, and which of the events given it holds."""

    fields: list[bytes]
    start: int
    events: int


class Encoder:
    """One producer's encoder. Another process, or a forked child, needs another one."""

    def __init__(self, codec: Codec) -> None:
        self.producer = secrets.token_hex(8)
        """The producer's id: what makes `<producer>-<number>` unique everywhere."""
        self.codec = codec
        self._numbers = count(1)

    def reserve(self, events: int) -> int:
        """The first of so many numbers in a row."""
        return deque(islice(self._numbers, events), maxlen=1)[0] - events + 1

    def number(self) -> int:
        """The next number."""
        return next(self._numbers)

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

    def gathered(self, entries: Sequence[Entry], most: int) -> list[Entry]:
        """The same entries in order, those that hold an event gathered into packs of at most `most`."""
        gathered: list[Entry] = []
        loose: list[Entry] = []
        for entry in entries:
            if entry.fields is None:
                loose.append(entry)
                continue
            gathered += self._gather(loose, most)
            loose = []
            gathered.append(entry)
        return gathered + self._gather(loose, most)

    def _gather(self, loose: list[Entry], most: int) -> list[Entry]:
        """Entries that hold one event each as entries that hold packs; the events get their numbers here."""
        if not loose:
            return []
        first = self.reserve(len(loose))
        for offset, entry in enumerate(loose):
            entry.receipt._renumber(first + offset)
        events = [entry.event for entry in loose if entry.event is not None]
        gathered = []
        for pack in self.packs(events, [entry.body for entry in loose], most=most, first_number=first):
            parts = loose[pack.start : pack.start + pack.events]
            size = sum(part.size_bytes for part in parts)
            entry = Entry(pack.fields, size, parts[0].deadline_ms, None, events=pack.events)
            entry.parts = parts
            gathered.append(entry)
        return gathered

    def _pack(
        self, events: Sequence[Event], bodies: Sequence[bytes], start: int, end: int, first_number: int
    ) -> list[Pack]:
        try:
            fields = encode_pack(
                events[start:end],
                producer=self.producer,
                first_number=first_number + start,
                bodies=bodies[start:end],
            )
        except EventTooLargeError:  # many large headers: each event alone is within the limits
            if end - start == 1:
                raise
            middle = (start + end) // 2
            return self._pack(events, bodies, start, middle, first_number) + self._pack(
                events, bodies, middle, end, first_number
            )
        return [Pack(fields, start, end - start)]
