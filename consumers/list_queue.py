"""ListQueue: a list queue from code: push, pop, take, peek, look after it; beside old producers and workers.

A façade: pushes are ListPush's, pops ListPop's, and what is taken reliably is a Consumer's. Safe for threads; a forked
child begins with connections of its own.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

from consumers.consumer import Consumer
from consumers.delivery import Delivery
from consumers.list_calls import ListCalls
from consumers.list_pop import ListPop, Waiting
from consumers.list_push import ListPush
from pipeline.due import Due, due_of
from pipeline.errors import ClosedError, DecodeError, MillstreamError, UsageError
from pipeline.list_options import WORKERS, ListOptions
from pipeline.observe.log import get_logger
from pipeline.options import ConsumerOptions, consumer_options
from pipeline.server.connect import Connector
from pipeline.server.durability import Finding, findings
from pipeline.server.list_due import promote_tasks
from pipeline.server.list_old import Recovered, recover_old
from pipeline.server.list_peek import ListTask, peek_tasks
from pipeline.server.list_pop import KEPT_MS, GivenBack, put_back, return_tasks
from pipeline.server.list_push import MAX_PAYLOADS, Pushed
from pipeline.server.list_status import ListStatus, list_status
from pipeline.server.lists import anything_left, give_back
from pipeline.task import decode_task, encode_task
from pipeline.units import Duration, duration_ms

CALL_BYTES = 1 << 20
"""Bytes of tasks that are pushed by one call, about."""

_log = get_logger("list")


class Popped(NamedTuple):
    """What a pop of several queues brought."""

    name: str
    """The list it came from."""
    data: Any


class Promoted(NamedTuple):
    """What promote() did."""

    moved: int
    """Delayed tasks that were due and stand in the list now."""
    next_due_ms: float | None
    """When the next one is due, by the server's clock in ms since 1970; None if nothing waits."""


class ListQueue:
    """One list queue, shared with whoever else pushes to it and pops from it.

    Example:
        with ListQueue("emails", url="redis://localhost:6379/0") as queue:
            queue.push({"to": "ada@example.org"})
            queue.push({"to": "bob@example.org"}, after="10m")
            task = queue.pop(timeout="5s")              # its data; None if none came. Gone if this process dies now
            for delivery in queue:                      # reliable: another gets it if this process dies
                print(delivery.event.data)
    """

    def __init__(
        self,
        queue: str | ListOptions,
        url: str | None = None,
        *,
        group: str = WORKERS,
        timeout: Duration | None = None,
        durable: bool = False,
        away_timeout: Duration = "30s",
        connector: Connector | None = None,
        **options: Any,
    ) -> None:
        """The list of this name, laid out as options say (order="lifo", payload="json", …: those of ListOptions).

        Args:
            queue: the list's name, or ListOptions with name and options in one.
            url: where the server is, else MILLSTREAM_URL, else REDIS_URL.
            group: the name of the workers that take() from it; those of other processes are to give the same.
            timeout: a task that was taken and is not settled within this has failed, and runs again, also if its taker
                lives; None: it has as long as its process lives (the classic queue: "5m").
            durable: refuse a server that keeps nothing over a restart, or may evict the list (UnsupportedServerError at
                the first call). Else that is a warning in the log.
            away_timeout: so long a server that is away, or refuses for a cause that may pass, is tried again; at most
                30 s.
            connector: one to use, which stays open.
            options: ListOptions; and for take(), those of a consumer ("claim_after", "retry", …: ConsumerOptions).

        Raises:
            UsageError: a name or an option that cannot be. NoServerError: no address given or found.
        """
        self.options, consuming = _options(queue, options)
        if timeout is not None:
            consuming["max_run"] = timeout
        consumer_options(**consuming)  # refused here, and not at the first take()
        away_ms = duration_ms(away_timeout, "away_timeout")
        if away_ms > KEPT_MS // 2:
            raise UsageError(f"away_timeout={away_timeout!r}: at most {KEPT_MS // 2_000} s")
        self._own = connector is None
        self._connector = connector or Connector(url)
        self._calls = ListCalls(self.options, self._connector, away_ms, durable=durable)
        self._push, self._pop = ListPush(self._calls), ListPop(self._calls)
        self._group = group
        self._consuming = consuming | {"bounded": timeout is not None}
        self._begin()
        self._calls.on_fork.append(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None
        self._last: Delivery | None = None
        """What iteration handed out last."""

    @property
    def name(self) -> str:
        """The list's name."""
        return self.options.name

    # Pushing ------------------------------------------------------------------------------------------------------

    def push(
        self,
        data: Any,
        *,
        after: Duration | None = None,
        at: datetime | float | None = None,
        priority: float | None = None,
    ) -> Pushed:
        """Push one task: how many stand there now, and when it is due if it is delayed.

        When push() returns, the server has the task (how safe it is there: check_durable()). A push whose answer was
        lost is repeated under its number, and done once.

        Args:
            data: str and bytes as they are; a dict or list as JSON (payload="msgpack": as that).
            after: not before so long from now, by the server's clock. at: not before this time (a datetime with its
                zone, or seconds since 1970). What is due is moved to the list by whoever looks after it: our workers,
                promote(), old schedulers (format="classic").
            priority: for order="priority": lowest first; 0 by default.

        Raises:
            SendUnknownError: no answer within away_timeout: the task may be there or not. SendError: it is not.
            EncodeError, EventTooLargeError: it cannot be sent. UsageError: a time that is past, a negative delay, a
            priority in a queue without. WrongKeyTypeError: the key holds something else.
        """
        return self.push_payloads([self.encode(data)], due_of(after=after, at=at), priority)

    def push_function(
        self,
        function: str,
        *args: Any,
        after: Duration | None = None,
        at: datetime | float | None = None,
        priority: float | None = None,
        **kwargs: Any,
    ) -> Pushed:
        """Push a task that asks for a registered function: {"function": name, "args": […], "kwargs": {…}}.

        after, at, priority, errors: as of push(). An argument of such a name is given to push() in a dict of one's own.
        """
        data: dict[str, Any] = {"function": function, "args": list(args)}
        if kwargs:
            data["kwargs"] = kwargs
        return self.push(data, after=after, at=at, priority=priority)

    def push_many(
        self,
        many: Iterable[Any],
        *,
        after: Duration | None = None,
        at: datetime | float | None = None,
        priority: float | None = None,
    ) -> Pushed:
        """Push tasks in their order, up to 500 (about 1 MB) in one step each; Pushed.count says how many it were.

        Arguments and errors as of push(). An error has `pushed`: so many tasks stand in the list, the first ones; with
        SendUnknownError, up to 500 more may.
        """
        due = due_of(after=after, at=at)
        whole = Pushed(0, count=0)
        payloads: list[bytes] = []
        size = 0
        try:
            for data in many:
                payload = self.encode(data)
                if payloads and (len(payloads) == MAX_PAYLOADS or size + len(payload) > CALL_BYTES):
                    whole = _both(whole, self.push_payloads(payloads, due, priority))
                    payloads, size = [], 0
                payloads.append(payload)
                size += len(payload)
            if payloads:
                whole = _both(whole, self.push_payloads(payloads, due, priority))
        except MillstreamError as error:
            error.pushed = whole.count  # type: ignore[attr-defined]
            raise
        return whole

    def push_payloads(
        self, payloads: Sequence[bytes], due: Due | None = None, priority: float | None = None
    ) -> Pushed:
        """Push up to 500 payloads as they are, in one step."""
        pushed = replace(self._push.push(payloads, due, priority), count=len(payloads))
        if pushed.merged:
            _log.warning(
                "tasks equal to ones that were there already are one task with them (format=classic)",
                list=self.name, merged=len(pushed.merged),
            )  # fmt: skip
        return pushed

    def encode(self, data: Any) -> bytes:
        """The payload that data is pushed as. Raises: EncodeError, EventTooLargeError."""
        return encode_task(data, self.options.codec)

    # Plain pop ----------------------------------------------------------------------------------------------------

    def pop(self, timeout: Duration | None = None) -> Any:
        """Take the next task off the list and return its data; None if none came within timeout.

        This is the classic pop (BRPOP, BLPOP, ZPOPMIN): what happens to the task from here on nobody looks after. If
        the process dies once pop() has returned, the task is gone; take() is for those that must be done. Within pop()
        nothing is lost: the server keeps the task until it has arrived here. If the answer is lost, it is asked for
        again, by this call or the next; if the process is killed meanwhile, the task is back on the list 60 to 90 s
        later, as soon as anybody pops from the list or works it. A task is repeated only if the server went away for
        longer than away_timeout just when its arrival was to be said.

        Args:
            timeout: how long to wait; 0: not at all (it does not mean for ever, as with BRPOP); None: for ever. No wait
                is too long: the server is asked anew every 30 s. Ctrl-C ends it, and so does close() from a signal
                handler or another thread (ClosedError).

        Raises:
            DecodeError: the payload is not what `payload` says; the task has been taken, its bytes are in the error's
            `payload`. WrongKeyTypeError: the key is no list. NotConnectedError: the server stayed away.
        """
        found = ListQueue.pop_any([self], timeout)
        return None if found is None else found.data

    @staticmethod
    def pop_any(queues: "Sequence[ListQueue]", timeout: Duration | None = None) -> Popped | None:
        """pop() from the first of these queues that has a task: (name of the list, data); None if none came.

        The order is that of priority: the second queue is looked at when the first is empty.
        """
        raw = ListQueue.pop_payload(queues, timeout)
        if raw is None:
            return None
        queue, payload = raw
        return Popped(queue.name, queue.decode(payload))

    @staticmethod
    def pop_payload(
        queues: "Sequence[ListQueue]", timeout: Duration | None = None
    ) -> "tuple[ListQueue, bytes] | None":
        """pop_any() of the bytes as they were pushed, with the queue they came from."""
        if not queues:
            raise UsageError("pop from which queue? none was given")
        timeout_ms = None if timeout is None else duration_ms(timeout, "timeout")
        found = Waiting([queue._pop for queue in queues], timeout_ms).run()
        if found is None:
            return None
        side, payload = found
        return next(queue for queue in queues if queue._pop is side), payload

    def put_back(self, payload: bytes) -> None:
        """Put a task back that a pop returned, so that it is taken next; in a priority queue before all others.

        Tried once: NotConnectedError means that it may be there or not.
        """
        self._calls.usable()
        with self._calls.links.lent() as link:
            put_back(link, self.options, payload)

    def decode(self, payload: bytes) -> Any:
        """The data of a payload.

        Raises:
            DecodeError: it is of another format; its `payload` has the bytes.
        """
        try:
            return decode_task(payload, self.options.codec)
        except DecodeError as error:
            error.payload = payload  # type: ignore[attr-defined]
            raise

    # Reliable -----------------------------------------------------------------------------------------------------

    def take(self, timeout: Duration | None = None) -> Delivery | None:
        """Take the next task to settle it later: delivery.ack(), fail(error), reject(reason) or later("5m").

        delivery.event.data has its data, delivery.attempt the number of this run. Until it is settled the task is this
        process's; if the process is killed, another taker gets it within claim_after (30 s) + 1 s; if it ends by
        close(), at once. fail() has it run again, with backoff, and after `retry` attempts it is a dead letter. What is
        settled is told to the server at once, but not before the call returns: leave by close() or the with block.

        No more is taken than is asked for. A task that was given to another meanwhile (this process stood still for
        longer than claim_after, or `timeout` passed) is not ours any more: settling it raises TakenOverError as soon as
        that is known here, else it is in the log; of the one that stood still delivery.taken_over says so, too.

        Args:
            timeout: how long to wait for a task; 0: not at all; None: for ever, or until close().

        Raises:
            WrongKeyTypeError: the key is no list. MillstreamError: what ended the taking; ClosedError.
        """
        timeout_s = None if timeout is None else duration_ms(timeout, "timeout") / 1_000
        delivery = self._taker().take(timeout_s)
        if delivery is None and self._calls.closed:
            raise ClosedError(f"the list queue {self.name!r} is closed")
        return delivery

    def __iter__(self) -> Iterator[Delivery]:
        """take() one after the other, for ever: taking the next acknowledges the last, unless it was settled.

        Leaving the queue's with block without an exception acknowledges the last, too; an exception fails it, so that
        it is retried.
        """
        while True:
            self._settle_last(None)
            self._last = self.take()
            if self._last is None:
                return
            yield self._last

    def _taker(self) -> Consumer:
        self._calls.usable()
        with self._lock:
            if self._consumer is None:
                self._calls.asked(lambda link: None)  # says how durable the server is, or refuses it
                consumer = Consumer.on_demand(
                    self.options, self._group, self._connector, left=self._anything_left, **self._consuming
                )
                self._consumer = consumer.start()
            return self._consumer

    def _anything_left(self, consumer: str, held: int) -> bool:
        """Whether a task is there that a consumer could take beside those it holds; also if the server does not say."""
        look = partial(anything_left, options=self.options, group=self._group, consumer=consumer, held=held)
        try:
            return self._calls.asked(look, until_s=0)
        except MillstreamError:  # take() raises it, if it lasts
            return True

    # Looking, and looking after it --------------------------------------------------------------------------------

    def peek(self, count: int = 10, *, start: int = 0) -> list[ListTask]:
        """The tasks that will be taken next, in that order; none is taken. One that cannot be decoded has an `error`.

        Args:
            count: at most so many, up to 10,000. start: so many are passed over first.

        Raises:
            UsageError: a count or start below 0. WrongKeyTypeError: the key is no list.
        """
        for option, value in (("count", count), ("start", start)):
            if value < 0:
                raise UsageError(f"{option}={value:,}: 0 or more")
        return self._calls.asked(partial(peek_tasks, options=self.options, count=count, start=start))

    def status(self) -> ListStatus:
        """How many tasks wait, are in progress, delayed, timed out, to be retried, dead; what is not known is None."""
        return self._calls.asked(partial(list_status, options=self.options))

    def check_durable(self) -> list[Finding]:
        """What of this server could lose tasks, the worst first, each with its remedy; also what it does not say."""
        return self._calls.asked(findings)

    def promote(self) -> Promoted:
        """Move all delayed tasks that are due to the list; for where no worker of ours does. Any number may at once."""
        moved = 0
        cluster = self._connector.capabilities().cluster_nodes > 0
        while True:
            done = self._calls.asked(partial(promote_tasks, options=self.options, cluster=cluster))
            moved += done.moved
            if not done.moved:
                return Promoted(moved, done.next_due_ms)

    def recover_old(self) -> Recovered:
        """Put back what dead old workers left in their processing list (`old_processing`), in one look at all of it.

        A task whose record has timed out is put back, or its record removed if it was done. A copy without a record is
        put back once it has stood for a full old timeout: it takes a second call, so much later. Any number may do so
        at once.

        Raises:
            UsageError: the queue was not told of old workers.
        """
        if not self.options.old_processing:
            raise UsageError(
                f"list {self.name!r}: old_processing= says in which list old workers hold its tasks ('processing')"
            )
        cluster = self._connector.capabilities().cluster_nodes > 0
        return self._calls.asked(partial(recover_old, options=self.options, cluster=cluster))

    def give_back(self, *, everything: bool = False) -> int:
        """Put back to the list what workers of ours took and never began, so that old workers get it; how many tasks.

        The last worker to leave does so by itself. Tasks that ran and failed or crashed, or were put off, stay for
        workers of ours, with their attempts.

        Args:
            everything: those too, save what a live worker holds and dead letters: whoever takes them next begins anew.
        """
        back = self._calls.asked(
            lambda link: give_back(link, self.options, self._group, everything=everything)
        )
        while (more := self._calls.asked(partial(return_tasks, options=self.options))) != GivenBack(0, 0):
            back += more.of_callers + more.of_hand
        return back

    def close(self, error: BaseException | None = None) -> None:
        """Settle what iteration handed out last, hand back the rest, close the connections.

        Whoever waits gets a ClosedError. May be called from a signal handler.
        """
        if self._calls.closed:
            return
        self._settle_last(error)
        self._pop.leave()
        self._calls.close()
        if self._consumer is not None:
            self._consumer.close()
        if self._own:
            self._connector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def _settle_last(self, error: BaseException | None) -> None:
        last, self._last = self._last, None
        if last is None or last.over or last.taken_over:
            return
        if error is None:
            last.ack()
        elif isinstance(error, Exception):
            last.fail(error)
        # else Ctrl-C: the task did nothing wrong, and is handed back


def _both(before: Pushed, after: Pushed) -> Pushed:
    """Two calls as one."""
    merged = dict(before.merged) | {before.count + at: was for at, was in after.merged.items()}
    return replace(after, merged=merged, count=before.count + after.count)


def _options(queue: str | ListOptions, given: dict[str, Any]) -> tuple[ListOptions, dict[str, Any]]:
    """ListOptions of the words that ListQueue takes, and those for its consumer."""
    known = {field.name for field in fields(ListOptions)}
    if "old_timeout" in given:
        given["old_timeout_ms"] = duration_ms(given.pop("old_timeout"), "old_timeout")
    laid_out = {name: value for name, value in given.items() if name in known}
    consuming = {name: value for name, value in given.items() if name not in known}
    takers = {field.name.removesuffix("_ms") for field in fields(ConsumerOptions)}
    unknown = [name for name in consuming if name not in takers and name.removesuffix("_ms") not in takers]
    if unknown:
        raise UsageError(
            f"there is no option {unknown[0]!r} of a list queue; there are: {', '.join(sorted(known))} (ListOptions), "
            f"and for take() {', '.join(sorted(takers))} (ConsumerOptions)"
        )
    if isinstance(queue, ListOptions):
        if laid_out:
            raise UsageError(f"{', '.join(laid_out)}: given in ListOptions, not beside it")
        return queue, consuming
    return ListOptions(name=queue, **laid_out), consuming
