"""Budget: what a hot path may cost, in units of a calibration loop, and what follows from a measurement. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """How a cost is measured, and how far one may be from what was recorded."""

    name: str
    title: str
    """Above its column, which is of one event."""
    slack: float
    """What a path may cost, by what was recorded."""
    digits: int

    def said(self, cost: float) -> str:
        """A cost for people."""
        return f"{cost:,.{self.digits}f}"


INSTRUCTIONS = Measure("instructions", "INSTRUCTIONS", 1.15, 0)
"""What a path costs beyond that is the code's doing. Pure paths take the same number each time; those that end at a
server differ by up to 6 % from run to run, as their chunks fall (one by 18 %, with 18 busy processes per core)."""
TIME = Measure("time", "CPU US", 1.6, 2)
"""CPU time as a ratio differs by a few percent between runs on one machine, but by up to a half between machines or
their neighbours, whose caches, memory and interpreter do not grow alike."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One path: what it costs now, and what it did when it was recorded."""

    measure: Measure
    path: str
    cost: float
    """Per event, here and now: for people."""
    ratio: float
    """The same by what one calibration costs: what is judged."""
    recorded: float | None
    """The ratio recorded; None: the path is new."""

    @property
    def budget(self) -> float | None:
        """The most it may cost."""
        return None if self.recorded is None else self.recorded * self.measure.slack

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
        if self.change < 1 / self.measure.slack - 1:
            return f"faster by {-self.change:.0%}: --record it"
        return "ok"


def judge(
    measure: Measure, costs: Mapping[str, float], calibration: float, recorded: Mapping[str, float]
) -> list[Verdict]:
    """A verdict per path, in the order measured."""
    return [
        Verdict(measure, path, cost, cost / calibration, recorded.get(path)) for path, cost in costs.items()
    ]


def lost(costs: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """Recorded paths that were not measured: a budget that nobody keeps."""
    return [path for path in recorded if path not in costs]


def dearest(runs: Sequence[tuple[Mapping[str, float], float]]) -> tuple[dict[str, float], float]:
    """Of several measurements (costs, and that of the calibration) the greatest ratio of each path, as costs by the
    calibration of the first."""
    unit = runs[0][1]
    return {path: max(costs[path] / each * unit for costs, each in runs) for path in runs[0][0]}, unit


def lowered(
    costs: Mapping[str, float], calibration: float, again: Mapping[str, float], calibration_again: float
) -> dict[str, float]:
    """The costs, with the lesser ratio of each path that was measured again."""
    return {
        path: min(cost, again[path] / calibration_again * calibration) if path in again else cost
        for path, cost in costs.items()
    }


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """The lines for people, of verdicts by one measure."""
    rows = [("HOT PATH", verdicts[0].measure.title, "RATIO", "BUDGET", "VERDICT")]
    for one in verdicts:
        budget = "" if one.budget is None else f"{one.budget:.2f}"
        rows.append((one.path, one.measure.said(one.cost), f"{one.ratio:.2f}", budget, one.word))
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}"
        for row in rows
    ]
