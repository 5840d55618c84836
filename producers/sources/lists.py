"""Lists: the tasks of a list queue into a stream, each once and in order, killed whenever.

On one server a task is popped and appended by one script, so nothing has to be remembered. Loses nothing if killed:
what was looked at still stands in the list. To another server or slot see relayed_list.py.
"""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Protocol

from pipeline.backoff import RECONNECT
from pipeline.errors import (
    ClosedError,
    MillstreamError,
    UnsupportedServerError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.keys import check_name, check_stream_name, slot_of
from pipeline.list_options import ListOptions
from pipeline.observe.log import Limited, get_logger
from pipeline.pace import Pace
from pipeline.server.bridging import (
    MOST_BYTES,
    MOST_TASKS,
    checked,
    load_scripts,
    look_command,
    move_command,
    parse_look,
    parse_moved,
    wait_command,
)
from pipeline.server.connect import Connector, Link
from pipeline.server.error_map import Reaction, row_of
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.report import Report
from producers.sources.tasks import Made, TaskEntries, TaskOptions

WAIT_S = 20.0
"""How long one wait for a task lasts at the server; then it is asked anew whether it is still there."""
LOOK_MS = 100
"""How soon a wait notices that it is to end."""
POLL_S = 0.25
"""Where the server refuses to wait (it is out of memory), it is asked so often."""
BEHIND_S = 1.0
"""Of the time in which there was nothing to do, no more than this is made up for: the rate is steady."""
FIRST_TASKS = 16
"""Looked at before it is known how large tasks are."""

_log = get_logger("bridge")


def follow_list(
    producer: Producer,
    stream: str,
    queue: ListOptions | str,
    *,
    url: str | None = None,
    follow: bool = True,
    bridge: str = "",
    options: TaskOptions | None = None,
    rate: float | None = None,
    stop: threading.Event | None = None,
    fed: Fed | None = None,
    progress: Callable[[Fed], None] | None = None,
) -> Fed:
    """Move the tasks of a list into a stream, each once, in the order in which workers would take them.

    Old workers may take from the list meanwhile, and old producers push: each task goes to one of them or into the
    stream. With follow=True it goes on until `stop`; else until the list is empty.

    Args:
        url: the list's server; by default that of the producer.
        bridge: with the list elsewhere: the name under which it is kept how far this has come. Two that go on at the
            same time have two names. Default: the stream's name.
        options: type and key of the events.
        rate: at most so many tasks a second.
        fed, progress: as those of follow_file(); `unparsed` counts the tasks that went on as they are.

    Raises:
        UsageError: names or options that cannot be. WrongKeyTypeError: one of the keys is none of its kind.
        DecodeError: with bad=stop, a task that cannot be decoded; it is still in the list, with all behind it.
        AccessDeniedError and the like: the server does not let us.
    """
    queue = ListOptions(name=queue) if isinstance(queue, str) else queue
    name = check_stream_name(producer.stream_name(stream))
    check_pair(queue, name)
    stop, fed = stop or threading.Event(), Fed() if fed is None else fed
    source = producer.connector if url is None else Connector(url, name="millstream-bridge")
    try:
        course = Course(producer, name, queue, options or TaskOptions(), follow, rate, stop, fed, progress)
        _until_done(course, _way(course, source, check_name("bridge", bridge or name)))
    finally:
        if url is not None:
            source.close()
    return fed


def check_pair(queue: ListOptions, stream: str) -> None:
    """Refuse a list and a stream that cannot be bridged.

    Raises:
        UsageError: they are one key, or the list is a sorted set.
    """
    if queue.is_sorted:
        raise UsageError(
            f"list {queue.name!r}: order=priority is a sorted set, and a stream has one order: let workers take from it"
        )
    keys = queue.keys
    if stream in (keys.list, keys.stream):
        raise UsageError(
            f"list {queue.name!r} and stream {stream!r} are one key: give the stream another name"
        )


class Course:
    """What one run of a bridge goes by, whichever way it takes."""

    def __init__(
        self,
        producer: Producer,
        stream: str,
        queue: ListOptions,
        options: TaskOptions,
        follow: bool,
        rate: float | None,
        stop: threading.Event,
        fed: Fed,
        progress: Callable[[Fed], None] | None,
    ) -> None:
        self.producer, self.stream, self.queue = producer, stream, queue
        self.follow, self.stop, self.fed = follow, stop, fed
        self.limited = Limited(_log)
        # A producer of its own in each run: another one's numbers would begin at 1 again.
        self.entries = TaskEntries(f"bridge-{secrets.token_hex(8)}", queue.codec, options)
        self._report = Report(fed, progress)
        self._rate = rate
        self._pace, self._paced = Pace(time.monotonic(), rate), 0
        self._most = FIRST_TASKS

    @property
    def most(self) -> int:
        """How many tasks the next step may move."""
        return self._pace.most(self._most)

    def next(self, looked: list[bytes]) -> Made:
        """The entries of the next step's tasks, taken off what was looked at."""
        count, size = 0, 0
        for payload in looked[: self.most]:
            size += len(payload)
            if count and size > MOST_BYTES:
                break
            count += 1
        if count:
            self._most = max(1, min(MOST_TASKS, MOST_BYTES // max(size // count, 1)))
        made = self.entries.made(looked[:count])
        del looked[:count]
        self.fed.lines += len(made.tasks)
        return made

    def moved(self, made: Made, indices: list[int]) -> None:
        """So many are in the stream; waits as long as the rate asks for."""
        self.fed.confirmed += len(indices)
        kept = set(indices).intersection(made.kept) if made.kept else ()
        for index in kept:
            self.fed.unparsed += 1
            self.limited.warning(
                "kept", "a task goes on as it is", list=self.queue.name, why=made.kept[index]
            )
        self._report.soon()
        if self._rate is not None:
            self._keep_pace(self._rate, len(indices))

    def await_task(self, link: Link) -> None:
        """Return once the list holds a task, or after a while; at once when the bridge is stopped."""
        self._report.now()
        link.send(wait_command(self.queue, WAIT_S))
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s and not link.ready(LOOK_MS):
            if self.stop.is_set():
                link.close()  # the server forgets the wait, and no task was taken by it
                return
        reply = link.read_or_error()
        if isinstance(reply, MillstreamError):
            if reply.code != "OOM":
                raise reply
            self.stop.wait(POLL_S)

    def close(self) -> None:
        """Say the last count."""
        self._report.now()

    def _keep_pace(self, rate: float, moved: int) -> None:
        self._paced += moved
        now_s = time.monotonic()
        wait_s = self._pace.wait_s(self._paced, now_s)
        if wait_s:
            self.stop.wait(wait_s)
        elif now_s - self._pace.begun_s - self._paced / rate > BEHIND_S:
            self._pace, self._paced = Pace(now_s, rate), 0


class Way(Protocol):
    """How tasks get from the list into the stream."""

    def run(self) -> None:
        """Move tasks until the list is empty (follow: until the bridge is stopped)."""

    def close(self) -> None:
        """Close the connections; run() makes others."""


def _way(course: Course, source: Connector, bridge: str) -> Way:
    from producers.sources.relayed_list import RelayedList

    target = course.producer.connector
    if source is not target:
        here, there = source.capabilities().run_id, target.capabilities().run_id
        if not here or here != there or source.address.db != target.address.db:
            return RelayedList(course, source, bridge)
    if source.capabilities().cluster_nodes and slot_of(course.queue.name) != slot_of(course.stream):
        return RelayedList(course, source, bridge)
    return MovedList(course, source)


def _until_done(course: Course, way: Way) -> None:
    tries, before = 0, 0
    try:
        while True:
            try:
                way.run()
                return
            except MillstreamError as error:
                way.close()
                _raise_if_final(error, course)
                tries = 1 if course.fed.confirmed > before else tries + 1
                before = course.fed.confirmed
                course.fed.restarts += 1
                course.limited.warning("trouble", "the bridge waits for the server", why=str(error))
                if course.stop.wait(RECONNECT.wait_ms(tries) / 1_000):
                    return
    finally:
        way.close()
        course.close()


def _raise_if_final(error: MillstreamError, course: Course) -> None:
    """Raise what no waiting mends."""
    if isinstance(error, UsageError | ClosedError | UnsupportedServerError):
        raise error
    if isinstance(error, WrongKeyTypeError):
        raise WrongKeyTypeError(f"list {course.queue.name!r} or stream {course.stream!r}: {error}") from None
    if row_of(error).producer in (Reaction.WAIT, Reaction.ELSEWHERE, Reaction.TEACH):
        return
    raise error


class MovedList:
    """A list and a stream that one script may move tasks between."""

    def __init__(self, course: Course, connector: Connector) -> None:
        self._course = course
        self._connector = connector
        self._link: Link | None = None

    def run(self) -> None:
        """See Way."""
        course = self._course
        link = self._link = self._connector.link("bridge")
        load_scripts(link)
        while not course.stop.is_set():
            looked = self._look(link)
            if looked:
                self._move(link, looked)
            elif not course.follow:
                return
            else:
                course.await_task(link)

    def close(self) -> None:
        """See Way."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _look(self, link: Link) -> list[bytes]:
        queue = self._course.queue
        return parse_look(queue, link.call(*look_command(queue, self._course.most)))

    def _move(self, link: Link, looked: list[bytes]) -> None:
        """Move what was looked at and what comes, until nothing does.

        While the server moves tasks, the entries of those behind them are made.
        """
        course, queue = self._course, self._course.queue
        cap_entries = course.producer.options.max_stream_entries
        made = course.next(looked)
        if made.stopped is not None and not made.tasks:
            raise made.stopped
        while made.tasks and not course.stop.is_set():
            link.send(
                move_command(queue, course.stream, made.tasks, cap_entries=cap_entries),
                look_command(queue, course.most, skip=len(looked)),
            )
            coming = course.next(looked) if made.stopped is None else Made()
            reply, more = link.read_or_error(), link.read_or_error()
            moved = parse_moved(checked(reply))
            course.moved(made, moved.indices())
            if made.stopped is not None or not moved.moved:
                # Something else stands at the take end than was looked at: look again.
                break
            looked += parse_look(queue, checked(more))
            made = coming if coming.tasks else course.next(looked)
