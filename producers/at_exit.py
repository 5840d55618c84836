"""At exit: what still holds events when the process ends or forks, and what is done about it.

Producers are closed, and log shippers flushed, in bounded time; in a forked child they begin with nothing.
"""

import atexit
import os
import sys
import weakref
from typing import Protocol


class Holder(Protocol):
    """Holds events that may not be lost silently."""

    def at_exit(self) -> None:
        """Send what is held, in bounded time, and say what could not be sent."""

    def after_fork(self) -> None:
        """Begin with nothing, in a forked child: what is held is the parent's."""


_holders: "weakref.WeakSet[Holder]" = weakref.WeakSet()
_finalized_in = -1
_registered = False


def keep(holder: Holder) -> None:
    """Look after a holder for as long as it lives."""
    global _registered
    _holders.add(holder)
    # Not before: by now all that a holder stands on is imported, and what was registered last is called first.
    if not _registered:
        _registered = True
        atexit.register(_at_exit)


def forget(holder: Holder) -> None:
    """It holds nothing any more."""
    _holders.discard(holder)


def started() -> None:
    """To be called when a holder starts to send: a child of multiprocessing ends without running atexit."""
    global _finalized_in
    if _finalized_in == os.getpid():
        return
    _finalized_in = os.getpid()
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _at_exit, exitpriority=10)


def _at_exit() -> None:
    for holder in list(_holders):
        holder.at_exit()


def _after_fork() -> None:
    for holder in list(_holders):
        holder.after_fork()


os.register_at_fork(after_in_child=_after_fork)
