"""Breaker: a group most of whose last hundred events died is paused, and no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.breaker import LAST_EVENTS, Ended, trips
from pipeline.pause import MAX_REASON_CHARS, Pause, pause_text, read_pause

COUNTS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("count", "died", "above", "pauses"),
    [
        (0, 0, 0.5, False),
        (100, 50, 0.5, False),
        (100, 51, 0.5, True),
        (50, 50, 0.5, False),  # the next fifty may all be done
        (51, 51, 0.5, True),  # whatever the next forty-nine do
        (5_000, 2_400, 0.5, False),
        (5_000, 2_501, 0.5, True),
        (1, 1, 0.0, True),
        (1, 0, 0.0, False),
        (100, 100, 1.0, False),
        (10**6, 10**6, 1.0, False),
        (100, 6, 0.05, True),
        (100, 5, 0.05, False),
    ],
)
def test_it_trips_when_more_than_the_share_of_the_last_hundred_died(
    count: int, died: int, above: float, pauses: bool
) -> None:
    """Half is not more than half; 0 trips at the first dead letter, 1 never."""
    why = trips(Ended(count, died), above)
    assert bool(why) is pauses
    assert not why or f"{died:,} of the last {count:,} events" in why


@given(COUNTS, COUNTS, st.floats(0, 1))
def test_more_deaths_never_calm_it(count: int, died: int, above: float) -> None:
    """Of as many events."""
    died = min(count, died)
    if trips(Ended(count, died), above):
        assert trips(Ended(count + 1, died + 1), above)
    assert not trips(Ended(max(count, LAST_EVENTS), 0), above)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_what_ended_since_is_never_less_than_nothing(count: int, died: int, more: int, deaths: int) -> None:
    """Whatever order the counters were read in."""
    since = Ended(count, died).since(Ended(more, deaths))
    assert 0 <= since.died <= since.count


@given(st.text(), st.text())
def test_a_pause_comes_back_as_it_was_but_for_line_breaks(by: str, reason: str) -> None:
    """Who and why are a line each, of bounded length."""
    pause = read_pause(f"1700000000000\n{pause_text(by, reason)}")
    assert pause == Pause(
        since_ms=1_700_000_000_000,
        by=" ".join(by.split())[:MAX_REASON_CHARS],
        reason=" ".join(reason.split())[:MAX_REASON_CHARS],
    )


@pytest.mark.parametrize("kept", ["1", "by hand", "x\ny\nz", "²\na\nb"])
def test_a_pause_that_cannot_be_read_is_one_all_the_same(kept: str) -> None:
    """Somebody wants the group to stand still."""
    assert read_pause(kept) is not None
    assert read_pause("") is None
