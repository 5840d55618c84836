"""make check-speed's judgement: what is over its budget, by how much, and what is no longer measured."""

import pytest

from benchmarks.budget import INSTRUCTIONS, TIME, Measure, Verdict, dearest, judge, lost, lowered, table
from benchmarks.instructions import CountError, total

BOTH = pytest.mark.parametrize("measure", [INSTRUCTIONS, TIME], ids=lambda one: one.name)


@BOTH
def test_a_cost_is_judged_by_the_calibration_beside_it(measure: Measure) -> None:
    """A machine half as fast, or an interpreter that takes twice the instructions, doubles both: nothing changes."""
    recorded = {"send": 2.0}
    (fast,) = judge(measure, {"send": 6.0}, 3.0, recorded)
    (slow,) = judge(measure, {"send": 12.0}, 6.0, recorded)
    assert fast.ratio == slow.ratio == 2.0
    assert not fast.too_slow and not slow.too_slow


@BOTH
def test_beyond_its_slack_a_path_is_too_slow(measure: Measure) -> None:
    """And not at it; the verdict says by how much, against what was recorded."""
    at = Verdict(measure, "send", 1.0, 2.0 * measure.slack, recorded=2.0)
    beyond = Verdict(measure, "send", 1.0, 2.0 * (measure.slack + 0.02), recorded=2.0)
    assert (at.too_slow, at.word) == (False, "ok")
    assert (beyond.too_slow, beyond.word) == (True, f"SLOWER by {measure.slack - 1 + 0.02:.0%}")


@pytest.mark.parametrize(
    ("measure", "ratio", "word"),
    [
        (INSTRUCTIONS, 2.6, "SLOWER by 30%"),
        (INSTRUCTIONS, 2.2, "ok"),
        (INSTRUCTIONS, 1.8, "ok"),
        (INSTRUCTIONS, 1.0, "faster by 50%: --record it"),
        # What two machines differ by, with nothing changed: time does not tell it from a slow-down.
        (TIME, 2.0 * 1.46, "ok"),
        (TIME, 6.0, "SLOWER by 200%"),
    ],
)
def test_instructions_tell_a_slow_down_of_30_percent_and_time_does_not(
    measure: Measure, ratio: float, word: str
) -> None:
    """Time is what there is without valgrind, and must not fail on another machine."""
    assert Verdict(measure, "send", 1.0, ratio, recorded=2.0).word == word


def test_a_new_path_has_no_budget_yet() -> None:
    """It is named and does not fail."""
    (verdict,) = judge(TIME, {"new": 1.0}, 1.0, {})
    assert (verdict.budget, verdict.too_slow, verdict.word) == (None, False, "new: --record it")


def test_a_recorded_path_that_is_gone_is_named() -> None:
    """A budget cannot be got rid of by not measuring."""
    assert lost({"send": 1.0}, {"send": 1.0, "consume": 1.0}) == ["consume"]


def test_a_budget_is_the_greatest_of_several_ratios() -> None:
    """Whatever the machine did meanwhile: each run is judged by its own calibration."""
    costs, unit = dearest([({"a": 4.0, "b": 1.0}, 2.0), ({"a": 6.0, "b": 6.0}, 4.0)])
    assert unit == 2.0
    assert costs == {"a": 4.0, "b": 3.0}


def test_what_is_counted_again_can_only_become_less() -> None:
    """What disturbs a count adds to it; each is judged by the calibration of its own run."""
    costs = {"a": 8.0, "b": 8.0, "c": 8.0}
    assert lowered(costs, 2.0, {"a": 12.0, "b": 24.0}, 4.0) == {"a": 6.0, "b": 8.0, "c": 8.0}


def test_the_table_names_what_got_slower() -> None:
    """A line per path with its cost, ratio and budget."""
    title, fine, slow = table(
        judge(INSTRUCTIONS, {"a path": 2_000.0, "b": 8_000.0}, 2_000.0, {"a path": 1.0, "b": 2.0})
    )
    assert title.split() == ["HOT", "PATH", "INSTRUCTIONS", "RATIO", "BUDGET", "VERDICT"]
    assert fine.split() == ["a", "path", "2,000", "1.00", "1.15", "ok"]
    assert slow.split() == ["b", "8,000", "4.00", "2.30", "SLOWER", "by", "100%"]


def test_a_dump_says_its_total() -> None:
    """Of callgrind's lines the summary counts; a dump cut off before it is an error, not nothing."""
    assert total("events: Ir\nsummary: 42769069\n\ntotals: 42789612\n") == 42_769_069
    with pytest.raises(CountError, match="without a summary"):
        total("events: Ir\nsummary:\n")
