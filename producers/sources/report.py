"""Report: says now and then how far a source has come."""

import time
from collections.abc import Callable

from producers.sources.feed import Fed

PROGRESS_S = 0.2
"""How often `progress` is called, in seconds."""


class Report:
    """Calls `progress` now and then."""

    def __init__(self, fed: Fed, progress: Callable[[Fed], None] | None) -> None:
        self._fed = fed
        self._progress = progress
        self._next_s = 0.0

    def soon(self) -> None:
        """Unless it was called a moment ago."""
        if self._progress is not None and time.monotonic() >= self._next_s:
            self.now()

    def now(self) -> None:
        """In any case."""
        self._next_s = time.monotonic() + PROGRESS_S
        if self._progress is not None:
            self._progress(self._fed)
