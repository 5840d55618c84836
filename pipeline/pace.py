"""Pace: how fast work may go that somebody bounded to so many steps a second. Pure: times are passed in, in s."""

from dataclasses import dataclass

from pipeline.errors import UsageError

STEP_S = 0.1
"""What is done at a time takes about so long, so that the pace is even and a stop is soon noticed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `rate` a second, evenly.

    Raises:
        UsageError: a rate that is not above 0.
    """

    begun_s: float
    """When the work began."""
    rate: float | None = None
    """Steps a second; None: as fast as it goes."""

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise UsageError(f"rate={self.rate!r}: more than 0 a second")

    def most(self, most: int) -> int:
        """How many to do at a time, at least 1, at most `most`."""
        return most if self.rate is None else max(1, min(most, int(self.rate * STEP_S)))

    def wait_s(self, done: int, now_s: float) -> float:
        """How long to wait before the next, once so many are done; 0 or more."""
        return 0.0 if self.rate is None else max(self.begun_s + done / self.rate - now_s, 0.0)
