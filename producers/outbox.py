"""Outbox: everything a producer holds that has not ended yet, by stream, bounded in events and bytes.

Stands on Batches. Pure, and not safe for threads by itself: the producer and its sender share one lock around it.
Chunks that were accepted leave it in one way only, as Settled.
"""

from collections.abc import Sequence

from pipeline.errors import MillstreamError
from pipeline.options import ProducerOptions, confirm_level
from pipeline.server.append import MAX_UNCONFIRMED
from producers.batch import Batch, Batches, Chunk, Settled

MAX_IDLE_STREAMS = 1_000
"""Streams whose last number is kept though nothing is on its way; beyond it the oldest are let go."""


class Outbox:
    """Counts what is held, and gives out batches stream by stream."""

    def __init__(self, options: ProducerOptions) -> None:
        self._options = options
        self._levels = confirm_level(options.confirm)[0] != "accepted"
        self._streams: dict[str, Batches] = {}
        self._highest = 0
        self.events = 0
        """Events held: waiting or unconfirmed."""
        self.bytes = 0
        """Bytes of their entries."""

    def stream(self, stream: str) -> Batches:
        """The batches of a stream."""
        batches = self._streams.get(stream)
        if batches is None:
            batches = self._streams[stream] = self._new(stream)
        return batches

    def count(self, chunk: Chunk) -> None:
        """Count a chunk, which is added to the batches of its stream, until it is settled."""
        self.events += chunk.events
        self.bytes += chunk.size_bytes

    def drop_oldest(self) -> tuple[str, Chunk] | None:
        """Give up the chunk that has waited longest and is in no batch yet; None if every one is in a batch."""
        waiting = [batches for batches in self._busy() if batches.waiting]
        if not waiting:
            return None
        batches = min(waiting, key=lambda batches: batches.waiting[0].deadline_ms)
        chunk = batches.drop_oldest()
        assert chunk is not None, "it is not empty"
        self._release([chunk])
        return batches.stream, chunk

    def take(
        self, now_ms: float, *, only_full: bool = False, most: int = MAX_UNCONFIRMED
    ) -> list[tuple[Batches, Batch]]:
        """The batches to send now, in this order; at most `most` of a stream."""
        return [
            (batches, batch)
            for batches in self._busy()
            for batch in batches.take(now_ms, only_full=only_full, most=most)
        ]

    def lost(self) -> None:
        """The connection broke."""
        for batches in self._streams.values():
            batches.lost()

    def expire(self, now_ms: float, why: str) -> list[Settled]:
        """End what has been tried for too long."""
        settled: list[Settled] = []
        for batches in self._busy():
            deadline_ms = batches.deadline_ms()
            if deadline_ms is not None and deadline_ms <= now_ms:
                settled += batches.expire(now_ms, why, self._options.send_timeout_ms)
        return self.release(settled)

    def fail_all(self, error: MillstreamError) -> list[Settled]:
        """End everything that is held."""
        settled: list[Settled] = []
        for batches in self._busy():
            settled += batches.fail_all(error)
        return self.release(settled)

    def can_take(self, now_ms: float) -> bool:
        """Whether take() would give something."""
        return any(batches.can_take(now_ms) for batches in self._busy())

    def due_ms(self, now_ms: float) -> float | None:
        """When something is due next by the clock alone: the end of a wait or of a send's time; None: never."""
        times = [self.deadline_ms(), *(batches.held_until_ms(now_ms) for batches in self._busy())]
        return min((time_ms for time_ms in times if time_ms is not None), default=None)

    def deadline_ms(self) -> float | None:
        """When the oldest of what is held will have been tried for too long; None if nothing is held."""
        times = (batches.deadline_ms() for batches in self._busy())
        return min((time_ms for time_ms in times if time_ms is not None), default=None)

    def release(self, settled: list[Settled]) -> list[Settled]:
        """No longer count what has ended; hands its argument through."""
        for one in settled:
            self._release(one.chunks)
        return settled

    def recount(self, others: Sequence[Chunk]) -> None:
        """Reckon anew what is held, with others that are counted already: a signal handler may have raised midway."""
        for batches in self._streams.values():
            batches.recount()
        held = [*others, *(chunk for batches in self._streams.values() for chunk in batches.held())]
        self.events = sum(chunk.events for chunk in held)
        self.bytes = sum(chunk.size_bytes for chunk in held)

    def _release(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self.events -= chunk.events
            self.bytes -= chunk.size_bytes

    def _busy(self) -> list[Batches]:
        # A list of its own: a signal handler or a finalizer may send, and so add a stream, at any time.
        return [batches for batches in list(self._streams.values()) if not batches.idle]

    def _new(self, stream: str) -> Batches:
        if len(self._streams) >= MAX_IDLE_STREAMS:
            for name in [batches.stream for batches in list(self._streams.values()) if batches.idle][
                : MAX_IDLE_STREAMS // 2
            ]:
                self._highest = max(self._highest, self._streams.pop(name).next_number)
        return Batches(
            stream,
            batch_events=self._options.call_entries,
            batch_bytes=self._options.batch_bytes,
            levels=self._levels,
            # Beyond every number that a stream let go may have used: a first number that is the base is appended.
            first_number=self._highest + 1,
            pack=self._options.pack,
        )
