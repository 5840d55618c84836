"""Lists: the tasks of a list queue into a stream, each once and in order, killed whenever.

On one server a task is popped and appended by one script, so nothing has to be remembered. Loses nothing if killed:
what was looked at still stands in the list. To another server or slot see relayed_list.py.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from pipeline.errors import MillstreamError, UsageError, WrongKeyTypeError
from pipeline.keys import check_name, check_stream_name, slot_of
from pipeline.list_options import ListOptions
from pipeline.server.bridge_ends import BridgeEnds
from pipeline.server.bridge_sign import BridgeSign
from pipeline.server.connect import Connector
from pipeline.server.lasting import until_done
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.list_course import Course
from producers.sources.moved_list import MovedList
from producers.sources.relayed_list import RelayedList
from producers.sources.tasks import TaskOptions


def follow_list(
    producer: Producer,
    stream: str,
    queue: ListOptions | str,
    *,
    url: str | None = None,
    connector: Connector | None = None,
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
        url: the list's server; by default that of the producer. connector: instead of url; it stays the caller's.
        bridge: with the list elsewhere: the name under which it is kept how far this has come. Two that go on at the
            same time have two names. Default: the stream's name.
        options: type and key of the events.
        rate: at most so many tasks a second.
        fed, progress: as those of follow_file(); `unparsed` counts the tasks that went on as they are.

    Raises:
        UsageError: names or options that cannot be; or a bridge from this stream to this list is at work; or type or
            key of the options is a function that fails: that task and those behind it stay where they are.
        WrongKeyTypeError: one of the keys is none of its kind.
        DecodeError: with bad=stop, a task that cannot be decoded; it is still in the list, with all behind it, or, to
            another server or slot, held.
        AccessDeniedError and the like: the server does not let us.
    """
    queue = ListOptions(name=queue) if isinstance(queue, str) else queue
    name = check_stream_name(producer.stream_name(stream))
    check_pair(queue)
    stop, fed = stop or threading.Event(), Fed() if fed is None else fed
    source = connector or (producer.connector if url is None else Connector(url, name="millstream-bridge"))
    try:
        course = Course(producer, name, queue, options or TaskOptions(), follow, rate, stop, fed, progress)
        _until_done(course, source, check_name("bridge", bridge or name))
    finally:
        if connector is None and url is not None:
            source.close()
    return fed


def check_pair(queue: ListOptions) -> None:
    """Refuse a list and a stream that cannot be bridged, wherever they are.

    Raises:
        UsageError: the list is a sorted set.
    """
    if queue.is_sorted:
        raise UsageError(
            f"list {queue.name!r}: order=priority is a sorted set, and a stream has one order: let workers take from it"
        )


class Way(Protocol):
    """How tasks get from the list into the stream."""

    def run(self) -> None:
        """Move tasks until the list is empty (follow: until the bridge is stopped)."""

    def close(self) -> None:
        """Close the connections; run() makes others."""


def _way(course: Course, ends: BridgeEnds, source: Connector, bridge: str) -> Way:
    if not ends.are_on_one_server():
        return RelayedList(course, source, bridge)
    if source.capabilities().cluster_nodes and slot_of(course.queue.name) != slot_of(course.stream):
        return RelayedList(course, source, bridge)
    held = ends.held(bridge)
    if held:
        course.limited.warning(
            "held",
            "a bridge of this name, to another server, left tasks that it holds: run that one again",
            list=course.queue.name,
            bridge=bridge,
            tasks=held,
        )
    return MovedList(course, source)


def _until_done(course: Course, source: Connector, bridge: str) -> None:
    way: Way | None = None
    ends = BridgeEnds(course.queue, course.stream, source, course.producer.connector)
    sign = BridgeSign(source, course.queue, course.stream, to_stream=True, stop=course.stop)

    def attempt() -> None:
        nonlocal way
        sign.put_up()
        if way is None:
            ends.check_names()
            way = _way(course, ends, source, bridge)
        try:
            way.run()
        finally:
            way.close()

    def trouble(error: MillstreamError) -> None:
        course.fed.restarts += 1
        course.limited.warning("trouble", "the bridge waits for the server", why=str(error))

    try:
        until_done(
            attempt,
            stop=course.stop,
            done=lambda: course.fed.confirmed,
            trouble=trouble,
            over=[source, course.producer.connector],
        )
    except WrongKeyTypeError as error:
        raise ends.named(error, bridge) from None
    finally:
        try:
            course.close()
        finally:
            sign.close()
