"""Options: what people write becomes numbers with units, and what cannot be is refused by name."""

import dataclasses

import pytest

from pipeline.errors import UsageError
from pipeline.options import ConsumerOptions, LogOptions, Retry, consumer_options, log_options


def test_what_people_write_becomes_numbers_with_units() -> None:
    """Durations in ms, a single type as a tuple, attempts as a Retry; what is None keeps its default."""
    options = consumer_options(
        claim_after="3s", max_run=60, grace="1m", batch_wait="10ms", block=0.5, retry=3, types="a", batch=None
    )
    assert (options.claim_after_ms, options.max_run_ms, options.grace_ms) == (3_000, 60_000, 60_000)
    assert (options.batch_wait_ms, options.block_ms) == (10, 500)
    assert options.retry == Retry(attempts=3)
    assert options.types == ("a",)
    assert consumer_options(types=["a", "b"]).types == ("a", "b")
    assert options.batch is None


def test_the_defaults_are_those_of_the_contract() -> None:
    """Nothing missed, nothing hoarded, nobody robbed."""
    options = ConsumerOptions()
    assert options.start == "start"
    assert options.claim_after_ms == 30_000
    assert options.max_run_ms == 3_600_000
    assert options.grace_ms == 20_000
    assert options.window_bytes == 16_000_000
    assert options.retry.attempts == 5
    assert (options.retry.backoff.initial_ms, options.retry.backoff.longest_ms) == (1_000, 60_000)
    assert options.retry.backoff.jitter == 1.0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"batch": -1}, "batch"),
        ({"window_events": 0}, "window_events"),
        ({"window_bytes": 0}, "window_bytes"),
        ({"claim_after": "999ms"}, "claim_after"),
        ({"max_run": 0}, "max_run"),
        ({"block": 0}, "block"),
        ({"block": "5s"}, "block"),
        ({"executor": "gpu"}, "executor"),
        ({"start": "never"}, "start"),
        ({"grace": "-1s"}, "grace"),
        ({"pace": 1}, "pace"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, object], named: str) -> None:
    """When it is made, not when it is used."""
    with pytest.raises(UsageError, match=named):
        consumer_options(**given)


def test_an_unknown_option_is_told_what_there_is() -> None:
    """So a typo is mended without looking anything up."""
    with pytest.raises(UsageError, match=r"claim_aft.*there are: .*claim_after"):
        consumer_options(claim_aft="3s")


@pytest.mark.parametrize(
    "given",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"jitter": 2},
        {"jitter": -0.1},
        {"initial": "2m"},
        {"initial": "x"},
        {"longest": -1},
        {"factor": 0.5},
        {"factor": 101},
        {"retry_on": ()},
        {"retry_on": "ValueError"},
        {"retry_on": [ValueError, "KeyError"]},
        {"give_up_on": int},
        {"give_up_on": ValueError("an instance")},
        {"retry_on": KeyError, "give_up_on": LookupError},
    ],
)
def test_a_retry_that_cannot_be_is_refused(given: dict[str, object]) -> None:
    """At least one attempt; jitter is a share; initial is not above longest."""
    with pytest.raises(UsageError):
        Retry(**given)  # type: ignore[arg-type]


def test_a_retry_that_contradicts_itself_says_so() -> None:
    """What give_up_on takes is never retried; the other way round is an exception to the rule."""
    with pytest.raises(UsageError, match="retry_on=KeyError: give_up_on names it or a class above it"):
        Retry(retry_on=(OSError, KeyError), give_up_on=LookupError)
    assert Retry(retry_on=LookupError, give_up_on=KeyError).refusal(KeyError()) != ""


def test_a_fixed_retry_waits_the_same_every_time() -> None:
    """And takes what the other takes."""
    retry = Retry.fixed("10s", attempts=3, give_up_on=ValueError)
    assert [retry.backoff.wait_ms(attempt) for attempt in range(1, 9)] == [10_000] * 8
    assert (retry.attempts, retry.give_up_on) == (3, (ValueError,))


def test_options_do_not_change() -> None:
    """A decorator's options may be shared."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConsumerOptions().batch = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Retry().attempts = 3  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    """Purpose and unit, in a sentence after the field: the help texts and docs are made of them."""
    import inspect

    import pipeline.options

    source = inspect.getsource(pipeline.options.ConsumerOptions)
    for name in ConsumerOptions.__dataclass_fields__:
        after_field = source.split(f"    {name}: ", 1)[1].split("\n", 1)[1].lstrip()
        assert after_field.startswith('"""'), name


def test_where_lines_spill_more_of_them_are_held_in_memory() -> None:
    """Unless somebody says how many; the bound in bytes stays."""
    assert log_options().queue_events == 10_000
    assert log_options(spill="").queue_events == 10_000
    assert log_options(spill="/var/spool/app").queue_events == 50_000
    assert log_options(
        spill="/var/spool/app", queue_events=7, spill_sync="5s", spill_bytes="2GB"
    ) == LogOptions(spill="/var/spool/app", queue_events=7, spill_sync_ms=5_000, spill_bytes=2_000_000_000)
    with pytest.raises(UsageError, match="spill_bytes"):
        log_options(spill_bytes=1)
    with pytest.raises(UsageError, match=r"there are: .*spill, spill_bytes, spill_sync"):
        log_options(spil="x")
