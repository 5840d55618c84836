"""Outcome: what a handler decided about an event, and what follows from it.

A handler returns (done), raises (retry), raises Reject (dead letter at once) or Later (not now). A batch handler may
return Outcomes, one per event. after_failure() is the whole policy of retries, pure and in one place.
"""

import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

from pipeline.effects import Arg, Effects, Origin
from pipeline.errors import ArgumentsError, DecodeError, UsageError
from pipeline.options import Retry
from pipeline.units import Duration, duration_ms

MAX_TRACEBACK_CHARS = 8_000
"""A dead letter keeps the end of its traceback: deep recursions repeat themselves."""


class Reject(Exception):
    """Raised by a handler: this event can never succeed here; make it a dead letter now. `Reject("no such order")`."""

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)
        self.reason = reason


class Later(Exception):
    """Raised by a handler: not now, run it again after `delay` ("5m"); the attempt is not spent."""

    def __init__(self, delay: Duration) -> None:
        super().__init__(f"later, in {delay}")
        self.delay_ms = duration_ms(delay, "Later")


class Kind(Enum):
    """What happens to an event after a handler had it."""

    DONE = "done"
    RETRY = "retry"
    LATER = "later"
    DEAD = "dead"
    HAND_BACK = "hand back"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One event's outcome: its kind, when it runs again, and what went wrong."""

    kind: Kind
    delay_ms: int = 0
    """For RETRY and LATER: how long to wait, in ms."""
    reason: str = ""
    """For DEAD: why, in words. For RETRY: the error's message."""
    error: str = ""
    """Name of the exception's class."""
    message: str = ""
    """What the exception says."""
    traceback: str = field(default="", repr=False)
    effects: Effects | None = field(default=None, repr=False)
    """For DONE: what the handler wants done in the step that settles the event."""
    rejected: bool = False
    """The handler said so by Reject."""


DONE = Outcome(Kind.DONE)
HAND_BACK = Outcome(Kind.HAND_BACK)


def after_failure(
    error: BaseException, attempt: int, retry: Retry, rng: random.Random | None = None
) -> Outcome:
    """What follows from the exception that run number `attempt` (1 is the first) of a handler raised."""
    if isinstance(error, Later):
        return Outcome(Kind.LATER, delay_ms=error.delay_ms, reason=str(error))
    name, trace, message = type(error).__name__, show_traceback(error), _message(error)

    def outcome(kind: Kind, reason: str, delay_ms: int = 0) -> Outcome:
        return Outcome(kind, delay_ms, reason, name, message, trace)

    if isinstance(error, Reject):
        return replace(outcome(Kind.DEAD, error.reason), rejected=True)
    if isinstance(error, DecodeError):
        return outcome(Kind.DEAD, f"cannot be decoded: {message}")
    if isinstance(error, ArgumentsError):
        return outcome(Kind.DEAD, f"arguments do not fit: {message}")
    refusal = retry.refusal(error)
    if refusal:
        return outcome(Kind.DEAD, f"{refusal}: {message}")
    if attempt >= retry.attempts:
        return outcome(Kind.DEAD, message)
    return outcome(Kind.RETRY, message, retry.backoff.wait_ms(attempt, rng))


def _message(error: BaseException) -> str:
    """What an exception says; the name of its class where it says nothing, or cannot."""
    try:
        return str(error) or type(error).__name__
    except Exception as problem:  # noqa: BLE001 - somebody else's __str__ must not cost the event its outcome
        return f"{type(error).__name__} (its text cannot be had: {type(problem).__name__})"


def show_traceback(error: BaseException) -> str:
    """The traceback as text, its end if it is long."""
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= MAX_TRACEBACK_CHARS else "…" + text[-MAX_TRACEBACK_CHARS:]


Wanted: TypeAlias = Callable[[Effects, Callable[[], Origin], Callable[[str], str]], object]
"""Notes what a batch handler wants for one event."""


class Outcomes:
    """What a batch handler may return: an outcome per event; events it does not mention are done.

    Example:
        outcomes = Outcomes()
        outcomes.fail(3, error)          # as if the handler had raised error for events[3] alone
        outcomes.reject(4, "no such order")
        outcomes.later(5, "5m")
        outcomes.emit(6, "payments", {"id": 7}, type="payment.requested")   # as delivery.emit() for events[6]
        outcomes.effect(6, "HINCRBY", "totals", "paid", 12)                  # as delivery.effect()
        return outcomes

    What is emitted or done for an event that fails is discarded.
    """

    __slots__ = ("errors", "wanted")

    def __init__(self) -> None:
        self.errors: dict[int, BaseException] = {}
        self.wanted: dict[int, list[Wanted]] = {}

    def fail(self, index: int, error: BaseException) -> None:
        """Event number `index` of the batch failed with `error`: it is retried."""
        self._put(index, error)

    def reject(self, index: int, reason: str) -> None:
        """Event number `index` of the batch becomes a dead letter."""
        self._put(index, Reject(reason))

    def later(self, index: int, delay: Duration) -> None:
        """Event number `index` of the batch runs again after `delay`."""
        self._put(index, Later(delay))

    def emit(self, index: int, stream: str, data: Any = None, **given: Any) -> None:
        """Event number `index` of the batch emits an event: see Delivery.emit()."""
        self._check(index)
        self.wanted.setdefault(index, []).append(
            lambda effects, origin, stream_name: effects.emit(stream_name(stream), data, origin(), **given)
        )

    def effect(self, index: int, command: str, key: str, *args: Arg) -> None:
        """Event number `index` of the batch wants a command carried out: see Delivery.effect()."""
        self._check(index)
        self.wanted.setdefault(index, []).append(lambda effects, *_: effects.call(command, key, *args))

    def effects_of(
        self, index: int, origin: Callable[[], Origin], stream_name: Callable[[str], str]
    ) -> Effects | None:
        """What is wanted for an event, checked and encoded.

        Raises:
            UsageError, EncodeError, EventTooLargeError: something that cannot be.
        """
        if index not in self.wanted:
            return None
        effects = Effects()
        for want in self.wanted[index]:
            want(effects, origin, stream_name)
        return effects

    def _put(self, index: int, error: BaseException) -> None:
        self._check(index)
        self.errors[index] = error

    def _check(self, index: int) -> None:
        if index < 0:
            raise UsageError(f"Outcomes: index {index} of a batch counts from 0")
