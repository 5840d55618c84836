"""Backoff: waits grow, stay below their end, and spread."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backoff import RECONNECT, Backoff

MS = st.integers(0, 10**9)


@given(MS, MS, st.floats(0, 1), st.floats(1, 100), st.integers(-5, 10**6), st.integers())
def test_a_wait_stays_within_its_bounds(
    initial: int, longest: int, jitter: float, factor: float, attempt: int, seed: int
) -> None:
    """For any attempt, also absurd ones."""
    backoff = Backoff(initial_ms=initial, longest_ms=longest, jitter=jitter, factor=factor)
    assert 0 <= backoff.wait_ms(attempt, random.Random(seed)) <= longest


@given(st.integers(1, 10**6), st.integers(1, 60))
def test_without_jitter_waits_double_up_to_the_longest(initial: int, attempt: int) -> None:
    """And then stay there."""
    backoff = Backoff(initial_ms=initial, longest_ms=10**9, jitter=0)
    assert backoff.wait_ms(attempt) == min(initial * 2 ** (attempt - 1), 10**9)


@pytest.mark.parametrize(
    ("factor", "waits"),
    [(1, [100, 100, 100, 100]), (1.5, [100, 150, 225, 338]), (10, [100, 1_000, 2_000, 2_000])],
)
def test_waits_grow_by_the_factor(factor: float, waits: list[int]) -> None:
    """1 keeps them all the same."""
    backoff = Backoff(initial_ms=100, longest_ms=2_000, jitter=0, factor=factor)
    assert [backoff.wait_ms(attempt) for attempt in (1, 2, 3, 4)] == waits


def test_full_jitter_spreads_over_all_of_it() -> None:
    """Those who failed together do not come back together."""
    backoff = Backoff(initial_ms=1_000, longest_ms=1_000)
    waits = [backoff.wait_ms(1, random.Random(seed)) for seed in range(200)]
    assert min(waits) < 100
    assert max(waits) > 900
    assert len(set(waits)) > 100


def test_reconnecting_is_quick_at_first_and_patient_later() -> None:
    """50 ms at most, then up to 10 s."""
    assert all(RECONNECT.wait_ms(1) <= 50 for _ in range(50))
    assert max(RECONNECT.wait_ms(20) for _ in range(50)) > 5_000
    assert all(RECONNECT.wait_ms(20) <= 10_000 for _ in range(50))
