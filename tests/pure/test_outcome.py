"""Outcome: what follows from what a handler did."""

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DecodeError, UsageError
from pipeline.options import Retry
from pipeline.outcome import MAX_TRACEBACK_CHARS, Kind, Later, Outcomes, Reject, after_failure, show_traceback

NO_JITTER = Retry(attempts=3, initial="1s", longest="10s", jitter=0)


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_failure_is_retried_until_its_last_attempt(attempt: int, attempts: int) -> None:
    """Run number `attempts` is the last one: then it is dead."""
    outcome = after_failure(ValueError("no"), attempt, Retry(attempts=attempts))
    assert outcome.kind is (Kind.DEAD if attempt >= attempts else Kind.RETRY)
    assert (outcome.error, outcome.reason) == ("ValueError", "no")


def test_a_retry_waits_by_its_backoff() -> None:
    """Doubling with each attempt."""
    waits = [
        after_failure(ValueError(), attempt, Retry(9, "1s", "5s", 0)).delay_ms for attempt in range(1, 6)
    ]
    assert waits == [1_000, 2_000, 4_000, 5_000, 5_000]


def test_jitter_comes_from_the_given_source() -> None:
    """So a test can know it."""
    retry = Retry(9, "1s", "5s")
    first = after_failure(ValueError(), 1, retry, random.Random(1))
    assert first.delay_ms == after_failure(ValueError(), 1, retry, random.Random(1)).delay_ms
    assert 0 <= first.delay_ms <= 1_000


@pytest.mark.parametrize("attempt", [1, 2, 3, 99])
def test_reject_is_final_and_later_never_is(attempt: int) -> None:
    """Whatever run it is."""
    rejected = after_failure(Reject("no such order"), attempt, NO_JITTER)
    assert (rejected.kind, rejected.reason) == (Kind.DEAD, "no such order")
    later = after_failure(Later("5m"), attempt, NO_JITTER)
    assert (later.kind, later.delay_ms) == (Kind.LATER, 300_000)


def test_corrupt_data_is_dead_at_once() -> None:
    """It will not read better the next time."""
    outcome = after_failure(DecodeError("cut off"), 1, NO_JITTER)
    assert (outcome.kind, outcome.reason) == (Kind.DEAD, "cannot be decoded: cut off")


def test_an_error_without_words_goes_by_its_name() -> None:
    """A dead letter always has a reason."""
    assert after_failure(KeyError(), 3, NO_JITTER).reason == "KeyError"


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ConnectionError("reset"), Kind.RETRY, "reset"),
        (ConnectionResetError("reset"), Kind.RETRY, "reset"),  # a kind of ConnectionError
        (ValueError("bad"), Kind.DEAD, "ValueError is not retried (retry_on): bad"),
        (FileNotFoundError("gone"), Kind.DEAD, "FileNotFoundError is given up on (give_up_on): gone"),
        (Reject("no"), Kind.DEAD, "no"),
        (Later("1s"), Kind.LATER, "later, in 1s"),
        (DecodeError("cut"), Kind.DEAD, "cannot be decoded: cut"),
    ],
)
def test_exceptions_decide_whether_there_is_another_run(
    error: BaseException, kind: Kind, reason: str
) -> None:
    """Named or a subclass of one named; what a handler says by Reject and Later holds whatever is named."""
    retry = Retry(retry_on=(ConnectionError, OSError), give_up_on=FileNotFoundError)
    outcome = after_failure(error, 1, retry)
    assert (outcome.kind, outcome.reason) == (kind, reason)


def test_give_up_on_alone_leaves_all_others_to_be_retried() -> None:
    """LookupError takes KeyError with it."""
    retry = Retry(give_up_on=[LookupError])
    assert after_failure(KeyError("x"), 1, retry).kind is Kind.DEAD
    assert after_failure(ValueError("x"), 1, retry).kind is Kind.RETRY


def test_what_is_retried_still_has_its_last_attempt() -> None:
    """retry_on gives nothing more than `attempts`; the reason is then the error's own."""
    outcome = after_failure(OSError("down"), 3, Retry(3, retry_on=OSError))
    assert (outcome.kind, outcome.reason, outcome.message) == (Kind.DEAD, "down", "down")


def test_an_error_that_cannot_say_what_it_is_has_an_outcome_all_the_same() -> None:
    """Its __str__ raises: the event is retried under the name of its class."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    outcome = after_failure(Mute(), 1, NO_JITTER)
    assert outcome.kind is Kind.RETRY
    assert outcome.reason == "Mute (its text cannot be had: RuntimeError)"


@pytest.mark.parametrize(
    ("delay", "ms"), [("5m", 300_000), (2, 2_000), (timedelta(hours=1), 3_600_000), (0, 0)]
)
def test_later_takes_any_duration(delay: str | int | timedelta, ms: int) -> None:
    """As people write them."""
    assert Later(delay).delay_ms == ms


def test_later_refuses_what_is_no_duration() -> None:
    """Where it is raised: the handler then fails with that error."""
    with pytest.raises(UsageError, match="Later"):
        Later("soon")


def test_a_long_traceback_keeps_its_end() -> None:
    """Where the error was raised, and what it says."""

    with pytest.raises(ValueError, match="bottom") as caught:
        raise ValueError("x" * 10_000 + " at the bottom")
    shown = show_traceback(caught.value)
    assert len(shown) <= MAX_TRACEBACK_CHARS + 1
    assert shown.startswith("…")
    assert "at the bottom" in shown


def test_outcomes_hold_one_per_event() -> None:
    """The last one said counts."""
    outcomes = Outcomes()
    outcomes.fail(3, ValueError("x"))
    outcomes.reject(4, "never")
    outcomes.later(5, "5m")
    outcomes.reject(3, "after all")
    assert set(outcomes.errors) == {3, 4, 5}
    assert isinstance(outcomes.errors[3], Reject)
    assert isinstance(outcomes.errors[5], Later)


def test_outcomes_count_from_zero() -> None:
    """-1 is nobody."""
    with pytest.raises(UsageError, match="-1"):
        Outcomes().fail(-1, ValueError())
