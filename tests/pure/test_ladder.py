"""Ladder: each crash narrows the company an event may run in; only who crashes alone is convicted."""

import pytest

from pipeline.ladder import MAX_CRASHES, company


@pytest.mark.parametrize(
    ("crashes", "most"), [(0, None), (1, 100), (2, 10), (3, 1), (4, 1), (5, 0), (6, 0), (1_000, 0)]
)
def test_each_crash_narrows_the_company(crashes: int, most: int | None) -> None:
    """2 runs among at most 100, 3 among 10, 4 and 5 alone; then never again."""
    assert company(crashes) == most


def test_the_last_two_crashes_are_of_events_that_ran_alone() -> None:
    """So an innocent neighbour is never convicted."""
    assert [company(crashes) for crashes in range(MAX_CRASHES)][-2:] == [1, 1]
