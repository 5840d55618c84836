"""Window: what a member holds unsettled, bounded in events and in bytes. Pure: times are passed in.

Not locked: its owner (Member) calls it under the member's lock.
"""

from collections.abc import Iterator, Sequence

from pipeline.envelope import Again
from pipeline.keys import GroupRef
from pipeline.server.groups import Move

WORK_MS = 1_000
"""The window grows to about so much measured work, in ms, so that fast handlers never wait for a read."""
MAX_EVENTS = 20_000
"""The window never grows beyond this by measurement."""
PACK_EVENTS = 100
"""What an entry is taken to hold until one was seen: as much as the packs of producers."""
RATE_SAMPLE_MS = 100
"""How often the rate of finished events is measured, in ms."""


class Held:
    """One entry that is pending with us: read or taken, not yet settled."""

    __slots__ = (
        "again", "consumer", "deliveries", "entry_id", "events", "fields", "held_ms", "limit",
        "moves", "ref", "renewed_ms", "returning", "size", "taken_over", "token", "unfinished",
    )  # fmt: skip

    def __init__(
        self,
        ref: GroupRef,
        entry_id: bytes,
        fields: Sequence[bytes],
        *,
        token: str,
        deliveries: int,
        now_ms: int,
    ) -> None:
        self.ref = ref
        self.entry_id = entry_id
        self.fields = fields
        self.size = sum(map(len, fields))
        self.token = token
        """The claims token known before the read (or the check) that made it ours."""
        self.deliveries = deliveries
        self.held_ms = now_ms
        self.renewed_ms = now_ms
        self.again: Again | None = None
        self.events = 1
        """Events in it that count against the window."""
        self.unfinished = 1
        """Events of it that have no outcome yet."""
        self.moves: Sequence[Move] = ()
        self.limit: int | None = None
        """Most entries the member may hold while this one runs (poison ladder); None for any number."""
        self.returning = False
        """Some of its events are handed back: the whole entry is given up once the others have an outcome."""
        self.taken_over = False

    @property
    def crashes(self) -> int:
        """Runs of it that ended with their worker, as far as the delivery count tells."""
        return (self.again.crashes if self.again else 0) + self.deliveries - 1

    @property
    def attempt(self) -> int:
        """The number of this run, 1 for the first."""
        return (self.again.runs if self.again else 0) + self.deliveries


class Window:
    """Entries held, by (ref, entry id), and how many more may be read."""

    def __init__(self, *, least_events: int, fixed_events: int | None, max_bytes: int) -> None:
        self._held: dict[tuple[GroupRef, bytes], Held] = {}
        self._suspects: set[Held] = set()
        self._least = least_events
        self._fixed = fixed_events
        self._max_bytes = max_bytes
        self._rate = 0.0  # events finished per ms, smoothed
        self._finished = 0
        self._sampled_ms = 0
        self._entry_events = 1.0  # events per entry, smoothed: packs hold many
        self._measured = False
        self._entry_bytes = 256.0
        self.events = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def get(self, ref: GroupRef, entry_id: bytes) -> Held | None:
        """The held entry, if we hold it."""
        return self._held.get((ref, entry_id))

    def add(self, held: Held) -> None:
        """Count an entry in; its number of events is known once it is decoded (counted()), and reckoned until then."""
        if self._entry_events >= 1.5:
            held.events = round(self._entry_events)
        self._held[held.ref, held.entry_id] = held
        self.events += held.events
        self.bytes += held.size
        self._entry_bytes += (held.size - self._entry_bytes) * (
            0.5 if held.size > self._entry_bytes else 0.02
        )

    def counted(self, held: Held, events: int) -> None:
        """Note how many events an entry holds."""
        self.events += events - held.events
        held.events = held.unfinished = events
        if self._measured:
            self._entry_events += (events - self._entry_events) * 0.1
        else:
            self._entry_events, self._measured = float(events), True

    def remove(self, held: Held) -> bool:
        """Count an entry out; False if it was not held any more."""
        if self._held.pop((held.ref, held.entry_id), None) is None:
            return False
        self.events -= held.events
        self.bytes -= held.size
        if held.limit is not None:
            self._suspects.discard(held)
        return True

    def finished(self, events: int, now_ms: int) -> None:
        """Note finished events, for the measured rate."""
        self._finished += events
        passed = now_ms - self._sampled_ms
        if passed >= RATE_SAMPLE_MS:
            rate = self._finished / passed if self._sampled_ms else 0.0
            self._rate = max(rate, self._rate * 0.7 + rate * 0.3)
            self._finished, self._sampled_ms = 0, now_ms

    @property
    def most_events(self) -> int:
        """How many events may be held just now."""
        if self._fixed is not None:
            return self._fixed
        return max(self._least, min(round(self._rate * WORK_MS), MAX_EVENTS))

    def room(self) -> int:
        """How many entries may be read now: 0 when the window is full in events or in bytes.

        Judged by the sizes seen lately, so a sudden run of large entries may overshoot by one read. Before any was seen
        all are taken for packs: what one member reads too many of at first, the others have to do without.
        """
        free_events = self.most_events - self.events
        free_bytes = self._max_bytes - self.bytes
        if free_events <= 0 or free_bytes <= 0:
            return 0
        entry_events = self._entry_events if self._measured else PACK_EVENTS
        return max(1, min(int(free_events / entry_events), int(free_bytes / self._entry_bytes), 1_000))

    def suspect(self, held: Held, limit: int) -> None:
        """While this entry is held, at most `limit` entries may be."""
        held.limit = limit
        self._suspects.add(held)

    def limit(self) -> int | None:
        """Most entries that may be held while suspects are among them; None without suspects."""
        return min((held.limit for held in self._suspects if held.limit is not None), default=None)

    def due_for_renewal(self, now_ms: int, claim_after_ms: int) -> list[Held]:
        """Entries not renewed for a third of claim_after."""
        return [held for held in self._held.values() if now_ms - held.renewed_ms >= claim_after_ms // 3]
