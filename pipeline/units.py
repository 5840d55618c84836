"""Units: what people type (durations, sizes) as the integers that code keeps (ms, bytes), and back."""

import re
from datetime import timedelta
from typing import TypeAlias

from pipeline.errors import UsageError

Duration: TypeAlias = str | int | float | timedelta
Size: TypeAlias = str | int
Rate: TypeAlias = str | int | float

_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "gb": 1_000_000_000,
          "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}  # fmt: skip
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|min|h))?")


def duration_ms(value: Duration, option: str = "duration") -> int:
    """A duration in ms, from "30s", "1h30m", "250ms", a number of seconds, or a timedelta.

    Raises:
        UsageError: not a duration, or negative; the message names the option.
    """
    if isinstance(value, timedelta):
        ms = value.total_seconds() * 1_000
    elif isinstance(value, bool):
        raise UsageError(
            f"{option}={value!r} is not a duration (write 30, '30s', '5m', '1h30m' or a timedelta)"
        )
    elif isinstance(value, int | float):
        ms = value * 1_000
    else:
        text = value.strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            ms = float(text) * 1_000
        else:
            parts = _DURATION_PART.findall(text)
            if not parts or _DURATION_PART.sub("", text).strip():
                raise UsageError(
                    f"{option}={value!r} is not a duration (write 30, '30s', '5m', '1h30m' or '2d')"
                )
            ms = sum(float(number) * _MS[unit] for number, unit in parts)
    if not 0 <= ms < 1e15:  # also refuses NaN
        raise UsageError(
            f"{option}={value!r} is out of range: a duration is 0 or more and below 30,000 years"
        )
    return round(ms)


def size_bytes(value: Size, option: str = "size") -> int:
    """A size in bytes, from "16MB", "64KiB" or a number of bytes.

    Raises:
        UsageError: not a size, or negative; the message names the option.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = float(value)
    else:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or match[2].lower() not in _BYTES:
            raise UsageError(
                f"{option}={value!r} is not a size (write a number of bytes, '64KiB', '16MB' or '1GB')"
            )
        size = float(match[1]) * _BYTES[match[2].lower()]
    if size < 0:
        raise UsageError(f"{option}={value!r} is negative")
    return round(size)


def rate_per_s(value: Rate, option: str = "rate") -> float:
    """A rate in so many a second, from "500/s", "30/m", "1000/h", or a number (a second).

    Raises:
        UsageError: not a rate, not above 0, or above a million a second; the message names the option.
    """
    match = None if isinstance(value, bool) else _RATE.fullmatch(str(value).strip())
    if match is None:
        raise UsageError(f"{option}={value!r} is not a rate (write 500/s, 30/m, 1000/h, or so many a second)")
    rate = float(match[1]) * 1_000 / _MS[match[2] or "s"]
    if not 0 < rate <= 1_000_000:
        raise UsageError(f"{option}={value!r} is out of range: above 0, at most 1,000,000 a second")
    return rate


def show_duration(ms: float) -> str:
    """A duration for people: "0.2 s", "14 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"."""
    seconds = ms / 1_000
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    for big, small, big_unit, small_unit in (
        (60, 1, "min", "s"),
        (3_600, 60, "h", "min"),
        (86_400, 3_600, "d", "h"),
    ):
        if whole < big * (60 if big == 60 else 24 if big == 3_600 else 10**9):
            rest = whole % big // small
            return f"{whole // big} {big_unit}" + (f" {rest} {small_unit}" if rest else "")
    raise AssertionError("unreachable: the last unit has no upper end")


def show_bytes(size: float) -> str:
    """A size for people, in powers of 1,000: "812 B", "1.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1_000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1_000
    return f"{size:.1f} TB"
