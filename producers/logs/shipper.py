"""LogShipper: takes log lines from the application's threads and sends them in packs, from a thread of its own.

Stands on a producer. The threads that log never wait for Redis and never see an error because of it: what finds no
room is dropped, the oldest first and errors last, counted and said once a second. Loses what is queued if killed.
"""

import contextlib
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from pipeline.errors import BufferFull, ClosedError, EncodeError, EventTooLargeError, MillstreamError
from pipeline.event import Event
from pipeline.observe.log import Limited, get_logger
from pipeline.options import LogOptions
from producers import at_exit
from producers.batch import Chunk
from producers.logs.line import Line, cut, level_name, sendable
from producers.logs.reentrant_event import ReentrantEvent
from producers.producer import Producer

GRAVE = 40
"""Lines of this level (ERROR) and above are dropped last."""
TAKE_LINES = 500
KEEP_TRYING = "6h"
"""How long a line is tried once it is on its way: an outage ends lines by their number, not by their age."""
ROOM_MS = 200
SEND_EVENTS, SEND_BYTES = 2_000, "4MB"
"""What may be on its way at once, beside the queue."""

_log = get_logger("logs")
_shippers: "weakref.WeakValueDictionary[tuple[object, ...], LogShipper]" = weakref.WeakValueDictionary()


def end_all() -> None:
    """End all shippers of this process, as its own end would."""
    for shipper in list(_shippers.values()):
        shipper.at_exit()


def shipper_for(stream: str, url: str | None, namespace: str, options: LogOptions) -> "LogShipper":
    """The shipper of a stream: one for all who ask for the same, so that they share thread and connection."""
    key = (stream, url, namespace, options)
    shipper = _shippers.get(key)
    if shipper is None:
        shipper = _shippers[key] = LogShipper(stream, url, namespace, options)
    return shipper


class LogShipper:
    """Bounded queue, thread and producer. put() may be called from anywhere: signal handlers and finalizers, too."""

    def __init__(self, stream: str, url: str | None, namespace: str, options: LogOptions) -> None:
        self._key = (stream, url, namespace, options)
        self.stream = stream
        self.options = options
        self.make_producer: Callable[[], Producer] = lambda: Producer(
            url,
            namespace=namespace,
            pack=options.pack or None,
            buffer_events=SEND_EVENTS,
            buffer_bytes=SEND_BYTES,
            send_timeout=KEEP_TRYING,
            dedupe_for="1d",
        )
        """Makes the producer once the first line comes; replaced before that, another is used, and closed."""
        self._producer: Producer | None = None
        self.queued = 0
        """Lines taken so far."""
        self.dropped = 0
        """Lines given up so far, because there was no room or no way to send them."""
        self._begin()
        at_exit.keep(self)

    def _begin(self) -> None:
        # Reentrant: a signal handler or a finalizer may log while its own thread is in here.
        self._lock = threading.RLock()
        self._lines: deque[tuple[int, Line]] = deque()
        self._grave: deque[tuple[int, Line]] = deque()
        self._bytes = 0
        self._number = 0
        self._wake = ReentrantEvent()
        self._hurry = ReentrantEvent()
        self._idle = ReentrantEvent()
        self._idle.set()
        self._closing = False
        self._reported = self.dropped
        self._thread: threading.Thread | None = None
        self._starting = False
        self._limited = Limited(_log)
        self._headers = {"host": socket.gethostname(), "pid": str(os.getpid())}

    def put(self, line: Line) -> None:
        """Queue a line; never waits for Redis, never raises."""
        options = self.options
        with self._lock:
            self.queued += 1
            if self._closing:
                self.dropped += 1
                return
            self._number += 1
            (self._grave if line.level >= GRAVE else self._lines).append((self._number, line))
            self._bytes += line.size_bytes
            while (
                len(self._lines) + len(self._grave) > options.queue_events
                or self._bytes > options.queue_bytes
            ):
                oldest = self._lines or self._grave
                if not oldest:
                    break
                _, gone = oldest.popleft()
                self._bytes -= gone.size_bytes
                self.dropped += 1
            if not self._wake.is_set():
                self._idle.clear()
                self._wake.set()
            if self._thread is None and not self._starting:
                self._starting = True  # for a signal handler that comes in the midst of this
                self._thread = threading.Thread(target=self._run, name="millstream-logs", daemon=True)
                with contextlib.suppress(RuntimeError):  # at the end of the process: at_exit() does its work
                    self._thread.start()
                    at_exit.started()

    def flush(self, timeout_ms: float) -> bool:
        """Wait until what is queued now has been sent; whether it was, within the time."""
        until_ms = time.monotonic() * 1_000 + timeout_ms
        if self._thread is None:
            return True
        if not self._idle.is_set():
            self._hurry.set()
        if not self._idle.wait(timeout_ms / 1_000):
            return False
        producer = self._producer
        if producer is None:
            return True
        try:
            producer.flush(max(until_ms - time.monotonic() * 1_000, 0) / 1_000)
        except TimeoutError:
            return False
        return True

    def at_exit(self) -> None:
        """Send what is queued, within exit_ms, say what was not sent, and take nothing more."""
        at_exit.forget(self)
        _shippers.pop(self._key, None)
        until_s = time.monotonic() + self.options.exit_ms / 1_000
        thread = self._thread
        if thread is None:
            self._closing = True
            return
        if thread.is_alive():
            self.flush(self.options.exit_ms)
        with self._lock:
            self._closing = True
        self._wake.set()
        if thread.is_alive():
            thread.join(max(until_s - time.monotonic(), 0.1))
        else:  # it could not be started so late
            self._send(until_s)
        left = len(self._lines) + len(self._grave)
        if self._producer is not None:
            left += self._producer.end(max(until_s - time.monotonic(), 0.1) * 1_000)
        if left or self.dropped > self._reported:
            _log.error("log lines were not shipped", unsent=left, dropped=self.dropped, stream=self.stream)

    def after_fork(self) -> None:
        """In a forked child: the queue is the parent's."""
        self.queued = self.dropped = 0
        self._begin()
        if self._producer is not None:
            self._producer.after_fork()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            if self.options.gather_ms and not self._closing:
                self._hurry.wait(self.options.gather_ms / 1_000)
                self._hurry.clear()
            self._wake.clear()
            self._send()
            self._report()
            with self._lock:
                if not (self._lines or self._grave or self._wake.is_set()):
                    self._idle.set()

    def _send(self, until_s: float | None = None) -> None:
        """Hand everything queued to the producer, as it has room; until_s, or the end, cuts it short."""
        while lines := self._take():
            try:
                producer = self._producer or self._produce()
                entries = self._entries(producer, [self._event(line) for line in lines])
            except MillstreamError as error:  # no address, for one
                self.dropped += len(lines)
                self._limited.warning("start", "log lines cannot be shipped", error=str(error))
                continue
            for number, entry in enumerate(entries):
                entry.receipt._disregard()  # failures are counted by the producer
                while not self._add(producer, entry):
                    self._report()
                    if self._closing or (until_s is not None and time.monotonic() > until_s):
                        producer.give_up(self.stream, entries[number:], ClosedError("the process ends"))
                        self.dropped += sum(one.events for one in entries[number:])
                        return

    def _add(self, producer: Producer, entry: Chunk) -> bool:
        try:
            producer.add(self.stream, entry, block_ms=ROOM_MS)
        except (BufferFull, ClosedError):
            return False
        return True

    def _entries(self, producer: Producer, events: list[Event]) -> list[Chunk]:
        try:
            return producer.entries(events, pack=self.options.pack)
        except (EncodeError, EventTooLargeError):
            return producer.entries(
                [self._encodable(producer, event) for event in events], pack=self.options.pack
            )

    def _encodable(self, producer: Producer, event: Event) -> Event:
        """The event as far as an entry can hold it."""
        whole = sendable(event.data)
        few = {name: cut(str(whole.get(name, "")), 1_000) for name in ("event", "logger", "level")}
        for data in (event.data, whole, few):
            event = Event(data, type=event.type, time_ms=event.time_ms, headers=self._headers)
            try:
                producer.entries([event], pack=self.options.pack)
            except (EncodeError, EventTooLargeError):
                continue
            break
        return event

    def _take(self) -> list[Line]:
        """The oldest lines of both queues, in the order they were logged."""
        lines: list[Line] = []
        with self._lock:
            while len(lines) < TAKE_LINES and (self._lines or self._grave):
                grave_first = self._grave and (not self._lines or self._grave[0][0] < self._lines[0][0])
                _, line = (self._grave if grave_first else self._lines).popleft()
                self._bytes -= line.size_bytes
                lines.append(line)
            if not lines:
                self._bytes = 0
        return lines

    def _event(self, line: Line) -> Event:
        return Event(
            line.data, type=f"log.{level_name(line.level)}", time_ms=line.time_ms, headers=self._headers
        )

    def _produce(self) -> Producer:
        self._producer = producer = self.make_producer()
        at_exit.forget(producer)  # it ends with the shipper, after the queue
        return producer

    def _report(self) -> None:
        """Say how much was dropped, once a second at most."""
        dropped = self.dropped
        if dropped > self._reported:
            self._limited.warning(
                "dropped",
                "log lines dropped: the server does not take them",
                dropped=dropped - self._reported,
            )
            self._reported = dropped
