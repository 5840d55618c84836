"""Sender: the one thread of a producer, which puts batches on the wire, reads the answers and settles receipts.

Stands on the outbox, which decides, and on one link. The next request is on the wire before the last answer is read.
Loses nothing that was confirmed if killed; what was not confirmed may or may not be in the stream. After a broken
connection everything unconfirmed is sent again under its old numbers, which the append script knows.
"""

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from pipeline.backoff import RECONNECT
from pipeline.errors import (
    AccessDeniedError,
    BufferFull,
    ClosedError,
    MillstreamError,
    NotConnectedError,
    SendError,
    ServerRefusedError,
)
from pipeline.observe.log import Limited, get_logger
from pipeline.options import ProducerOptions
from pipeline.server.append import AppendOptions, append_command, parse_append
from pipeline.server.connect import Connector, Link
from pipeline.server.scripts import Arg, script
from producers import at_exit
from producers.batch import Batch, Batches, Entry, Fate, Settled
from producers.confirm import Level
from producers.encoder import Encoder
from producers.outbox import Outbox
from producers.receipt import Failures, settle

DAY_MS = 86_400_000
LONGEST_SLEEP_MS = 3_600_000
MOVED_AWAY = frozenset({"READONLY", "MASTERDOWN", "MOVED", "CLUSTERDOWN"})
"""Refusals after which the primary is looked for anew."""

_log = get_logger("producer")


@dataclass(slots=True)
class Counts:
    """What became of the events of one producer."""

    confirmed: int = 0
    failed: int = 0
    unknown: int = 0
    not_reached: int = 0
    dropped: int = 0
    batches: int = 0
    repeats: int = 0
    """Batches that an earlier try had already appended."""
    reconnects: int = 0

    def as_dict(self) -> dict[str, int]:
        """Name to number."""
        return asdict(self)


@dataclass(slots=True)
class _Flight:
    """Requests written together, whose answers come in the same order."""

    batches: list[tuple[Batches, Batch]]
    loads: bool
    waits: bool
    sent_ms: float = field(default_factory=lambda: now_ms())


def now_ms() -> float:
    """The steady clock, in ms."""
    return time.monotonic() * 1_000


class Sender:
    """Holds the outbox, its lock and the thread. Safe for threads; a forked child begins with an empty one."""

    def __init__(
        self,
        connector: Connector,
        encoder: Encoder,
        options: ProducerOptions,
        *,
        on_error: Callable[[SendError], None] | None = None,
    ) -> None:
        self.connector = connector
        self.options = options
        self.level = Level.of(options.confirm, options.confirm_timeout_ms)
        self._on_error = on_error
        self._append = AppendOptions(
            expiry_ms=max(DAY_MS, 2 * options.send_timeout_ms),
            dedupe_for_ms=options.dedupe_for_ms,
            max_stream_entries=options.max_stream_entries,
        )
        self._begin(encoder)

    def _begin(self, encoder: Encoder) -> None:
        """Start with nothing."""
        self._encoder = encoder
        self.failures = Failures()
        self.counts = Counts()
        self._limited = Limited(_log)
        self.outbox = Outbox(self.options)
        # Reentrant: a signal handler or a finalizer may send while its own thread holds it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._room_calls: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = -1, -1
        self._asleep = False
        self._closing = False
        self._stopped = False
        self._give_up_ms = float("inf")
        self._link: Link | None = None
        self._flights: deque[_Flight] = deque()
        self._load = True
        self._load_error: MillstreamError | None = None
        self._wait: tuple[str | int, ...] | None = None
        self._tries = 0
        self._connect_at_ms = 0.0
        self._why = ""
        self._denied: MillstreamError | None = None

    # What producers call, from any thread.

    def add(self, stream: str, entry: Entry, *, block_ms: float | None = None) -> None:
        """Queue an entry, as the policy for a full buffer allows.

        Raises:
            BufferFull: no room; nothing was queued. ClosedError: closed.
        """
        dropped: list[Settled] = []
        with self._lock:
            if self._closing:
                raise ClosedError("the producer is closed")
            if not self.outbox.has_room(entry.events, entry.size_bytes):
                self._make_room(entry, dropped, self.options.block_ms if block_ms is None else block_ms)
            batches = self.outbox.stream(stream)
            had, was_full = bool(batches.waiting), batches.full
            self.outbox.add(batches, entry)
            # A stream that had something waiting is being held, or gathers until an answer comes.
            wake = self._asleep and ((batches.full and not was_full) if self._flights else not had)
            if wake:
                self._asleep = False
            if self._thread is None:
                self._thread = self._start()
            self._end(dropped)
        if wake:
            self._wake()

    def add_all(self, stream: str, entries: list[Entry]) -> None:
        """Queue the entries of one receipt, in order; what finds no room is settled as failed.

        Raises:
            BufferFull, ClosedError: nothing was queued.
        """
        for index, entry in enumerate(entries):
            try:
                self.add(stream, entry)
            except (BufferFull, ClosedError) as error:
                if not index:
                    raise
                with self._lock:
                    self._end([Settled(stream, entries[index:], Fate.FAILED, error=error)])
                return

    def when_room(self, call: Callable[[], None]) -> None:
        """Call it, once, from the sender's thread, as soon as something has left the buffer."""
        with self._lock:
            self._room_calls.append(call)

    def flush(self, timeout_ms: float | None) -> bool:
        """Wait until all that is held now has ended; whether it has within the time."""
        mark_ms = now_ms() + self.options.send_timeout_ms
        until_ms = None if timeout_ms is None else now_ms() + timeout_ms

        def ended() -> bool:
            oldest_ms = self.outbox.deadline_ms()
            return oldest_ms is None or oldest_ms > mark_ms

        with self._lock:
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
            thread = self._thread
            self._give_up_ms = now_ms() + timeout_ms
        self._wake()
        if (
            thread is None and self.outbox.events
        ):  # at the end of the process no thread can be started any more
            self._open_wake()
            self._run()
        elif thread is not None and thread is not threading.current_thread():
            self.flush(timeout_ms)
        with self._lock:
            left = self.outbox.events
            self._stopped = True
            self._end(self.outbox.fail_all(ClosedError("the producer was closed before it was confirmed")))
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self.connector.timeout_ms / 1_000 + 1)
        self.report_dropped()
        return left

    def finish(self) -> None:
        """Send what is held and then end the thread; nobody waits. For a producer that was thrown away."""
        with self._lock:
            self._closing = True
        self._wake()

    def after_fork(self, encoder: Encoder, connector: Connector) -> None:
        """Begin anew in a forked child: the thread, the connection and what was held are the parent's."""
        held, failures, ends, link = (
            self.outbox,
            self.failures,
            (self._wake_read, self._wake_write),
            self._link,
        )
        self._begin(encoder)
        self.connector = connector
        for end in ends:
            if end >= 0:
                os.close(end)
        if link is not None:
            link.close()  # the child's copy: the parent's connection goes on
        failures.lock = threading.RLock()
        settle(held.fail_all(SendError("it was sent by the parent process, before the fork")), failures)

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

    def _make_room(self, entry: Entry, dropped: list[Settled], block_ms: float) -> None:
        """Apply the policy; returns with room made, else raises. With the lock held."""
        policy = self.options.when_full
        until_ms = now_ms() + block_ms
        while not self.outbox.has_room(entry.events, entry.size_bytes):
            if policy == "drop_oldest":
                oldest = self.outbox.drop_oldest()
                if oldest is not None:
                    error = BufferFull("dropped to make room for a newer event (when_full=drop_oldest)")
                    dropped.append(Settled(oldest[0], [oldest[1]], Fate.DROPPED, error=error))
                    continue
            rest_ms = until_ms - now_ms()
            if policy == "block" and rest_ms > 0 and not self._closing:
                self._changed.wait(rest_ms / 1_000)
                continue
            if self._closing:
                raise ClosedError("the producer is closed")
            raise BufferFull(
                f"{self.outbox.events:,} events of {self.outbox.bytes:,} bytes are not confirmed yet "
                f"(buffer_events={self.options.buffer_events:,}, buffer_bytes={self.options.buffer_bytes:,}, "
                f"when_full={policy})" + (f": {self._why}" if self._why else "")
            )

    def _start(self) -> threading.Thread | None:
        """The thread; None at the end of the process, where close() does its work."""
        self._open_wake()
        thread = threading.Thread(target=self._run, name="millstream-producer", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return None
        at_exit.started()
        return thread

    def _open_wake(self) -> None:
        if self._wake_read < 0:
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_read, False)
            os.set_blocking(self._wake_write, False)

    def _wake(self) -> None:
        if self._wake_write >= 0:
            with contextlib.suppress(BlockingIOError, OSError):  # full: it wakes anyway; closed: it is gone
                os.write(self._wake_write, b"w")

    # The thread.

    def _run(self) -> None:
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
                self._end(self.outbox.fail_all(SendError(f"the producer's thread failed: {error!r}")))
            raise
        finally:
            self._drop_link()
            with self._lock:
                ends, self._wake_read, self._wake_write = (self._wake_read, self._wake_write), -1, -1
            for end in ends:
                os.close(end)

    def _more(self) -> bool:
        with self._lock:
            if self._closing and (not self.outbox.events or now_ms() > self._give_up_ms):
                return False
            return not self._stopped

    def _step(self) -> None:
        """One thing that is due: connect, write, read, or wait."""
        self._expire()
        if self.failures.dropped:
            self.report_dropped()
        if self._link is None:
            self._connect()
            return
        if not self._flights:
            if not self._take_off(only_full=False):
                self._sleep()
            return
        if self.level.waits is False and self._take_off(only_full=True):
            return
        flight = self._flights[0]
        answer_by_ms = (
            flight.sent_ms + self.connector.timeout_ms + (self.level.timeout_ms if flight.waits else 0)
        )
        if self._wait_for_answer(answer_by_ms):
            self._take_off(only_full=False)
            self._land()
        elif now_ms() >= answer_by_ms:
            raise NotConnectedError(
                f"no answer from {self.connector.shown} within {self.connector.timeout_ms / 1_000:g} s"
            )

    def _connect(self) -> None:
        now = now_ms()
        with self._lock:
            wanted = self.outbox.events > 0
        if not wanted or now < self._connect_at_ms:
            self._sleep(self._connect_at_ms if wanted else None)
            return
        self.connector.forget_capabilities()
        link = self.connector.link("producer")
        try:
            self.level.check(self.connector.capabilities(), replicas_too=False)
        except MillstreamError:
            link.close()
            raise
        self._link = link
        self._wait = self.level.command(self.connector.capabilities()) if self.level.waits else None
        self._load = True
        self._denied = None
        if self._tries:
            self.counts.reconnects += 1
            _log.info("producer connected again", server=self.connector.shown, tries=self._tries)

    def _take_off(self, *, only_full: bool) -> bool:
        """Write the batches that are due; False if none is."""
        link = self._link
        assert link is not None, "connected"
        with self._lock:
            taken = self.outbox.take(now_ms(), only_full=only_full)
        if not taken:
            return False
        commands: list[tuple[Arg, ...]] = []
        loads, self._load = self._load, False
        if loads:
            commands.append(("SCRIPT", "LOAD", script("append").text))
        for batches, batch in taken:
            if any(entry.fields is None for entry in batch.entries):
                batch.entries = self._packed(batch.entries)
            commands.append(self._command(batches, batch))
        if self._wait is not None:
            commands.append(self._wait)
        # On the list before it is written: a write that breaks may have reached the server in part.
        self._flights.append(_Flight(taken, loads, self._wait is not None))
        link.send(*commands)
        return True

    def _packed(self, entries: list[Entry]) -> list[Entry]:
        packed: list[Entry] = []
        loose: list[Entry] = []
        for entry in entries:
            if entry.fields is None:
                loose.append(entry)
                continue
            if loose:
                packed += self._encoder.gather(loose, self.options.pack)
                loose = []
            packed.append(entry)
        return packed + (self._encoder.gather(loose, self.options.pack) if loose else [])

    def _command(self, batches: Batches, batch: Batch) -> tuple[Arg, ...]:
        entries = [entry.fields or [] for entry in batch.entries]
        ids = {index: entry.dedupe for index, entry in enumerate(batch.entries) if entry.dedupe}
        return append_command(
            batches.keys,
            self._encoder.producer,
            number=batch.number,
            base=batch.base,
            entries=entries,
            ids=ids,
            source=batch.source,
            before=batch.before,
            after=batch.after,
            options=self._append,
        )

    def _wait_for_answer(self, until_ms: float) -> bool:
        link = self._link
        assert link is not None, "connected"
        with self._lock:
            due_ms = self.outbox.due_ms(now_ms())
            self._asleep = True
        wait_ms = min(until_ms, due_ms or until_ms) - now_ms()
        ready = link.ready(int(max(wait_ms, 0)) + 1, wake=self._wake_read)
        self._awake()
        return ready

    def _land(self) -> None:
        """Read the answers of the oldest flight and settle what they decide."""
        link = self._link
        assert link is not None, "connected"
        flight = self._flights[0]
        if flight.loads:
            reply = link.read_or_error()
            self._load_error = reply if isinstance(reply, MillstreamError) else None
        replies = [link.read_or_error() for _ in flight.batches]
        reached, level_error = True, None
        if flight.waits:
            reply = link.read_or_error(self.connector.timeout_ms + self.level.timeout_ms)
            reached = self.level.reached(reply)
            level_error = reply if isinstance(reply, MillstreamError) else None
        self._flights.popleft()
        self._tries = 0
        settled: list[Settled] = []
        leave = False
        with self._lock:
            now = now_ms()
            for (batches, batch), reply in zip(flight.batches, replies, strict=True):
                answer = parse_append(reply)
                if isinstance(answer, ServerRefusedError):
                    leave = leave or answer.code in MOVED_AWAY
                    if answer.code == "NOSCRIPT":
                        self._load = True
                        if isinstance(self._load_error, AccessDeniedError):
                            answer = self._load_error
                    if answer.__class__ is ServerRefusedError:
                        self._why = str(answer)
                settled += batches.answered(batch, answer, now)
                if self.level.waits:
                    settled += batches.levelled(batch, reached, level_error)
                self.counts.repeats += getattr(answer, "repeated", False)
            self.counts.batches += len(replies)
            self._end(self.outbox.release(settled))
            if leave:
                self._drop_link()
                self.outbox.lost()

    def _sleep(self, until_ms: float | None = None) -> None:
        """Wait until something is added, something is due, or until_ms."""
        link = self._link
        with self._lock:
            now = now_ms()
            if self._closing and not self.outbox.events:
                return
            if self.outbox.can_take(now) if link is not None else (until_ms is None and self.outbox.events):
                return
            due_ms = self.outbox.due_ms(now) if link is not None else self.outbox.deadline_ms()
            self._asleep = True
        times = [time_ms for time_ms in (until_ms, due_ms) if time_ms is not None]
        if self._closing:
            times.append(self._give_up_ms)
        timeout_ms = int(max(min(times) - now, 0)) + 1 if times else None
        if link is None:
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            poll.poll(timeout_ms)
        elif link.ready(LONGEST_SLEEP_MS if timeout_ms is None else timeout_ms, wake=self._wake_read):
            # Nothing was asked, so this is its end: noticed now, not by the next send.
            self._drop_link()
        self._awake()

    def _awake(self) -> None:
        self._asleep = False
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4_096)

    def _expire(self) -> None:
        with self._lock:
            now = now_ms()
            deadline_ms = self.outbox.deadline_ms()
            if deadline_ms is None:
                return
            if self._denied is not None and now < self._connect_at_ms:
                self._end(self.outbox.fail_all(self._denied))
            elif deadline_ms <= now:
                self._end(self.outbox.expire(now, self._why))

    def _disconnected(self, error: MillstreamError) -> None:
        """After any failure of the connection: what was on the wire is sent again, in order, over a new one."""
        self._drop_link()
        self._tries += 1
        self._why = str(error)
        passing = isinstance(error, NotConnectedError) or getattr(error, "passing", False)
        self._connect_at_ms = now_ms() + RECONNECT.wait_ms(self._tries)
        with self._lock:
            self.outbox.lost()
            if not passing:
                self._denied = error
                self._end(self.outbox.fail_all(error))
        if not self._closing:
            said = "producer lost its connection" if passing else "producer refused"
            self._limited.warning("connection", said, error=str(error))

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        self._flights.clear()
        if link is not None:
            link.close()

    def _end(self, settled: list[Settled]) -> None:
        """Settle receipts, then tell those who wait for room or for the end. With the lock held."""
        if not settled:
            return
        counts = self.counts
        for one in settled:
            events = sum(entry.events for entry in one.entries)
            if one.fate is Fate.CONFIRMED:
                counts.confirmed += events
            elif one.fate is Fate.NOT_REACHED:
                counts.not_reached += events
            elif one.fate is Fate.UNKNOWN:
                counts.unknown += events
            elif one.fate is Fate.DROPPED:
                counts.dropped += events
            else:
                counts.failed += events
        settle(settled, self.failures)
        self._changed.notify_all()
        calls, self._room_calls = self._room_calls, []
        for call in calls:
            call()
