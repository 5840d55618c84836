"""Sender: a producer's numbered batches, and what the server must answer to each of them. Pure but for append()."""

from dataclasses import dataclass, field

from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.append import (
    MAX_UNCONFIRMED,
    Answer,
    Appended,
    Forgotten,
    Gap,
    append_command,
    parse_append,
)
from pipeline.server.connect import Link
from pipeline.server.scripts import script
from pipeline.wire import encode_entry, encode_pack

NAMES = 3
"""So many event ids are in use: most are in the stream already."""


@dataclass(slots=True)
class Batch:
    """One numbered batch."""

    number: int
    base: int
    """The sender's lowest unconfirmed number when it was first sent."""
    values: list[list[bytes]]
    sizes: list[tuple[int, bool]]
    """Of each entry: how many events, and whether they are a pack."""
    ids: dict[int, str] = field(default_factory=dict)


class Sender:
    """One producer of one stream, and what the server knows of it."""

    def __init__(self, name: str, known: dict[str, str]) -> None:
        """known: event id to entry id, of all producers of the stream."""
        self.name = name
        self._known = known
        self.batches: dict[int, Batch] = {}
        """Those that may be sent again, by number."""
        self._number = 0
        self._unconfirmed: set[int] = set()
        self._last = 0
        self._record: dict[int, tuple[str, ...]] = {}
        """What the server remembers: number to the entry ids it answered."""

    def batch(self, entries: int, *, packed: int = 0, named: int = NAMES) -> Batch:
        """A batch with the next number; packed: how many events its first entry holds, if more than one."""
        self._number += 1
        number = self._number
        self._unconfirmed.add(number)
        values, sizes = [], []
        for place in range(entries):
            if place == 0 and packed > 1:
                events = [Event({"n": n}) for n in range(packed)]
                fields = encode_pack(events, producer=self.name, first_number=number)
                sizes.append((packed, True))
            else:
                fields = encode_entry(Event({"n": place}), producer=self.name, number=number)
                sizes.append((1, False))
            values.append(fields[1::2])
        ids = {entries - 1: f"id-{named}"} if named < NAMES and sizes[-1] == (1, False) else {}
        self.batches[number] = Batch(number, min(self._unconfirmed), values, sizes, ids)
        for old in list(self.batches)[: -2 * MAX_UNCONFIRMED]:
            self._unconfirmed.discard(old)
            del self.batches[old]
        return self.batches[number]

    def give_up(self, number: int) -> None:
        """Its time is over: it ends as unknown, and the base goes on."""
        self._unconfirmed.discard(number)

    def expired(self) -> None:
        """The server knows nothing of this producer any more; what was sent before is never sent again."""
        self._last, self._record = 0, {}
        self.batches.clear()
        self._unconfirmed.clear()

    def expected(self, number: int) -> str:
        """What the server must answer to this batch: ok, repeated, gap, or forgotten."""
        if number <= self._last:
            return "repeated" if number in self._record else "forgotten"
        return "ok" if number in (self._last + 1, self._base(number)) else "gap"

    def append(self, link: Link, keys: StreamKeys, number: int) -> Answer:
        """Send it."""
        batch = self.batches[number]
        link.load(script("append"))
        command = append_command(
            keys, self.name, number=number, base=self._base(number), values=batch.values,
            entries=len(batch.values), ids=batch.ids,
        )  # fmt: skip
        return parse_append(link.calls([command])[0])

    def judge(self, number: int, due: str, answer: Answer, *, heard: bool) -> dict[str, tuple[int, bool]]:
        """Whether that is what it must answer; what was appended: entry id to its size, and whether it is a pack."""
        batch = self.batches[number]
        if due == "gap":
            assert answer == Gap(self._last), f"{answer} to number {number}, not a gap after {self._last}"
            return {}
        if due == "forgotten":
            assert answer == Forgotten(self._last), f"{answer} to number {number}, which is long past"
            return {}
        assert isinstance(answer, Appended), f"{answer} to number {number}, which is to be appended"
        ids = tuple(answer.entry_ids(len(batch.values)))
        if heard:
            self._unconfirmed.discard(number)
        if due == "repeated":
            assert answer.repeated, f"number {number} was appended twice: {answer}"
            assert ids == self._record[number], f"{ids} for number {number}, which are {self._record[number]}"
            return {}
        assert not answer.repeated, f"number {number} was never appended: {answer}"
        there = {place: self._known[name] for place, name in batch.ids.items() if name in self._known}
        assert answer.skipped == there, f"number {number}: {answer.skipped} were there, not {there}"
        self._known.update((name, ids[place]) for place, name in batch.ids.items())
        self._last = number
        self._record[number] = ids
        self._record.pop(number - MAX_UNCONFIRMED, None)
        sizes = zip(ids, batch.sizes, strict=True)
        return {entry_id: size for place, (entry_id, size) in enumerate(sizes) if place not in there}

    def _base(self, number: int) -> int:
        """The lowest unconfirmed number; of a copy that comes late, as it was when it was sent."""
        return min(self._unconfirmed) if number in self._unconfirmed else self.batches[number].base
