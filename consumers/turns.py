"""Turns: which of two threads reads, so that the one that reads may run handlers too.

A change of threads costs more than most handlers take, so whoever reads an event runs a quick handler itself. Should
that take longer than expected, the other thread takes the turn and reads on; the first stands by once it is back.
Nothing is lost with a turn: a thread lends itself to handlers only while it has nothing under way.
"""

import threading

STALL_S = 0.02
"""A handler that takes longer costs the thread that runs it its turn to read, in s."""


class Turns:
    """One thread has the turn; the other stands by, and looks on while handlers run in the one that has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bell = threading.Lock()
        """Released to call the thread that stands by."""
        self._bell.acquire()
        self._holder: object = None
        self._lent = False
        """The thread that has the turn runs handlers."""
        self._times = 0
        """How often it began to."""
        self._watched = False
        """The thread that stands by looks every STALL_S whether it gets on, and need not be called."""
        self._over = threading.Event()
        self.attended = False
        """A thread stands by: the one that has the turn may lend itself."""

    def wait(self, me: object) -> bool:
        """Stand by until the turn is the caller's; False once reading is over."""
        with self._lock:
            if self._holder is None:
                self._holder = me
                return True
            self.attended = True
        while not self._over.is_set():
            seen = self._times
            called = self._bell.acquire(timeout=STALL_S if self._watched else -1)
            with self._lock:
                if self._lent and self._times == seen and not called:
                    self._holder, self._lent = me, False
                    self.attended = self._watched = False
                    return True
                # First this, then the look, and the other way round in lend(): one of the two sees what the other did.
                self._watched = False
                self._watched = self._lent or self._times != seen
        return False

    def lend(self) -> None:
        """The caller, whose turn it is, begins to run handlers."""
        self._times += 1
        self._lent = True
        if not self._watched:
            with self._lock:
                self._call()

    def back(self, me: object) -> bool:
        """The handlers have ended; whether it is still the caller's turn."""
        with self._lock:
            mine = self._holder is me
            if mine:
                self._lent = False
            return mine

    def end(self, me: object) -> None:
        """The caller reads no more: reading is over, unless it is another's turn by now."""
        with self._lock:
            if self._holder is me:
                self._over.set()
                self._call()

    def await_end(self, timeout_s: float) -> None:
        """Wait until reading is over, for at most so long."""
        self._over.wait(timeout_s)

    def _call(self) -> None:
        if self._bell.locked():
            self._bell.release()
