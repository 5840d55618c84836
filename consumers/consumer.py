"""Consumer: deliveries of a group as an iterator, for code that wants its own loop."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

from consumers.delivery import Delivery
from consumers.executors import Queue, drained, next_event
from consumers.running import Running
from consumers.state import MemberState
from consumers.window import Held
from pipeline.declare import ConsumerSpec, consumed
from pipeline.errors import ClosedError, TakenOverError, UsageError
from pipeline.event import Event
from pipeline.list_options import ListOptions
from pipeline.options import ConsumerOptions, consumer_options
from pipeline.outcome import HAND_BACK, Outcome
from pipeline.server.connect import Connector

MOST_LOST = 1_000
"""Of so many deliveries that were given up it is remembered that they were."""
LOOK_S, LOOK_EVERY_S = 1.0, 0.002
"""So long a take() that does not wait does wait for what is there and on its way, and between looks, in s."""
LEFT_S = 1.0
"""What came while nobody waits any more is kept so long for the next take(), in s, before it is handed back."""

Left: TypeAlias = Callable[[str, int], bool]
"""Whether anything is there to be taken by a consumer name, which holds so many already."""


class PullExecutor:
    """Holds deliveries until somebody takes them: an Executor whose handler is the caller's loop."""

    def __init__(
        self, spec: ConsumerSpec, state: MemberState, *, left: Left | None = None, bounded: bool = False
    ) -> None:
        """left: if given, no more is read than take() asks for. bounded: max_run holds, as for handlers."""
        self._spec = spec
        self._state = state
        self._left = left
        self._bounded = bounded
        self._asking = 0
        """So many calls of take() wait."""
        self._asked_s = 0.0
        """When the last of them ended, by the monotonic clock."""
        self._queue: Queue = deque()
        self._out: dict[Delivery, float] = {}
        """What was taken and is not settled, and since when by the monotonic clock."""
        self._lost: deque[Delivery] = deque(maxlen=MOST_LOST)
        """Of those, the last that were given up: taken over, or taken for longer than max_run."""
        self._condition = threading.Condition()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._ask(0)

    def take(self, timeout_s: float | None) -> Delivery | None:
        """The next delivery, waiting for it; None after timeout_s, or when the consumer ends."""
        # Looked at by taking it: what was taken over meanwhile is not there.
        taken: list[Delivery] = []
        with self._condition:
            self._ask(1)
        try:
            if self._left is not None and timeout_s is not None and timeout_s < LOOK_S:
                self._look(taken, self._left)
            with self._condition:
                if not taken:
                    self._condition.wait_for(lambda: self._state.stopping or self._pop_into(taken), timeout_s)
                return taken[0] if taken else self._pop()
        finally:
            with self._condition:
                self._ask(-1)

    async def take_async(self, timeout_s: float | None) -> Delivery | None:
        """take() without blocking the event loop; a cancelled wait loses nothing."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with self._condition:
                        delivery = self._pop()
                    if delivery is not None or self._state.stopping:
                        return delivery
                    await waiter[1].wait()
                    waiter[1].clear()
        except TimeoutError:
            return None
        finally:
            self._waiters.discard(waiter)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take in a delivery's outcome; a second one for the same delivery is refused."""
        with self._condition:
            if self._left is not None and (delivery.taken_over or delivery in self._lost):
                self._out.pop(delivery, None)
                self._ask(0)
                raise TakenOverError(
                    f"{delivery!r} is not its taker's any more: settling it does nothing, and what was done may be "
                    "done twice"
                )
            if delivery not in self._out:
                raise UsageError(f"{delivery!r} is settled already")
            del self._out[delivery]
            self._ask(0)
        self._state.finished.append((delivery.event, outcome))
        self._state.wake()

    def wake(self) -> None:
        """The consumer ends: nobody need wait any longer."""
        with self._condition:
            self._condition.notify_all()
        for loop, event in list(self._waiters):
            loop.call_soon_threadsafe(event.set)

    def submit(self, items: Sequence[Held | Event], *, here: bool = False) -> None:
        """See Executor."""
        with self._condition:
            self._queue.extend(items)
        self.wake()

    def drain(self) -> list[Held | Event]:
        """See Executor."""
        with self._condition:
            return drained(self._queue)

    def idle(self) -> bool:
        """See Executor."""
        with self._condition:
            return not self._queue and not self._out

    def held_by(self, entries: Collection[Held]) -> list[Event]:
        """See Executor."""
        return [one.event for one in list(self._out) if one.held in entries]

    def give_up(self, event: Event) -> None:
        """See Executor. The caller sees it as delivery.taken_over."""
        if self._left is not None:
            with self._condition:
                for one in [one for one in self._out if one.event is event]:
                    self._lost.append(one)
                    del self._out[one]
                self._ask(0)

    def overdue(self, now_s: float) -> list[Event]:
        """See Executor. The caller's loop has no bound but its own, unless it was given one."""
        with self._condition:
            if self._left is not None and not self._asking and now_s - self._asked_s > LEFT_S:
                self._state.unasked = True
                self._give_back()
            if not self._bounded:
                return []
            longest_s = self._spec.options.max_run_ms / 1_000
            return [one.event for one, since_s in self._out.items() if now_s - since_s > longest_s]

    def exhausted(self) -> bool:
        """See Executor."""
        return False

    def haunted(self) -> bool:
        """See Executor. Whether the caller is still at it is not known."""
        return bool(self._lost) or any(one.taken_over for one in list(self._out))

    def cancel_running(self) -> None:
        """What the caller took and did not settle is handed back."""
        for delivery in list(self._out):
            self.settle(delivery, HAND_BACK)

    def close(self) -> None:
        """See Executor."""
        self.wake()

    def _look(self, taken: list[Delivery], left: Left) -> None:
        """Until there is an event, or the server says that none is there: it is asked for only now."""
        until_s = time.monotonic() + LOOK_S  # paused, or others take what is there
        while True:
            with self._condition:
                if self._state.stopping or self._pop_into(taken):
                    return
                held = len(self._out)
            if time.monotonic() > until_s or not left(self._state.consumer, held):
                return
            with self._condition:
                self._condition.wait(LOOK_EVERY_S)

    def _ask(self, more: int) -> None:
        """So many more calls wait now: as many events may be held as are taken and waited for."""
        self._asking += more
        if more > 0:
            self._state.unasked = False
        if more < 0:
            self._asked_s = time.monotonic()
        if self._left is not None:
            before = self._state.window.asked_for or 0
            self._state.window.asked_for = len(self._out) + self._asking
            if self._state.window.asked_for > before:
                self._state.reader_wake.set()

    def _give_back(self) -> None:
        """What came when nobody asked for it any more goes to others."""
        while (event := next_event(self._queue)) is not None:
            self._state.finished.append((event, HAND_BACK))

    def _pop_into(self, taken: list[Delivery]) -> bool:
        delivery = self._pop()
        if delivery is not None:
            taken.append(delivery)
        return delivery is not None

    def _pop(self) -> Delivery | None:
        event = next_event(self._queue)
        if event is None:
            return None
        delivery = Delivery(event, self._spec)
        self._out[delivery] = time.monotonic()
        delivery.settle = partial(self.settle, delivery)
        return delivery


class Consumer:
    """Iterate over a group's deliveries; taking the next one acknowledges the last, unless ack="manual".

    Example:
        with Consumer("orders", group="audit", url="redis://localhost:6379/0") as consumer:
            for delivery in consumer:
                print(delivery.event.data)

    Also `async with` and `async for`. Leaving the block hands back what was taken and not settled; leaving it without
    an exception acknowledges the last one first. An exception in the block fails the last one, so it is retried.
    """

    def __init__(
        self,
        stream: str | None = None,
        *,
        list: str | ListOptions | None = None,  # noqa: A002 - the server's word
        group: str | None = None,
        url: str | None = None,
        ack: str = "auto",
        timeout_s: float | None = None,
        connector: Connector | None = None,
        **options: Any,
    ) -> None:
        """list: a list queue instead of a stream, its name or ListOptions; group is then "workers" unless given.
        timeout_s: end the iteration after so long without an event; options: see ConsumerOptions ("claim_after", …).

        Raises:
            UsageError: an option that cannot be. NoServerError: no address given or found.
        """
        if ack not in ("auto", "manual"):
            raise UsageError(f"ack={ack!r}: auto or manual")
        values: ConsumerOptions = consumer_options(concurrency=options.pop("concurrency", 1), **options)
        name, of_group, queue = consumed(stream, list, group)
        self._spec = ConsumerSpec(
            stream=name, group=of_group, handler=_taken_by_hand, options=values, list=queue
        )
        self._own = connector is None
        self._connector = connector or Connector(url)
        self._auto = ack == "auto"
        self._timeout_s = timeout_s
        self._last: Delivery | None = None
        self._running: Running | None = None
        self._pull: PullExecutor | None = None
        self._closed = False
        self._left: Left | None = None
        self._bounded = False

    @classmethod
    def on_demand(
        cls,
        options: ListOptions,
        group: str,
        connector: Connector,
        *,
        left: Left,
        bounded: bool,
        **given: Any,
    ) -> Self:
        """A consumer for take(): it holds no more than that has asked for, and acknowledges nothing by itself.

        left: says whether anything is there to be taken.
        bounded: what is taken and not settled within max_run has failed.
        """
        made = cls(list=options, group=group, connector=connector, ack="manual", **given)
        made._left, made._bounded = left, bounded
        return made

    def take(self, timeout_s: float | None) -> Delivery | None:
        """The next delivery, for its taker to settle; None after timeout_s, or when the consumer ends."""
        self.start()
        assert self._pull is not None, "start() made it"
        delivery = self._pull.take(timeout_s)
        if delivery is None:
            self._raise_failure()
        return delivery

    def start(self) -> Self:
        """Join the group; iteration does it by itself.

        Raises:
            MillstreamError: the server cannot be reached or used. ClosedError: closed before.
        """
        if self._closed:
            raise ClosedError("this consumer is closed")
        if self._running is None:
            running = Running(self._connector, [self._spec], make_executor=self._make_executor, raises=True)
            running.start(None)
            self._running = running
        return self

    def close(self, error: BaseException | None = None) -> None:
        """Settle the last delivery, hand back the rest, leave the group. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._running is not None:
            self._settle_last(error)
            self._running.stop(grace_ms=0)
        if self._own:
            self._connector.close()

    def __iter__(self) -> Self:
        return self.start()

    def __next__(self) -> Delivery:
        self.start()
        self._settle_last(None)
        assert self._pull is not None, "start() made it"
        delivery = self._pull.take(self._timeout_s)
        if delivery is None:
            self._raise_failure()
            raise StopIteration
        self._last = delivery
        return delivery

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        if self._running is None:
            await asyncio.to_thread(self.start)
        self._settle_last(None)
        assert self._pull is not None, "start() made it"
        delivery = await self._pull.take_async(self._timeout_s)
        if delivery is None:
            self._raise_failure()
            raise StopAsyncIteration
        self._last = delivery
        return delivery

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close(error)

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close, error)

    def _settle_last(self, error: BaseException | None) -> None:
        last, self._last = self._last, None
        if last is None or not self._auto:
            return
        if error is None:
            last.ack()
        elif isinstance(error, Exception):
            last.fail(error)
        else:  # KeyboardInterrupt, cancellation: the event did nothing wrong
            last._decide(HAND_BACK)

    def _raise_failure(self) -> None:
        if self._running is not None and self._running.failure is not None:
            raise self._running.failure

    def _make_executor(self, spec: ConsumerSpec, state: MemberState) -> PullExecutor:
        self._pull = PullExecutor(spec, state, left=self._left, bounded=self._bounded)
        state.on_stop = self._pull.wake
        return self._pull


def _taken_by_hand(event: object, delivery: object) -> None:
    """Stands where a handler would: deliveries of a Consumer are settled by whoever takes them."""
    raise AssertionError("never called")
