"""ListWatcher: waits at a list queue while its member has room and nothing to do, and has tasks added to its stream.

What the server hands over lies in the list's hand, which belongs to nobody, until the next step moves it into the
stream. That step is sent together with the wait, so the server carries it out at once, even if the watcher has been
killed meanwhile; and any other member's step moves what lies in the hand too. So a half-open connection loses nothing.
"""

import time

from consumers.reader import SLACK_MS
from consumers.state import MemberState
from pipeline.backoff import Backoff
from pipeline.errors import AccessDeniedError, MillstreamError
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.lists import feed_command, hand_over_command, parse_fed
from pipeline.server.replies import Reply
from pipeline.server.scripts import script

LOOK_S = 0.5
"""A watcher that is not needed looks again after this, in s, even if nothing woke it."""
LANDS_S = 0.1
"""What was added to the stream wakes the member's own reader within this, in s, or it was another's that it woke."""
POLL = Backoff(initial_ms=20, longest_ms=250, jitter=0.2)
"""Between looks where the server cannot wait: at a sorted set, while it is out of memory, or if BLMOVE is denied."""
DENIED_S = 60.0
"""Where BLMOVE is denied, it is tried again after this, in s: rights may be given later."""


class ListWatcher:
    """The waiting side of one member of a list queue."""

    def __init__(self, state: MemberState, options: ListOptions, *, block_ms: int) -> None:
        self._state = state
        self._options = options
        self._block_ms = block_ms
        self._idle = 0
        """So many looks in a row found nothing."""
        self._pause_s = 0.0
        """So long it is waited until the next one."""
        self._looks_until_s = 0.0
        """Until then waiting at the server is not tried."""
        self._denied = False

    def run(self, link: Link) -> None:
        """Watch over this link until the member stops.

        Raises:
            NoSuchGroupError: the group is lost; join again, then run with the same link or another.
            NotConnectedError: the link broke. Other errors: what the server refused.
        """
        state = self._state
        client = link.calls([("CLIENT", "ID")])[0]
        state.watcher_client = 0 if isinstance(client, MillstreamError) else int(client)
        while not state.stopping:
            if state.reader_waits.wait(LOOK_S) and not state.waiting:
                self.run_once(link)

    def run_once(self, link: Link) -> int:
        """Wait for a task and have it added to the stream, if the reader waits for one; how many were."""
        state = self._state
        moved = 0
        state.reader_landed.clear()
        state.watching = True
        try:
            # Looked at only now: the reader, once its wait is over, leaves room for one more if it sees us watching.
            if state.reader_waits.is_set() and not state.stopping:
                looks = self._options.is_sorted or time.monotonic() < self._looks_until_s
                moved = self._look(link) if looks else self._wait(link)
        finally:
            state.watching = False
        if moved:
            self._idle = 0
            state.reader_landed.wait(LANDS_S)
        elif self._pause_s:
            state.stop_asked.wait(self._pause_s)
            self._pause_s = 0.0
        return moved

    def _wait(self, link: Link) -> int:
        """Wait at the server; if it is out of memory, or denies that, look."""
        link.send(
            hand_over_command(self._options, self._block_ms),
            feed_command(self._options, 1, group=self._state.group, hand_only=True),
        )
        handed = link.read_or_error(self._block_ms + SLACK_MS)
        fed = link.read_or_error()
        if isinstance(handed, AccessDeniedError) and handed.code == "NOPERM":
            self._do_without(handed)
            return self._look(link)
        if isinstance(handed, MillstreamError):
            if getattr(handed, "code", "") != "OOM":
                raise handed
            return self._look(link)
        self._denied = False
        return self._moved(link, fed, hand_only=True)

    def _do_without(self, error: AccessDeniedError) -> None:
        """Only look from now on, and say so once. What looking needs is asked of nobody who may not work anyway."""
        self._looks_until_s = time.monotonic() + DENIED_S
        if not self._denied:
            self._denied = True
            self._state.say.warning(
                "waiting denied",
                "may not wait at the list (BLMOVE): looks for tasks every 20 to 250 ms instead",
                list=self._options.name,
                error=str(error),
            )

    def _look(self, link: Link) -> int:
        """Take a task if there is one; else look again a little later."""
        (fed,) = link.calls([feed_command(self._options, 1, group=self._state.group)])
        moved = self._moved(link, fed, hand_only=False)
        if not moved:
            self._idle += 1
            self._pause_s = POLL.wait_ms(self._idle) / 1_000
        return moved

    def _moved(self, link: Link, fed: Reply, *, hand_only: bool) -> int:
        if getattr(fed, "code", "") == "NOSCRIPT":
            link.load(script("list_feed"))
            (fed,) = link.calls(
                [feed_command(self._options, 1, group=self._state.group, hand_only=hand_only)]
            )
        if isinstance(fed, MillstreamError):
            raise fed
        return parse_fed(fed)
