"""Receipt: what a send returns, and where its end can be read or waited for.

What is settled is an Ending, one per chunk, by the sender's thread; receipts look there, so that a send that went
well costs nothing more. What failed and was never looked at is not forgotten: Failures keeps it for the log, for
on_error and for close().
"""

import asyncio
import threading
import time
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeAlias

from pipeline.errors import MillstreamError, NotConfirmed, SendError, SendUnknownError
from pipeline.server.append import Appended
from pipeline.units import show_duration
from producers.batch import Chunk, Fate, Settled

_Future: TypeAlias = "asyncio.Future[None]"
_GRAVEST = (Fate.UNKNOWN, Fate.FAILED, Fate.DROPPED, Fate.NOT_REACHED)


class Confirmation:
    """A send that is in the stream at the level asked for."""

    __slots__ = ("_receipt", "level")

    def __init__(self, receipt: "Receipt", level: str) -> None:
        self._receipt = receipt
        self.level = level
        """The level reached: accepted, fsynced, replicated:N or durable:N."""

    @property
    def entry_ids(self) -> Sequence[str]:
        """Where its events stand, in the order they were given; events of one pack share an entry."""
        return self._receipt.entry_ids

    @property
    def event_ids(self) -> Sequence[str]:
        """The ids of its events."""
        return self._receipt.event_ids

    @property
    def entry_id(self) -> str:
        """Where the event stands; of send_many, the first."""
        return self._receipt.entry_id

    @property
    def event_id(self) -> str:
        """The id of the event; of send_many, the first."""
        return self._receipt.event_id

    def __repr__(self) -> str:
        return f"Confirmation(entry_id={self.entry_id!r}, event_id={self.event_id!r}, level={self.level!r})"


class Failures:
    """Failed sends that nobody has looked at yet."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may wait for a receipt, too
        """Guards the waiters of all receipts of one producer."""
        self.dropped: deque[SendError] = deque(maxlen=10_000)
        """Errors of receipts that were thrown away unread, to be reported by the sender."""
        self.unread = 0
        """Failed receipts not looked at: those thrown away, and those still held by somebody."""
        self.first: SendError | None = None
        self.waited: weakref.WeakMethod[Callable[[], None]] | None = None
        """To be called when somebody begins to wait for an end: of the sender, which a receipt does not keep."""

    def attend(self) -> None:
        """Somebody waits for an end. Not with the lock held: the sender's comes first."""
        call = self.waited and self.waited()
        if call is not None:
            call()


class _Unread:
    """An error until somebody reads it. Its end unread is the end of its receipt: nobody can read it any more."""

    __slots__ = ("_failures", "error", "read")

    def __init__(self, error: SendError, failures: Failures) -> None:
        self.error = error
        self.read = False
        self._failures = failures
        failures.unread += 1
        failures.first = failures.first or error

    def look(self) -> SendError:
        """The error, which is read from now on."""
        if not self.read:
            self.read = True
            self._failures.unread -= 1
        return self.error

    def __del__(self) -> None:
        # May run in any thread and under any lock: it only leaves a note.
        if not self.read:
            self._failures.dropped.append(self.error)


class Ending:
    """How the sending of one chunk ended, as soon as it is known; shared by the receipts of its events."""

    __slots__ = (
        "_starts", "appended", "entries", "error", "events", "failures", "fate", "first", "index", "level", "number",
        "producer", "stream", "waiters",
    )  # fmt: skip

    def __init__(
        self, failures: Failures, producer: str, level: str, stream: str = "", *, index: int = 0
    ) -> None:
        self.failures = failures
        self.producer = producer
        self.level = level
        self.stream = stream
        self.index = index
        """Of send_many: which of its events is the chunk's first."""
        self.number = 0
        """Of events that waited for their packs: the number of the first."""
        self.fate: Fate | None = None
        self.error: MillstreamError | None = None
        self.appended: Appended | None = None
        self.first = 0
        """Where its first entry stands in the batch."""
        self.entries = 0
        self.events = 0
        self.waiters: list[threading.Event | _Future] | None = None
        self._starts: Sequence[int] | None = None

    def packed(self, number: int, starts: Sequence[int]) -> None:
        """Its events stand in packs: the number of the first event, and which event each pack begins with."""
        self.number = number
        self._starts = starts

    def settle(self, chunk: Chunk, first: int, settled: Settled) -> None:
        """Note the end. With Failures.lock held."""
        self.entries = chunk.entries
        self.events = chunk.events
        self.first = first
        # Nothing here leads to the batch itself: a receipt that is kept keeps nothing else.
        self.appended = settled.appended
        self.error = settled.error
        self.stream = settled.stream
        self.fate = settled.fate

    def entry_id(self, position: int) -> str:
        """Where the event at this place of the chunk stands; empty if it is not known to be in the stream."""
        appended = self.appended
        if appended is None:
            return ""
        entry = position if self._starts is None else bisect_right(self._starts, position) - 1
        if appended.skipped:  # spelled out, as some of the batch were in the stream before
            return appended.entry_ids(self.first + entry + 1)[-1]
        return f"{appended.first_ms}-{appended.first_seq + self.first + entry}"

    def entry_ids(self) -> list[str]:
        """Where all its events stand."""
        appended = self.appended
        if appended is None:
            return []
        ids = appended.entry_ids(self.first + self.entries)[self.first :]
        if self._starts is None:
            return ids if self.entries == self.events else ids * self.events
        ends = [*self._starts[1:], self.events]
        return [
            entry_id
            for entry_id, start, end in zip(ids, self._starts, ends, strict=True)
            for _ in range(end - start)
        ]

    def take(self, receipts: Sequence["Receipt"]) -> None:
        """Be the ending of these receipts of one event each, in the order of the chunk."""
        for position, receipt in enumerate(receipts):
            receipt._position = position
            receipt._ending = self

    def add_waiter(self, waiter: "threading.Event | _Future", receipt: "Receipt") -> bool:
        """False if it has ended meanwhile."""
        with self.failures.lock:
            if self.fate is not None:
                return False
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(waiter)
        self.failures.attend()
        return True


class Awaited(Ending):
    """The ending of events that are in no chunk yet: their receipts get that of their chunk in its place."""

    __slots__ = ("_waiting",)

    def __init__(self, failures: Failures, producer: str, level: str) -> None:
        super().__init__(failures, producer, level)
        self._waiting: list[tuple[threading.Event | _Future, Receipt]] = []

    def add_waiter(self, waiter: "threading.Event | _Future", receipt: "Receipt") -> bool:
        """Wait for the ending that the receipt is to get; False if it has got one, and that has ended."""
        with self.failures.lock:
            waits = receipt._ending is self
            if waits:
                self._waiting.append((waiter, receipt))
        if waits:
            self.failures.attend()
            return True
        return receipt._ending.add_waiter(waiter, receipt)

    def hand_over(self) -> None:
        """Have those wait for the right ending whose receipts have got it. Before that can end."""
        with self.failures.lock:
            waiting, self._waiting = self._waiting, []
            for waiter, receipt in waiting:
                if receipt._ending is self:
                    self._waiting.append((waiter, receipt))
                else:
                    receipt._ending.add_waiter(waiter, receipt)


class Receipt:
    """The end of one send, as soon as it is known: `receipt.result()`, or `await receipt`."""

    __slots__ = ("_ending", "_failure", "_id", "_number", "_position")
    _events = 1

    _ending: Ending
    """That of its chunk, as soon as it is in one."""
    _number: int
    _id: str
    _failure: _Unread | bool | None
    _position: int
    """In its chunk, as soon as it is in one."""

    @staticmethod
    def of(ending: Ending, number: int, given: str = "") -> "Receipt":
        """The receipt of an event with this number, or with an id that was given."""
        receipt = Receipt()
        receipt._ending = ending
        receipt._number = number
        if given:
            receipt._id = given
        return receipt

    # Nearly all were given no id and have not failed: to write that into each would take its time in every send.

    @property
    def _given(self) -> str:
        """The id that was given for the event."""
        try:
            return self._id
        except AttributeError:
            return ""

    @property
    def _unread(self) -> _Unread | bool | None:
        """The failure, if there is one; False: nobody is to be told of it."""
        try:
            return self._failure
        except AttributeError:
            return None

    @_unread.setter
    def _unread(self, unread: _Unread | bool | None) -> None:
        self._failure = unread

    @property
    def _endings(self) -> Sequence[Ending]:
        """Those of all chunks that its events are in."""
        return (self._ending,)

    @property
    def done(self) -> bool:
        """Whether the send has ended, well or not."""
        return all(ending.fate is not None for ending in self._endings)

    @property
    def events(self) -> int:
        """How many events were sent."""
        return self._events

    @property
    def event_ids(self) -> list[str]:
        """The ids of the events, known before they are confirmed (those of packs by send(): once they are sent)."""
        return [self.event_id]

    @property
    def event_id(self) -> str:
        """The id of the event; of send_many, the first. Empty for one that is not in its pack yet."""
        ending = self._ending
        number = self._number or (ending.number and ending.number + self._position)
        return self._given or (f"{ending.producer}-{number}" if number else "")

    @property
    def entry_ids(self) -> list[str]:
        """Where the events stand, as far as they are known to be in the stream; in the order they were given."""
        entry_id = self.entry_id
        return [entry_id] if entry_id else []

    @property
    def entry_id(self) -> str:
        """Where the event stands, or the first of several; empty until it is known to be in the stream."""
        ending = self._ending
        return ending.entry_id(self._position) if ending.appended else ""

    @property
    def error(self) -> SendError | None:
        """Why the send failed; None while it is under way and after it went well. Reading it counts as looking."""
        with self._endings[0].failures.lock:  # whoever settles just now has set the end before the error
            return self._unread.look() if isinstance(self._unread, _Unread) else None

    def result(self, timeout: float | None = None) -> Confirmation:
        """Wait for the end of the send, at most `timeout` seconds (None: as long as the send may take).

        Raises:
            SendError: not in the stream. SendUnknownError: perhaps in the stream. NotConfirmed: in the stream, but
                the confirm level was not reached in time. TimeoutError: not ended within `timeout`.
        """
        if self._ending.fate is Fate.CONFIRMED:
            return Confirmation(self, self._ending.level)
        return self._wait(timeout)

    def _wait(self, timeout: float | None) -> Confirmation:
        until_s = None
        for ending in self._endings:
            if ending.fate is Fate.CONFIRMED:
                continue
            if ending.fate is None:
                ended = threading.Event()
                if timeout is not None and until_s is None:
                    until_s = time.monotonic() + timeout
                if ending.add_waiter(ended, self) and not ended.wait(
                    None if until_s is None else max(until_s - time.monotonic(), 0)
                ):
                    raise TimeoutError(
                        f"the send has not ended within {show_duration((timeout or 0) * 1_000)}; it goes on"
                    )
        return self._result()

    def __await__(self) -> Generator[object, None, Confirmation]:
        for ending in self._endings:
            if ending.fate is None:
                future: _Future = asyncio.get_running_loop().create_future()
                if ending.add_waiter(future, self):
                    yield from future.__await__()
        return self._result()

    def __repr__(self) -> str:
        if not self.done:
            return f"<Receipt of {self._events:,} events, under way>"
        unread = self._unread
        state = (
            f"failed: {unread.error}" if isinstance(unread, _Unread) else f"in the stream at {self.entry_id}"
        )
        return f"<Receipt of {self._events:,} events, {state}>"

    def _disregard(self) -> None:
        """Whoever holds it looks after failures: they are nobody else's business."""
        self._unread = self._unread or False

    def _result(self) -> Confirmation:
        for ending in self._endings:
            if ending.fate is not Fate.CONFIRMED:
                break
        else:
            return Confirmation(self, ending.level)
        error = self.error
        if error is not None:
            raise error.with_traceback(None)
        return Confirmation(self, self._endings[0].level)

    def _failed(self) -> None:
        """A part of it did not go well: once all of it has ended, that is kept for who looks. With the lock held."""
        if isinstance(self._unread, _Unread) or self._endings[-1].fate is None or not self.done:
            return
        bad: dict[Fate | None, Ending] = {
            ending.fate: ending for ending in reversed(self._endings) if ending.fate is not Fate.CONFIRMED
        }
        if not bad:
            return
        silent = (
            self._unread is False or Fate.DROPPED in bad
        )  # the latter is what when_full=drop_oldest asks for
        self._unread = unread = _Unread(self._judge(bad), self._endings[0].failures)
        if silent:
            unread.look()

    def _judge(self, bad: "dict[Fate | None, Ending]") -> SendError:
        """One error for all parts: what is in doubt outweighs what failed, which outweighs a level not reached."""
        fate = next(fate for fate in _GRAVEST if fate in bad)
        cause = bad[fate].error
        why = f": {cause}" if cause else ""
        count = f" ({len(self.entry_ids):,} of {self._events:,} events are in it)" if self._events > 1 else ""
        where = f"stream {bad[fate].stream!r}{count}"
        if fate is Fate.NOT_REACHED:
            error: SendError = NotConfirmed(
                f"in {where}, but confirm={bad[fate].level} was not reached in time{why}",
                entry_id=self.entry_id,
                reached="accepted",
            )
        elif fate is Fate.UNKNOWN:
            error = SendUnknownError(f"may or may not be in {where}{why}")
        else:
            error = SendError(f"not in {where}{why}")
        error.__cause__ = cause
        return error


class ReceiptOfMany(Receipt):
    """The end of one send of many events, in as many chunks as it took."""

    __slots__ = ("_all", "_events", "_ids")

    def __init__(self, number: int, events: int, given: "dict[int, str] | None" = None) -> None:
        self._all: list[Ending] = []
        self._events = events
        self._ids = given or {}
        self._number = number
        self._unread = None

    @property
    def _endings(self) -> Sequence[Ending]:
        return self._all

    def result(self, timeout: float | None = None) -> Confirmation:
        """As Receipt.result()."""
        return self._wait(timeout)

    def add_ending(self, ending: Ending) -> None:
        """One more of its chunks has this ending."""
        self._all.append(ending)

    @property
    def event_ids(self) -> list[str]:
        """The ids of the events."""
        producer = self._all[0].producer
        return [self._ids.get(i) or f"{producer}-{self._number + i}" for i in range(self._events)]

    @property
    def event_id(self) -> str:
        """The id of the first event."""
        return self._ids.get(0) or (f"{self._all[0].producer}-{self._number}" if self._number else "")

    @property
    def entry_ids(self) -> list[str]:
        """Where the events stand, as far as they are known to be in the stream; in the order they were given."""
        return [entry_id for ending in self._all for entry_id in ending.entry_ids()]

    @property
    def entry_id(self) -> str:
        """Where the first of its events stands that is known to be in the stream."""
        return next((ending.entry_id(0) for ending in self._all if ending.appended and ending.events), "")


def settle(settled: Iterable[Settled], failures: Failures) -> None:
    """Settle the receipts of all these chunks and wake whoever waits for them: one call per event loop."""
    woken: list[threading.Event | _Future] = []
    with failures.lock:
        for one in settled:
            first = 0
            for chunk in one.chunks:
                ending: Ending = chunk.ending
                ending.settle(chunk, first, one)
                first += chunk.entries
                # A receipt of several chunks hears of each: what failed before counts once the last has ended.
                if one.fate is not Fate.CONFIRMED or isinstance(chunk.receipts[0], ReceiptOfMany):
                    for receipt in chunk.receipts:
                        receipt._failed()
                if ending.waiters:
                    woken += ending.waiters
                    ending.waiters = None
    loops: dict[asyncio.AbstractEventLoop, list[_Future]] = {}
    for waiter in woken:
        if isinstance(waiter, threading.Event):
            waiter.set()
        else:
            loops.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, futures in loops.items():
        wake_futures(loop, futures)


def wake_futures(loop: asyncio.AbstractEventLoop, futures: Sequence[_Future]) -> None:
    """Complete futures of a loop from another thread."""
    try:
        loop.call_soon_threadsafe(_complete, futures)
    except RuntimeError:
        return  # the loop is closed: nobody awaits them any more


def _complete(futures: Sequence[_Future]) -> None:
    for future in futures:
        if not future.done():  # else its task was cancelled; the send goes on without it
            future.set_result(None)
