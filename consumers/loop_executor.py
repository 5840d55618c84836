"""LoopExecutor: async handlers on an event loop, `concurrency` at a time; one hand-over to the loop per chunk.

A task takes one event after the other, so that a handler that never waits costs no task of its own; while one waits,
another task goes on with the queue. Each run has a context of its own, as a task of its own would have. Killed with
the process: what ran is pending and is taken over.
"""

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Sequence
from contextvars import Context, copy_context
from types import CoroutineType, coroutine
from typing import Any, TypeAlias

from consumers.delivery import Delivery, held_of
from consumers.executors import (
    WAKE_S,
    Finished,
    Queue,
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
from pipeline.outcome import HAND_BACK, after_failure

CANCEL_S = 1.0
"""So long a handler that was cancelled may take to end, in s, before its slot counts as lost."""
_Task: TypeAlias = "asyncio.Task[None]"


class LoopExecutor:
    """Async handlers as tasks of one event loop; batch handlers get what gathers within batch_wait."""

    def __init__(
        self,
        spec: ConsumerSpec,
        finished: Finished,
        abandoned: dict[int, Event],
        wake: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._spec = spec
        self._wants_delivery = spec.wants_delivery  # a look at its signature: once, not per event
        self._finished = finished
        self._abandoned = abandoned
        self._wake = wake
        self._loop = loop
        self._queue: Queue = deque()
        self._tasks: dict[_Task, tuple[Sequence[Event], float]] = {}
        """What each task runs, and since when; nothing, for a task that is about to take some."""
        self._pumping = False
        """A pump is scheduled."""
        self._starting = False
        """A pump runs: what is out of the queue may not be a task yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def submit(self, items: Sequence[Held | Event], *, here: bool = False) -> None:
        """See Executor."""
        self._queue.extend(items)
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon_threadsafe(self._pump)

    def drain(self) -> list[Held | Event]:
        """See Executor."""
        return drained(self._queue)

    def idle(self) -> bool:
        """See Executor."""
        return not self._queue and not self._starting and not self._tasks  # in this order, see _pump

    def held_by(self, entries: Collection[Held]) -> list[Event]:
        """See Executor."""
        return running_of(list(self._tasks.values()), entries)

    def give_up(self, event: Event) -> None:
        """See Executor."""
        for task, (batch, _) in list(self._tasks.items()):
            if any(one is event for one in batch) and all(map(self._given_up, batch)):
                self._loop.call_soon_threadsafe(
                    self._cancel, task, batch, "the event was taken over, or ran beyond max_run"
                )

    def overdue(self, now_s: float) -> list[Event]:
        """See Executor."""
        return overdue_of(list(self._tasks.values()), now_s, self._spec, self._abandoned)

    def exhausted(self) -> bool:
        """See Executor. Only handlers that swallow their cancellation, or block the loop, can get here."""
        since_s = time.monotonic() - self._spec.options.max_run_ms / 1_000 - CANCEL_S
        tasks = list(self._tasks.values())
        return len(tasks) >= self._spec.concurrency and all(
            batch and started_s < since_s and all(map(self._given_up, batch)) for batch, started_s in tasks
        )

    def haunted(self) -> bool:
        """See Executor."""
        return any(self._given_up(event) for batch, _ in list(self._tasks.values()) for event in batch)

    def cancel_running(self) -> None:
        """See Executor."""
        for task, (batch, _) in list(self._tasks.items()):
            self._loop.call_soon_threadsafe(self._cancel, task, batch, "the consumer stops")

    def close(self) -> None:
        """See Executor."""
        self._closed = True

    def _given_up(self, event: Event) -> bool:
        return given_up(event, self._abandoned)

    def _cancel(self, task: _Task, batch: Sequence[Event], why: str) -> None:
        run = self._tasks.get(task)
        if run is not None and run[0] is batch:  # else it has ended meanwhile, and the task runs another
            task.cancel(why)

    def _pump(self, timer: bool = False) -> None:
        """Start a task, or with a batch handler as many as there are batches."""
        self._pumping = False
        self._starting = True
        try:
            if timer:
                self._timer = None
            if self._spec.options.batch is not None:
                self._start_batches(timer)
            elif self._queue and len(self._tasks) < self._spec.concurrency:
                self._start(self._work())
        finally:
            self._starting = False

    def _start(self, work: Coroutine[Any, Any, None], batch: Sequence[Event] = ()) -> None:
        task = self._loop.create_task(work)
        self._tasks[task] = (batch, time.monotonic() if batch else float("inf"))
        task.add_done_callback(self._ended)

    def _ended(self, task: _Task) -> None:
        batch, _ = self._tasks.pop(task)
        if task.cancelled() and batch:  # before it began
            self._finished.extend((event, HAND_BACK) for event in batch)
        self._pump()
        if not self._queue or len(self._finished) > self._spec.concurrency:
            self._wake()

    # One event after the other.

    async def _work(self) -> None:
        spec, handler, queue, finished = self._spec, self._spec.handler, self._queue, self._finished
        abandoned = self._abandoned
        wants_delivery, tasks, monotonic = self._wants_delivery, self._tasks, time.monotonic
        task = asyncio.current_task()
        assert task is not None, "this is a coroutine of a task"
        if _more_than_one(queue) and len(tasks) < spec.concurrency:
            self._start(self._work())  # its turn comes as soon as a handler here waits for something
        base = copy_context()
        delivery: Delivery | None = None
        now_s = mark_s = monotonic()
        while event := next_event(queue):
            tasks[task] = ((event,), now_s)
            try:
                context = base.copy()
                delivery = Delivery(event, spec) if wants_delivery else None
                rest = context.run(_begin, handler, event, delivery, context)
                if rest is not None:
                    await rest
            except asyncio.CancelledError as error:
                if delivery is not None:
                    delivery.end()
                if task.cancelling():
                    # The consumer stops, or the event is not ours any more: either way the attempt is not spent here.
                    finished.append((event, HAND_BACK))
                    return  # another task goes on: this one's cancellation is not to meet the next event
                # Of the handler's own making: handed back, it would run again at once, for ever.
                finished.append((event, after_failure(error, held_of(event).attempt, spec.options.retry)))
            except BaseException as error:  # noqa: BLE001 - SystemExit in a handler must not cost the event its outcome
                if delivery is not None:
                    delivery.end()
                finished.append((event, after_failure(error, held_of(event).attempt, spec.options.retry)))
            else:
                if delivery is not None and (effects := delivery.end()) is not None:
                    finished.append((event, done_with(effects)))
                else:
                    finished.append(event if abandoned else done(event))
            if task.cancelling():
                return
            now_s = monotonic()
            if now_s - mark_s > WAKE_S:
                self._wake()
                tasks[task] = ((), float("inf"))
                await asyncio.sleep(0)  # whatever else the loop has to do
                now_s = mark_s = monotonic()

    # Batches.

    def _start_batches(self, timer: bool) -> None:
        options = self._spec.options
        assert options.batch is not None, "the handler takes batches"
        while self._queue and len(self._tasks) < self._spec.concurrency:
            waiting = sum(item.events if isinstance(item, Held) else 1 for item in list(self._queue))
            if waiting < options.batch and not timer and not self._closed and not _suspect(self._queue):
                if self._timer is None:
                    self._timer = self._loop.call_later(options.batch_wait_ms / 1_000, self._pump, True)
                return
            batch = next_events(self._queue, options.batch)
            timer = False
            if batch:
                self._start(self._run_batch(batch), batch)

    async def _run_batch(self, batch: list[Event]) -> None:
        task = asyncio.current_task()
        result: Any
        try:
            result = self._spec.handler(batch)
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling():
                self._finished.extend((event, HAND_BACK) for event in batch)  # as in _work
                return
            result = error
        except BaseException as error:  # noqa: BLE001 - as in _work
            result = error
        self._finished.extend(batch_outcomes(batch, result, self._spec))


def _more_than_one(queue: Queue) -> bool:
    try:
        first = queue[0]
    except IndexError:
        return False
    return len(queue) > 1 or (isinstance(first, Held) and first.events > 1)


def _suspect(queue: Queue) -> bool:
    """Whether the first may run in small company only: then no more come until it has ended."""
    try:
        first = queue[0]
    except IndexError:
        return False
    return (first if isinstance(first, Held) else held_of(first)).limit is not None


def _begin(
    handler: Callable[..., Any], event: Event, delivery: Delivery | None, context: Context
) -> Awaitable[None] | None:
    """Call a handler, and run it up to where it waits for something; what is to be awaited then, if it does."""
    result = handler(event) if delivery is None else handler(event, delivery)
    if not isinstance(result, CoroutineType):
        if not inspect.isawaitable(result):
            return None
        result = _awaited(result)
    try:
        waits_for = result.send(None)
    except StopIteration:
        return None
    return _rest(result, waits_for, context)


async def _awaited(result: Any) -> None:
    await result


@coroutine
def _rest(run: "CoroutineType[Any, Any, Any]", waits_for: Any, context: Context) -> Generator[Any, Any, None]:
    """The rest of a coroutine that has begun, each of its steps in its own context."""
    step: Callable[..., Any] = run.send
    while True:
        value: Any
        try:
            step, value = run.send, (yield waits_for)
        except BaseException as error:  # noqa: BLE001 - what is thrown in is the coroutine's to deal with
            step, value = run.throw, error
        try:
            waits_for = context.run(step, value)
        except StopIteration:
            return
