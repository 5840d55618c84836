"""What `millstream tail` makes of events: a line each, or the rate of each level."""

import shutil
import sys
import time
from collections.abc import Iterable
from typing import Protocol

from console.event_view import EventView
from console.level_rates import Folded, Interval, Running, levels_text, summary_text
from console.line_template import LineTemplate
from console.output import Output, as_time, counted
from pipeline.position import parse_entry_id

MOST_INTERVALS = 40
FOLLOW_INTERVAL_MS = 10_000
REDRAW_S = 0.25
_CLEAR = "\r\x1b[2K"


class Shown(Protocol):
    """What is done with the events that were asked for."""

    def add(self, views: Iterable[EventView]) -> None:
        """They came, in this order."""

    def wants_clock(self) -> bool:
        """Whether it is to be told the time now, however few events come."""

    def clock(self, now_ms: int) -> None:
        """It is this time, by the server's clock."""

    def end(self) -> None:
        """No more come: also after Ctrl-C."""


class Lines:
    """A line per event, visible at once while following."""

    def __init__(self, out: Output, follow: bool, *, named: bool, template: LineTemplate | None) -> None:
        self._out, self._follow, self._named, self._template = out, follow, named, template

    def add(self, views: Iterable[EventView]) -> None:
        """Print them."""
        out = self._out
        if out.format == "json" and not self._follow:  # what has no end cannot be one JSON array
            out.values([view.as_json() for view in views])
            return
        colored = out.stdout_colored
        for view in views:
            if self._template is not None:
                out.line(self._template.line(view, colored=colored))
            elif out.for_people:
                out.line(view.as_line(named=self._named, colored=colored))
            else:
                out.item(view.as_json())
        out.flush()

    def wants_clock(self) -> bool:
        """It does not matter when."""
        return False

    def clock(self, now_ms: int) -> None:
        """Nothing changes."""

    def end(self) -> None:
        """All is printed."""


class Rates:
    """A line per interval, and one for all at the end; on a terminal the interval that runs is shown as it grows."""

    def __init__(self, out: Output, follow: bool, interval_ms: int | None) -> None:
        self._out, self._follow = out, follow
        self._running: Running | None = None
        self._folded: Folded | None = None
        if follow or interval_ms is not None:
            self._running = Running(interval_ms or FOLLOW_INTERVAL_MS)
        else:
            self._folded = Folded(MOST_INTERVALS)
        self._live = follow and out.for_people and sys.stdout.isatty()
        self._looked_s = 0.0
        self._kept: list[Interval] = []

    def add(self, views: Iterable[EventView]) -> None:
        """Count them, by the time at which the server took them."""
        for view in views:
            at_ms = parse_entry_id(view.entry_id)[0]
            if self._folded is not None:
                self._folded.add(at_ms, view.data)
            elif self._running is not None:
                self._over(self._running.add(at_ms, view.data))

    def wants_clock(self) -> bool:
        """Not more often than a person sees it."""
        now_s = time.monotonic()
        if now_s < self._looked_s + REDRAW_S:
            return False
        self._looked_s = now_s
        return True

    def clock(self, now_ms: int) -> None:
        """Show what is over, and on a terminal what runs."""
        if self._running is None:
            return
        self._over(self._running.clock(now_ms, empty=True))
        now = self._running.running()
        if self._live and now is not None:
            room = shutil.get_terminal_size().columns - 1
            sys.stdout.write(_CLEAR + _line(now)[:room])
            sys.stdout.flush()

    def end(self) -> None:
        """What was not over yet, and the sum."""
        if self._folded is not None:
            whole, last = self._folded.whole, self._folded.intervals()
        else:
            assert self._running is not None, "one of both is there"
            now = self._running.running()
            whole, last = self._running.whole, [now] if now is not None and now.tally.events else []
        self._over(last)
        out = self._out
        if out.for_people:
            out.line((_CLEAR if self._live else "") + summary_text(whole))
        elif out.format == "json" and not self._follow:
            out.values([each.as_json() for each in self._kept] + [{"total": True} | whole.as_json()])
        else:
            out.item({"total": True} | whole.as_json())
        out.flush()

    def _over(self, intervals: list[Interval]) -> None:
        out = self._out
        for each in intervals:
            if out.for_people:
                out.line((_CLEAR if self._live else "") + _line(each))
            elif out.format == "json" and not self._follow:
                self._kept.append(each)
            else:
                out.item(each.as_json())
        if intervals:
            out.flush()


def _line(one: Interval) -> str:
    count = one.tally.events
    per_s = count * 1_000 / one.length_ms
    levels = levels_text(one.tally)
    return f"{as_time(one.begin_ms)[:19]}  {counted(count, 'event')}, {per_s:,.1f}/s" + (
        f": {levels}" if levels else ""
    )
