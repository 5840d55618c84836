"""Throttle: keeps a replay to its rate and a bounded distance ahead of its group, and tells how far it has come."""

import time
from collections.abc import Callable

from consumers.persistent import Persistent
from pipeline.keys import StreamKeys
from pipeline.pace import Pace
from pipeline.replay_plan import ReplayProgress
from pipeline.server.groups import MAX_IDS

AHEAD_ENTRIES = 5_000
"""A replay waits while its group has so many entries before it in its own stream."""
AHEAD_BYTES = 64_000_000
"""And while these hold more than this, reckoned by the sizes that were handed over."""
LOOK_S = 0.1
"""While it waits, it looks again after this."""
BEHIND_S = 1.0
"""Of the time that was lost by waiting, no more than this is made up for: the rate is steady."""
TellProgress = Callable[[ReplayProgress], None]


class Throttle:
    """Asked before each step of one run of a replay, and told after it."""

    def __init__(
        self,
        server: Persistent,
        keys: StreamKeys,
        group: str,
        *,
        planned: int,
        handed_over: int = 0,
        rate: float | None = None,
        progress: TellProgress | None = None,
    ) -> None:
        self._server = server
        self._key = keys.again(group)
        self._planned = planned
        self._rate = rate
        self._pace = Pace(time.monotonic(), rate)
        self._paced = 0  # events since the pace began
        self._progress = progress
        self._events = self._bytes = 0
        self.handed_over = handed_over
        self._waiting: int | None = None
        """Entries in the group's own stream when it was last looked at; None: not since a step."""
        self._trouble = ""
        server.say = self._said

    def most(self) -> int:
        """How many events the next step may hand over."""
        return self._pace.most(min(MAX_IDS, AHEAD_ENTRIES))

    def before(self) -> None:
        """Return when the next step may go."""
        while self._full():
            self._tell(held_up=True)
            time.sleep(LOOK_S)
            self._waiting = None
        now_s = time.monotonic()
        wait_s = self._pace.wait_s(self._paced, now_s)
        if wait_s:
            time.sleep(wait_s)
        if self._rate is not None and now_s - self._pace.begun_s - self._paced / self._rate > BEHIND_S:
            self._pace, self._paced = Pace(now_s, self._rate), 0

    def after(
        self, events: int, size_bytes: int, *, handed_over: int | None = None, waiting: int | None = None
    ) -> None:
        """So many events were handed over; handed_over: in all, waiting: before the group, where these are known."""
        self._paced += events
        self._events += events
        self._bytes += size_bytes
        self.handed_over = self.handed_over + events if handed_over is None else handed_over
        self._waiting = waiting
        self._tell()

    def _full(self) -> bool:
        if self._waiting is None:
            self._waiting = int(self._server.ask(lambda link: link.call("XLEN", self._key)))
        mean = self._bytes / self._events if self._events else 0
        return self._waiting >= AHEAD_ENTRIES or self._waiting * mean >= AHEAD_BYTES

    def _said(self, trouble: str) -> None:
        self._trouble = trouble
        self._tell()

    def _tell(self, *, held_up: bool = False) -> None:
        if self._progress is not None:
            self._progress(
                ReplayProgress(
                    handed_over=self.handed_over,
                    planned=self._planned,
                    waiting=self._waiting or 0,
                    held_up=held_up,
                    trouble=self._trouble,
                )
            )
