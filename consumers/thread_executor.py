"""ThreadExecutor: plain handlers in threads.

As many threads as are needed take part: where handlers end within microseconds, more than one would only take the
interpreter from each other and from the reader. Killed with the process: what ran is pending and is taken over.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial

from consumers.delivery import Delivery, held_of
from consumers.executors import (
    WAKE_S,
    Finished,
    Queue,
    Work,
    batch_outcomes,
    done,
    done_with,
    drained,
    given_up,
    next_event,
    next_events,
    overdue_of,
    running_of,
)
from consumers.window import Held
from pipeline.declare import ConsumerSpec
from pipeline.event import Event
from pipeline.outcome import after_failure

QUICK_S = 0.000_2
"""Handlers that take less than this on average are run by one thread as long as it gets on, in s."""
STALL_S = 0.002
"""If it has not got on for so long, another takes part, in s."""
STARTING: tuple[Sequence[Event], float] = ((), float("inf"))
"""Marks a thread that is about to take events."""


class _Seat:
    """Where one thread waits: a lock that whoever calls it releases."""

    __slots__ = ("lock", "slot", "stands_by")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.lock = threading.Lock()
        self.lock.acquire()
        self.stands_by = False


class ThreadExecutor:
    """Plain handlers in `concurrency` threads; batch handlers get what gathers within batch_wait."""

    def __init__(
        self, spec: ConsumerSpec, finished: Finished, abandoned: dict[int, Event], wake: Callable[[], None]
    ) -> None:
        self._spec = spec
        self._wants_delivery = spec.wants_delivery  # a look at its signature: once, not per event
        self._finished = finished
        self._abandoned = abandoned
        self._wake = wake
        self._queue: Queue = deque()
        self._idle: deque[_Seat] = deque()
        """Threads that wait; the one that came last is the first to be called."""
        self._gathering = threading.Lock()
        self._arrived = threading.Condition()
        """For a batch that waits for more."""
        self._standing_by = False
        """One of the threads looks whether the others get on."""
        self._mean_s = 1.0
        self._closed = False
        count = 1 if spec.options.executor == "inline" else spec.concurrency
        self._running: list[tuple[Sequence[Event], float] | None] = [None] * count
        work = self._work if spec.options.batch is None else self._work_in_batches
        self._threads = [
            threading.Thread(
                target=work, args=(_Seat(slot),), name=f"millstream-{spec.group}-{slot}", daemon=True
            )
            for slot in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, items: Sequence[Held | Event], *, here: bool = False) -> Work | None:
        """See Executor."""
        seat = self._lent_seat() if here and self._mean_s <= QUICK_S else None
        self._queue.extend(items)
        if seat is not None and len(items) == 1 and isinstance(items[0], Held) and items[0].events == 1:
            return partial(self._work_in_place_of, seat)
        events = sum(item.events if isinstance(item, Held) else 1 for item in items[: len(self._threads)])
        if seat is None:
            for _ in range(events if self._mean_s > QUICK_S else 1):
                if not self._call():
                    break
        if events > 1 and not self._standing_by:
            self._call(stands_by=True)
        if self._spec.options.batch is not None:
            with self._arrived:
                self._arrived.notify_all()
        return None if seat is None else partial(self._work_in_place_of, seat)

    def drain(self) -> list[Held | Event]:
        """See Executor."""
        return drained(self._queue)

    def idle(self) -> bool:
        """See Executor."""
        return not self._queue and not any(self._running)

    def held_by(self, entries: Collection[Held]) -> list[Event]:
        """See Executor."""
        return running_of(self._runs(), entries)

    def give_up(self, event: Event) -> None:
        """See Executor. A thread cannot be stopped: its slot is lost until the handler returns."""

    def overdue(self, now_s: float) -> list[Event]:
        """See Executor."""
        return overdue_of(self._runs(), now_s, self._spec, self._abandoned)

    def exhausted(self) -> bool:
        """See Executor."""
        # What was taken over is given up too, but will return: only max_run tells that a handler never does.
        since_s = time.monotonic() - self._spec.options.max_run_ms / 1_000
        return all(
            run is not None and run[0] and run[1] < since_s and all(map(self._given_up, run[0]))
            for run in list(self._running)
        )

    def haunted(self) -> bool:
        """See Executor."""
        return any(self._given_up(event) for batch, _ in self._runs() for event in batch)

    def cancel_running(self) -> None:
        """See Executor. Threads are left to finish: their entries stay ours until they do, or we are gone."""

    def close(self) -> None:
        """See Executor."""
        self._closed = True
        while self._call():
            pass
        with self._arrived:
            self._arrived.notify_all()

    def _runs(self) -> list[tuple[Sequence[Event], float]]:
        return [run for run in list(self._running) if run is not None]

    def _given_up(self, event: Event) -> bool:
        return given_up(event, self._abandoned)

    def _work(self, seat: _Seat) -> None:
        while self._wait(seat):
            self._run_queue(seat.slot)

    def _work_in_place_of(self, seat: _Seat) -> None:
        """Do in this thread what the one that waits there would be called for."""
        self._run_queue(seat.slot)
        self._running[seat.slot] = None
        self._idle.append(seat)
        if self._queue or self._closed:  # as in _wait
            self._call()

    def _lent_seat(self) -> _Seat | None:
        """The seat of a thread that waits, and goes on waiting; None if all are busy, or take batches."""
        if self._spec.options.batch is not None:
            return None
        try:
            seat = self._idle.pop()
        except IndexError:
            return None
        self._running[seat.slot] = STARTING  # as in _wait
        return seat

    def _run_queue(self, slot: int) -> None:
        """Run what is queued, one event after the other."""
        spec, handler, queue, finished = self._spec, self._spec.handler, self._queue, self._finished
        abandoned = self._abandoned
        wants_delivery, running, monotonic = self._wants_delivery, self._running, time.monotonic
        delivery: Delivery | None = None
        now_s = mark_s = monotonic()
        count = 0
        while event := next_event(queue):
            running[slot] = ((event,), now_s)
            try:
                if wants_delivery:
                    delivery = Delivery(event, spec)
                    handler(event, delivery)
                else:
                    handler(event)
            except BaseException as error:  # noqa: BLE001 - SystemExit in a handler's thread must not cost the event its outcome
                finished.append((event, after_failure(error, held_of(event).attempt, spec.options.retry)))
                if delivery is not None:
                    delivery.end()
            else:
                if delivery is not None and (effects := delivery.end()) is not None:
                    finished.append((event, done_with(effects)))
                else:
                    finished.append(event if abandoned else done(event))
            count += 1
            now_s = monotonic()
            if now_s - mark_s > WAKE_S:
                self._note((now_s - mark_s) / count)
                mark_s, count = now_s, 0
                self._wake()
        if count:
            self._note((now_s - mark_s) / count)

    def _note(self, mean_s: float) -> None:
        """Note how long handlers took just now. One that took long, once, is not yet a slow one."""
        before_s = self._mean_s
        self._mean_s = mean_s if mean_s < before_s else before_s + (mean_s - before_s) / 4

    def _work_in_batches(self, seat: _Seat) -> None:
        spec, slot, woken_s = self._spec, seat.slot, 0.0
        while self._wait(seat):
            while batch := self._gather():
                self._running[slot] = (batch, time.monotonic())
                try:
                    result = spec.handler(batch)
                except BaseException as error:  # noqa: BLE001 - as in _work
                    result = error
                self._finished.extend(batch_outcomes(batch, result, spec))
                self._running[slot] = STARTING
                ended_s = time.monotonic()
                if ended_s - woken_s > WAKE_S:
                    woken_s = ended_s
                    self._wake()

    def _wait(self, seat: _Seat) -> bool:
        """Wait until this thread is to take part; False at the end."""
        self._running[seat.slot] = None
        self._wake()
        while True:
            self._idle.append(seat)
            if self._queue or self._closed:  # looked at again, as nobody may have seen this thread wait
                try:
                    self._idle.remove(seat)
                except ValueError:
                    seat.lock.acquire()  # it was called meanwhile
            else:
                seat.lock.acquire()
            if self._closed and not self._queue:
                return False
            # Busy before the queue is touched: idle() must not miss what is out of the queue and not yet running.
            self._running[seat.slot] = STARTING
            if not seat.stands_by or self._stalled(seat):
                return True
            self._running[seat.slot] = None

    def _call(self, *, stands_by: bool = False) -> bool:
        """Let one of the threads that wait take part, or stand by; False if none waits."""
        try:
            seat = self._idle.pop()
        except IndexError:
            return False
        seat.stands_by = stands_by
        self._standing_by = self._standing_by or stands_by
        seat.lock.release()
        return True

    def _stalled(self, seat: _Seat) -> bool:
        """Look on as long as the others get on; True once they do not, False if nothing is left to be done."""
        self._running[seat.slot] = None
        while (head := _first(self._queue)) is not None:
            seat.lock.acquire(timeout=STALL_S)  # nobody releases it: it waits nowhere
            if _first(self._queue) is head:
                break
        seat.stands_by = self._standing_by = False
        if head is None:
            return False
        self._running[seat.slot] = STARTING
        self._call(stands_by=True)
        return True

    def _gather(self) -> list[Event]:
        """Up to `batch` events, waiting batch_wait for more after the first; one thread gathers at a time.

        What may run in small company only (poison ladder) is not waited with: no more come until it has ended.
        """
        most = self._spec.options.batch or 1
        with self._gathering:
            gathered = next_events(self._queue, most)
            deadline_s = 0.0
            while gathered and len(gathered) < most and held_of(gathered[-1]).limit is None:
                deadline_s = deadline_s or time.monotonic() + self._spec.options.batch_wait_ms / 1_000
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._closed:
                    break
                with self._arrived:
                    if not self._queue:
                        self._arrived.wait(left_s)
                gathered += next_events(self._queue, most - len(gathered))
            return gathered


def _first(queue: Queue) -> Held | Event | None:
    try:
        return queue[0]
    except IndexError:
        return None
