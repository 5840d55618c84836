"""--stats: what came in each interval by level, and in all."""

import pytest

from console.level_rates import MOST_WORDS, OTHER, Folded, Interval, Running, Tally, levels_text, summary_text
from tests.pure.test_safe_text import BIDI, steers

T = 1_700_000_000_000


def facts(intervals: list[Interval]) -> list[tuple[int, int, int]]:
    """Begin since T, length and events."""
    return [(one.begin_ms - T, one.length_ms, one.tally.events) for one in intervals]


def test_an_interval_is_given_out_when_an_event_or_the_clock_is_beyond_it() -> None:
    """What comes late counts in the one that runs; one without events is shown if the clock says so, once a look."""
    rates = Running(10_000)
    assert rates.clock(T, empty=True) == []
    assert rates.add(T + 1, {"level": "info"}) == rates.add(T + 9_999, {"level": "error"}) == []
    over = rates.add(T + 10_000, {"level": "info"})
    assert facts(over) == [(0, 10_000, 2)]
    assert over[0].as_json()["levels"] == {"error": 1, "info": 1} and over[0].as_json()["per_s"] == 0.2
    assert rates.add(T + 5_000, {}) == []
    assert facts(rates.clock(T + 20_000, empty=True)) == [(10_000, 10_000, 2)]
    assert facts(rates.clock(T + 29_999, empty=True)) == []
    assert facts(rates.clock(T + 60_000, empty=True)) == [(20_000, 10_000, 0)]
    running = rates.running()
    assert running is not None and facts([running]) == [(60_000, 10_000, 0)]
    assert (rates.whole.tally.events, rates.whole.first_ms, rates.whole.last_ms) == (4, T + 1, T + 10_000)


def test_without_a_clock_an_interval_in_which_nothing_came_is_left_out() -> None:
    """History has no line for each minute of a quiet year."""
    rates = Running(1_000)
    assert facts(rates.add(T, {}) + rates.add(T + 60_000, {}) + rates.clock(T + 90_000)) == [
        (0, 1_000, 1),
        (60_000, 1_000, 1),
    ]


@pytest.mark.parametrize(
    ("span_s", "length_s"), [(30, 1), (300, 10), (3_000, 600), (400_000, 21_600), (10**9, 86_400_000)]
)
def test_folded_intervals_grow_until_there_are_few(span_s: int, length_s: int) -> None:
    """Of any span at most so many, and no event is lost by it."""
    rates = Folded(40)
    for at in range(500):
        rates.add(T + at * span_s * 2, {"level": "info"})
    found = rates.intervals()
    assert len(found) <= 40
    assert {one.length_ms for one in found} == {length_s * 1_000}
    assert sum(one.tally.events for one in found) == rates.whole.tally.events == 500
    assert [one.begin_ms for one in found] == sorted(one.begin_ms for one in found)


def test_levels_that_mean_the_same_are_one_and_the_gravest_comes_first() -> None:
    """Words in any case and numbers; unknown ones as they are, and none."""
    rates = Folded(10)
    for level in ("INFO", "warn", "Warning", 30, "fatal", "loud", None):
        rates.add(T, {"level": level})
    rates.add(T + 4_000, "a text")
    assert rates.whole.tally.by_rank == {"critical": 1, "warning": 3, "info": 1, "loud": 1, "no level": 2}
    assert summary_text(rates.whole).startswith(
        "in all: 8 events in 4.0 s, 2.0/s: critical 1 (12.5%), warning 3 (37.5%)"
    )
    assert summary_text(Folded(10).whole) == "in all: no events"


def test_what_a_level_says_is_bounded_and_steers_nothing() -> None:
    """However many words somebody writes there, and whichever characters."""
    rates = Folded(10)
    for at in range(1_000):
        rates.add(T, {"level": f"\x1b[31m{BIDI}{at}" + "x" * 1_000})
    counts = rates.whole.tally.by_rank
    assert len(counts) == MOST_WORDS + 1 and counts[OTHER] == 1_000 - MOST_WORDS
    assert steers(levels_text(rates.whole.tally)) == steers(summary_text(rates.whole)) == []
    tally = Tally()
    tally.add({"level": ["a", "\x9b"]}, set())
    assert steers(levels_text(tally)) == []
