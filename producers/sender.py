"""Sender: the one thread of a producer, which puts batches on the wire, reads the answers and settles receipts.

Stands on the outbox, which decides, and on one link. The next request is on the wire before the last answer is read.
Loses nothing that was confirmed if killed; what was not confirmed may or may not be in the stream. After a broken
connection everything unconfirmed is sent again under its old numbers, which the append script knows.
"""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.backoff import RECONNECT
from pipeline.errors import (
    BufferFull,
    ClosedError,
    MillstreamError,
    NotConnectedError,
    SendError,
    ServerRefusedError,
)
from pipeline.observe.log import Limited, get_logger
from pipeline.observe.trouble import trouble_with
from pipeline.options import ProducerOptions
from pipeline.server.append import MAX_UNCONFIRMED, Appended
from pipeline.server.connect import Connector
from pipeline.server.error_map import Reaction, row_of
from producers import at_exit
from producers.batch import Batches, Chunk, Fate, Settled
from producers.confirm import Level
from producers.counts import Counts
from producers.encoder import Encoder
from producers.exchange import LONGEST_SLEEP_MS, Exchange
from producers.intake import LOOSE_BYTES, PARTS, SMALL_BYTES, Frame, Intake
from producers.outbox import Outbox
from producers.receipt import Awaited, Ending, Failures, Receipt, settle
from producers.waker import Waker

DIRECT_BYTES = 65_536
"""An event up to this size is written by the thread that sends it, if nothing is on the way: the socket takes it."""

LOOKS = 10
"""So often within the send timeout the thread looks whether something came: what did is taken to have come just behind
the look before, as whoever sends notes no time. So a send has at least nine tenths of its timeout."""

NAP_MS = 10
"""While single events come one by one and nobody waits for their ends, answers are read so often, and not as they come:
the thread would wake just when whoever reads the event in this process needs the interpreter."""
QUIET_MS = 0.4
"""So long after an event was written its answer is there, and it has reached its reader, as a rule."""
LOOK_MS = 0.3
"""So long it takes about to read answers and settle what they end. What is sent meanwhile waits."""
MOST_UNREAD = 12
"""So many answers may be unread in a nap: fewer than MAX_UNCONFIRMED, for what comes by another way."""
ATTENTIVE_MS = 1_000
"""So long after somebody waited for an end there are no naps."""
ROOMY_EVENTS, ROOMY_BYTES = 1_000, 16 * DIRECT_BYTES
"""In a smaller buffer what is unread would be missed."""

_NO_OLDER = (
    "dropped: all older events are on their way, so none of them could make room (when_full=drop_oldest)"
)

_log = get_logger("producer")


def now_ms() -> float:
    """The steady clock, in ms."""
    return time.monotonic() * 1_000


def before_look_ms(since_ms: float, apart_ms: float) -> float:
    """How long to put off a look for answers, so that it falls between two events and not on the way of one.

    since_ms: how long ago the last was written. apart_ms: how long before that the one before it was.
    """
    if since_ms < QUIET_MS:
        return QUIET_MS - since_ms
    if since_ms < apart_ms < min(since_ms + LOOK_MS, NAP_MS):
        return apart_ms - since_ms + QUIET_MS
    return 0.0


class Sender:
    """Holds the intake, the outbox, its lock and the thread. Safe for threads; a forked child begins with nothing.

    Events sent one by one go into the intake, where Producer.send() puts them while the thread is at work and there is
    room; this is where it comes to otherwise. The thread makes them chunks of the outbox. Chunks that are ready go
    into the outbox at once, or, if events wait in the intake, behind them.
    """

    def __init__(
        self,
        connector: Connector,
        encoder: Encoder,
        options: ProducerOptions,
        *,
        on_error: Callable[[SendError], None] | None = None,
    ) -> None:
        self.options = options
        self.level = Level.of(options.confirm, options.confirm_timeout_ms)
        self._on_error = on_error
        # Where the oldest is dropped for the newest, each event is a chunk by itself.
        self._gathers = options.when_full != "drop_oldest"
        self._begin(connector, encoder)

    def _begin(self, connector: Connector, encoder: Encoder) -> None:
        """Start with nothing."""
        self._encoder = encoder
        self._exchange = Exchange(connector, encoder, self.options, self.level)
        self.failures = Failures()
        self.counts = Counts()
        self._limited = Limited(_log)
        self._trouble = trouble_with(connector.shown)
        self._troubled = False
        self.outbox = Outbox(self.options)
        # Reentrant: a signal handler or a finalizer may send while its own thread holds it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.intake = Intake(
            encoder, self.options, self._chunk, Awaited(self.failures, encoder.producer, self.options.confirm)
        )
        self._room_calls: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._starting = False
        self._waker = Waker()
        self._asleep = False
        self._napping = False
        """While asleep: nobody looks for answers."""
        options = self.options
        self._may_nap = (
            self._gathers
            and not self.level.waits
            and options.buffer_events >= ROOMY_EVENTS
            and options.buffer_bytes >= ROOMY_BYTES
        )
        self._written_ms = self._waited_ms = float("-inf")
        """When an event was last written by the thread that sent it; when somebody last waited for an end."""
        self._apart_ms = 0.0
        """How long before that another one was."""
        self.failures.waited = weakref.WeakMethod(self._attend)
        self._inside = False
        """A send is under way in the thread that holds the lock: another one of it comes from a signal handler."""
        self._closing = False
        self._stopped = False
        self._ended = False
        """The thread has gone."""
        self._miscounted = False
        """A signal handler raised in the midst of a send: what is held has to be counted anew."""
        self._give_up_ms = float("inf")
        self._tries = 0
        self._broken = 0
        self._connect_at_ms = 0.0
        self._why = ""
        self._denied: MillstreamError | None = None

    # What producers call, from any thread.

    @property
    def held(self) -> int:
        """Events that have not ended yet."""
        return self.outbox.events + self.intake.events

    def send(self, frame: Frame, number: int, body: Any, *, block_ms: float | None = None) -> Receipt:
        """Queue one event.

        Raises:
            BufferFull: no room; nothing was queued. ClosedError: closed.
        """
        receipt = Receipt.of(frame.awaited, number, frame.id)
        if self._asleep and number and not frame.header and self._written_at_once(receipt, frame, body):
            return receipt
        size = len(body) + LOOSE_BYTES if frame.plain else sum(map(len, body))
        self._queue(frame.stream, 1, size, block_ms, single=(receipt, frame, body))
        return receipt

    def look(self) -> None:
        """See that what was put into the intake is sent, although the thread sleeps or has gone."""
        with self._lock:
            if self._ended:
                self._take_in(now_ms())
                self._end(self.outbox.fail_all(ClosedError("the producer is closed")))
            else:
                self._tell(True)

    def chunk(self, stream: str, now: float, *, index: int = 0) -> Chunk:
        """An empty chunk; index: which event of its receipt it begins with."""
        return self._chunk(stream, now + self.options.send_timeout_ms, index)

    def _chunk(self, stream: str, deadline_ms: float, index: int = 0) -> Chunk:
        ending = Ending(self.failures, self._encoder.producer, self.options.confirm, stream, index=index)
        return Chunk(deadline_ms, ending)

    def add(self, stream: str, chunk: Chunk, *, block_ms: float | None = None) -> None:
        """Queue a chunk, as the policy for a full buffer allows.

        Raises:
            BufferFull: no room; nothing was queued. ClosedError: closed.
        """
        self._queue(stream, chunk.events, chunk.size_bytes, block_ms, chunk=chunk)

    def _queue(
        self,
        stream: str,
        events: int,
        size_bytes: int,
        block_ms: float | None,
        *,
        single: tuple[Receipt, Frame, Any] | None = None,
        chunk: Chunk | None = None,
    ) -> None:
        """Queue a chunk, or a single event."""
        with self._lock:
            # A signal handler or a finalizer in the midst of another send of its own thread, or what the producer's
            # thread calls.
            interrupts = self._inside or threading.get_ident() == self._thread_id
            before, self._inside = self._inside, True
            try:
                if self._thread is None and not self._closing:
                    self._open_waker()
                dropped: list[Settled] = []
                # What interrupts a send does not wait: nobody else could make room. It finds some beyond the bound.
                room = interrupts and self.options.when_full == "block" and block_ms is None
                if self._closing or not (room or self._has_room(events, size_bytes)):
                    room, dropped = self._make_room(events, size_bytes, 0.0 if interrupts else block_ms)
                    if not room:
                        chunk = chunk or self._alone(single)
                        error = BufferFull(_NO_OLDER)
                        self._end([*dropped, Settled(stream, [chunk], Fate.DROPPED, error=error)])
                        return
                if dropped:
                    self._end(dropped)
                intake = self.intake
                # A single event waits in the intake, unless it can go at once, or counts or is dropped by itself.
                if (
                    single is not None
                    and single[1].plain
                    and (interrupts or (self._gathers and size_bytes <= SMALL_BYTES and not self._idle()))
                ):
                    first = not intake.entries
                    intake.put(single, now_ms())
                    self._tell(first or interrupts)
                    return
                chunk = chunk or self._alone(single)
                batches = self.outbox.stream(stream)
                if intake.entries or interrupts:  # behind what waits there
                    self.outbox.count(chunk)
                    first = not intake.entries
                    intake.put((stream, chunk, b""), now_ms())
                    self._tell(first or interrupts)
                    return
                had, was_full = bool(batches.waiting), batches.full
                self.outbox.count(chunk)
                ended = batches.add(chunk)
                if ended:
                    self._end(self.outbox.release(ended))
                    return
                self._set_off(batches, had, was_full, size_bytes, now_ms())
            except (BufferFull, ClosedError):
                raise
            except BaseException:
                # A signal handler raised in the midst of it: nobody knows how far it came.
                self._miscounted = True
                self._waker.wake()
                raise
            finally:
                self._inside = before

    def _written_at_once(self, receipt: Receipt, frame: Frame, body: bytes) -> bool:
        """Write an event that says no more than its frame, if nothing waits and nothing is on its way.

        What _queue() would do, without a step that could be spared: after a pause each costs three times as much.
        """
        with self._lock:
            exchange, outbox = self._exchange, self.outbox
            in_flight = exchange.in_flight
            if (
                not self._asleep  # as it is in the producer's thread, too
                or self._inside
                or self._closing
                or self.intake.entries
                or not exchange.open_to_one
                or len(body) > SMALL_BYTES
                or (in_flight >= MOST_UNREAD or not self._napping if in_flight else outbox.events)
            ):
                return False
            self._inside = True
            try:
                now = now_ms()
                chunk = self._chunk(frame.stream, now + self.options.send_timeout_ms)
                chunk.fill_one(receipt, self._encoder.header(receipt._number, frame.type, frame.key), body)
                batches = outbox.stream(frame.stream)
                try:
                    batch = batches.take_one(chunk)
                    if batch is None:
                        receipt._ending = frame.awaited
                        return False
                    outbox.count(chunk)
                    exchange.write_one(batches, batch, now)
                except NotConnectedError:
                    self._waker.wake()  # the thread finds the same, and sends again what the outbox has
                    self._asleep = False
                except BaseException as error:
                    exchange.spoil(error)  # as in _set_off
                    raise
                self._apart_ms, self._written_ms = now - self._written_ms, now
                if exchange.unsent:  # the thread has to see to the rest
                    self._waker.wake()
                    self._asleep = False
                if not self._napping:
                    self._fit()
                return True
            except BaseException:
                self._miscounted = True  # as in _queue
                self._waker.wake()
                raise
            finally:
                self._inside = False

    def _alone(self, single: tuple[Receipt, Frame, Any] | None) -> Chunk:
        assert single is not None, "what is queued is a chunk or a single event"
        return self.intake.one(*single, now_ms() + self.options.send_timeout_ms)

    def _idle(self) -> bool:
        """Nothing waits, and nothing is on its way: what is sent now can be written at once."""
        exchange = self._exchange
        if not self._asleep or self.intake.entries or not exchange.connected:
            return False
        return self._unwatched() if exchange.in_flight else not self.outbox.events

    def _unwatched(self) -> bool:
        """What is on its way counts as answered, as nobody looks; up to a number. With the lock held."""
        return self._napping and self._exchange.in_flight < MOST_UNREAD

    def _attend(self) -> None:
        """Somebody waits for an end, or for room: answers are read as they come, for a while."""
        with self._lock:
            self._waited_ms = now_ms()
            if self._napping:
                self._waker.wake()

    def _has_room(self, events: int, size_bytes: int) -> bool:
        """Whether so much more may be held. What is larger than the whole buffer fits when nothing else is held."""
        options, held = self.options, self.held
        if not held:
            return True
        return (
            held + events <= options.buffer_events
            and self.outbox.bytes + self.intake.bytes + size_bytes <= options.buffer_bytes
        )

    def _tell(self, due: bool) -> None:
        """Wake the thread for what lies in the intake, if that is due or makes a whole batch. With the lock held."""
        self._start_once()
        intake = self.intake
        if self._napping:
            due = True
        elif self._exchange.in_flight:
            due = intake.events >= intake.batch and not self.level.waits
        if due and self._asleep:
            self._waker.wake()
            self._asleep = False  # only now: should a signal handler raise before, the next send wakes it
        self._fit()

    def _fit(self) -> None:
        """Say how much the intake takes without a look at the lock, the bounds and the thread. With the lock held."""
        options, outbox, intake, exchange = self.options, self.outbox, self.intake, self._exchange
        if not intake.entries:
            intake.since_ms = now_ms()
        if (
            self._closing
            or not self._gathers
            or not exchange.connected
            or (self._asleep and (self._napping or not exchange.in_flight))
        ):
            intake.room = 0
            return
        bytes_left = options.buffer_bytes - outbox.bytes - intake.bytes
        room = min(options.buffer_events - outbox.events, intake.events + bytes_left // SMALL_BYTES)
        if self._asleep and not self.level.waits:  # a whole batch is sent before an answer comes
            room = min(room, intake.batch)
        intake.room = max(room, 0) * PARTS

    def _take_in(self, now: float, *, only_full: bool = False) -> None:
        """Move what lies in the intake into the outbox. With the lock held.

        By the producer's thread alone, where no signal handler can raise in the midst of it, or when it is to end.
        """
        if not self.intake.entries:
            return
        ended: list[Settled] = []
        for stream, chunk, is_new in self.intake.take(now, only_full=only_full):
            if is_new:
                self.outbox.count(chunk)
            ended += self.outbox.stream(stream).add(chunk)
        self._end(self.outbox.release(ended))
        self._changed.notify_all()
        self._fit()

    def add_all(self, stream: str, chunks: list[Chunk]) -> None:
        """Queue the chunks of one receipt, in order; what finds no room is settled as failed.

        Raises:
            BufferFull, ClosedError: nothing was queued.
        """
        for index, chunk in enumerate(chunks):
            try:
                self.add(stream, chunk)
            except (BufferFull, ClosedError) as error:
                if not index:
                    raise
                self.give_up(stream, chunks[index:], error)
                return

    def give_up(self, stream: str, chunks: Sequence[Chunk], error: MillstreamError) -> None:
        """End chunks that were never queued."""
        with self._lock:
            self._end([Settled(stream, chunks, Fate.FAILED, error=error)])

    def when_room(self, call: Callable[[], None]) -> None:
        """Call it, once, from the sender's thread, as soon as something has left the buffer."""
        with self._lock:
            self._room_calls.append(call)
            self._attend()

    def flush(self, timeout_ms: float | None) -> bool:
        """Wait until all that is held now has ended; whether it has within the time."""
        mark_ms = 0.0
        until_ms = None if timeout_ms is None else now_ms() + timeout_ms

        def ended() -> bool:
            nonlocal mark_ms
            if self.intake.taken < taken:
                return False
            mark_ms = mark_ms or now_ms() + self.options.send_timeout_ms
            oldest_ms = self.outbox.deadline_ms()
            return oldest_ms is None or oldest_ms > mark_ms

        with self._lock:
            taken = self.intake.taken + self.intake.events
            self._attend()
            while not ended():
                rest_ms = None if until_ms is None else until_ms - now_ms()
                if rest_ms is not None and rest_ms <= 0:
                    return False
                self._changed.wait(None if rest_ms is None else rest_ms / 1_000)
        return True

    def close(self, timeout_ms: float) -> int:
        """Refuse new events, send what is held for at most so long, end the rest; the number of events given up."""
        with self._lock:
            self._closing = True
            self._fit()
            thread = self._thread
            self._give_up_ms = now_ms() + timeout_ms
        self._wake()
        if thread is None and self.held:  # at the end of the process no thread can be started any more
            self._waker.open()
            self._run()
        elif thread is not None and thread is not threading.current_thread():
            self.flush(timeout_ms)
        with self._lock:
            left = self.held
            self._stopped = True
            self._take_in(now_ms())
            self._end(self.outbox.fail_all(ClosedError("the producer was closed before it was confirmed")))
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._exchange.connector.timeout_ms / 1_000 + 1)
        self.report_dropped()
        return left

    def finish(self) -> None:
        """Send what is held and then end the thread; nobody waits. For a producer that was thrown away."""
        with self._lock:
            self._closing = True
            self._fit()
        self._wake()

    def after_fork(self, encoder: Encoder, connector: Connector) -> None:
        """Begin anew in a forked child: the thread, the connection and what was held are the parent's."""
        held, failures, waker = self.outbox, self.failures, self._waker
        failures.lock = threading.RLock()
        self._exchange.disconnect()  # the child's copy of the socket: the parent's connection goes on
        ended: list[Settled] = []
        for stream, chunk, _ in self.intake.take(now_ms()):
            ended += held.stream(stream).add(chunk)
        self._begin(connector, encoder)
        waker.close()
        ended += held.fail_all(SendError("it was sent by the parent process, before the fork"))
        settle(ended, failures)

    def report_dropped(self) -> None:
        """Report the failures whose receipts were thrown away unread. Never under a lock: on_error is not ours."""
        failures = self.failures
        while failures.dropped:
            error = failures.dropped.popleft()
            self._limited.warning(
                f"unread {type(error).__name__}", "a send failed and nobody looked", error=str(error)
            )
            if self._on_error is not None:
                try:
                    self._on_error(error)
                except Exception as fault:  # noqa: BLE001 - someone else's code must not end the sender
                    _log.error("on_error raised", error=repr(fault))

    def _make_room(self, events: int, size_bytes: int, block_ms: float | None) -> tuple[bool, list[Settled]]:
        """Apply the policy: whether there is room now, and what had to go for it; or an error. With the lock held."""
        policy = self.options.when_full
        dropped: list[Settled] = []
        until_ms = now_ms() + (self.options.block_ms if block_ms is None else block_ms)
        while not self._closing and not self._has_room(events, size_bytes):
            if policy == "drop_oldest":
                oldest = self.outbox.drop_oldest()
                if oldest is None:
                    return False, dropped
                error = BufferFull("dropped to make room for a newer event (when_full=drop_oldest)")
                dropped.append(Settled(oldest[0], [oldest[1]], Fate.DROPPED, error=error))
                continue
            rest_ms = until_ms - now_ms()
            if policy == "block" and rest_ms > 0:
                self._start_once()  # where no thread could be made before
                self._attend()
                self._inside = False  # while it waits, others hold the lock
                self._changed.wait(rest_ms / 1_000)
                self._inside = True
                continue
            raise BufferFull(
                f"{self.held:,} events of {self.outbox.bytes + self.intake.bytes:,} bytes are not confirmed yet "
                f"(buffer_events={self.options.buffer_events:,}, buffer_bytes={self.options.buffer_bytes:,}, "
                f"when_full={policy})" + (f": {self._why}" if self._why else "")
            )
        if self._closing:
            raise ClosedError("the producer is closed")
        return True, dropped

    def _set_off(self, batches: Batches, had: bool, was_full: bool, size_bytes: int, now: float) -> None:
        """See that what was queued is sent: by this thread, or by waking the producer's. With the lock held."""
        self._start_once()
        if not self._asleep:
            return
        # A stream that had something waiting is being held, or gathers until an answer comes.
        exchange = self._exchange
        if exchange.in_flight and not self._unwatched():
            due = self._napping or (batches.full and not was_full)
        else:
            due = not had
            if due and exchange.connected and size_bytes <= DIRECT_BYTES:
                # Nothing is on the way, so the socket takes it at once: that spares it a change of threads.
                try:
                    taken = self.outbox.take(now)
                    if taken:
                        exchange.write(taken, now)
                        self._apart_ms, self._written_ms = now - self._written_ms, now
                        due = exchange.unsent  # the thread has to see to the rest
                except NotConnectedError:
                    pass  # the thread finds the same, and sends again what the outbox has
                except BaseException as error:
                    # A signal handler raised in the midst of it: nobody knows how far it came. All is sent again.
                    exchange.spoil(error)
                    raise
        if due:
            self._waker.wake()
            self._asleep = False  # only now: should a signal handler raise before, the next send wakes it
        self._fit()

    def _open_waker(self) -> None:
        """What the thread will need, before anything is queued that nobody would send.

        Raises:
            BufferFull: the process has no descriptor left.
        """
        try:
            self._waker.open()
        except OSError as error:
            raise BufferFull(f"sending cannot begin: {error.strerror}") from error

    def _start_once(self) -> None:
        if self._thread is None and not self._starting:
            # A signal handler that sends may come in the midst of this, in this very thread: one start is enough.
            self._starting = True
            try:
                thread = self._start()
                self._thread = self._thread or thread
            finally:
                self._starting = False

    def _start(self) -> threading.Thread | None:
        """The thread; None at the end of the process, where close() does its work."""
        self._waker.open()
        thread = threading.Thread(target=self._run, name="millstream-producer", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return None
        at_exit.started()
        return thread

    def _wake(self) -> None:
        with self._lock:  # the thread closes the pipe as it ends
            self._waker.wake()

    # The thread.

    def _run(self) -> None:
        with self._lock:
            # A signal handler that raises in the midst of a start leaves it open whether a thread runs.
            if self._thread_id or self._ended:
                return
            self._thread, self._thread_id = threading.current_thread(), threading.get_ident()
        try:
            while self._more():
                try:
                    self._step()
                except MillstreamError as error:
                    self._disconnected(error)
        except BaseException as error:
            _log.error("the producer's thread failed", error=repr(error))
            with self._lock:
                self._closing = self._stopped = True
                self._take_in(now_ms())
                self._end(self.outbox.fail_all(SendError(f"the producer's thread failed: {error!r}")))
            raise
        finally:
            self._exchange.disconnect()
            self._trouble.left(self)
            with self._lock:
                self._ended = True
                self._thread_id = 0
                self._fit()
                self._waker.close()

    def _more(self) -> bool:
        with self._lock:
            if self._closing and (not self.held or now_ms() > self._give_up_ms):
                return False
            return not self._stopped

    def _step(self) -> None:
        """One thing that is due: connect, write, read, or wait."""
        self._expire()
        if self.failures.dropped:
            self.report_dropped()
        exchange = self._exchange
        if not exchange.connected:
            self._connect()
        elif not exchange.in_flight:
            if not self._take_off(only_full=False):
                self._sleep()
        elif not self.level.waits and self._take_off(only_full=True):
            return
        elif self._wait_for_answer():
            # What has gathered meanwhile is on the wire before the answer is read.
            self._take_off(only_full=False)
            self._land()
        elif now_ms() >= exchange.answer_by_ms:
            shown, seconds = self._exchange.connector.shown, self._exchange.connector.timeout_ms / 1_000
            raise NotConnectedError(f"no answer from {shown} within {seconds:g} s")

    def _connect(self) -> None:
        with self._lock:
            wanted = self.held > 0
        if not wanted or now_ms() < self._connect_at_ms:
            self._sleep(self._connect_at_ms if wanted else None)
            return
        self._exchange.connect()
        self._denied = None
        if self._tries:
            self.counts.reconnects += 1

    def _take_off(self, *, only_full: bool) -> bool:
        """Write the batches that are due; False if none is."""
        # One wait for a level stands behind all batches of a flight: after a broken one, fewer are risked together.
        most = max(MAX_UNCONFIRMED >> self._broken, 1) if self.level.waits else MAX_UNCONFIRMED
        with self._lock:
            now = now_ms()
            self._take_in(now, only_full=only_full)
            taken = self.outbox.take(now, only_full=only_full, most=most)
        if taken:
            self._exchange.write(taken, now_ms())
        return bool(taken)

    def _land(self) -> None:
        """Read the answers to what was written first, and settle what they decide."""
        answers, broken = self._exchange.read()
        if answers:
            self._tries = 0
        if broken is None:
            self._broken = 0
        settled: list[Settled] = []
        leave, refused = False, None
        with self._lock:
            now = now_ms()
            for one in answers:
                if isinstance(one.answer, ServerRefusedError):
                    self._why = str(one.answer)
                    leave = leave or row_of(one.answer).producer is Reaction.ELSEWHERE
                    refused = one.answer if one.answer.passing else refused
                settled += one.batches.answered(one.batch, one.answer, now)
                if self.level.waits and one.reached is not None:
                    settled += one.batches.levelled(one.batch, one.reached, one.level_error)
                self.counts.repeats += isinstance(one.answer, Appended) and one.answer.repeated
            self.counts.batches += len(answers)
            self._end(self.outbox.release(settled))
            if leave:
                self._exchange.disconnect()
                self.outbox.lost()
        if refused is not None:
            self._in_trouble(refused)
        elif self._troubled and broken is None and answers:
            self._troubled = False
            self._trouble.over(self)
        if broken is not None:
            raise broken

    def _in_trouble(self, error: MillstreamError) -> None:
        self._troubled = True
        self._trouble.met(self, error)

    def _wait_for_answer(self) -> bool:
        with self._lock:
            now = now_ms()
            if self.intake.events >= self.intake.batch and not self.level.waits:
                return False  # a whole batch came just now
            due_ms = self.outbox.due_ms(now)
            self._asleep = True
            self._fit()
        answer_by_ms = self._exchange.answer_by_ms
        until_ms = min(answer_by_ms, due_ms or answer_by_ms, now + self.options.send_timeout_ms / LOOKS)
        ready = self._exchange.ready(until_ms - now, self._waker.read_end)
        self._awake()
        return ready

    def _sleep(self, until_ms: float | None = None) -> None:
        """Wait until something is added, something is due, or until_ms."""
        connected = self._exchange.connected
        with self._lock:
            now = now_ms()
            self._take_in(now)
            if self._closing and not self.outbox.events:
                return
            if self.outbox.can_take(now) if connected else (until_ms is None and self.outbox.events):
                return
            due_ms = self.outbox.due_ms(now) if connected else self.outbox.deadline_ms()
            self._asleep = True
            self._napping = napping = connected and self._lulled(now)
            self._fit()
            if self.intake.entries:  # put there just before it had no room
                self._asleep = self._napping = False
                return
        if napping:
            self._nap()
            return
        times = [time_ms for time_ms in (until_ms, due_ms) if time_ms is not None]
        if self._closing:
            times.append(self._give_up_ms)
        if connected:  # who sends may write by itself meanwhile: then there is an answer to be watched for
            times.append(now + min(self._exchange.connector.timeout_ms, self.options.send_timeout_ms / LOOKS))
        timeout_ms = min(times) - now if times else None
        if not connected:
            self._waker.wait(
                None if timeout_ms is None else int(max(min(timeout_ms, LONGEST_SLEEP_MS), 0)) + 1
            )
            self._awake()
            return
        ready = self._exchange.ready(timeout_ms, self._waker.read_end)
        self._awake()
        if ready:
            self._end_unasked()

    def _lulled(self, now: float) -> bool:
        """Single events come one by one, and nobody waits for their ends. With the lock held."""
        return (
            self._may_nap
            and now - self._written_ms < NAP_MS
            and now - self._waited_ms > ATTENTIVE_MS
            and not (self.outbox.events or self._room_calls or self._closing)
        )

    def _nap(self) -> None:
        """Leave answers unread for a while, unless somebody asks for them."""
        ended = self._exchange.ended(NAP_MS, self._waker.read_end)
        if self._exchange.in_flight:
            self._waker.pause(before_look_ms(now_ms() - self._written_ms, self._apart_ms) / 1_000)
        self._awake()
        if ended:
            self._end_unasked()

    def _end_unasked(self) -> None:
        """Something came. If nothing was asked, it is the connection's end: noticed now, and not by the next send.

        Or the answer to what was written by a send that was interrupted before it could note that: it is sent again.
        """
        with self._lock:
            if not self._exchange.in_flight:
                self._exchange.disconnect()
                self.outbox.lost()

    def _awake(self) -> None:
        with self._lock:  # not while another thread writes because this one sleeps
            self._asleep = self._napping = False
            self._fit()
        self._waker.clear()

    def _expire(self) -> None:
        with self._lock:
            if self._miscounted:  # here no signal handler raises
                self._miscounted = False
                self.outbox.recount(self.intake.chunks)
                self._changed.notify_all()
            now = now_ms()
            if not self._exchange.in_flight:
                self._take_in(now)
            deadline_ms = self.outbox.deadline_ms()
            if deadline_ms is None:
                return
            if self._denied is not None and now < self._connect_at_ms:
                self._end(self.outbox.fail_all(self._denied))
            elif deadline_ms <= now:
                self._end(self.outbox.expire(now, self._why))

    def _disconnected(self, error: MillstreamError) -> None:
        """After any failure of the connection: what was on the wire is sent again, in order, over a new one."""
        self._exchange.disconnect()
        self._tries += 1
        self._broken += 1
        self._why = str(error)
        row = row_of(error)
        passing = row.passing or (
            row.producer is Reaction.LOG_IN and self._exchange.connector.may_log_in_anew
        )
        self._connect_at_ms = now_ms() + RECONNECT.wait_ms(self._tries)
        with self._lock:
            self.outbox.lost()
            if not passing:
                self._denied = error
                self._end(self.outbox.fail_all(error))
        if not self._closing:
            self._in_trouble(error)

    def _end(self, settled: list[Settled]) -> None:
        """Settle receipts, then tell those who wait for room or for the end. With the lock held."""
        if not settled:
            return
        self.counts.ended(settled)
        settle(settled, self.failures)
        self._fit()
        self._changed.notify_all()
        calls, self._room_calls = self._room_calls, []
        for call in calls:
            call()
