"""Trouble: what a process says about a server that does not do as it is asked: few lines, however many threads meet it.

One line when a cause is first met, at the level that the error table gives it, then one after 1, 2, 4 … 30 s for as
long as it lasts, and one when all who met it can work again. All members and producers of a process share it: the
cause is the server, not the group.
"""

import os
import threading
import time
from dataclasses import dataclass, field

from pipeline.errors import MillstreamError
from pipeline.observe.log import get_logger
from pipeline.server.error_map import row_of

FIRST_S, LONGEST_S = 1.0, 30.0
"""Between two lines of one cause, in s."""
FORGET_S = 60.0
"""A cause that was not met for so long is said at once again, in s."""


@dataclass(slots=True)
class _Cause:
    """One kind of refusal, and who has met it and not worked since."""

    said_s: float = -1e9
    wait_s: float = FIRST_S
    met_s: float = -1e9
    since_s: float | None = None
    """When it began; None while nobody is in trouble, or nobody was told."""
    held_back: int = 0
    who: set[int] = field(default_factory=set)


class Trouble:
    """The troubles of one process with one server. Safe for threads."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._log = get_logger("server")
        self._lock = threading.Lock()
        self._causes: dict[str, _Cause] = {}

    def met(self, who: object, error: MillstreamError) -> None:
        """An error that waiting may mend was met by `who`, which tries again."""
        row, now_s = row_of(error), time.monotonic()
        with self._lock:
            cause = self._causes.setdefault(row.code, _Cause())
            if now_s - cause.met_s > FORGET_S:
                cause.wait_s, cause.held_back = FIRST_S, 0
            cause.met_s = now_s
            cause.who.add(id(who))
            if now_s - cause.said_s < cause.wait_s:
                cause.held_back += 1
                return
            if cause.since_s is None:
                cause.since_s = now_s
            else:
                cause.wait_s = min(2 * cause.wait_s, LONGEST_S)
            cause.said_s = now_s
            fields = {"held_back": cause.held_back} if cause.held_back else {}
            cause.held_back = 0
        say = getattr(self._log, row.level)
        say("trouble with the server, trying again", server=self._server, error=str(error), **fields)

    def over(self, who: object) -> None:
        """`who` has got something done."""
        if not self._causes:
            return
        with self._lock:
            mine = [cause for cause in self._causes.values() if id(who) in cause.who]
            for cause in mine:
                cause.who.discard(id(who))
            said = [cause for cause in self._causes.values() if cause.since_s is not None]
            if not mine or not said or any(cause.who for cause in said):
                return
            since_s = min(cause.since_s for cause in said if cause.since_s is not None)
            for cause in said:
                cause.since_s = None
                # In turns, it lasts: the next line is no sooner for it.
                cause.wait_s = min(2 * cause.wait_s, LONGEST_S)
        self._log.info(
            "the server works again", server=self._server, after_s=round(time.monotonic() - since_s, 1)
        )

    def left(self, who: object) -> None:
        """`who` has ended: its trouble is nobody's any more."""
        with self._lock:
            for cause in self._causes.values():
                cause.who.discard(id(who))


_troubles: dict[str, Trouble] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    # A thread of the parent's may have held a lock just then: nobody would ever release it here.
    global _lock
    _lock = threading.Lock()
    for trouble in _troubles.values():
        trouble._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def trouble_with(server: str) -> Trouble:
    """The troubles of this process with the server at this address (shown without its password)."""
    with _lock:
        return _troubles.setdefault(server, Trouble(server))
