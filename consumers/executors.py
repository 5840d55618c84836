"""Executors: where handlers run. Plain ones in threads, async ones on an event loop.

Both take deliveries from a queue without a lock and put (delivery, outcome) into one shared deque; the member collects
from there. So a handler's thread never waits for the network or for another handler.
"""

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeAlias

from consumers.delivery import Delivery
from consumers.window import Held
from pipeline.declare import ConsumerSpec
from pipeline.errors import DecodeError, MillstreamError
from pipeline.outcome import DONE, HAND_BACK, Later, Outcome, Outcomes, after_failure

Finished: TypeAlias = deque[tuple[Delivery, Outcome]]
STARTING: tuple[Sequence[Delivery], float] = ((), float("inf"))
"""Marks a thread that is about to take deliveries."""
WAKE_S = 0.001
"""Outcomes wait at most so long for company before the member is woken, in s."""


class MaxRunError(MillstreamError):
    """The handler ran beyond max_run: the attempt failed."""


class Executor(Protocol):
    """Runs deliveries of one handler."""

    def submit(self, deliveries: Sequence[Delivery]) -> None:
        """Queue deliveries, to be run in this order (started in this order, where several run at a time)."""

    def drain(self) -> list[Delivery]:
        """Take out what was queued and not started."""

    def idle(self) -> bool:
        """Whether nothing is queued and nothing runs."""

    def held_by(self, entries: Collection[Held]) -> list[Delivery]:
        """Running deliveries of these entries."""

    def give_up(self, delivery: Delivery) -> None:
        """The delivery's outcome no longer counts: cancel it where that is possible."""

    def overdue(self, now_s: float) -> list[Delivery]:
        """Deliveries that run beyond max_run, by the monotonic clock."""

    def exhausted(self) -> bool:
        """Whether every slot is taken by a handler that was given up and never returned."""

    def cancel_running(self) -> None:
        """Cancel what runs, where that is possible: what is cancelled is handed back."""

    def close(self) -> None:
        """Start nothing more."""


def batch_outcomes(batch: Sequence[Delivery], result: Any) -> list[tuple[Delivery, Outcome]]:
    """What a batch handler's return value, or the exception it raised, means for each event."""
    if isinstance(result, DecodeError):
        corrupt = [_decode_error(one) for one in batch]
        if any(corrupt):  # the others did nothing wrong: they run again without it
            later = Later(0)
            return [
                (one, after_failure(error or later, one.attempt, one.spec.options.retry))
                for one, error in zip(batch, corrupt, strict=True)
            ]
    if isinstance(result, BaseException):
        return [(one, after_failure(result, one.attempt, one.spec.options.retry)) for one in batch]
    errors = result.errors if isinstance(result, Outcomes) else {}
    if errors and max(errors) >= len(batch):
        problem = IndexError(f"Outcomes names event {max(errors)} of a batch of {len(batch)}")
        return batch_outcomes(batch, problem)
    return [
        (one, after_failure(errors[i], one.attempt, one.spec.options.retry) if i in errors else DONE)
        for i, one in enumerate(batch)
    ]


def _decode_error(delivery: Delivery) -> DecodeError | None:
    """Why the event's data cannot be decoded, if it cannot."""
    try:
        _ = delivery.event.data
    except DecodeError as error:
        return error
    return None


def _pop(queue: deque[Delivery], most: int) -> list[Delivery]:
    """Up to `most` deliveries from a queue that other threads take from too; none that were taken over meanwhile."""
    popped: list[Delivery] = []
    try:
        while len(popped) < most:
            delivery = queue.popleft()
            if not delivery.held.taken_over:
                popped.append(delivery)
    except IndexError:  # empty
        pass
    return popped


class ThreadExecutor:
    """Plain handlers in `concurrency` threads; batch handlers get what gathers within batch_wait."""

    def __init__(self, spec: ConsumerSpec, finished: Finished, wake: Callable[[], None]) -> None:
        self._spec = spec
        self._wants_delivery = spec.wants_delivery  # a look at its signature: once, not per event
        self._finished = finished
        self._wake = wake
        self._queue: deque[Delivery] = deque()
        self._condition = threading.Condition()
        self._gathering = threading.Lock()
        self._waiting = 0
        self._closed = False
        count = 1 if spec.options.executor == "inline" else spec.concurrency
        self._running: list[tuple[Sequence[Delivery], float] | None] = [None] * count
        self._threads = [
            threading.Thread(
                target=self._work, args=(slot,), name=f"millstream-{spec.group}-{slot}", daemon=True
            )
            for slot in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, deliveries: Sequence[Delivery]) -> None:
        """See Executor."""
        self._queue.extend(deliveries)
        if self._waiting:
            with self._condition:
                self._condition.notify(len(deliveries))

    def drain(self) -> list[Delivery]:
        """See Executor."""
        return _pop(self._queue, len(self._queue))

    def idle(self) -> bool:
        """See Executor."""
        return not self._queue and not any(self._running)

    def held_by(self, entries: Collection[Held]) -> list[Delivery]:
        """See Executor."""
        return [one for batch, _ in filter(None, list(self._running)) for one in batch if one.held in entries]

    def give_up(self, delivery: Delivery) -> None:
        """See Executor. A thread cannot be stopped: its slot is lost until the handler returns."""
        delivery.abandoned = True

    def overdue(self, now_s: float) -> list[Delivery]:
        """See Executor."""
        longest_s = self._spec.options.max_run_ms / 1_000
        return [
            one
            for batch, started_s in filter(None, list(self._running))
            for one in batch
            if now_s - started_s > longest_s and not one.abandoned
        ]

    def exhausted(self) -> bool:
        """See Executor."""
        # What was taken over is given up too, but will return: only max_run tells that a handler never does.
        since_s = time.monotonic() - self._spec.options.max_run_ms / 1_000
        running = list(self._running)
        return all(
            slot and slot[0] and slot[1] < since_s and all(one.abandoned for one in slot[0])
            for slot in running
        )

    def cancel_running(self) -> None:
        """See Executor. Threads are left to finish: their entries stay ours until they do, or we are gone."""

    def close(self) -> None:
        """See Executor."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _work(self, slot: int) -> None:
        woken_s = 0.0
        batching = self._spec.options.batch is not None
        while True:
            # Busy before the queue is touched: idle() must not miss what is out of the queue and not yet running.
            self._running[slot] = STARTING
            batch = self._gather() if batching else _pop(self._queue, 1)
            if not batch:
                self._running[slot] = None
                self._wake()
                with self._condition:
                    self._waiting += 1
                    while not self._queue and not self._closed:
                        self._condition.wait()
                    self._waiting -= 1
                    if self._closed and not self._queue:
                        return
                continue
            self._running[slot] = (batch, time.monotonic())
            self._finished.extend(self._run_batch(batch) if batching else [(batch[0], self._run(batch[0]))])
            self._running[slot] = None
            ended_s = time.monotonic()
            if ended_s - woken_s > WAKE_S:
                woken_s = ended_s
                self._wake()

    def _run(self, delivery: Delivery) -> Outcome:
        spec = self._spec
        try:
            if self._wants_delivery:
                spec.handler(delivery.event, delivery)
            else:
                spec.handler(delivery.event)
        except BaseException as error:  # noqa: BLE001 - SystemExit in a handler's thread must not cost the event its outcome
            return after_failure(error, delivery.attempt, spec.options.retry)
        return DONE

    def _run_batch(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, Outcome]]:
        try:
            result = self._spec.handler([delivery.event for delivery in batch])
        except BaseException as error:  # noqa: BLE001 - as in _run
            result = error
        return batch_outcomes(batch, result)

    def _gather(self) -> list[Delivery]:
        """Up to `batch` deliveries, waiting batch_wait for more after the first; one thread gathers at a time."""
        most = self._spec.options.batch or 1
        with self._gathering:
            gathered = _pop(self._queue, most)
            deadline_s = 0.0
            while gathered and len(gathered) < most:
                deadline_s = deadline_s or time.monotonic() + self._spec.options.batch_wait_ms / 1_000
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._closed:
                    break
                with self._condition:
                    self._waiting += 1
                    if not self._queue:
                        self._condition.wait(left_s)
                    self._waiting -= 1
                gathered += _pop(self._queue, most - len(gathered))
            return gathered


class LoopExecutor:
    """Async handlers as tasks of one event loop, `concurrency` at a time; one hand-over to the loop per chunk."""

    def __init__(
        self,
        spec: ConsumerSpec,
        finished: Finished,
        wake: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._spec = spec
        self._wants_delivery = spec.wants_delivery  # a look at its signature: once, not per event
        self._finished = finished
        self._wake = wake
        self._loop = loop
        self._queue: deque[Delivery] = deque()
        self._tasks: dict[asyncio.Task[None], tuple[Sequence[Delivery], float]] = {}
        self._pumping = False
        """A pump is scheduled."""
        self._starting = False
        """A pump runs: what is out of the queue may not be a task yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def submit(self, deliveries: Sequence[Delivery]) -> None:
        """See Executor."""
        self._queue.extend(deliveries)
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon_threadsafe(self._pump)

    def drain(self) -> list[Delivery]:
        """See Executor."""
        return _pop(self._queue, len(self._queue))

    def idle(self) -> bool:
        """See Executor."""
        return not self._queue and not self._starting and not self._tasks  # in this order, see _pump

    def held_by(self, entries: Collection[Held]) -> list[Delivery]:
        """See Executor."""
        return [one for batch, _ in list(self._tasks.values()) for one in batch if one.held in entries]

    def give_up(self, delivery: Delivery) -> None:
        """See Executor."""
        delivery.abandoned = True
        for task, (batch, _) in list(self._tasks.items()):
            if delivery in batch and all(one.abandoned for one in batch):
                self._loop.call_soon_threadsafe(
                    task.cancel, "the event was taken over, or ran beyond max_run"
                )

    def overdue(self, now_s: float) -> list[Delivery]:
        """See Executor."""
        longest_s = self._spec.options.max_run_ms / 1_000
        return [
            one
            for batch, started_s in list(self._tasks.values())
            for one in batch
            if now_s - started_s > longest_s and not one.abandoned
        ]

    def exhausted(self) -> bool:
        """See Executor. Only handlers that swallow their cancellation can get here."""
        since_s = time.monotonic() - self._spec.options.max_run_ms / 1_000
        tasks = list(self._tasks.values())
        return len(tasks) >= self._spec.concurrency and all(
            started_s < since_s and all(one.abandoned for one in batch) for batch, started_s in tasks
        )

    def cancel_running(self) -> None:
        """See Executor."""
        for task in list(self._tasks):
            self._loop.call_soon_threadsafe(task.cancel, "the consumer stops")

    def close(self) -> None:
        """See Executor."""
        self._closed = True

    def _pump(self, timer: bool = False) -> None:
        self._pumping = False
        self._starting = True
        try:
            self._start_what_fits(timer)
        finally:
            self._starting = False

    def _start_what_fits(self, timer: bool) -> None:
        options = self._spec.options
        if timer:
            self._timer = None
        while self._queue and len(self._tasks) < self._spec.concurrency:
            if (
                options.batch is not None
                and len(self._queue) < options.batch
                and not timer
                and not self._closed
            ):
                if self._timer is None:
                    self._timer = self._loop.call_later(options.batch_wait_ms / 1_000, self._pump, True)
                return
            batch = _pop(self._queue, options.batch or 1)
            timer = False
            if batch:
                task = self._loop.create_task(self._run(batch))
                self._tasks[task] = (batch, time.monotonic())
                task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._tasks[task]
        self._pump()
        if not self._queue or len(self._finished) > self._spec.concurrency:
            self._wake()

    async def _run(self, batch: Sequence[Delivery]) -> None:
        spec = self._spec
        try:
            if spec.options.batch is not None:
                result = spec.handler([delivery.event for delivery in batch])
            elif self._wants_delivery:
                result = spec.handler(batch[0].event, batch[0])
            else:
                result = spec.handler(batch[0].event)
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The consumer stops, or the event is not ours any more: either way the attempt is not spent here.
                self._finished.extend((delivery, HAND_BACK) for delivery in batch)
            else:  # of the handler's own making: handed back, it would run again at once, for ever
                self._finished.extend(batch_outcomes(batch, error))
        except BaseException as error:  # noqa: BLE001 - SystemExit in a handler must not cost the event its outcome
            self._finished.extend(batch_outcomes(batch, error))
        else:
            self._finished.extend(batch_outcomes(batch, result if spec.options.batch is not None else None))
