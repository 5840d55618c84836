"""Ledger: compares, id by id, what the server confirmed with what each group wrote that it handled.

Pure. It is fed the lines of accounts (account.py) and the dead letters, in any order, and counts nothing that it did
not see there: an event is lost if it was confirmed and a group neither handled it nor made it a dead letter.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.position import EntryId, parse_entry_id

MOST_PER_PREFIX = 20_000_000
"""Ids `prefix-number` with numbers up to this take a byte each; others an object each."""
RECENT = 20_000
"""So many confirmed events can be looked up by their entry id."""


class Ids:
    """How often each id was seen. Ids come as `<producer>-<number>`, so a byte each is enough to keep millions."""

    def __init__(self) -> None:
        self._counts: dict[str, bytearray] = {}
        self._others: dict[str, int] = {}
        self.distinct = 0

    def add(self, event_id: str) -> int:
        """Note the id; how often it was seen, this time included (255 stands for more)."""
        place = _place(event_id)
        if place is None:
            seen = self._others[event_id] = self._others.get(event_id, 0) + 1
        else:
            counts = self._counts.setdefault(place[0], bytearray())
            if place[1] >= len(counts):
                counts.extend(bytes(max(place[1] + 1, 2 * len(counts)) - len(counts)))
            seen = counts[place[1]] = min(counts[place[1]] + 1, 255)
        self.distinct += seen == 1
        return seen

    def count(self, event_id: str) -> int:
        """How often the id was seen."""
        place = _place(event_id)
        if place is None:
            return self._others.get(event_id, 0)
        counts = self._counts.get(place[0], b"")
        return counts[place[1]] if place[1] < len(counts) else 0


def _place(event_id: str) -> tuple[str, int] | None:
    """The id as prefix and number, if these give back exactly the id, and the number is no excessive one."""
    prefix, _, number = event_id.rpartition("-")
    if not (prefix and number.isascii() and number.isdigit() and len(number) < 10):
        return None
    at = int(number)
    return (prefix, at) if at <= MOST_PER_PREFIX and str(at) == number else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCounts:
    """What the comparison found for one group."""

    handled: int
    """Confirmed events that the group handled."""
    redelivered: int
    """Of those, handled more than once, replays not counted."""
    dead: int
    """Confirmed events that are dead letters of the group and were not handled."""
    lost: int
    """Confirmed events that the group neither handled nor buried."""
    replayed: int = 0
    """Times an event was handled because somebody asked for a replay."""
    others: int = 0
    """Events handled that this run has no confirmation of: of an earlier run, or sent by somebody else."""


class GroupLedger:
    """One group's side of the comparison."""

    def __init__(self) -> None:
        self.open: dict[str, EntryId] = {}
        """Confirmed and neither handled nor dead, by event id, in the order of confirmation."""
        self._handled = Ids()
        self._unasked = Ids()  # how often an event was handled that nobody asked to be replayed
        self._dead_entries: set[EntryId] = set()
        self._dead: set[str] = set()
        self._redelivered: set[str] = set()
        self._replayed = 0

    def confirm(self, event_id: str, entry_id: EntryId) -> None:
        """The event is in the stream."""
        if self._handled.count(event_id):
            return
        if entry_id in self._dead_entries:
            self._dead.add(event_id)
        else:
            self.open[event_id] = entry_id

    def handle(self, event_id: str, *, replayed: bool) -> None:
        """The group wrote that it handled the event."""
        self._handled.add(event_id)
        if replayed:
            self._replayed += 1
        elif self._unasked.add(event_id) > 1:
            self._redelivered.add(event_id)
        self.open.pop(event_id, None)
        self._dead.discard(event_id)

    def bury(self, entry_id: str) -> None:
        """The event of this entry is a dead letter of the group."""
        dead_at = parse_entry_id(entry_id)
        self._dead_entries.add(dead_at)
        for event_id in [event_id for event_id, at in self.open.items() if at == dead_at]:
            del self.open[event_id]
            self._dead.add(event_id)

    def missing(self, floor: EntryId) -> list[str]:
        """Confirmed events at or below an entry id up to which the group has settled everything: they are lost."""
        return [event_id for event_id, entry_id in self.open.items() if entry_id <= floor]

    def counts(self, confirmed: int) -> GroupCounts:
        """The comparison with so many confirmed events, all of which the group has been told of."""
        handled = confirmed - len(self.open) - len(self._dead)
        return GroupCounts(
            handled=handled,
            redelivered=len(self._redelivered),
            dead=len(self._dead),
            lost=len(self.open),
            replayed=self._replayed,
            others=self._handled.distinct - handled,
        )


class Ledger:
    """What was confirmed, and each group's side."""

    def __init__(self, groups: Sequence[str]) -> None:
        self.groups = {group: GroupLedger() for group in groups}
        self.confirmed = 0
        self._confirmed = Ids()
        self._recent: OrderedDict[str, str] = OrderedDict()

    def confirm(self, event_id: str, entry_id: str) -> None:
        """The server confirmed the event; a second line about the same id changes nothing."""
        if self._confirmed.add(event_id) > 1:
            return
        self.confirmed += 1
        at = parse_entry_id(entry_id)
        for group in self.groups.values():
            group.confirm(event_id, at)
        self._recent[entry_id] = event_id
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def event_at(self, entry_id: str) -> str | None:
        """The event of an entry, if it was confirmed lately."""
        return self._recent.get(entry_id)

    @property
    def handled_by_all(self) -> int:
        """Confirmed events that no group has still to handle."""
        waiting: set[str] = set()
        for group in self.groups.values():
            waiting |= group.open.keys()
        return self.confirmed - len(waiting)

    def counts(self) -> dict[str, GroupCounts]:
        """The comparison, group by group."""
        return {name: group.counts(self.confirmed) for name, group in self.groups.items()}

    def lost(self) -> dict[str, list[str]]:
        """Per group the ids that are confirmed and neither handled nor dead."""
        return {name: list(group.open) for name, group in self.groups.items()}


def compare(
    confirmed: Iterable[tuple[str, str]],
    handled: Mapping[str, Iterable[tuple[str, bool]]],
    dead: Mapping[str, Iterable[str]],
) -> Ledger:
    """The comparison of complete accounts.

    Args:
        confirmed: event id and entry id of each confirmed event.
        handled: per group, the event id of each handling, and whether it was a replay.
        dead: per group, the entry ids of its dead letters.
    """
    ledger = Ledger(list(handled))
    # What was confirmed comes last: so only what is missing is kept in full.
    for name, lines in handled.items():
        for event_id, replayed in lines:
            ledger.groups[name].handle(event_id, replayed=replayed)
        for entry_id in dead.get(name, ()):
            ledger.groups[name].bury(entry_id)
    for event_id, entry_id in confirmed:
        ledger.confirm(event_id, entry_id)
    return ledger
