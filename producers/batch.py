"""Batch: what a producer has on its way to one stream: its numbers, its order, and what each answer means for it.

Stands on the answers of the append script. Pure: the time is passed in, decisions come out, nothing is sent. A batch
keeps its number for life, however often it is sent, so a batch that ended without being appended only moves the base.
"""

import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from pipeline.backoff import Backoff
from pipeline.errors import MillstreamError, SendError, ServerRefusedError
from pipeline.keys import StreamKeys
from pipeline.server.append import MAX_UNCONFIRMED, Answer, Appended, Elsewhere, Forgotten, Gap
from pipeline.units import show_duration

REFUSED = Backoff(initial_ms=20, longest_ms=2_000, jitter=0.5)
"""Between tries while the server refuses for a cause that may pass (out of memory, loading, read-only)."""

RESEND_AT_ONCE = frozenset({"NOSCRIPT"})
"""Refusals whose cause the sender removes by itself: no wait before the first of these tries."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a source stands before and after one chunk; written by the script that appends it."""

    source: str
    before: str
    after: str
    expiry_ms: int = 0
    """How long the server remembers the position if nothing comes behind it; 0: for ever."""
    behind: Any = None
    """The ending of what the source gave just before, unless that was known to be in the stream. Should it fail, this
    fails with it, also when given afterwards: where no position is stored, the script takes whatever comes first."""


class ElsewhereError(SendError):
    """The source stands elsewhere; nothing was done.

    Attributes:
        position: where it stands.
    """

    def __init__(self, message: str, *, position: str) -> None:
        super().__init__(message)
        self.position = position


Meta: TypeAlias = tuple[str, str, int | None, dict[str, str] | None]
"""What an event that waits for its pack says beside its data: type, key, time_ms, headers."""


class Chunk:
    """Entries of one stream that are sent together, in order, and end together: those of one receipt, or of many.

    What send() is given lies in the intake until it is made a chunk together with all that came meanwhile; send_many()
    makes chunks of its own. So most of the way an event costs a step in a list, and not an object of its own.
    """

    __slots__ = (
        "bodies", "deadline_ms", "dedupe", "ending", "entries", "events", "metas", "plain", "receipts", "size_bytes",
        "step", "values",
    )  # fmt: skip

    def __init__(self, deadline_ms: float, ending: Any) -> None:
        self.values: list[bytes] = []
        """Header and body of each entry in turn; of one that is not plain, its names and values."""
        self.plain = True
        """Every entry is the fields h and b, and nothing else."""
        self.entries = 0
        """Entries of the stream; of events that wait for their packs, none yet."""
        self.events = 0
        self.size_bytes = 0
        self.deadline_ms = deadline_ms
        self.ending = ending
        """What the receipts of its events learn when they end."""
        self.receipts: list[Any] = []
        """One per event, or one for all."""
        self.dedupe: dict[int, str] = {}
        """Index of an entry to the id that it is deduplicated by."""
        self.bodies: list[bytes] = []
        """Data of events that wait for their packs."""
        self.metas: list[Meta] = []
        """What they say beside it: of each, or once for all."""
        self.step: Step | None = None

    @property
    def receipt(self) -> Any:
        """The receipt of its events, or of the first of them."""
        return self.receipts[0]

    def fill_one(self, receipt: Any, header: bytes, body: bytes) -> None:
        """Hold one entry of one event, and nothing else."""
        self.values = [header, body]
        self.entries = self.events = 1
        self.size_bytes = len(header) + len(body) + 2
        self.receipts = receipts = [receipt]
        self.ending.take(receipts)

    def add(self, values: Sequence[bytes], size_bytes: int, *, events: int = 1, dedupe: str = "") -> None:
        """Add an entry."""
        if dedupe:
            self.dedupe[self.entries] = dedupe
        self.values += values
        self.entries += 1
        self.events += events
        self.size_bytes += size_bytes


class Fate(Enum):
    """How the sending of an entry ended."""

    CONFIRMED = "confirmed"
    NOT_REACHED = "appended, but the confirm level was not reached in time"
    FAILED = "not in the stream"
    DROPPED = "not in the stream: it had to make room"
    UNKNOWN = "may or may not be in the stream"


@dataclass(frozen=True, slots=True)
class Settled:
    """Chunks whose sending has ended, and how."""

    stream: str
    chunks: Sequence[Chunk]
    fate: Fate
    appended: Appended | None = None
    error: MillstreamError | None = None


class Batch:
    """Chunks that one call appends together, under one number."""

    __slots__ = (
        "appended",
        "base",
        "chunks",
        "deadline_ms",
        "events",
        "in_doubt",
        "number",
        "on_wire",
        "refusal",
        "settled",
        "size_bytes",
        "source",
    )

    def __init__(self, number: int, chunks: list[Chunk]) -> None:
        self.number = number
        self.base = number
        self.chunks = chunks
        if len(chunks) == 1:
            one = chunks[0]
            self.events, self.size_bytes, self.deadline_ms = one.events, one.size_bytes, one.deadline_ms
        else:
            self.events = sum(chunk.events for chunk in chunks)
            self.size_bytes = sum(chunk.size_bytes for chunk in chunks)
            self.deadline_ms = min(chunk.deadline_ms for chunk in chunks)
        self.source = chunks[0].step.source if chunks[0].step else ""
        self.on_wire = False
        self.in_doubt = False
        """A request was written whose answer never came."""
        self.appended: Appended | None = None
        self.refusal: MillstreamError | None = None
        self.settled = False

    @property
    def before(self) -> str:
        """Where the source stands before this batch."""
        step = self.chunks[0].step
        return step.before if step else ""

    @property
    def after(self) -> str:
        """Where the source stands once this batch is appended."""
        step = self.chunks[-1].step
        return step.after if step else ""

    @property
    def expiry_ms(self) -> int:
        """How long that position is remembered, in ms; 0: for ever."""
        step = self.chunks[-1].step
        return step.expiry_ms if step else 0


class Batches:
    """The batches of one stream, sent and sent again in the order of their numbers; at most 16 are unconfirmed.

    batch_events is how many entries one call may add; `pack` events that wait for their packs count as one.
    """

    def __init__(
        self,
        stream: str,
        *,
        batch_events: int,
        batch_bytes: int,
        levels: bool = False,
        first_number: int = 1,
        pack: int = 1,
        rng: random.Random | None = None,
    ) -> None:
        self.keys = StreamKeys(stream)
        self.waiting: deque[Chunk] = deque()
        # Of all that wait but the last.
        self._before_bytes = 0
        self._before_weight = 0.0
        self.next_number = first_number
        self._batch_entries = batch_events
        self._batch_bytes = batch_bytes
        self._levels = levels
        self._pack = max(pack, 1)
        self._rng = rng
        self._unconfirmed: deque[Batch] = deque()
        self._in_air = 0  # requests whose answers are still to come, those of settled batches included
        self._resend = False
        self._hold_until_ms = 0.0
        self._refusals = 0

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.keys.stream

    @property
    def idle(self) -> bool:
        """Nothing is waiting, unconfirmed or unanswered."""
        return not (self.waiting or self._unconfirmed or self._in_air)

    @property
    def base(self) -> int:
        """The lowest unconfirmed number: every batch before it has ended."""
        return self._unconfirmed[0].number if self._unconfirmed else self.next_number

    @property
    def full(self) -> bool:
        """A whole batch is waiting."""
        if not self.waiting:
            return False
        last = self.waiting[-1]
        return (
            self._before_weight + self._weight(last) >= self._batch_entries
            or self._before_bytes + last.size_bytes >= self._batch_bytes
        )

    def add(self, chunk: Chunk) -> list[Settled]:
        """Queue a chunk behind the others; or end it, where what its source gave before it has failed meanwhile."""
        behind = chunk.step.behind if chunk.step else None
        if behind is not None and behind.fate in (Fate.FAILED, Fate.UNKNOWN):
            return [Settled(self.stream, [chunk], Fate.FAILED, error=behind.error)]
        if self.waiting:
            self._count_last()
        self.waiting.append(chunk)
        return []

    def drop_oldest(self) -> Chunk | None:
        """Give up the oldest chunk that is in no batch yet; None if there is none."""
        if not self.waiting:
            return None
        return self._pop()

    def take(self, now_ms: float, *, only_full: bool = False, most: int = MAX_UNCONFIRMED) -> list[Batch]:
        """The batches to send now, in this order: first those to be sent again, then new ones; at most `most`.

        only_full: make new batches only as far as they are full (while an answer is awaited anyway).
        """
        if now_ms < self._hold_until_ms:
            return []
        if self._resend:
            # Each earlier request must be answered first: its answer may be the one that says how far they came.
            if self._in_air:
                return []
            taken = list(self._unconfirmed)[:most]
            self._resend = len(taken) < len(self._unconfirmed)
        else:
            taken = []
        room = 0 if self._resend else min(MAX_UNCONFIRMED - len(self._unconfirmed), most - len(taken))
        while self.waiting and room > 0 and (self.full or not only_full):
            room -= 1
            batch = Batch(self.next_number, self._next_chunks())
            self.next_number += 1
            self._unconfirmed.append(batch)
            taken.append(batch)
        for batch in taken:
            batch.on_wire = True
            batch.base = self.base
        self._in_air += len(taken)
        return taken

    def take_one(self, chunk: Chunk) -> Batch | None:
        """A new batch of this chunk alone, to be sent now; None if something else has to go before it."""
        unconfirmed = self._unconfirmed
        if self.waiting or self._resend or len(unconfirmed) >= MAX_UNCONFIRMED:
            return None
        batch = Batch(self.next_number, [chunk])
        self.next_number += 1
        unconfirmed.append(batch)
        batch.on_wire = True
        batch.base = unconfirmed[0].number
        self._in_air += 1
        return batch

    def answered(self, batch: Batch, answer: Answer, now_ms: float) -> list[Settled]:
        """What the append script's answer to a batch means. Answers come in the order of the requests."""
        if not self._levels or not isinstance(answer, Appended):
            self._landed(batch)
        if batch.settled:
            return []
        if isinstance(answer, Appended):
            self._refusals = 0
            batch.appended = answer
            return [] if self._levels else self._end(batch, Fate.CONFIRMED)
        if isinstance(answer, Gap):
            self._resend = True
            return []
        if isinstance(answer, Elsewhere):
            error = ElsewhereError(
                f"source {batch.source!r} stands at {answer.position}, not at {batch.before}",
                position=answer.position,
            )
            return self._end(batch, Fate.FAILED, error)
        if isinstance(answer, Forgotten):
            return self._end(batch, Fate.UNKNOWN, SendError("the server no longer knows this batch"))
        batch.refusal = answer
        if isinstance(answer, ServerRefusedError) and (answer.passing or answer.code in RESEND_AT_ONCE):
            if not self._resend:
                self._refusals += 1
                if self._refusals > 1 or answer.code not in RESEND_AT_ONCE:
                    self._hold_until_ms = now_ms + REFUSED.wait_ms(self._refusals, self._rng)
            self._resend = True
            return []
        return self._end(batch, Fate.UNKNOWN if batch.in_doubt else Fate.FAILED, answer)

    def levelled(self, batch: Batch, reached: bool, error: MillstreamError | None = None) -> list[Settled]:
        """Whether the confirm level was reached, for a batch whose append was answered before."""
        if not batch.on_wire:  # refused, or ended meanwhile
            return []
        self._landed(batch)
        if batch.settled:
            return []
        return self._end(batch, Fate.CONFIRMED if reached else Fate.NOT_REACHED, error)

    def lost(self) -> None:
        """The connection broke: what was on the wire may or may not be appended, and is sent again in order."""
        for batch in self._unconfirmed:
            if batch.on_wire:
                batch.on_wire, batch.in_doubt = False, True
        self._in_air = 0
        self._resend = bool(self._unconfirmed)

    def expire(self, now_ms: float, why: str, timeout_ms: int) -> list[Settled]:
        """End what has been tried for too long. A batch that may have been appended is never sent again."""
        settled: list[Settled] = []
        while self._unconfirmed and self._unconfirmed[0].deadline_ms <= now_ms:
            batch = self._unconfirmed[0]
            if batch.appended is not None:
                settled += self._end(batch, Fate.NOT_REACHED)
                continue
            unknown = batch.on_wire or batch.in_doubt
            cause = str(batch.refusal) if batch.refusal else why or "no answer"
            error = SendError(f"not confirmed within {show_duration(timeout_ms)}: {cause}")
            settled += self._end(batch, Fate.UNKNOWN if unknown else Fate.FAILED, error)
        late: list[Chunk] = []
        while self.waiting and self.waiting[0].deadline_ms <= now_ms:
            chunk = self.drop_oldest()
            assert chunk is not None, "waiting is not empty"
            late.append(chunk)
        if late:
            error = SendError(
                f"not sent within {show_duration(timeout_ms)}: {why or 'the server did not keep up'}"
            )
            settled.append(Settled(self.stream, late, Fate.FAILED, error=error))
            for source in {chunk.step.source for chunk in late if chunk.step}:
                settled += self._drop_source(source, error)
        return settled

    def fail_all(self, error: MillstreamError) -> list[Settled]:
        """End everything: the server will not have it, or nobody is left to send it."""
        settled: list[Settled] = []
        while self._unconfirmed:
            batch = self._unconfirmed[0]
            if batch.appended is not None:
                settled += self._end(batch, Fate.NOT_REACHED, error)
            else:
                settled += self._end(
                    batch, Fate.UNKNOWN if batch.on_wire or batch.in_doubt else Fate.FAILED, error
                )
        if self.waiting:
            settled.append(Settled(self.stream, list(self.waiting), Fate.FAILED, error=error))
            self._replace_waiting(())
        return settled

    def can_take(self, now_ms: float) -> bool:
        """Whether take() would give something."""
        if now_ms < self._hold_until_ms:
            return False
        if self._resend:
            return not self._in_air
        return bool(self.waiting) and len(self._unconfirmed) < MAX_UNCONFIRMED

    def held_until_ms(self, now_ms: float) -> float | None:
        """When the wait after a refusal is over; None if there is none."""
        return self._hold_until_ms if now_ms < self._hold_until_ms and not self.idle else None

    def deadline_ms(self) -> float | None:
        """When the oldest of what is held will have been tried for too long; None if nothing is held."""
        if self._unconfirmed:
            return self._unconfirmed[0].deadline_ms
        return self.waiting[0].deadline_ms if self.waiting else None

    def held(self) -> list[Chunk]:
        """All chunks that have not ended."""
        return [chunk for batch in self._unconfirmed for chunk in batch.chunks] + list(self.waiting)

    def recount(self) -> None:
        """Reckon anew what waits: a signal handler may have raised in the midst of add()."""
        self._replace_waiting(self.waiting)

    def _next_chunks(self) -> list[Chunk]:
        """The chunks of the next batch: within the limits, at least one; of one source, each behind the one before it.

        The script compares where the source stands with where the batch begins, and with nothing in the midst of it.
        """
        chunks: list[Chunk] = []
        size = 0
        weight = 0.0
        first_step = self.waiting[0].step
        at = (first_step.source, first_step.before) if first_step else None
        while self.waiting:
            chunk = self.waiting[0]
            more = self._weight(chunk)
            if chunks and (
                size + chunk.size_bytes > self._batch_bytes or weight + more > self._batch_entries
            ):
                break
            step = chunk.step
            if ((step.source, step.before) if step else None) != at:
                break
            at = (step.source, step.after) if step else None
            chunks.append(self._pop())
            size += chunk.size_bytes
            weight += more
        return chunks

    def _pop(self) -> Chunk:
        """Take out the chunk that waits first."""
        chunk = self.waiting.popleft()
        if self.waiting:
            self._before_bytes -= chunk.size_bytes
            self._before_weight -= self._weight(chunk)
            if len(self.waiting) == 1:
                self._before_bytes, self._before_weight = 0, 0.0  # fractions do not add up
        return chunk

    def _count_last(self) -> None:
        last = self.waiting[-1]
        self._before_bytes += last.size_bytes
        self._before_weight += self._weight(last)

    def _weight(self, chunk: Chunk) -> float:
        """How many entries it makes, about, where its events are still to be packed."""
        return chunk.entries or chunk.events / self._pack

    def _landed(self, batch: Batch) -> None:
        batch.on_wire = False
        self._in_air -= 1

    def _end(self, batch: Batch, fate: Fate, error: MillstreamError | None = None) -> list[Settled]:
        """Take a batch out of the order; what is left of its source goes with it unless it is in the stream."""
        batch.settled = True
        if self._unconfirmed[0] is batch:
            self._unconfirmed.popleft()
        else:
            self._unconfirmed.remove(batch)
        settled = [Settled(self.stream, batch.chunks, fate, batch.appended, error)]
        # Those behind one that is not in the stream are answered `gap`: they come again with a base beyond its number.
        if batch.appended is None and batch.source:
            settled += self._drop_source(batch.source, error)
        return settled

    def _drop_source(self, source: str, error: MillstreamError | None) -> list[Settled]:
        """End everything of a source behind its first failure: it reads its position and goes on from there."""
        settled: list[Settled] = []
        for batch in [batch for batch in self._unconfirmed if batch.source == source]:
            batch.settled = True
            self._unconfirmed.remove(batch)
            fate = Fate.UNKNOWN if batch.on_wire or batch.in_doubt else Fate.FAILED
            settled.append(Settled(self.stream, batch.chunks, fate, batch.appended, error))
        left = [chunk for chunk in self.waiting if chunk.step and chunk.step.source == source]
        if left:
            self._replace_waiting(
                chunk for chunk in self.waiting if not chunk.step or chunk.step.source != source
            )
            settled.append(Settled(self.stream, left, Fate.FAILED, error=error))
        return settled

    def _replace_waiting(self, chunks: Iterable[Chunk]) -> None:
        waiting = list(chunks)
        self.waiting.clear()
        self._before_bytes, self._before_weight = 0, 0.0
        for chunk in waiting:
            if self.waiting:
                self._count_last()
            self.waiting.append(chunk)
