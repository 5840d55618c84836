"""Options: what a user may set, with unit, default and special values; each is checked when it is made.

What people type ("30s", "16MB") is turned into integers (ms, bytes) by the `of()` constructors and the decorators;
the fields themselves hold integers, named by their unit.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pipeline.backoff import Backoff
from pipeline.errors import UsageError
from pipeline.position import position_id
from pipeline.units import Duration, duration_ms, show_duration, size_bytes

Exceptions: TypeAlias = type[BaseException] | Collection[type[BaseException]]
"""An exception class, or several."""
EXECUTORS = ("threads", "inline")
MIN_SPILL_BYTES = 1_000_000
SPILL_QUEUE_EVENTS = 50_000
"""Lines held in memory where lines spill: what is dropped there is what the thread that writes them had no time for."""
FULL_POLICIES = ("block", "fail", "drop_oldest")
CODECS = ("msgpack", "json", "fields")
MAX_BATCH_EVENTS = 1_000
"""Entries one script call may add: a bound on how long it keeps the server from everyone else."""
MIN_CLAIM_AFTER_MS = 1_000
"""Below this, a single slow reply of the server would make live consumers look dead."""


MIN_ONCE_FOR_MS = 1_000
"""Below this, a record could be gone before the event comes again from a member that died."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often, when and after which exceptions a failed event runs again.

    Example:
        Retry(attempts=5, initial="1s", longest="1m", factor=2, jitter=1.0)     # what holds if nothing is said
        Retry.fixed("10s", attempts=3)
        Retry(give_up_on=(KeyError, ValidationError))                           # these are dead letters at once
        Retry(retry_on=ConnectionError)                                         # all others are

    Raises:
        UsageError: an option out of range.
    """

    attempts: int
    """Runs in total, the first included; 1 means no retry. Default 5."""
    backoff: Backoff
    """Waits between runs: `initial` (1 s), each `factor` (2) times the one before, up to `longest` (1 min), with full
    jitter."""
    retry_on: tuple[type[BaseException], ...] | None
    """Only these exceptions are retried, subclasses included; all others are dead letters at once. None: all are."""
    give_up_on: tuple[type[BaseException], ...]
    """These exceptions are dead letters at once, subclasses included, also where retry_on would take them."""

    def __init__(
        self,
        attempts: int = 5,
        initial: Duration = "1s",
        longest: Duration = "1m",
        jitter: float = 1.0,
        *,
        factor: float = 2.0,
        retry_on: Exceptions | None = None,
        give_up_on: Exceptions = (),
    ) -> None:
        _check(
            isinstance(attempts, int) and attempts >= 1,
            f"attempts={attempts!r}: at least 1, the first run (Retry)",
        )
        _check(0 <= jitter <= 1, f"jitter={jitter!r}: between 0 (none) and 1 (full) (Retry)")
        _check(1 <= factor <= 100, f"factor={factor!r}: between 1 (always the same wait) and 100 (Retry)")
        initial_ms, longest_ms = duration_ms(initial, "initial"), duration_ms(longest, "longest")
        _check(initial_ms <= longest_ms, f"initial={initial!r} is longer than longest={longest!r} (Retry)")
        backoff = Backoff(initial_ms=initial_ms, longest_ms=longest_ms, jitter=jitter, factor=factor)
        object.__setattr__(self, "attempts", attempts)
        object.__setattr__(self, "backoff", backoff)
        object.__setattr__(self, "retry_on", None if retry_on is None else _classes(retry_on, "retry_on"))
        object.__setattr__(self, "give_up_on", _classes(give_up_on, "give_up_on"))
        _check(self.retry_on != (), "retry_on=(): names no exception; attempts=1 means no retry (Retry)")
        for one in self.retry_on or ():
            _check(
                not issubclass(one, self.give_up_on),
                f"retry_on={one.__name__}: give_up_on names it or a class above it, so it is never retried (Retry)",
            )

    @classmethod
    def fixed(
        cls,
        wait: Duration,
        attempts: int = 5,
        *,
        jitter: float = 0.0,
        retry_on: Exceptions | None = None,
        give_up_on: Exceptions = (),
    ) -> "Retry":
        """The same wait before every run: `Retry.fixed("10s", attempts=3)`.

        Raises:
            UsageError: an option out of range.
        """
        return cls(attempts, wait, wait, jitter, factor=1, retry_on=retry_on, give_up_on=give_up_on)

    def refusal(self, error: BaseException) -> str:
        """Why this exception is not retried, as the beginning of a sentence; empty if it is, attempts permitting."""
        name = type(error).__name__
        if isinstance(error, self.give_up_on):
            return f"{name} is given up on (give_up_on)"
        if self.retry_on is not None and not isinstance(error, self.retry_on):
            return f"{name} is not retried (retry_on)"
        return ""


def _classes(given: Exceptions, name: str) -> tuple[type[BaseException], ...]:
    """One exception class, or several, as a tuple."""
    classes = (given,) if isinstance(given, type) else given
    _check(
        isinstance(classes, Collection)
        and all(isinstance(one, type) and issubclass(one, BaseException) for one in classes),
        f"{name}={given!r}: an exception class, or several (Retry)",
    )
    return tuple(classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How one member of a group reads, runs, keeps and gives up entries."""

    concurrency: int | None = None
    """Deliveries handled at a time; None: 64 for async handlers, 8 threads for plain ones, 1 for batch handlers."""
    batch: int | None = None
    """Most events per call of a batch handler; None: the handler takes one event."""
    batch_wait_ms: int = 50
    """How long a batch waits for more events after its first, in ms; 0 takes what is there."""
    claim_after_ms: int = 30_000
    """Unrenewed for this long, an entry may be taken over, in ms; the largest of a group's members holds for all."""
    max_run_ms: int = 3_600_000
    """A handler that runs longer has failed and loses its slot, in ms."""
    retry: Retry = field(default_factory=Retry)
    """What happens to an event that failed."""
    start: str = "start"
    """Where a group that does not exist yet begins: start, end, -15m, an ISO time or an entry id."""
    window_events: int | None = None
    """Most events held unsettled; None: 2 x concurrency, or about 1 s of measured work if that is more."""
    window_bytes: int = 16_000_000
    """Most bytes of entries held unsettled."""
    grace_ms: int = 20_000
    """How long running handlers may finish after SIGTERM or stop(), in ms."""
    block_ms: int = 1_000
    """How long an idle read waits at the server, in ms; below the connection's timeout."""
    types: tuple[str, ...] = ()
    """Event types a handler takes, with * for any part ("order.*"); empty: all."""
    once: bool = False
    """Remember which events are done, by their ids: one that comes again is acknowledged without the handler."""
    once_for_ms: int = 86_400_000
    """With once: for how long they are remembered, in ms, from when each was done; by default as long as streams keep
    their events: a day."""
    pause_above: float = 0.5
    """Share of the group's last 100 events that, if more of them became dead letters (but for Reject), pauses the group
    until `millstream group resume`; 1: never. The smallest of a member's handlers holds."""
    on_success: Callable[..., Any] | None = None
    """Called with (event, delivery) after an event that its handler was done with is acknowledged; at most once."""
    on_retry: Callable[..., Any] | None = None
    """Called with (event, delivery, outcome) after a failed event was put off until its next run; at most once each."""
    on_dead: Callable[..., Any] | None = None
    """Called with (event, letter) after a dead letter was written, event None if it cannot be read; at most once."""
    executor: str = "threads"
    """Where plain handlers run: threads, or inline (one after the other in the member's own thread)."""

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("batch", 1), ("window_events", 1)):
            value = getattr(self, name)
            _check(
                value is None or (isinstance(value, int) and value >= least),
                f"{name}={value!r}: at least {least}",
            )
        _check(
            self.claim_after_ms >= MIN_CLAIM_AFTER_MS,
            f"claim_after={show_duration(self.claim_after_ms)}: at least {show_duration(MIN_CLAIM_AFTER_MS)}",
        )
        _check(
            self.once_for_ms >= MIN_ONCE_FOR_MS,
            f"once_for={show_duration(self.once_for_ms)}: at least {show_duration(MIN_ONCE_FOR_MS)}",
        )
        _check(self.max_run_ms > 0, f"max_run={self.max_run_ms} ms: more than 0")
        _check(self.window_bytes >= 1, f"window_bytes={self.window_bytes}: at least 1")
        _check(0 < self.block_ms <= 4_000, f"block={self.block_ms} ms: more than 0, at most 4 s")
        _check(
            0 <= self.pause_above <= 1,
            f"pause_above={self.pause_above!r}: a share, 0 (the first dead letter) to 1 (never)",
        )
        position_id(self.start, 0, "start")  # refused where it is written, not where it is run
        _check(
            self.executor in EXECUTORS,
            f"executor={self.executor!r}: one of {', '.join(EXECUTORS)} (ConsumerOptions)",
        )


def consumer_options(**given: Any) -> ConsumerOptions:
    """ConsumerOptions from what people write: durations as "30s", types as a list, retry as a number of attempts.

    Raises:
        UsageError: an option that does not exist, or a value that does not fit, named.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("claim_after", "max_run", "grace", "batch_wait", "block", "once_for"):
            values[f"{name}_ms"] = duration_ms(value, name)
        elif name == "retry" and isinstance(value, int):
            values["retry"] = Retry(attempts=value)
        elif name == "types":
            values["types"] = (value,) if isinstance(value, str) else tuple(value)
        elif name in ConsumerOptions.__dataclass_fields__:
            values[name] = value
        else:
            known = sorted(n.removesuffix("_ms") for n in ConsumerOptions.__dataclass_fields__)
            raise UsageError(f"there is no consumer option {name!r}; there are: {', '.join(known)}")
    return ConsumerOptions(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """How a producer gathers, sends and confirms events.

    Raises:
        UsageError: an option out of range.
    """

    confirm: str = "accepted"
    """When a send counts as confirmed: accepted (the server replied), fsynced, replicated:N or durable:N."""
    confirm_timeout_ms: int = 5_000
    """How long the server may take to reach a level beyond accepted, in ms; then the send is NotConfirmed."""
    send_timeout_ms: int = 30_000
    """How long a send is tried, in ms from the call; then it has failed, or ends as unknown if it was on its way."""
    buffer_events: int = 10_000
    """Most events held that are not confirmed yet."""
    buffer_bytes: int = 16_000_000
    """Most bytes of entries held that are not confirmed yet."""
    when_full: str = "block"
    """What send() does when the buffer is full: block, fail (BufferFull at once) or drop_oldest (counted)."""
    block_ms: int = 5_000
    """How long a send blocks on a full buffer before BufferFull, in ms; 0 is the same as when_full=fail."""
    batch_events: int = 500
    """Most entries one call adds to a stream, 1 to 1,000."""
    batch_bytes: int = 1_000_000
    """Most bytes of entries one call adds; an entry that is larger goes alone."""
    pack: int = 0
    """Most events per entry (a pack): gathered while earlier ones are on their way, never waited for. 0: no packs."""
    codec: str = "msgpack"
    """How event data is written: msgpack, json or fields (plain field/value pairs). Packs are msgpack."""
    dedupe_for_ms: int = 86_400_000
    """How long an event with `id=` keeps others with the same id from being appended, in ms."""
    max_stream_entries: int = 0
    """Hard cap: the oldest entries beyond this many are removed, read or not. 0: none."""
    exit_ms: int = 5_000
    """How long the end of the process waits for sends of a producer that was not closed, in ms."""
    reply_timeout_ms: int = 5_000
    """How long the server may take to answer, in ms; then the connection is given up and all is sent again."""

    @property
    def call_entries(self) -> int:
        """Most entries one call adds, so that what fills the buffer is several calls: one is on its way while another
        is made."""
        return max(min(self.batch_events, self.buffer_events // (4 * max(self.pack, 1))), 1)

    def __post_init__(self) -> None:
        confirm_level(self.confirm)
        _check(
            self.when_full in FULL_POLICIES,
            f"when_full={self.when_full!r}: one of {', '.join(FULL_POLICIES)} (ProducerOptions)",
        )
        _check(self.codec in CODECS, f"codec={self.codec!r}: one of {', '.join(CODECS)} (ProducerOptions)")
        for name in ("confirm_timeout_ms", "send_timeout_ms", "buffer_events", "buffer_bytes", "batch_bytes",
                     "reply_timeout_ms"):  # fmt: skip
            _check(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: at least 1 (ProducerOptions)")
        for name in ("block_ms", "max_stream_entries", "exit_ms"):
            _check(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: 0 or more (ProducerOptions)")
        _check(
            1 <= self.batch_events <= MAX_BATCH_EVENTS,
            f"batch_events={self.batch_events}: 1 to {MAX_BATCH_EVENTS:,} (ProducerOptions)",
        )
        _check(0 <= self.pack <= 500, f"pack={self.pack}: 0 (no packs) to 500 events (ProducerOptions)")
        _check(
            not self.pack or self.codec == "msgpack",
            f"codec={self.codec!r}: packs are msgpack (ProducerOptions)",
        )
        _check(
            self.dedupe_for_ms >= 2 * self.send_timeout_ms,
            f"dedupe_for={show_duration(self.dedupe_for_ms)}: at least twice send_timeout, "
            f"{show_duration(2 * self.send_timeout_ms)}, or a repeat could outlive the record of the first",
        )


def confirm_level(confirm: str) -> tuple[str, int]:
    """A confirm level as its name and number of replicas: ("accepted", 0), ("durable", 2).

    Raises:
        UsageError: no such level.
    """
    name, _, number = str(confirm).partition(":")
    if name in ("accepted", "fsynced") and not number:
        return name, 0
    if (
        name in ("replicated", "durable")
        and number.isascii()
        and number.isdigit()
        and 1 <= int(number) <= 100
    ):
        return name, int(number)
    raise UsageError(
        f"confirm={confirm!r}: one of accepted, fsynced, replicated:N, durable:N (N replicas, 1 to 100)"
    )


def producer_options(base: ProducerOptions | None = None, **given: Any) -> ProducerOptions:
    """ProducerOptions from what people write: durations as "30s", sizes as "16MB", pack=True as 100.

    Raises:
        UsageError: an option that does not exist, or a value that does not fit, named.
    """
    fields = ProducerOptions.__dataclass_fields__
    values: dict[str, Any] = {name: getattr(base, name) for name in fields} if base else {}
    for name, value in given.items():
        if value is None:
            continue
        if f"{name}_ms" in fields:
            values[f"{name}_ms"] = duration_ms(value, name)
        elif name in ("buffer_bytes", "batch_bytes"):
            values[name] = size_bytes(value, name)
        elif name == "pack" and isinstance(value, bool):
            values[name] = 100 if value else 0
        elif name in fields:
            values[name] = value
        else:
            known = sorted(n.removesuffix("_ms") for n in fields)
            raise UsageError(f"there is no producer option {name!r}; there are: {', '.join(known)}")
    return ProducerOptions(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """How log lines are shipped.

    Raises:
        UsageError: an option out of range.
    """

    queue_events: int = 10_000
    """Most lines held; beyond it the oldest are dropped and counted, those of ERROR and above last. With `spill` given
    by name, 50,000 unless given, too."""
    queue_bytes: int = 16_000_000
    """Most bytes of lines held, about."""
    gather_ms: int = 50
    """How long lines are gathered after the first, in ms; 0: none waits."""
    pack: int = 250
    """Most lines per entry; 0: an entry each. In an application that computes all the time, sending gets its turn only
    every few ms, and makes one pack of it: with 100, no more than some 15,000 lines a second."""
    exit_ms: int = 2_000
    """How long the end of the process, or a flush, waits for lines to be sent, in ms."""
    spill: str = ""
    """Folder where lines wait while the server is away, instead of being dropped; empty: none. It may be shared by
    the processes of one application, and is for one server."""
    spill_bytes: int = 1_000_000_000
    """Most bytes there per stream, about; beyond it the oldest lines are dropped and counted, those of ERROR and above
    last."""
    spill_sync_ms: int = 1_000
    """How long what is written there may be lost by a power failure, in ms; 0: it is left to the operating system. A
    process that is killed loses nothing of it either way."""

    def __post_init__(self) -> None:
        for name in ("queue_events", "queue_bytes"):
            _check(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: at least 1 (LogOptions)")
        for name in ("gather_ms", "exit_ms", "spill_sync_ms"):
            _check(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: 0 or more (LogOptions)")
        _check(
            self.spill_bytes >= MIN_SPILL_BYTES,
            f"spill_bytes={self.spill_bytes:,}: at least {MIN_SPILL_BYTES:,} (LogOptions)",
        )
        _check(0 <= self.pack <= 500, f"pack={self.pack}: 0 (no packs) to 500 lines (LogOptions)")


def log_options(**given: Any) -> LogOptions:
    """LogOptions from what people write: durations as "30s", sizes as "16MB".

    Raises:
        UsageError: an option that does not exist, or a value that does not fit, named.
    """
    fields = LogOptions.__dataclass_fields__
    values: dict[str, Any] = {}
    for name, value in given.items():
        if f"{name}_ms" in fields:
            values[f"{name}_ms"] = duration_ms(value, name)
        elif name in ("queue_bytes", "spill_bytes"):
            values[name] = size_bytes(value, name)
        elif name == "spill":
            values[name] = str(value)
        elif name in fields:
            values[name] = value
        else:
            known = sorted(n.removesuffix("_ms") for n in fields)
            raise UsageError(f"there is no log option {name!r}; there are: {', '.join(known)}")
    if values.get("spill"):
        values.setdefault("queue_events", SPILL_QUEUE_EVENTS)
    return LogOptions(**values)
