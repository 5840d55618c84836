"""ServerClock: what the server's clock should say, and when it cannot be trusted."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import MARGIN_MS, ServerClock

CLAIM_AFTER_MS = 30_000
START_MS = 1_700_000_000_000


def observed(clock: ServerClock, server_ms: int, sent_ms: int, received_ms: int) -> bool:
    """One answer with the server's time."""
    return clock.observe(server_ms, sent_ms, received_ms, claim_after_ms=CLAIM_AFTER_MS)


def test_before_the_first_answer_nothing_is_known() -> None:
    """And nothing may be claimed."""
    clock = ServerClock()
    assert clock.now_ms(5) is None
    assert not clock.claims_allowed(5)


def test_the_time_goes_on_by_our_own_clock() -> None:
    """Between answers, and without a jump, for ever."""
    clock = ServerClock()
    for second in range(1_000):
        assert not observed(clock, START_MS + second * 1_000, second * 1_000, second * 1_000 + 2)
    now_ms = clock.now_ms(999_500)
    assert now_ms is not None
    assert abs(now_ms - (START_MS + 999_500)) <= 2
    assert clock.claims_allowed(999_500)


@given(st.lists(st.tuples(st.integers(0, 60_000), st.floats(0, 1)), min_size=1, max_size=50))
def test_a_slow_answer_is_never_a_jump(delays: list[tuple[int, float]]) -> None:
    """Whenever within the call the server read its clock."""
    clock = ServerClock()
    mono_ms = 0
    for delay_ms, share in delays:
        sent_ms, received_ms = mono_ms, mono_ms + delay_ms
        assert not observed(clock, START_MS + sent_ms + int(delay_ms * share), sent_ms, received_ms)
        mono_ms = received_ms + 500


@given(st.integers(CLAIM_AFTER_MS, 10**12), st.booleans())
def test_a_jump_in_either_direction_stops_claims_for_one_claim_after(jump_ms: int, back: bool) -> None:
    """In that time every live consumer renews what it holds."""
    clock = ServerClock()
    assert not observed(clock, START_MS, 0, 1)
    jumped_ms = START_MS + (-jump_ms if back else jump_ms)
    assert observed(clock, jumped_ms + 1_000, 1_000, 1_001)
    assert not clock.claims_allowed(1_001)
    assert not clock.claims_allowed(1_001 + CLAIM_AFTER_MS - 1)
    assert clock.claims_allowed(1_001 + CLAIM_AFTER_MS)
    assert not observed(clock, jumped_ms + 1_500, 1_500, 1_501)


def test_a_small_step_is_taken_along() -> None:
    """Clocks are adjusted all the time: a quarter of claim_after at once is the most."""
    clock = ServerClock()
    observed(clock, START_MS, 0, 1)
    assert not observed(clock, START_MS + 1_000 + CLAIM_AFTER_MS // 4 - 10, 1_000, 1_001)
    assert clock.claims_allowed(1_001)


def test_a_slow_answer_does_not_forbid_claims() -> None:
    """The latest acceptable time allows for all that the server's clock may have shown then."""
    clock = ServerClock()
    observed(
        clock, START_MS + 9_000, 1_000, 10_000
    )  # read right after it was asked, or just before it answered
    assert clock.latest_ms(10_000, claim_after_ms=CLAIM_AFTER_MS) >= START_MS + 18_000
    observed(clock, START_MS + 11_000, 11_000, 11_000)
    assert clock.latest_ms(11_000, claim_after_ms=CLAIM_AFTER_MS) == START_MS + 11_000 + CLAIM_AFTER_MS // 4


def test_drift_is_followed() -> None:
    """A clock that runs 1 % fast is no jump, however long it does."""
    clock = ServerClock()
    for second in range(2_000):
        assert not observed(clock, START_MS + second * 1_010, second * 1_000, second * 1_000 + 1)
    now_ms = clock.now_ms(2_000_000)
    assert now_ms is not None
    assert abs(now_ms - (START_MS + 2_020_000)) <= 20


def test_what_a_claim_may_find_is_just_ahead_of_now() -> None:
    """A server beyond it has jumped since its last answer."""
    clock = ServerClock()
    observed(clock, START_MS, 0, 0)
    assert clock.latest_ms(500, claim_after_ms=CLAIM_AFTER_MS) == START_MS + 500 + CLAIM_AFTER_MS // 4
    assert clock.latest_ms(500, claim_after_ms=1_000) == START_MS + 500 + MARGIN_MS


def test_claims_can_be_suspended() -> None:
    """After a restart of the server, say."""
    clock = ServerClock()
    observed(clock, START_MS, 0, 0)
    clock.suspend(10, 1_000)
    assert not clock.claims_allowed(1_009)
    assert clock.claims_allowed(1_010)
