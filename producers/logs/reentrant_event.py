"""ReentrantEvent: a threading.Event that a signal handler may set while it interrupts its own thread doing the same.

The standard one holds a plain lock for a moment in set() and clear(): a handler that comes just then waits for ever
for the code it interrupted.
"""

import threading


class ReentrantEvent:
    """set, clear, is_set and wait, as of threading.Event."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.RLock())
        self._flag = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._flag

    def set(self) -> None:
        """Set it, and wake who waits."""
        with self._condition:
            self._flag = True
            self._condition.notify_all()

    def clear(self) -> None:
        """Unset it."""
        with self._condition:
            self._flag = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set; False if it was not within timeout_s."""
        with self._condition:
            return self._condition.wait_for(lambda: self._flag, timeout_s)
