"""make check-speed's judgement: what is over its budget, by how much, and what is no longer measured."""

import pytest

from benchmarks.budget import SLACK, Verdict, judge, lost, table


def test_a_cost_is_judged_by_the_calibration_beside_it() -> None:
    """A machine half as fast doubles both, and changes nothing."""
    recorded = {"send": 2.0}
    (fast,) = judge({"send": 6.0}, 3.0, recorded)
    (slow,) = judge({"send": 12.0}, 6.0, recorded)
    assert fast.ratio == slow.ratio == 2.0
    assert not fast.too_slow and not slow.too_slow


@pytest.mark.parametrize(
    ("ratio", "too_slow", "word"),
    [
        (2.0, False, "ok"),
        (2.0 * SLACK, False, "ok"),
        (2.0 * SLACK + 0.02, True, "SLOWER by 26%"),
        (6.0, True, "SLOWER by 200%"),
        (1.7, False, "ok"),
        (1.0, False, "faster by 50%: --record it"),
    ],
)
def test_beyond_its_slack_a_path_is_too_slow(ratio: float, too_slow: bool, word: str) -> None:
    """And the verdict says by how much, against what was recorded."""
    verdict = Verdict("send", 1.0, ratio, recorded=2.0)
    assert (verdict.too_slow, verdict.word) == (too_slow, word)


def test_a_new_path_has_no_budget_yet() -> None:
    """It is named and does not fail."""
    (verdict,) = judge({"new": 1.0}, 1.0, {})
    assert (verdict.budget, verdict.too_slow, verdict.word) == (None, False, "new: --record it")


def test_a_recorded_path_that_is_gone_is_named() -> None:
    """A budget cannot be got rid of by not measuring."""
    assert lost({"send": 1.0}, {"send": 1.0, "consume": 1.0}) == ["consume"]


def test_the_table_names_what_got_slower() -> None:
    """A line per path with its cost, ratio and budget."""
    title, fine, slow = table(judge({"a path": 2.0, "b": 8.0}, 2.0, {"a path": 1.0, "b": 2.0}))
    assert title.split() == ["HOT", "PATH", "US", "RATIO", "BUDGET", "VERDICT"]
    assert fine.split() == ["a", "path", "2.00", "1.00", "1.25", "ok"]
    assert slow.split() == ["b", "8.00", "4.00", "2.50", "SLOWER", "by", "100%"]
