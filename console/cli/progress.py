"""Progress: how far long work has come, on stderr, and only where a person watches."""

import shutil
import sys
import time
from collections import deque
from types import TracebackType

from console.output import Output
from console.safe_text import safe
from pipeline.units import show_duration

AFTER_S = 0.5
"""Work that is done sooner shows nothing."""
EVERY_S = 0.1
OVER_S = 5.0
"""A rate is that of the last so many seconds."""
BAR_CELLS = 20


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


class Bar:
    """A bar with count, rate and the time that is left: one line on the terminal, gone when the work is done."""

    def __init__(self, out: Output, doing: str, total: int, *, done: int = 0) -> None:
        self.wanted = not out.quiet and sys.stderr.isatty()
        """Whether somebody sees it."""
        self._shown = False
        self._doing, self._total = doing, total
        self._seen = deque([(time.monotonic(), done)])
        self._next_s = time.monotonic() + AFTER_S

    def at(self, done: int, note: str = "") -> None:
        """So much is done in all; note: what else is to be said just now."""
        now_s = time.monotonic()
        if not self.wanted or now_s < self._next_s:
            return
        self._next_s = now_s + EVERY_S
        self._shown = True
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - OVER_S:
            self._seen.popleft()
        then_s, before = self._seen[0]
        per_s = (done - before) / (now_s - then_s) if now_s > then_s else 0.0
        room = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{bar_line(self._doing, done, self._total, per_s, safe(note))[:room]}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away, for something else to be said."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def bar_line(doing: str, done: int, total: int, per_s: float, note: str = "") -> str:
    """The line of a Bar: `handed over [#####---------------]  1,250 of 5,000  480/s  7.8 s left`."""
    share = min(done / total, 1.0) if total else 1.0
    full = int(share * BAR_CELLS)
    left = f"  {show_duration((total - done) / per_s * 1_000)} left" if per_s > 0 and done < total else ""
    rate = f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"
    bar = f"[{'#' * full}{'-' * (BAR_CELLS - full)}]"
    said = f"  {note}" if note else ""
    return f"{doing} {bar}  {done:,} of {total:,}  {rate}{left}{said}"


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
