"""LogShipper: takes log lines from the application's threads and sends them in packs, from a thread of its own.

Stands on a producer. The threads that log never wait for Redis and never see an error because of it: what finds no
room is dropped, the oldest first and errors last, counted and said once a second. Loses what is queued if killed.
"""

import contextlib
import hashlib
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

from pipeline.codec import encode_msgpack
from pipeline.errors import BufferFull, ClosedError, EncodeError, EventTooLargeError, MillstreamError
from pipeline.observe.log import Limited, get_logger
from pipeline.options import LogOptions
from pipeline.packed import PackedEvents
from pipeline.server.scripts import script
from producers import at_exit
from producers.batch import Chunk, Fate
from producers.logs.line import SMALL_BYTES, Line, level_name
from producers.logs.reentrant_event import ReentrantEvent
from producers.logs.spool import Spool
from producers.producer import Producer
from producers.receipt import Ending
from producers.spill.folder import SpillFolder, check_folder

GRAVE = 40
"""Lines of this level (ERROR) and above are dropped last."""
INTAKE_LINES = 2_500
"""Most lines that lie uncounted in the intake."""
LINE_BYTES = 128
"""What a line takes in memory beside its body, about."""
POLL_S = 0.05
"""How often the thread looks for lines while they come: nobody wakes it then."""
SINGLES = 50
"""Lines sent at a time if each is an entry."""
GIVE_WAY_S = 0.000_05
"""A nap after so many, in which a thread of the application gets the interpreter: sleep(0) would take it back."""
KEEP_TRYING = "6h"
"""How long a line is tried once it is on its way: an outage ends lines by their number, not by their age."""
ROOM_MS = 200
SAY_S = 1.0
"""How often dropped lines are spoken of in our own log at most."""
TELL_S = 1.0
"""How often a line about dropped lines is shipped at most."""
FULL = "more lines than fit in memory"
AWAY_MS = 300
"""How long the end of the process waits for a server that takes nothing, where lines are safe in files."""
PATIENCE_MS = 50
"""How long a pack waits for room before it is written to a file."""
LEAVE_S = 2.0
"""How long it waits for the thread to write them there."""
LOOK_S = 0.01
"""How long the thread waits at least before it looks again how the last lines end."""
ASKED_S = 0.005
"""How often the thread looks whether what a flush waits for is confirmed, where it has to look."""
SEND_EVENTS, SEND_BYTES = 2_000, "4MB"
"""What may be on its way at once, beside the queue."""

Made = TypeVar("Made")

_log = get_logger("logs")
_body = itemgetter(2)
_shippers: "weakref.WeakValueDictionary[tuple[object, ...], LogShipper]" = weakref.WeakValueDictionary()


def end_all() -> None:
    """End all shippers of this process, as its own end would."""
    for shipper in list(_shippers.values()):
        shipper.at_exit()


def shipper_for(stream: str, url: str | None, namespace: str, options: LogOptions) -> "LogShipper":
    """The shipper of a stream: one for all who ask for the same, so that they share thread and connection."""
    key = _key_of(stream, url, namespace, options)
    shipper = _shippers.get(key)
    if shipper is None:
        shipper = _shippers[key] = LogShipper(stream, url, namespace, options)
    return shipper


def _key_of(stream: str, url: str | None, namespace: str, options: LogOptions) -> tuple[object, ...]:
    """What a shipper is known by: not the address itself, whose password somebody may print with it."""
    return stream, url and hashlib.sha256(url.encode()).hexdigest(), namespace, options


class LogShipper:
    """Bounded queue, thread and producer. put() may be called from anywhere: signal handlers and finalizers, too.

    Lines come in by the intake, which takes no lock and wakes nobody: the thread looks there every 50 ms while lines
    come, and moves them into the queue, which counts them. Who finds more lines there than there is room for settles
    them itself: moves them, drops what is too much, and wakes the thread if it sleeps (there is no room then).
    """

    def __init__(self, stream: str, url: str | None, namespace: str, options: LogOptions) -> None:
        self._key = _key_of(stream, url, namespace, options)
        self.stream = stream
        self.options = options
        self._folder: SpillFolder | None = None
        if options.spill:
            check_folder(options.spill)
            self._folder = SpillFolder(options.spill, f"{namespace}:{stream}" if namespace else stream)
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
        # Its first use imports a module, and a child that is forked while the thread does so has half of it for ever.
        script("append")
        self._producer: Producer | None = None
        self.dropped = 0
        """Lines given up so far, because there was no room or no way to send them."""
        self._begin()
        at_exit.keep(self)

    def _begin(self) -> None:
        self.intake: deque[Line] = deque()
        self.room = 0
        """How many lines may lie in the intake."""
        # Reentrant: a signal handler or a finalizer may log while its own thread is in here.
        self._lock = threading.RLock()
        self._settling = False
        self._lines: deque[Line] = deque()
        self._grave: deque[Line] = deque()
        """Lines of ERROR and above that were the oldest when others had to go; all are older than those in _lines."""
        self._bytes = 0
        self._taken = 0
        self._asleep = True
        self._wake = ReentrantEvent()
        self._hurry = ReentrantEvent()
        self._sent = threading.Condition(threading.RLock())
        self._asked = self._answered = 0
        self._closing = False
        self._reported = self.dropped
        self._thread: threading.Thread | None = None
        self._starting = False
        self._limited = Limited(_log)
        self._why = ""
        """Why lines were dropped last."""
        self._failed = 0
        """Lines that failed in the producer, of those counted as dropped."""
        self._telling: tuple[Ending, dict[str, Any]] | None = None
        """The line that says it, while it is on its way."""
        self._untold: dict[str, Any] = {}
        """What is to be said in the stream about lines that were dropped."""
        self._tell_s = 0.0
        self._said, self._say_s = self.dropped, 0.0
        """How many dropped lines were spoken of in our own log, and when they may be again."""
        self._quiet_at = datetime.now(UTC)
        self._headers = {"host": socket.gethostname(), "pid": str(os.getpid())}
        self.spool = Spool(self.stream, self._folder, self.options, self.drop) if self._folder else None
        """The way by files, if there is to be one. Used by the thread, and by at_exit() once that has ended."""

    @property
    def queued(self) -> int:
        """Lines taken so far."""
        return self._taken + len(self.intake)

    def put(self, line: Line) -> None:
        """Queue a line; never waits for Redis, never raises."""
        intake = self.intake
        intake.append(line)
        # First the line, then the look: the thread makes the room none and then looks for lines before it sleeps.
        if len(intake) > self.room or len(line[2]) > SMALL_BYTES:
            self.settle()

    def drop(self, lines: int, why: str = "they cannot be sent") -> None:
        """Count lines that are given up."""
        if lines:
            with self._lock:
                self.dropped += lines
                self._why = why

    def flush(self, timeout_ms: float) -> bool:
        """Wait until what is queued now has been sent; whether it was, within the time."""
        until_ms = time.monotonic() * 1_000 + timeout_ms
        if self._thread is None:
            return True
        if self._closing:
            return not self._held()
        self.settle()
        with self._lock:
            idle = self._asleep and not self._held()
            if not idle:
                self._asked += 1
            asked = self._asked
        if not idle:
            self._hurry.set()
            with self._sent:
                if not self._sent.wait_for(lambda: self._answered >= asked, timeout_ms / 1_000):
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
        self._tell_s = 0.0
        if thread is not None and thread.is_alive():
            # What the server does not take in time has another place to be.
            away = self.spool is not None and self.spool.away
            self.flush(min(self.options.exit_ms, AWAY_MS) if away else self.options.exit_ms)
        self.settle()
        with self._lock:
            self._closing = True
            self._fit()
        if thread is None:
            return
        self._wake.set()
        self._hurry.set()
        if thread.is_alive():
            thread.join(max(until_s - time.monotonic(), 0.1 if self.spool is None else LEAVE_S))
        elif self.spool is None:  # it could not be started so late
            self._send(until_s=until_s)
        left = self._held()
        if self.spool is not None and not thread.is_alive():
            left = self._end_spool(self.spool, until_s)
        elif self._producer is not None:
            left += self._producer.end(max(until_s - time.monotonic(), 0.1) * 1_000)
        if left or self.dropped > self._said:
            _log.error("log lines were not shipped", unsent=left, dropped=self.dropped, stream=self.stream)

    def _end_spool(self, spool: Spool, until_s: float) -> int:
        """Send what is left or write it down; the number of lines that are nowhere."""
        while self._held() and self._spool_some(spool, self.options.pack or SINGLES):
            pass
        secured = spool.secure()
        if self._producer is not None:
            rest_ms = max(until_s - time.monotonic(), 0.1) * 1_000
            self._producer.end(min(rest_ms, AWAY_MS) if secured and spool.away else rest_ms)
        waits = not spool.idle
        left = self._held() + spool.close()
        if waits and not left:
            _log.warning("log lines wait in the spill folder for the next process", spill=self.options.spill)
        return left

    def after_fork(self) -> None:
        """In a forked child: the queue is the parent's, and so are its files."""
        if self.spool is not None:
            self.spool.forget()
        self.dropped = 0
        self._begin()
        if self._producer is not None:
            self._producer.after_fork()

    # The queue.

    def _held(self) -> int:
        return len(self._lines) + len(self._grave)

    def settle(self) -> None:
        """Move the intake into the queue, drop what is too much, and have the thread run."""
        with self._lock:
            if self._settling:  # we are a signal handler or a finalizer in the midst of it
                return
            self._settling = True
            try:
                self._move()
                self._fit()
            finally:
                self._settling = False
            if self._asleep and self._held() and not self._closing:
                self._rouse()

    def _move(self) -> None:
        lines = self._lines
        before = len(lines)
        # In one step of C: nothing comes between that could lose a line.
        with contextlib.suppress(IndexError):
            lines.extend(iter(self.intake.popleft, None))
        moved = len(lines) - before
        if not moved:
            return
        self._taken += moved
        if self._closing:  # nothing more is taken
            for _ in range(moved):
                lines.pop()
            self.dropped += moved
            self._why = "the process ends"
            return
        self._bytes += sum(map(len, map(_body, islice(reversed(lines), moved)))) + moved * LINE_BYTES
        options = self.options
        while self._held() > options.queue_events or self._bytes > options.queue_bytes:
            if lines:
                line = lines.popleft()
                if line[0] >= GRAVE:
                    self._grave.append(line)
                    continue
            elif self._grave:
                line = self._grave.popleft()
            else:
                break
            self._bytes -= len(line[2]) + LINE_BYTES
            self.dropped += 1
            self._why = FULL

    def _fit(self) -> None:
        """How many lines the intake may hold: so many small ones that the bounds hold for both together."""
        if self._asleep or self._closing:
            self.room = 0
        else:
            options = self.options
            bytes_left = options.queue_bytes - self._bytes
            self.room = max(
                0,
                min(
                    INTAKE_LINES,
                    options.queue_events - self._held(),
                    bytes_left // (SMALL_BYTES + LINE_BYTES),
                ),
            )

    def _rouse(self) -> None:
        self._asleep = False
        self._fit()
        self._wake.set()
        if self._thread is None and not self._starting:
            self._starting = True  # for a signal handler that comes in the midst of this
            self._thread = threading.Thread(target=self._run, name="millstream-logs", daemon=True)
            with contextlib.suppress(RuntimeError):  # at the end of the process: at_exit() does its work
                self._thread.start()
                at_exit.started()

    def _take(self, most: int) -> list[Line]:
        """The oldest lines, in the order they were logged."""
        with self._lock:
            lines = [self._grave.popleft() for _ in range(min(most, len(self._grave)))]
            lines += [self._lines.popleft() for _ in range(min(most - len(lines), len(self._lines)))]
            self._bytes -= sum(map(len, map(_body, lines))) + len(lines) * LINE_BYTES
            if not self._held():
                self._bytes = 0
        return lines

    # The thread.

    def _run(self) -> None:
        while not self._closing:
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - without the thread nothing would be shipped any more
                self._limited.warning("thread", "shipping log lines failed, and goes on", error=repr(error))
                time.sleep(POLL_S)

    def _work(self) -> None:
        gather_s = self.options.gather_ms / 1_000
        due_s, seen = time.monotonic() + gather_s, -1
        while not self._closing:
            wait_s = min(due_s - time.monotonic(), POLL_S)
            spool = self.spool
            if spool is not None:
                if spool.step():
                    wait_s = 0  # the server takes more just now
                elif self._asked != self._answered:
                    wait_s = ASKED_S
            if wait_s > 0:
                self._hurry.wait(wait_s)
            hurries = self._hurry.is_set() or (spool is not None and self._asked != self._answered)
            if not hurries and time.monotonic() < due_s:
                self._send(only_full=True)
                self._report()
                continue
            self._hurry.clear()
            asked = self._asked
            self._send()
            producer = self._producer
            # How lines on their way end is to be known and told before the next one comes.
            busy = producer is not None and producer.held > 0
            self._report()
            self._tell()
            busy = busy or (producer is not None and bool(self._untold or self._telling))
            busy = busy or self.dropped > self._said
            idle = spool is None or spool.idle
            if idle:
                with self._sent:
                    self._answered = asked
                    self._sent.notify_all()
            if seen == self._taken:  # no line came since the last time
                if idle and not busy:
                    self._sleep()
                else:
                    self._hurry.wait(LOOK_S)
            seen = self._taken
            due_s = time.monotonic() + gather_s

    def _sleep(self) -> None:
        """Wait for the next line, which finds no room, and says so."""
        with self._lock:
            self._asleep = True
            self._wake.clear()
            self._fit()
            if self._held() or self.intake or self._asked != self._answered or self._closing:
                self._asleep = False
                self._fit()
                return
        self._wake.wait()

    def _send(self, *, only_full: bool = False, until_s: float | None = None) -> None:
        """Hand what is queued now to the producer, as it has room, a pack at a time.

        only_full: as far as it makes full packs. until_s, or the end, cuts it short.
        """
        self.settle()
        most = self.options.pack or SINGLES
        left = self._held()
        if self.spool is not None:
            while left >= (most if only_full else 1) and self._spool_some(self.spool, most):
                left = self._held()
            return
        while left >= (most if only_full else 1) and (lines := self._take(min(most, left))):
            left -= len(lines)
            entries = deque(self._entries(lines))
            for entry in entries:
                entry.receipt._disregard()  # failures are counted by the producer
            while entries:
                producer = self._producer
                assert producer is not None
                if self._add(producer, entries[0]):
                    entries.popleft()
                    continue
                self.settle()
                self._report()
                if self._closing or (until_s is not None and time.monotonic() > until_s):
                    producer.give_up(self.stream, list(entries), ClosedError("the process ends"))
                    given_up = sum(entry.events for entry in entries)
                    self._failed += given_up
                    self.drop(given_up, "the process ends")
                    return
            if not self.options.pack:  # a pack that is compressed gives the interpreter up by itself
                time.sleep(GIVE_WAY_S)

    def _add(self, producer: Producer, entry: Chunk, *, block_ms: float = ROOM_MS) -> bool:
        try:
            producer.add(self.stream, entry, block_ms=block_ms)
        except (BufferFull, ClosedError):
            return False
        return True

    def _spool_some(self, spool: Spool, most: int) -> bool:
        """Give the spool some of the oldest lines, if it can take any."""
        if spool.producer is None:
            try:
                spool.producer = self._producer or self._produce()
            except MillstreamError as error:  # no address, for one
                self._limited.warning("start", "log lines cannot be shipped", error=str(error))
        if not spool.ready():
            return False
        # While many wait in memory there is no time to wait for room.
        patient = 4 * self._held() < self.options.queue_events
        for record in self._made(self._take(most), spool.records):
            spool.put(record, block_ms=PATIENCE_MS if patient else 0)
        self.settle()
        self._report()
        return True

    def _entries(self, lines: list[Line]) -> list[Chunk]:
        """The lines as entries; those that cannot be sent are dropped."""

        def entries(events: PackedEvents) -> list[Chunk]:
            return (self._producer or self._produce()).entries(events, pack=self.options.pack)

        return self._made(lines, entries)

    def _made(self, lines: list[Line], make: Callable[[PackedEvents], list[Made]]) -> list[Made]:
        """What is made of the lines; those of which nothing can be made are dropped."""
        levels, times_s, bodies = zip(*lines, strict=True)
        times_ms = [int(time_s * 1_000) for time_s in times_s]
        events = PackedEvents(bodies, list(map(event_type, levels)), times_ms, self._headers)
        try:
            return make(events)
        except (EncodeError, EventTooLargeError) as error:
            if len(lines) > 1:
                return [made for line in lines for made in self._made([line], make)]
            refused: MillstreamError = error
        except MillstreamError as error:  # no address, for one
            refused = error
        self.drop(len(lines))
        self._limited.warning("start", "log lines cannot be shipped", error=str(refused))
        return []

    def _produce(self) -> Producer:
        self._producer = producer = self.make_producer()
        at_exit.forget(producer)  # it ends with the shipper, after the queue
        return producer

    def _report(self) -> None:
        """Say how much was dropped, once a second at most."""
        telling = self._telling
        if telling is not None and telling[0].fate is not None:
            self._telling = None
            if telling[0].fate not in (Fate.CONFIRMED, Fate.NOT_REACHED):
                # It was no line of the application's, and what it said is still to be said.
                self._failed += 1
                since = self._untold.get("dropped", 0)
                self._untold = {**telling[1], **self._untold, "since": telling[1]["since"]}
                self._untold["dropped"] = telling[1]["dropped"] + since
        if self._producer is not None and self.spool is None:
            counts = self._producer.counts
            failed = counts["failed"] + counts["unknown"]
            if failed > self._failed:
                self.drop(failed - self._failed, "the server refused them")
                self._failed = failed
        dropped = self.dropped
        if dropped > self._reported:
            now = datetime.now(UTC)
            if self._untold:
                self._untold["dropped"] += dropped - self._reported
            else:
                self._untold = {"dropped": dropped - self._reported, "since": self._quiet_at}
            self._untold |= {"until": now, "why": self._why}
            self._reported = dropped
        else:
            self._quiet_at = datetime.now(UTC)
        now_s = time.monotonic()
        if dropped > self._said and now_s >= self._say_s:
            _log.warning(
                "log lines dropped: the server does not take them",
                dropped=dropped - self._said,
                why=self._why,
            )
            self._said, self._say_s = dropped, now_s + SAY_S

    def _tell(self) -> None:
        """Ship a line that says how many were dropped, when and why, once the server takes lines again."""
        producer = self._producer
        now_s = time.monotonic()
        if not self._untold or self._telling is not None or producer is None or now_s < self._tell_s:
            return
        said = {"event": "log lines dropped", "level": "warning", "logger": "millstream.logs", **self._untold}
        line: Line = (30, time.time(), encode_msgpack(said))
        if self.spool is not None:
            if self.spool.away:
                return
            for record in self._made([line], self.spool.records):
                self.spool.put(record)
        else:
            for entry in self._entries([line]):
                entry.receipt._disregard()
                self._telling = (entry.ending, self._untold)
                if not self._add(producer, entry, block_ms=0):
                    producer.give_up(self.stream, [entry], ClosedError("no room"))
        self._untold = {}
        self._tell_s = now_s + TELL_S


@lru_cache(maxsize=256)
def event_type(level: int) -> str:
    """The type of a line's event."""
    return f"log.{level_name(level)}"
