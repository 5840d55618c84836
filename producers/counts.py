"""Counts: what became of the events of one producer, for people and tests; the guarantees do not stand on it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from producers.batch import Fate, Settled


@dataclass(slots=True)
class Counts:
    """What became of the events of one producer."""

    confirmed: int = 0
    failed: int = 0
    unknown: int = 0
    not_reached: int = 0
    dropped: int = 0
    batches: int = 0
    repeats: int = 0
    """Batches that an earlier try had already appended."""
    reconnects: int = 0

    def ended(self, settled: Iterable[Settled]) -> None:
        """Count the events of chunks that have ended."""
        for one in settled:
            events = sum(chunk.events for chunk in one.chunks)
            if one.fate is Fate.CONFIRMED:
                self.confirmed += events
            elif one.fate is Fate.NOT_REACHED:
                self.not_reached += events
            elif one.fate is Fate.UNKNOWN:
                self.unknown += events
            elif one.fate is Fate.DROPPED:
                self.dropped += events
            else:
                self.failed += events

    def as_dict(self) -> dict[str, int]:
        """Name to number."""
        return asdict(self)
