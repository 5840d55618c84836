"""Progress: how far long work has come, on stderr, and only where a person watches."""

import sys
import time
from types import TracebackType

from console.output import Output

AFTER_S = 0.5
"""Work that is done sooner shows nothing."""
EVERY_S = 0.1


class Progress:
    """One line on the terminal that is rewritten, and gone when the work is done."""

    def __init__(self, out: Output, doing: str, total: int | None = None) -> None:
        self._shown = False
        self._wanted = not out.quiet and sys.stderr.isatty()
        self._doing, self._total = doing, total
        self._next_s = time.monotonic() + AFTER_S

    def at(self, done: int) -> None:
        """So much is done."""
        now_s = time.monotonic()
        if not self._wanted or now_s < self._next_s:
            return
        self._next_s = now_s + EVERY_S
        self._shown = True
        of = f" of {self._total:,}" if self._total else ""
        sys.stderr.write(f"\r\x1b[K{self._doing} {done:,}{of}")
        sys.stderr.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Status:
    """One line on the terminal that says what is under way, and is gone when all is done."""

    def __init__(self, out: Output) -> None:
        self._shown = False
        self._wanted = not out.quiet and sys.stderr.isatty()

    def now(self, doing: str) -> None:
        """This is under way."""
        if self._wanted:
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{doing}")
            sys.stderr.flush()

    def __enter__(self) -> "Status":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
