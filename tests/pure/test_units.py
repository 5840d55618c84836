"""Units: durations and sizes as people type them, and as they are shown."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.units import duration_ms, rate_per_s, show_bytes, show_duration, size_bytes


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("30s", 30_000),
        ("250ms", 250),
        ("5m", 300_000),
        ("5min", 300_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("2d", 172_800_000),
        ("0.5s", 500),
        (" 7 s ", 7_000),
        ("90", 90_000),
        ("1.5", 1_500),
        (30, 30_000),
        (0.25, 250),
        (0, 0),
        (timedelta(minutes=1), 60_000),
    ],
)
def test_durations_as_people_write_them(value: str | float | timedelta, ms: int) -> None:
    """A bare number is seconds."""
    assert duration_ms(value) == ms


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "5 parsecs",
        "-5s",
        "s",
        "1h30",
        "5m nonsense",
        -1,
        True,
        float("nan"),
        float("inf"),
        timedelta(-1),
        1e300,
    ],
)
def test_what_is_no_duration_is_refused(value: str | float | timedelta) -> None:
    """With the option's name in the message."""
    with pytest.raises(UsageError, match="grace"):
        duration_ms(value, "grace")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("16MB", 16_000_000),
        ("64KiB", 65_536),
        ("1 GB", 10**9),
        ("1.5kB", 1_500),
        ("100", 100),
        ("7b", 7),
        (7, 7),
        (0, 0),
        ("2MiB", 2 << 20),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes_as_people_write_them(value: str | int, size: int) -> None:
    """Powers of 1,000, and of 1,024 with an i."""
    assert size_bytes(value) == size


@pytest.mark.parametrize("value", ["", "big", "5 apples", "-5MB", -1, True, "1e9", "MB"])
def test_what_is_no_size_is_refused(value: str | int) -> None:
    """With the option's name in the message."""
    with pytest.raises(UsageError, match="window_bytes"):
        size_bytes(value, "window_bytes")


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    """No other error, and never a negative number."""
    for parse in (duration_ms, size_bytes):
        try:
            assert parse(text) >= 0
        except UsageError:
            continue


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0.0 s"),
        (240, "0.2 s"),
        (9_949, "9.9 s"),
        (14_000, "14 s"),
        (60_000, "1 min"),
        (200_000, "3 min 20 s"),
        (3_600_000, "1 h"),
        (7_500_000, "2 h 5 min"),
        (86_400_000, "1 d"),
        (273_600_000, "3 d 4 h"),
    ],
)
def test_durations_as_they_are_shown(ms: int, shown: str) -> None:
    """Two units at most."""
    assert show_duration(ms) == shown


@given(st.floats(0, 1e15))
def test_any_duration_can_be_shown(ms: float) -> None:
    """From nothing to the age of the world."""
    assert show_duration(ms)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (1_400_000, "1.4 MB"),
        (16_000, "16.0 kB"),
        (5 * 10**9, "5.0 GB"),
        (7 * 10**15, "7000.0 TB"),
    ],
)
def test_sizes_as_they_are_shown(size: int, shown: str) -> None:
    """In powers of 1,000."""
    assert show_bytes(size) == shown


@pytest.mark.parametrize(
    ("value", "per_s"),
    [
        ("500/s", 500),
        ("500", 500),
        (500, 500),
        (0.5, 0.5),
        ("30/m", 0.5),
        (" 36 / h ", 0.01),
        ("1/min", 1 / 60),
    ],
)
def test_rates(value: object, per_s: float) -> None:
    """So many a second, or in a longer time."""
    assert rate_per_s(value) == pytest.approx(per_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["", "fast", "-5/s", "5/d", "5/", True, None, 0, "0/s", 1_000_001, float("nan")]
)
def test_rates_that_are_none_are_refused_by_name(value: object) -> None:
    """With what can be written."""
    with pytest.raises(UsageError, match=r"--rate=.*(write 500/s|above 0)"):
        rate_per_s(value, "--rate")  # type: ignore[arg-type]
