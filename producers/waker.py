"""Waker: a pipe that ends the wait of a thread that waits for a socket, from any thread and any signal handler.

Not locked: its owner calls wake() and close() under one lock, as a closed pipe's number may be another file's.
"""

import contextlib
import os
import select
import time

FD_SETSIZE = 1_024
"""Files numbered below this can be waited for with select()."""


class Waker:
    """Both ends of the pipe, once open."""

    def __init__(self) -> None:
        self.read_end = -1
        """What to poll for."""
        self._write_end = -1

    def open(self) -> None:
        """Make the pipe, if it is not there."""
        if self.read_end < 0:
            self.read_end, self._write_end = os.pipe()
            os.set_blocking(self.read_end, False)
            os.set_blocking(self._write_end, False)

    def wake(self) -> None:
        """End the wait under way, or the next one."""
        if self._write_end >= 0:
            with contextlib.suppress(BlockingIOError):  # full: it wakes anyway
                os.write(self._write_end, b"w")

    def wait(self, timeout_ms: float | None) -> None:
        """Wait until woken, at most so long."""
        poll = select.poll()
        poll.register(self.read_end, select.POLLIN)
        poll.poll(timeout_ms)

    def pause(self, seconds: float) -> None:
        """Wait until woken, at most so long: less than the milliseconds that poll counts in."""
        if self.read_end < FD_SETSIZE:
            select.select([self.read_end], [], [], seconds)
        else:
            time.sleep(seconds)

    def clear(self) -> None:
        """Forget what woke it."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_end, 4_096)

    def close(self) -> None:
        """Close both ends."""
        ends, self.read_end, self._write_end = (self.read_end, self._write_end), -1, -1
        for end in ends:
            if end >= 0:
                os.close(end)
