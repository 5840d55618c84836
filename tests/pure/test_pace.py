"""Pace: work that is bounded to so many steps a second goes at that rate, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.pace import Pace


@given(st.floats(0.1, 100_000), st.integers(1, 500), st.floats(0, 0.05))
def test_it_is_never_faster_than_asked_for(rate: float, most: int, step_s: float) -> None:
    """Whatever each step takes; and no slower, where the steps themselves are quick enough."""
    pace, now_s, done, count = Pace(100.0, rate), 100.0, 0, 0
    for _ in range(20):
        count = pace.most(most)
        assert 1 <= count <= most
        done += count
        now_s += step_s
        now_s += pace.wait_s(done, now_s)
        assert done <= rate * (now_s - 100.0) * (1 + 1e-9) + 1e-6
    assert now_s - 100.0 <= max(done / rate, 20 * step_s) + count / rate + step_s


def test_without_a_rate_it_never_waits() -> None:
    """And takes as much at a time as is allowed."""
    pace = Pace(0.0)
    assert (pace.most(500), pace.wait_s(10**9, 0.0)) == (500, 0.0)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    """By its name."""
    with pytest.raises(UsageError, match="rate="):
        Pace(0.0, rate)
