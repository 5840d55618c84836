"""Window: what a member holds unsettled, bounded in events and in bytes. Pure: times are passed in.

Not locked: its owner (Member) calls it under the member's lock.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import ClassVar

from pipeline.arrival import LARGEST, SINGLES, TASKS, Arrival, TaskArrival
from pipeline.envelope import Again
from pipeline.keys import GroupRef
from pipeline.outcome import Outcome
from pipeline.server.groups import Move
from pipeline.server.replies import RawEntry

WORK_MS = 1_000
"""The window grows to about so much measured work, in ms, so that fast handlers never wait for a read."""
MAX_EVENTS = 20_000
"""The window never grows beyond this by measurement."""
PACK_EVENTS = 100
"""What an entry is taken to hold until one was seen: as much as the packs of producers."""
MAX_READ_ENTRIES = 1_000
"""One read brings no more: it keeps the server busy for so long and no longer."""
FIRST_SAMPLE_MS, RATE_SAMPLE_MS = 5, 100
"""How often the rate of finished events is measured, in ms: at first soon, so that the window grows soon."""


class Held(Arrival):
    """One entry that is pending with us: read or taken, not yet settled."""

    __slots__ = (
        "again", "deliveries", "events", "limit", "moves", "noted", "ref", "renewed_ms", "returning",
        "size", "taken_over", "token", "unfinished", "verdict",
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
        noted: int = 0,
    ) -> None:
        self.entry_id = self.first_id = entry_id
        self.set_fields(fields)
        self._header = self._items = self._entry = None
        self.ref = ref
        self.size = sum(map(len, fields))
        self.token = token
        """The claims token known before the read (or the check) that made it ours."""
        self.deliveries = deliveries
        self.noted = noted
        """Of these, the last one in which it was noted to begin to run with nothing beside it; 0 for none."""
        self.renewed_ms = now_ms
        self.again: Again | None = None
        self.events = 1
        """Events in it that count against the window."""
        self.unfinished = 1
        """Events of it that have no outcome yet."""
        self.moves: Sequence[Move] = ()
        self.verdict: Outcome | None = None
        """The whole entry becomes a dead letter for this, once all its events have ended."""
        self.limit: int | None = None
        """Most entries the member may hold while this one runs (poison ladder); None for any number."""
        self.returning = False
        """Some of its events are handed back: the whole entry is given up once the others have an outcome."""
        self.taken_over = False

    alone: ClassVar[Container[bytes]] = SINGLES
    """The first bytes of headers of entries that hold one event, and need not be decoded to know."""

    @classmethod
    def read(cls, ref: GroupRef, rows: Iterable[RawEntry], token: str, now_ms: int) -> "list[Held]":
        """The entries of one read. What __init__ does, in one place: there may be 300,000 a second."""
        new, read, singles = cls.__new__, list["Held"](), cls.alone
        for entry_id, fields in rows:
            if (
                fields is None
                or len(fields) != 4
                or fields[1][:7] not in singles
                or fields[0] != b"h"
                or fields[2] != b"b"
                or len(fields[3]) > LARGEST
            ):
                read.append(cls(ref, entry_id, fields or (), token=token, deliveries=1, now_ms=now_ms))
                continue
            held = new(cls)
            held.entry_id = held.first_id = entry_id
            _, held.head, _, held.body = fields
            held.odd = held.again = held.verdict = held.limit = held._header = held._items = held._entry = (
                None
            )
            held.count = held.deliveries = held.events = held.unfinished = 1
            held.noted = 0
            held.ref = ref
            held.size = len(held.head) + len(held.body) + 2
            held.token = token
            held.renewed_ms = now_ms
            held.moves = ()
            held.returning = held.taken_over = False
            read.append(held)
        return read

    @property
    def shown_id(self) -> str:
        """The id of the entry its events were first appended in, for people."""
        return self.again.entry_id if self.again else self.entry_id.decode()

    @property
    def crashes(self) -> int:
        """Runs of it that ended with their worker, as far as the delivery count tells."""
        return (self.again.crashes if self.again else 0) + self.deliveries - 1

    @property
    def attempt(self) -> int:
        """The number of this run, 1 for the first."""
        return (self.again.runs if self.again else 0) + self.deliveries


class HeldTask(TaskArrival, Held):
    """One task of a list that is pending with us."""

    __slots__ = ()
    alone = TASKS


class Window:
    """Entries held, by (ref, entry id), and how many more may be read."""

    def __init__(self, *, least_events: int, fixed_events: int | None, max_bytes: int) -> None:
        self._held: dict[GroupRef, dict[bytes, Held]] = {}
        self._entries = 0
        self._limits: dict[int, int] = {}  # how many of the entries held have this limit
        self._least = least_events
        self._fixed = fixed_events
        self._max_bytes = max_bytes
        self._rate = 0.0  # events finished per ms, smoothed
        self._finished = 0
        self._sampled_ms = 0
        self._sample_ms = FIRST_SAMPLE_MS
        self._entry_events = 1.0  # events per entry, smoothed: packs hold many
        self.measured = False
        """Whether it was seen how many events an entry holds."""
        self._entry_bytes = 256.0
        self.events = 0
        self.bytes = 0
        self.asked_for: int | None = None
        """Where events are taken one by one: so many were asked for, and are held or waited for. None: no matter."""

    def __len__(self) -> int:
        return self._entries

    def __iter__(self) -> Iterator[Held]:
        return iter([held for entries in self._held.values() for held in entries.values()])

    def get(self, ref: GroupRef, entry_id: bytes) -> Held | None:
        """The held entry, if we hold it."""
        entries = self._held.get(ref)
        return None if entries is None else entries.get(entry_id)

    def holds_any(self, ref: GroupRef, entry_ids: Iterable[bytes]) -> bool:
        """Whether one of these is held."""
        entries = self._held.get(ref)
        return entries is not None and not entries.keys().isdisjoint(entry_ids)

    def add(self, held: Held) -> None:
        """Count an entry in; how many events it holds is known by counted(), and reckoned until then."""
        self.add_all([held])

    def add_all(self, read: Sequence[Held]) -> None:
        """Count in the entries of one read, of one stream."""
        if not read:
            return
        events = len(read)
        if self._entry_events >= 1.5:
            reckoned = round(self._entry_events)
            events *= reckoned
            for held in read:
                held.events = reckoned
        self._held.setdefault(read[0].ref, {}).update((held.entry_id, held) for held in read)
        self._entries += len(read)
        self.events += events
        size = sum(held.size for held in read)
        self.bytes += size
        mean = size / len(read)
        weight = 0.5 if mean > self._entry_bytes else 1 - 0.98 ** len(read)
        self._entry_bytes += (mean - self._entry_bytes) * weight

    def add_one(self, held: Held) -> bool:
        """add() of an entry that is alone in its read; False if one of its id is held already."""
        entries = self._held.get(held.ref)
        if entries is None:
            entries = self._held[held.ref] = {}
        if held.entry_id in entries:
            return False
        if self._entry_events >= 1.5:
            held.events = round(self._entry_events)
        entries[held.entry_id] = held
        self._entries += 1
        self.events += held.events
        self.bytes += held.size
        self._entry_bytes += (held.size - self._entry_bytes) * (
            0.5 if held.size > self._entry_bytes else 0.02
        )
        return True

    def counted(self, held: Held, events: int) -> None:
        """Note how many events an entry holds."""
        self.counted_all([held], events)

    def counted_all(self, looked_at: Sequence[Held], events: int) -> None:
        """Note that each of these entries holds so many events."""
        if events != 1 or self._entry_events >= 1.5:  # else that is what they were taken for
            for held in looked_at:
                if not held.taken_over:  # else it was counted out as it was
                    self.events += events - held.events
                    held.events = held.unfinished = events
        if self.measured:
            self._entry_events += (events - self._entry_events) * (1 - 0.9 ** len(looked_at))
        else:
            self._entry_events, self.measured = float(events), True

    def remove(self, held: Held) -> bool:
        """Count an entry out; False if it was not held any more."""
        before = self._entries
        self.remove_all([held])
        return self._entries < before

    def remove_all(self, gone: Sequence[Held]) -> int:
        """Count entries out; how many events those have that were still held."""
        events = entries = size = 0
        for held in gone:
            entries_of = self._held.get(held.ref)
            if (
                entries_of is None or entries_of.get(held.entry_id) is not held
            ):  # or another of its id is, by now
                continue
            del entries_of[held.entry_id]
            entries += 1
            events += held.events
            size += held.size
            if held.limit is not None:
                self._unsuspect(held.limit)
        self._entries -= entries
        self.events -= events
        self.bytes -= size
        return events

    def finished(self, events: int, now_ms: int) -> None:
        """Note finished events, for the measured rate."""
        self._finished += events
        passed = now_ms - self._sampled_ms
        if passed >= self._sample_ms:
            self._sample_ms = min(2 * self._sample_ms, RATE_SAMPLE_MS)
            rate = self._finished / passed if self._sampled_ms else 0.0
            self._rate = max(rate, self._rate * 0.7 + rate * 0.3)
            self._finished, self._sampled_ms = 0, now_ms

    @property
    def most_events(self) -> int:
        """How many events may be held just now."""
        if self.asked_for is not None:
            return self.asked_for
        if self._fixed is not None:
            return self._fixed
        return max(self._least, min(round(self._rate * WORK_MS), MAX_EVENTS))

    def room(self, coming: int = 0) -> int:
        """How many entries may be read now, beside the `coming` ones of reads under way; 0 when the window is full.

        coming may be below 0: so many entries are settled before.

        Judged by the sizes seen lately, so a sudden run of large entries may overshoot by one read. Before any was seen
        all are taken for packs: what one member reads too many of at first, the others have to do without.
        """
        entry_events = self._entry_events if self.measured else PACK_EVENTS
        free_events = self.most_events - self.events - coming * entry_events
        free_bytes = self._max_bytes - self.bytes - coming * self._entry_bytes
        if free_events <= 0 or free_bytes <= 0:
            return 0
        return max(
            1, min(int(free_events / entry_events), int(free_bytes / self._entry_bytes), MAX_READ_ENTRIES)
        )

    @property
    def entry_bytes(self) -> float:
        """How large entries were lately, about."""
        return self._entry_bytes

    def suspect(self, held: Held, limit: int) -> None:
        """While this entry is held, at most `limit` entries may be."""
        if held.limit is not None:
            self._unsuspect(held.limit)
        held.limit = limit
        self._limits[limit] = self._limits.get(limit, 0) + 1

    def _unsuspect(self, limit: int) -> None:
        self._limits[limit] -= 1
        if not self._limits[limit]:
            del self._limits[limit]

    def limit(self) -> int | None:
        """Most entries that may be held while suspects are among them; None without suspects."""
        return min(self._limits, default=None)

    def due_for_renewal(self, now_ms: int, claim_after_ms: int) -> list[Held]:
        """Entries not renewed for a third of claim_after."""
        return [held for held in self if now_ms - held.renewed_ms >= claim_after_ms // 3]
