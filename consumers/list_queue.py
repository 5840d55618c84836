"""ListQueue: a list queue from code: push, pop, peek, look after it; beside old producers and workers of the same list.

Stands on a Connector. What is pushed is numbered, what is popped is kept by the server until it has arrived, so a
lost answer neither loses nor doubles a task. Safe for threads; a forked child begins with connections of its own.
"""

import contextlib
import os
import secrets
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from pipeline.backoff import Backoff
from pipeline.errors import ClosedError, MillstreamError, NotConnectedError, UsageError
from pipeline.list_options import ListOptions
from pipeline.observe.log import get_logger
from pipeline.server.connect import Connector, Link, ready_any
from pipeline.server.error_map import Reaction, row_of
from pipeline.server.link_pool import LinkPool
from pipeline.server.list_peek import ListTask, peek_tasks
from pipeline.server.list_pop import KEPT_MS, pop_tasks, popped, put_back, return_tasks, wait_command
from pipeline.task import decode_task
from pipeline.units import Duration, duration_ms

WAIT_MS = 30_000
"""The server is asked to wait so long at a time, in ms: a connection that died unnoticed is found then."""
LATE_MS = 5_000
"""An answer may come so much later than the wait it was asked for, in ms."""
POLL = Backoff(initial_ms=20, longest_ms=250, jitter=0.1)
"""Between looks where the server cannot be asked to wait: at a sorted set, or while it is out of memory."""
AGAIN = Backoff(initial_ms=50, longest_ms=1_000)
"""Between tries while the server is away or refuses for a cause that may pass."""
LOOK_AFTER_MS = 30_000
"""So often a queue that pops looks for what was popped by callers who died, in ms."""
LEAST_MS = 5_000
"""A pop that waits for less than this tries so long all the same when the server is away, in ms."""

T = TypeVar("T")
_log = get_logger("list")
_PASSING = (Reaction.WAIT, Reaction.ELSEWHERE)


class Popped(NamedTuple):
    """What a pop of several queues brought."""

    name: str
    """The list it came from."""
    data: Any


class ListQueue:
    """One list queue.

    Example:
        with ListQueue("emails", url="redis://localhost:6379/0") as queue:
            queue.push({"to": "ada@example.org"})
            task = queue.pop(timeout="5s")       # its data; None if none came
    """

    def __init__(
        self,
        queue: str | ListOptions,
        url: str | None = None,
        *,
        away_timeout: Duration = "30s",
        connector: Connector | None = None,
        **options: Any,
    ) -> None:
        """The list of this name, laid out as options say (order="lifo", payload="json", …: those of ListOptions).

        Args:
            queue: the list's name, or ListOptions with name and options in one.
            url: where the server is, else MILLSTREAM_URL, else REDIS_URL.
            away_timeout: so long a server that is away, or refuses for a cause that may pass, is tried again.
            connector: one to use, which stays open.

        Raises:
            UsageError: a name or an option that cannot be. NoServerError: no address given or found.
        """
        if isinstance(queue, ListOptions):
            if options:
                raise UsageError(f"{', '.join(options)}: given in ListOptions, not beside it")
            self.options = queue
        else:
            self.options = _list_options(queue, options)
        self._away_ms = duration_ms(away_timeout, "away_timeout")
        if self._away_ms > KEPT_MS // 2:
            raise UsageError(f"away_timeout={away_timeout!r}: at most {KEPT_MS // 2_000} s")
        self._own = connector is None
        self._connector = connector or Connector(url)
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Start with nothing: no connections, no token of a call whose answer is still to come."""
        self._pid = os.getpid()
        self._links = LinkPool(self._connector, "list")
        self._unsure: deque[str] = deque()
        """Tokens of pops that may have taken something: the next pop looks there first."""
        self._unsaid: deque[str] = deque()
        """Tokens of tasks that were handed out, which the server does not know yet."""
        self._saved: deque[tuple[str, bytes]] = deque()
        """Tasks that are here, of pops that were interrupted: the next pop returns them."""
        self._looked_s = 0.0
        """When it was last looked for what callers left who died."""
        self._wake = os.pipe()
        """Written to by close(): whoever waits ends."""

    @property
    def name(self) -> str:
        """The list's name."""
        return self.options.name

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
                is too long: the connection is asked anew every 30 s. Ctrl-C ends it, and so does close() from a signal
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
        return _Pop(queues, timeout_ms).run()

    def decode(self, payload: bytes) -> Any:
        """The data of a payload.

        Raises:
            DecodeError: it is of another format; its `payload` has the bytes.
        """
        try:
            return decode_task(payload, self.options.codec)
        except MillstreamError as error:
            error.payload = payload  # type: ignore[attr-defined]
            raise

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
        return self._asked(lambda link: peek_tasks(link, self.options, count=count, start=start))

    def close(self) -> None:
        """Close the connections; whoever waits in pop() gets a ClosedError. May be called from a signal handler."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            os.write(self._wake[1], b".")
            self._leave()
        self._links.close()
        if self._own:
            self._connector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _leave(self) -> None:
        """Give back what a pop that was interrupted may have taken, and say what has arrived."""
        tokens = [*self._unsure, *(token for token, _ in self._saved)]
        if not tokens and not self._unsaid:
            return
        try:
            with self._links.lent() as link:
                for token in self._unsaid:
                    popped(link, self.options, token)
                for token in self._unsure:
                    return_tasks(link, self.options, hand=False, tokens=[token])
                for token, payload in self._saved:
                    back = return_tasks(link, self.options, hand=False, tokens=[token])
                    if not back.of_callers:  # the server has been told that it arrived
                        put_back(link, self.options, payload)
        except MillstreamError as error:
            _log.warning(
                "a pop that was interrupted may have taken a task: it is given back later",
                list=self.name, error=str(error),
            )  # fmt: skip

    def _token(self) -> str:
        """The token of the next pop: one whose answer is still to come, else a new one."""
        try:
            return self._unsure.popleft()
        except IndexError:
            return secrets.token_hex(8)

    def _usable(self) -> None:
        if self._closed:
            raise ClosedError(f"the list queue {self.name!r} is closed")
        if self._pid != os.getpid():
            self._begin()

    def _asked(self, ask: Callable[[Link], T], until_s: float | None = None) -> T:
        """The answer, asked for again while the server is away or refuses for a cause that may pass. Whatever is asked
        can be asked twice."""
        self._usable()
        if until_s is None:
            until_s = time.monotonic() + self._away_ms / 1_000
        tries = 0
        while True:
            try:
                with self._links.lent() as link:
                    return ask(link)
            except MillstreamError as error:
                if row_of(error).producer not in _PASSING or time.monotonic() > until_s or self._closed:
                    raise
            tries += 1
            time.sleep(AGAIN.wait_ms(tries) / 1_000)


class _Pop:
    """One pop from one or several queues."""

    def __init__(self, queues: Sequence[ListQueue], timeout_ms: int | None) -> None:
        self._queues = queues
        for queue in queues:
            queue._usable()
        now_s = time.monotonic()
        self._until_s = None if timeout_ms is None else now_s + timeout_ms / 1_000
        self._handed: set[ListQueue] = set()
        """Into their hands a wait of ours may have moved a task that nobody fetched."""
        self._polls = {queue for queue in queues if queue.options.is_sorted}
        self._looks = 0

    def run(self) -> tuple[ListQueue, bytes] | None:
        """Look, wait, look again, until there is something or the time is over."""
        try:
            while True:
                for queue in self._queues:
                    payload = self._look(queue)
                    if payload is not None:
                        self._handed.discard(queue)
                        return queue, payload
                left_ms = self._left_ms()
                if left_ms <= 0:
                    return None
                self._wait(left_ms)
        finally:
            for queue in self._handed:
                self._put_back(queue)

    def _left_ms(self) -> float:
        return WAIT_MS if self._until_s is None else (self._until_s - time.monotonic()) * 1_000

    def _look(self, queue: ListQueue) -> bytes | None:
        """The queue's next task, which then counts as ours; None if there is none."""
        options, now_s = queue.options, time.monotonic()
        patience_s = queue._away_ms / 1_000
        until_s = now_s + patience_s
        if self._until_s is not None:
            until_s = min(until_s, max(self._until_s, now_s + LEAST_MS / 1_000))
        for said in list(queue._unsaid):  # to say it twice does no harm
            queue._asked(partial(popped, options=options, token=said), until_s)
            with contextlib.suppress(ValueError):
                queue._unsaid.remove(said)
        if now_s > queue._looked_s + LOOK_AFTER_MS / 1_000 or not queue._looked_s:
            queue._looked_s = now_s
            queue._asked(partial(return_tasks, options=options, hand=False), until_s)
        while True:
            payload: bytes | None = None
            try:
                token, payload = queue._saved.popleft()
            except IndexError:
                token = queue._token()
            try:
                if payload is None:
                    payloads = queue._asked(partial(pop_tasks, options=options, token=token), until_s)
                    if not payloads:
                        return None
                    payload = payloads[0]
                if self._arrived(queue, token, until_s):
                    return payload
            except BaseException as error:  # Ctrl-C, or nobody knows whether it was taken
                if payload is not None:
                    queue._saved.append((token, payload))
                elif isinstance(error, NotConnectedError) or not isinstance(error, Exception):
                    queue._unsure.append(token)
                raise

    def _arrived(self, queue: ListQueue, token: str, until_s: float) -> bool:
        """Say that a task is here; False if it was given back to the list by then."""
        broken = False
        while True:
            try:
                with queue._links.lent() as link:
                    # If an answer was lost, it was that of the call which said it: nothing is given back so soon.
                    return popped(link, queue.options, token) or broken
            except MillstreamError as error:
                broken = True
                if time.monotonic() > until_s:
                    queue._unsaid.append(token)
                    _log.warning(
                        "a task was taken, and the server does not know that it has arrived: unless it is told by the "
                        "next call, the task is given back and comes again",
                        list=queue.name, error=str(error),
                    )  # fmt: skip
                    return True
            time.sleep(AGAIN.wait_ms(1) / 1_000)

    def _wait(self, left_ms: float) -> None:
        """Until one of the queues may have a task, or some time has passed."""
        asked = [queue for queue in self._queues if queue not in self._polls]
        if self._polls:
            self._looks += 1
            left_ms = min(left_ms, POLL.wait_ms(self._looks))
        wait_ms = max(int(min(left_ms, WAIT_MS)), 1)
        waits: list[tuple[ListQueue, Link, int | None]] = []
        wake = [queue._wake[0] for queue in self._queues]
        try:
            if not asked:
                _sleep(wait_ms, wake)
            for queue in asked:
                self._begin_wait(queue, wait_ms, waits)
            if waits:
                # What the server was asked last it answers last.
                ready_any([link for _, link, _ in waits], wait_ms + LATE_MS, wake)
        finally:
            for queue, link, client in waits:
                self._end_wait(queue, link, client)
        for queue in self._queues:
            queue._usable()

    def _begin_wait(
        self, queue: ListQueue, wait_ms: int, waits: list[tuple[ListQueue, Link, int | None]]
    ) -> None:
        """Ask the server to hand over the queue's next task."""
        try:
            link = queue._links.borrow()
            try:
                client = link.calls([("CLIENT", "ID")])[0]
                link.send(wait_command(queue.options, wait_ms))
            except BaseException:
                link.close()
                self._handed.add(queue)
                raise
        except NotConnectedError:
            _sleep(min(wait_ms, AGAIN.longest_ms), [queue._wake[0]])  # the next look says what is wrong
            return
        waits.append((queue, link, client if isinstance(client, int) else None))

    def _end_wait(self, queue: ListQueue, link: Link, client: int | None) -> None:
        """Have what the server was asked for ended, and its answer read."""
        try:
            if not link.ready():
                if client is None:  # without the right to ask for a connection's number
                    raise NotConnectedError("closed")
                with queue._links.lent() as other:
                    other.call("CLIENT", "UNBLOCK", client)
            reply = link.read_or_error()
        except MillstreamError:
            self._handed.add(queue)
            link.close()
            return
        except BaseException:
            self._handed.add(queue)
            link.close()
            raise
        queue._links.give_back(link)
        if isinstance(reply, bytes):
            self._handed.add(queue)
        elif isinstance(reply, MillstreamError) and reply.code != "UNBLOCKED":
            self._polls.add(queue)  # out of memory, for one: what is there can be taken all the same

    def _put_back(self, queue: ListQueue) -> None:
        """What was handed over and not fetched goes back, so that old workers get it, too."""
        try:
            with queue._links.lent() as link:
                return_tasks(link, queue.options)
        except MillstreamError as error:
            _log.warning(
                "a task may stand in the hand of the list: whoever takes the next takes it first",
                list=queue.name, error=str(error),
            )  # fmt: skip


def _sleep(wait_ms: float, wake: Sequence[int]) -> None:
    """Sleep, but not on when one of the descriptors can be read."""
    poll = select.poll()
    for descriptor in wake:
        poll.register(descriptor, select.POLLIN)
    poll.poll(wait_ms)


def _list_options(name: str, options: dict[str, Any]) -> ListOptions:
    """ListOptions of the words that ListQueue takes."""
    if "old_timeout" in options:
        options["old_timeout_ms"] = duration_ms(options.pop("old_timeout"), "old_timeout")
    try:
        return ListOptions(name=name, **options)
    except TypeError:
        known = {field.name for field in fields(ListOptions)}
        unknown = [option for option in options if option not in known]
        raise UsageError(
            f"{', '.join(unknown)}: no such option of a list queue (ListOptions has {', '.join(sorted(known))})"
        ) from None
