"""Ladder: each crash narrows the company an event may run in; only who has begun alone and crashed is convicted."""

import pytest

from pipeline.ladder import MAX_CRASHES, company, convicted


@pytest.mark.parametrize(
    ("crashes", "most"), [(0, None), (1, 100), (2, 10), (3, 1), (4, 1), (5, 1), (6, 1), (1_000, 1)]
)
def test_each_crash_narrows_the_company(crashes: int, most: int | None) -> None:
    """2 runs among at most 100, 3 among 10, all others alone."""
    assert company(crashes) == most


def test_before_a_conviction_an_event_may_run_alone_twice() -> None:
    """So the crash of one that was held beside it convicts no innocent."""
    assert [company(crashes) for crashes in range(MAX_CRASHES)][-2:] == [1, 1]


@pytest.mark.parametrize(
    ("crashes", "deliveries", "noted", "guilty"),
    [
        (5, 6, 5, True),
        (5, 6, 4, True),  # taken since by one that died of another event
        (9, 10, 5, True),
        (4, 5, 4, False),
        (5, 6, 0, False),  # held five times, and never begun alone
        (99, 100, 0, False),
        (5, 6, 6, False),  # it is this delivery that it has begun
        (5, 1, 1, False),  # an entry of its own since then
        (5, 2, 1, True),
    ],
)
def test_only_who_began_alone_and_was_delivered_again_has_killed(
    crashes: int, deliveries: int, noted: int, guilty: bool
) -> None:
    """A crash raises the count of all that the worker held, begun or not."""
    assert convicted(crashes, deliveries=deliveries, noted=noted) is guilty
