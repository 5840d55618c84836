"""Intake: the events that were sent one by one, until the sender's thread takes them.

Whoever sends puts its event here in one step of C, without a lock and without waking anybody; the thread takes what
has come since and makes chunks of it, in bulk. So a busy producer costs the application's threads next to nothing
beside the encoding. Pure but for the receipts, which learn where their events went.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from pipeline.keys import StreamKeys
from pipeline.options import ProducerOptions
from producers.batch import Chunk, Meta
from producers.encoder import Encoder
from producers.receipt import Awaited, Receipt

SMALL_BYTES = 4_096
"""An event with a longer body is counted as it comes; the others by their number."""
PARTS = 3
"""Items of the intake per event."""
MAX_FRAMES = 1_000
"""How many frames are kept for the events to come."""
LOOSE_BYTES = 32
"""What an event that waits for its pack takes beside its body, about."""

Put: TypeAlias = tuple[Any, Any, bytes]
"""Receipt, frame and body of an event; or, of a chunk that another call made: its stream, the chunk, and nothing."""


class Frame:
    """What is said of an event beside its data: one object for all events that say the same."""

    __slots__ = ("awaited", "header", "id", "key", "meta", "number", "plain", "stream", "type")

    def __init__(
        self,
        stream: str,
        awaited: Awaited,
        number: Callable[[], int],
        type_: str,
        key: str,
        meta: Meta | None = None,
    ) -> None:
        self.stream = stream
        self.awaited = awaited
        """The ending of all that is not taken yet: none."""
        self.number = number
        """Gives the number of the next event; 0 for one that is to be packed, which gets it then."""
        self.type = type_
        self.key = key
        self.meta = meta
        """Of events that are to be packed."""
        self.header = b""
        """The entry's field `h`, if it had to be written before; else it follows from number, type and key."""
        self.id = ""
        """What the event is deduplicated by."""
        self.plain = True
        """The body is one field; else it is all names and values of the entry."""


def _no_number() -> int:
    return 0


class Intake:
    """Takes events from all threads, signal handlers and finalizers; only the sender's thread takes them out."""

    def __init__(
        self,
        encoder: Encoder,
        options: ProducerOptions,
        chunk: Callable[[str, float], Chunk],
        awaited: Awaited,
    ) -> None:
        self.entries: list[Any] = []
        """PARTS items for each event: those of Put."""
        self.room = 0
        """So many items may lie there before whoever sends has to look further, under the sender's lock. While it is 0
        the sender's thread may sleep: whoever puts something there must look whether it does."""
        self.frames: dict[tuple[str, str], Frame] = {}
        """By stream, as the application calls it, and type: the frame of events that say no more."""
        self._names: set[str] = set()
        self.awaited = awaited
        self.since_ms = 0.0
        """When the first of them may have come."""
        self.taken = 0
        """Events taken out so far."""
        self._taken_ms = 0.0
        self._sized = (0, 0)
        """How many bytes so many of the first events have: the others are added when it is asked."""
        self._encoder = encoder
        self._pack = options.pack
        self._chunk = chunk
        self._timeout_ms = options.send_timeout_ms
        self._most_bytes = options.batch_bytes
        self.batch = options.call_entries * max(options.pack, 1)
        """Events that make a whole batch."""

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks that other calls made, among what lies there."""
        return [one for one in self.entries[1::PARTS] if one.__class__ is Chunk]

    @property
    def events(self) -> int:
        """How many events lie there."""
        return len(self.entries) // PARTS

    @property
    def bytes(self) -> int:
        """How many bytes they have, about."""
        events = self.events
        counted, size = self._sized
        if counted > events:
            counted = size = 0
        bodies = self.entries[counted * PARTS + PARTS - 1 : events * PARTS : PARTS]
        size += sum(map(len, bodies)) + LOOSE_BYTES * len(bodies)
        self._sized = (events, size)
        return size

    def put(self, one: Put, now_ms: float) -> None:
        """Put one there. With the sender's lock held, or from where it must not be waited for."""
        if not self.entries:
            self.since_ms = now_ms
        self.entries.extend(one)

    def frame(self, stream: str, type_: str, key: str) -> Frame:
        """The frame of an event that says no more than this.

        Raises:
            UsageError: no stream can be called so.
        """
        if stream not in self._names:
            if len(self._names) >= MAX_FRAMES:
                self._names.clear()
            self._names.add(StreamKeys(stream).stream)
        if self._pack:
            return Frame(stream, self.awaited, _no_number, type_, key, (type_, key, None, None))
        return Frame(stream, self.awaited, self._encoder.number, type_, key)

    def remember(self, stream: str, frame: Frame) -> None:
        """Keep a frame for the next event of this stream, as it is called, and the frame's type."""
        if len(self.frames) >= MAX_FRAMES:
            self.frames.clear()
        self.frames[stream, frame.type] = frame

    def take(self, now_ms: float, *, only_full: bool = False) -> list[tuple[str, Chunk, bool]]:
        """What lies there, as chunks with their streams, and whether they were made here; in the order of each stream.

        only_full: as far as it makes whole batches.
        """
        entries = self.entries
        events = len(entries) // PARTS
        if only_full:
            events -= events % self.batch
        if not events:
            return []
        # Others put more there at any time, behind these. Each copy of so many costs: there is one of each.
        end = events * PARTS
        receipts, frames, bodies = entries[0:end:PARTS], entries[1:end:PARTS], entries[2:end:PARTS]
        del entries[:end]
        self._sized = (0, 0)
        deadline_ms = self.since_ms + self._timeout_ms
        # What is left came after the last time something was taken.
        self.since_ms, self._taken_ms = max(self.since_ms, self._taken_ms) if entries else now_ms, now_ms
        self.taken += events
        if frames.count(frames[0]) == events and frames[0].__class__ is Frame:
            chunks = list(self._chunks(receipts, frames, bodies, deadline_ms))
        else:
            chunks = list(self._by_stream(zip(receipts, frames, bodies, strict=True), deadline_ms))
        self.awaited.hand_over()
        return chunks

    def one(self, receipt: Receipt, frame: Frame, body: Any, deadline_ms: float) -> Chunk:
        """A single event as a chunk, without coming here."""
        return next(self._chunks([receipt], [frame], [body], deadline_ms))[1]

    def _by_stream(self, puts: Iterable[Put], deadline_ms: float) -> Iterator[tuple[str, Chunk, bool]]:
        """Chunks of events for several streams, packed or not."""
        groups: dict[str, tuple[list[Receipt], list[Frame], list[Any]]] = {}
        for receipt, frame, body in puts:
            if frame.__class__ is Chunk:
                if receipt in groups:
                    yield from self._chunks(*groups.pop(receipt), deadline_ms)
                yield receipt, frame, False
                continue
            group = groups.get(frame.stream)
            # What has no packs, because it has an id, stands in chunks of its own.
            if group is not None and not (
                frame.plain and group[1][-1].plain and (frame.meta is None) is (group[1][-1].meta is None)
            ):
                yield from self._chunks(*groups.pop(frame.stream), deadline_ms)
                group = None
            if group is None:
                group = groups[frame.stream] = ([], [], [])
            group[0].append(receipt)
            group[1].append(frame)
            group[2].append(body)
        for group in groups.values():
            yield from self._chunks(*group, deadline_ms)

    def _chunks(
        self, receipts: list[Receipt], frames: list[Frame], bodies: list[Any], deadline_ms: float
    ) -> Iterator[tuple[str, Chunk, bool]]:
        """Chunks of events of one stream, all to be packed or none; each at most a whole batch."""
        stream = frames[0].stream
        start = 0
        while start < len(receipts):
            end = min(start + self.batch, len(receipts))
            while end - start > 1 and sum(map(len, bodies[start:end])) > self._most_bytes:
                end = (start + end) // 2
            chunk = self._chunk(stream, deadline_ms)
            if end - start == len(receipts):
                self._fill(chunk, receipts, frames, bodies)
            else:
                self._fill(chunk, receipts[start:end], frames[start:end], bodies[start:end])
            yield stream, chunk, True
            start = end

    def _fill(self, chunk: Chunk, receipts: list[Receipt], frames: list[Frame], bodies: list[Any]) -> None:
        first, events = frames[0], len(receipts)
        alike = frames.count(first) == events
        chunk.events = events
        chunk.receipts = receipts
        if first.meta is not None:
            chunk.bodies = bodies
            chunk.metas = (
                [first.meta] if alike else [frame.meta for frame in frames if frame.meta is not None]
            )
            chunk.size_bytes = sum(map(len, bodies)) + LOOSE_BYTES * events
        else:
            chunk.entries = events
            if not first.plain:
                chunk.plain, chunk.values = False, bodies[0]
            else:
                numbers = [receipt._number for receipt in receipts]
                values = 2 * bodies
                values[1::2] = bodies
                if alike and not first.header:
                    values[::2] = self._encoder.headers(numbers, first.type, first.key)
                else:
                    values[::2] = [
                        frame.header or self._encoder.headers([number], frame.type, frame.key)[0]
                        for frame, number in zip(frames, numbers, strict=True)
                    ]
                chunk.values = values
            chunk.size_bytes = sum(map(len, chunk.values)) + 2 * events
            if not alike or first.id:
                chunk.dedupe = {index: frame.id for index, frame in enumerate(frames) if frame.id}
        chunk.ending.take(receipts)
