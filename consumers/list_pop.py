"""ListPop: the plain pop of list queues: waits at the server for as long as it is told to, and loses nothing within.

Stands on ListCalls and lua/list_pop.lua. A task is taken by a token and kept by the server until it has arrived. While
a pop waits, the server moves the next task into the list's hand, which belongs to nobody: whoever comes next, this pop
or another, a worker's too, takes what lies there first. If the process is killed, what it was about to pop is in the
list, in the hand, or is given back after a minute.
"""

import contextlib
import secrets
import select
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from consumers.list_calls import AGAIN, ListCalls
from pipeline.backoff import Backoff
from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.observe.log import get_logger
from pipeline.server.connect import Link, ready_any
from pipeline.server.list_pop import pop_tasks, popped, put_back, return_tasks
from pipeline.server.lists import hand_over_command

WAIT_MS = 30_000
"""The server is asked to wait so long at a time, in ms: a connection that died unnoticed is found then."""
LATE_MS = 5_000
"""An answer may come so much later than the wait it was asked for, in ms."""
POLL = Backoff(initial_ms=20, longest_ms=250, jitter=0.1)
"""Between looks where the server cannot be asked to wait: at a sorted set, or while it is out of memory."""
LOOK_AFTER_MS = 30_000
"""So often a queue that pops looks for what was popped by callers who died, in ms."""
LEAST_MS = 5_000
"""A pop that waits for less than this tries so long all the same when the server is away, in ms."""

_log = get_logger("list")


class ListPop:
    """The popping side of one list queue: what of earlier pops is still to be found out or said."""

    def __init__(self, calls: ListCalls) -> None:
        self.calls = calls
        self._begin()
        calls.on_fork.append(self._begin)

    def _begin(self) -> None:
        self.unsure: deque[str] = deque()
        """Tokens of pops that may have taken something: the next pop looks there first."""
        self.saved: deque[tuple[str, bytes, bool]] = deque()
        """Tasks that are here, of pops that were interrupted: the next pop returns them. And whether the server may
        know that: then a token which it knows no longer does not mean that the task was given back."""
        self.unsaid: deque[str] = deque()
        """Tokens of tasks that were handed out, which the server does not know yet."""
        self.looked_s = 0.0
        """When it was last looked for what callers left who died."""

    def token(self) -> str:
        """The token of the next pop: one whose answer is still to come, else a new one."""
        try:
            return self.unsure.popleft()
        except IndexError:
            return secrets.token_hex(8)

    def leave(self) -> None:
        """Give back what a pop that was interrupted may have taken, and say what has arrived."""
        if not (self.unsure or self.saved or self.unsaid):
            return
        options = self.calls.options
        try:
            with self.calls.links.lent() as link:
                for token in self.unsaid:
                    popped(link, options, token)
                for token in self.unsure:
                    return_tasks(link, options, hand=False, tokens=[token])
                for token, payload, told in self.saved:
                    back = return_tasks(link, options, hand=False, tokens=[token])
                    if told and not back.of_callers:  # the server has been told that it arrived
                        put_back(link, options, payload)
        except MillstreamError as error:
            _log.warning(
                "a pop that was interrupted may have taken a task: it is given back later",
                list=options.name, error=str(error),
            )  # fmt: skip


class Waiting:
    """One pop from one or several queues."""

    def __init__(self, queues: Sequence[ListPop], timeout_ms: int | None) -> None:
        self._queues = queues
        for queue in queues:
            queue.calls.usable()
        now_s = time.monotonic()
        self._until_s = None if timeout_ms is None else now_s + timeout_ms / 1_000
        self._handed: set[ListPop] = set()
        """Into their hands a wait of ours may have moved a task that nobody fetched."""
        self._polls = {queue for queue in queues if queue.calls.options.is_sorted}
        self._looks = 0

    def run(self) -> tuple[ListPop, bytes] | None:
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

    def _look(self, queue: ListPop) -> bytes | None:
        """The queue's next task, which then counts as ours; None if there is none."""
        options, now_s = queue.calls.options, time.monotonic()
        patience_s = queue.calls.away_ms / 1_000
        until_s = now_s + patience_s
        if self._until_s is not None:
            until_s = min(until_s, max(self._until_s, now_s + LEAST_MS / 1_000))
        for said in list(queue.unsaid):  # to say it twice does no harm
            queue.calls.asked(partial(popped, options=options, token=said), until_s)
            with contextlib.suppress(ValueError):
                queue.unsaid.remove(said)
        if now_s > queue.looked_s + LOOK_AFTER_MS / 1_000 or not queue.looked_s:
            queue.looked_s = now_s
            queue.calls.asked(partial(return_tasks, options=options, hand=False), until_s)
        while True:
            payload: bytes | None = None
            told = telling = False
            try:
                token, payload, told = queue.saved.popleft()
            except IndexError:
                token = queue.token()
            try:
                if payload is None:
                    payloads = queue.calls.asked(partial(pop_tasks, options=options, token=token), until_s)
                    if not payloads:
                        return None
                    payload = payloads[0]
                telling = True
                if self._arrived(queue, token, until_s, told=told):
                    return payload
            except BaseException as error:  # Ctrl-C, or nobody knows whether it was taken
                if payload is not None:
                    queue.saved.append((token, payload, told or telling))
                elif isinstance(error, NotConnectedError) or not isinstance(error, Exception):
                    queue.unsure.append(token)
                raise

    def _arrived(self, queue: ListPop, token: str, until_s: float, *, told: bool) -> bool:
        """Say that a task is here; False if it was given back to the list by then. told: that may have been said."""
        while True:
            try:
                with queue.calls.links.lent() as link:
                    # If an answer was lost, it was that of the call which said it: nothing is given back so soon.
                    return popped(link, queue.calls.options, token) or told
            except MillstreamError as error:
                told = True
                if time.monotonic() > until_s:
                    queue.unsaid.append(token)
                    _log.warning(
                        "a task was taken, and the server does not know that it has arrived: unless it is told by the "
                        "next call, the task is given back and comes again",
                        list=queue.calls.options.name, error=str(error),
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
        waits: list[tuple[ListPop, Link, int | None]] = []
        wake = [queue.calls.wake for queue in self._queues]
        try:
            if not asked:
                _sleep(wait_ms, wake)
            for queue in asked:
                self._begin_wait(queue, wait_ms, waits)
            if waits:
                # What the server was asked last it answers last. Where a connection broke, the next look goes on.
                with contextlib.suppress(NotConnectedError):
                    ready_any([link for _, link, _ in waits], wait_ms + LATE_MS, wake)
        finally:
            for queue, link, client in waits:
                self._end_wait(queue, link, client)
        for queue in self._queues:
            queue.calls.usable()

    def _begin_wait(
        self, queue: ListPop, wait_ms: int, waits: list[tuple[ListPop, Link, int | None]]
    ) -> None:
        """Ask the server to hand over the queue's next task."""
        try:
            link = queue.calls.links.borrow()
            try:
                client = link.calls([("CLIENT", "ID")])[0]
                link.send(hand_over_command(queue.calls.options, wait_ms))
            except BaseException:
                link.close()
                self._handed.add(queue)
                raise
        except MillstreamError as error:
            if not queue.calls.passes(error):
                raise
            _sleep(min(wait_ms, AGAIN.longest_ms), [queue.calls.wake])  # the next look says what is wrong
            return
        waits.append((queue, link, client if isinstance(client, int) else None))

    def _end_wait(self, queue: ListPop, link: Link, client: int | None) -> None:
        """Have what the server was asked for ended, and its answer read."""
        try:
            if not link.ready():
                if client is None:  # without the right to ask for a connection's number
                    raise NotConnectedError("closed")
                with queue.calls.links.lent() as other:
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
        queue.calls.links.give_back(link)
        if isinstance(reply, bytes):
            self._handed.add(queue)
        elif isinstance(reply, MillstreamError) and reply.code != "UNBLOCKED":
            self._polls.add(queue)  # out of memory, for one: what is there can be taken all the same

    def _put_back(self, queue: ListPop) -> None:
        """What was handed over and not fetched goes back, so that old workers get it, too."""
        try:
            with queue.calls.links.lent() as link:
                return_tasks(link, queue.calls.options)
        except MillstreamError as error:
            _log.warning(
                "a task may stand in the hand of the list: whoever takes the next takes it first",
                list=queue.calls.options.name, error=str(error),
            )  # fmt: skip


def _sleep(wait_ms: float, wake: Sequence[int]) -> None:
    """Sleep, but not on when one of the descriptors can be read."""
    poll = select.poll()
    for descriptor in wake:
        poll.register(descriptor, select.POLLIN)
    poll.poll(wait_ms)
