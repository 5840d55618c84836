"""Budget: what a hot path may cost, in units of a calibration loop, and what follows from a measurement. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SLACK = 1.25
"""What a path may cost, by what was recorded. The least of many rounds varies by a few percent between runs on one
machine and by up to a fifth between machines, whose memory and interpreter do not grow alike. Beyond that it is the
code that changed, and whoever reviews the change should see by how much."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One path: what it costs now, and what it did when it was recorded."""

    path: str
    us: float
    """CPU time per event here and now, in microseconds: for people."""
    ratio: float
    """The same by what one calibration costs: what is judged."""
    recorded: float | None
    """The ratio recorded; None: the path is new."""

    @property
    def budget(self) -> float | None:
        """The most it may cost."""
        return None if self.recorded is None else self.recorded * SLACK

    @property
    def change(self) -> float | None:
        """By how much it got slower (0.3: by 30%) or faster (negative)."""
        return None if self.recorded is None else self.ratio / self.recorded - 1

    @property
    def too_slow(self) -> bool:
        """Whether it is over its budget."""
        return self.budget is not None and self.ratio > self.budget

    @property
    def word(self) -> str:
        """The verdict for people."""
        if self.change is None:
            return "new: --record it"
        if self.too_slow:
            return f"SLOWER by {self.change:.0%}"
        if self.change < 1 / SLACK - 1:
            return f"faster by {-self.change:.0%}: --record it"
        return "ok"


def judge(us: Mapping[str, float], calibration_us: float, recorded: Mapping[str, float]) -> list[Verdict]:
    """A verdict per path, in the order measured."""
    return [Verdict(path, cost, cost / calibration_us, recorded.get(path)) for path, cost in us.items()]


def lost(us: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """Recorded paths that were not measured: a budget that nobody keeps."""
    return [path for path in recorded if path not in us]


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """The lines for people."""
    rows = [("HOT PATH", "US", "RATIO", "BUDGET", "VERDICT")]
    for one in verdicts:
        budget = "" if one.budget is None else f"{one.budget:.2f}"
        rows.append((one.path, f"{one.us:.2f}", f"{one.ratio:.2f}", budget, one.word))
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}"
        for row in rows
    ]
