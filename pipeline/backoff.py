"""Backoff: how long to wait before the next try."""

import random
from dataclasses import dataclass

# No state of its own: forked children do not wait in step, and nobody's seeded `random` is disturbed.
_RANDOM = random.SystemRandom()
MAX_STEPS = 60
"""A wait grows no more often: 2**60 ms is beyond any `longest`, and 100.0**60 still a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter; with a factor of 1, always the same wait.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    initial_ms: int
    """Upper end of the first wait, in ms."""
    longest_ms: int
    """Upper end of any wait, in ms."""
    jitter: float = 1.0
    """Share of a wait that is random: 1.0 spreads over 0 to the full wait, 0.0 always waits it in full."""
    factor: float = 2.0
    """Each wait is so many times the one before, 1 to 100."""

    def wait_ms(self, attempt: int, rng: random.Random | None = None) -> int:
        """Wait after failed attempt number `attempt` (1 is the first), in ms."""
        full = min(self.initial_ms * self.factor ** min(max(attempt - 1, 0), MAX_STEPS), self.longest_ms)
        draw = (rng or _RANDOM).random()
        return round(full * (1 - self.jitter + self.jitter * draw))


RECONNECT = Backoff(initial_ms=50, longest_ms=10_000)
"""Between tries to reach a server: starts at 50 ms, at most 10 s, so that a fleet does not return as one wave."""
