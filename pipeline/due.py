"""Due: when a delayed task is to run, as the caller says it: after a while, or at a time.

A while is counted by the server's clock, when the task gets there. A time is compared with this machine's clock once,
when it is given: what is past is refused then, and what is on its way when its time comes is simply due.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.errors import UsageError
from pipeline.units import Duration, duration_ms, show_duration

PAST_MS = 1_000
"""A time so little in the past is now: `at=now` was said a moment ago."""
LATEST_MS = 253_402_300_800_000
"""The year 10,000."""


@dataclass(frozen=True, slots=True)
class Due:
    """When a task is due: one of the two."""

    after_ms: int | None = None
    """So long after it is pushed, by the server's clock."""
    at_ms: int | None = None
    """Ms since 1970."""


def due_of(
    *, after: Duration | None = None, at: datetime | int | float | None = None, now_ms: int | None = None
) -> Due | None:
    """When a task is due that is pushed with `after=` or `at=`; None with neither: at once.

    Args:
        after: a duration ("10m", seconds, timedelta), 0 or more.
        at: a datetime with its zone, or seconds since 1970.
        now_ms: this machine's clock, in ms since 1970.

    Raises:
        UsageError: both, a negative duration, a datetime without zone, or a time that is past.
    """
    if after is None and at is None:
        return None
    if after is not None and at is not None:
        raise UsageError(f"after={after!r} and at={at!r}: a task is due after a while or at a time, not both")
    if after is not None:
        return Due(after_ms=duration_ms(after, "after"))
    at_ms = _ms_of(at)
    now_ms = round(time.time() * 1_000) if now_ms is None else now_ms
    if now_ms - at_ms > PAST_MS:
        raise UsageError(
            f"at={_shown(at_ms)} is {show_duration(now_ms - at_ms)} in the past: it is {_shown(now_ms)} now "
            "(after=0 runs a task at once)"
        )
    return Due(at_ms=at_ms)


def _ms_of(at: datetime | int | float | None) -> int:
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise UsageError(
                f"at={at.isoformat()} has no time zone: write datetime.now(UTC), or .astimezone()"
            )
        seconds = at.timestamp()
    elif isinstance(at, int | float) and not isinstance(at, bool):
        seconds = float(at)
    else:
        raise UsageError(f"at={at!r} is not a time: a datetime with its zone, or seconds since 1970")
    if not abs(seconds) * 1_000 < LATEST_MS:  # also refuses NaN
        raise UsageError(f"at={at!r} is not a time: seconds since 1970, before the year 10,000")
    return round(seconds * 1_000)


def _shown(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError):  # before the year 1
        return f"{ms / 1_000:.0f}"
