"""Receipt: what a send returns, and where its end can be read or waited for.

A receipt is settled once, by the sender's thread, part by part: a send has one part, send_many one per entry. What
failed and was never looked at is not forgotten: Failures keeps it for the log, for on_error and for close().
"""

import asyncio
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.errors import MillstreamError, NotConfirmed, SendError, SendUnknownError
from pipeline.server.append import Appended
from pipeline.units import show_duration
from producers.batch import Entry, Fate, Settled

_Future: TypeAlias = "asyncio.Future[None]"
_GRAVEST = (Fate.UNKNOWN, Fate.FAILED, Fate.DROPPED, Fate.NOT_REACHED)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A send that is in the stream at the level asked for."""

    entry_ids: Sequence[str]
    """Where its events stand, in the order they were given; events of one pack share an entry."""
    event_ids: Sequence[str]
    """The ids of its events."""
    level: str
    """The level reached: accepted, fsynced, replicated:N or durable:N."""

    @property
    def entry_id(self) -> str:
        """Where the event stands; of send_many, the first."""
        return self.entry_ids[0]

    @property
    def event_id(self) -> str:
        """The id of the event; of send_many, the first."""
        return self.event_ids[0]


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


class Receipt:
    """The end of one send, as soon as it is known: `receipt.result()`, or `await receipt`."""

    __slots__ = (
        "_ended",
        "_events",
        "_failures",
        "_first",
        "_given",
        "_level",
        "_open",
        "_parts",
        "_producer",
        "_silent",
        "_unread",
        "_waiters",
    )

    def __init__(
        self,
        failures: Failures,
        producer: str,
        level: str,
        first_number: int,
        events: int = 1,
        given: dict[int, str] | None = None,
    ) -> None:
        self._failures = failures
        self._producer = producer
        self._level = level
        self._first = first_number
        self._events = events
        self._given = given
        self._open = 1 if events else 0
        # Of each entry in the stream: its first event, how many it holds, and where it stands in its batch. Nothing
        # here leads to the batch itself: a receipt that is kept keeps nothing else.
        self._parts: list[tuple[int, int, Appended, int]] = []
        self._ended: dict[Fate, tuple[str, MillstreamError | None]] = {}
        self._silent = False
        self._unread: _Unread | None = None
        self._waiters: list[threading.Event | _Future] | None = None

    @property
    def done(self) -> bool:
        """Whether the send has ended, well or not."""
        return self._open == 0

    @property
    def events(self) -> int:
        """How many events were sent."""
        return self._events

    @property
    def event_ids(self) -> list[str]:
        """The ids of the events, known before they are confirmed (those of packs by send(): once they are sent)."""
        given = self._given or {}
        return [given.get(i) or f"{self._producer}-{self._first + i}" for i in range(self._events)]

    @property
    def event_id(self) -> str:
        """The id of the event; of send_many, the first."""
        return self.event_ids[0]

    @property
    def entry_ids(self) -> list[str]:
        """Where the events stand, as far as they are known to be in the stream; in the order they were given."""
        parts = sorted(self._parts, key=lambda part: part[0])
        batches: dict[int, tuple[Appended, int]] = {}
        for _, _, appended, position in parts:
            _, most = batches.get(id(appended), (appended, 0))
            batches[id(appended)] = (appended, max(most, position + 1))
        known = {batch: appended.entry_ids(most) for batch, (appended, most) in batches.items()}
        return [
            known[id(appended)][position] for _, events, appended, position in parts for _ in range(events)
        ]

    @property
    def entry_id(self) -> str:
        """Where the event stands, or the first of several; empty until it is known to be in the stream."""
        if len(self._parts) == 1:  # without spelling out the ids of a whole batch
            _, _, appended, position = self._parts[0]
            if not appended.skipped:
                return f"{appended.first_ms}-{appended.first_seq + position}"
        ids = self.entry_ids
        return ids[0] if ids else ""

    @property
    def error(self) -> SendError | None:
        """Why the send failed; None while it is under way and after it went well. Reading it counts as looking."""
        return self._unread.look() if self._unread is not None else None

    def result(self, timeout: float | None = None) -> Confirmation:
        """Wait for the end of the send, at most `timeout` seconds (None: as long as the send may take).

        Raises:
            SendError: not in the stream. SendUnknownError: perhaps in the stream. NotConfirmed: in the stream, but
                the confirm level was not reached in time. TimeoutError: not ended within `timeout`.
        """
        if self._open:
            self._wait(timeout)
        return self._result()

    def __await__(self) -> Generator[object, None, Confirmation]:
        if self._open:
            loop = asyncio.get_running_loop()
            future: _Future = loop.create_future()
            if self._add_waiter(future):
                yield from future.__await__()
        return self._result()

    def __repr__(self) -> str:
        if self._open:
            return f"<Receipt of {self._events:,} events, under way>"
        state = f"failed: {self._unread.error}" if self._unread else f"in the stream at {self.entry_id}"
        return f"<Receipt of {self._events:,} events, {state}>"

    def _expect(self, entries: int) -> None:
        """So many entries are to be settled."""
        self._open = entries

    def _disregard(self) -> None:
        """Whoever holds it looks after failures: they are nobody else's business."""
        self._silent = True

    def _renumber(self, number: int) -> None:
        """The event got its number only when its pack was made."""
        self._first = number

    def _result(self) -> Confirmation:
        if self._unread is not None:
            raise self._unread.look().with_traceback(None)
        return Confirmation(self.entry_ids, self.event_ids, self._level)

    def _wait(self, timeout: float | None) -> None:
        ended = threading.Event()
        if self._add_waiter(ended) and not ended.wait(timeout):
            raise TimeoutError(
                f"the send has not ended within {show_duration((timeout or 0) * 1_000)}; it goes on"
            )

    def _add_waiter(self, waiter: "threading.Event | _Future") -> bool:
        """False if the receipt was settled meanwhile."""
        with self._failures.lock:
            if not self._open:
                return False
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            return True

    def _settle(
        self, entry: Entry, position: int, settled: Settled
    ) -> "list[threading.Event | _Future] | None":
        """Note the end of one entry; the waiters to wake if it was the last. With Failures.lock held."""
        if settled.appended is not None:
            self._parts.append((entry.index, entry.events, settled.appended, position))
        if settled.fate is not Fate.CONFIRMED:
            self._ended.setdefault(settled.fate, (settled.stream, settled.error))
        self._open -= 1
        if self._open:
            return None
        if self._ended:
            self._unread = _Unread(self._judge(), self._failures)
            if (
                self._silent or Fate.DROPPED in self._ended
            ):  # the latter is what when_full=drop_oldest asks for
                self._unread.look()
        waiters, self._waiters = self._waiters, None
        return waiters

    def _judge(self) -> SendError:
        """One error for all parts: what is in doubt outweighs what failed, which outweighs a level not reached."""
        fate = min(self._ended, key=_GRAVEST.index)
        stream, cause = self._ended[fate]
        why = f": {cause}" if cause else ""
        count = f" ({len(self.entry_ids):,} of {self._events:,} events are in it)" if self._events > 1 else ""
        where = f"stream {stream!r}{count}"
        if fate is Fate.NOT_REACHED:
            error: SendError = NotConfirmed(
                f"in {where}, but confirm={self._level} was not reached in time{why}",
                entry_id=self.entry_id,
                reached="accepted",
            )
        elif fate is Fate.UNKNOWN:
            error = SendUnknownError(f"may or may not be in {where}{why}")
        else:
            error = SendError(f"not in {where}{why}")
        error.__cause__ = cause
        return error


def settle(settled: Iterable[Settled], failures: Failures) -> None:
    """Settle the receipts of all these entries and wake whoever waits for them: one call per event loop."""
    woken: list[threading.Event | _Future] = []
    with failures.lock:
        for one in settled:
            for position, entry in enumerate(one.entries):
                for part in entry.parts or (entry,):
                    waiters = part.receipt._settle(part, position, one)
                    if waiters:
                        woken += waiters
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
