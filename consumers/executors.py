"""Executors: what runs handlers, and how their ends are told. Plain ones run in threads, async ones on an event loop.

Both take events from a queue without a lock, one at a time, and put what has ended into one shared deque, from which
the member collects. So no thread of a handler waits for the network or for another handler, and an event that is done
costs a step at either end.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from consumers.delivery import held_of, origin_of
from consumers.window import Held
from pipeline.declare import ConsumerSpec
from pipeline.effects import Effects
from pipeline.errors import DecodeError, MillstreamError
from pipeline.event import Event
from pipeline.outcome import Kind, Later, Outcome, Outcomes, after_failure

Queue: TypeAlias = deque[Held | Event]
"""What is to be run: all events of an entry, or one event."""
Finished: TypeAlias = deque[Held | Event | tuple[Event, Outcome]]
"""Entries whose one event is done, events that are done, and those that are not with what follows."""
WAKE_S = 0.001
"""Outcomes wait about so long for company before the member is woken, in s; longer only beside a handler that runs."""
Work: TypeAlias = Callable[[], None]
"""Runs what was submitted, in the thread that calls it."""


class Executor(Protocol):
    """Runs the events of one handler."""

    def submit(self, items: Sequence[Held | Event], *, here: bool = False) -> Work | None:
        """Queue entries or events, to be run in this order (started in this order, where several run at a time).

        here: the caller's thread may run them, if that is quick. What is returned then is to be called at once.
        """

    def drain(self) -> list[Held | Event]:
        """Take out what was queued and not started."""

    def idle(self) -> bool:
        """Whether nothing is queued and nothing runs."""

    def held_by(self, entries: Collection[Held]) -> list[Event]:
        """Running events of these entries."""

    def give_up(self, event: Event) -> None:
        """The event's outcome no longer counts: cancel its handler where that is possible."""

    def overdue(self, now_s: float) -> list[Event]:
        """Events that run beyond max_run, by the monotonic clock."""

    def exhausted(self) -> bool:
        """Whether every slot is taken by a handler that was given up and never returned."""

    def haunted(self) -> bool:
        """Whether a handler still runs whose event was given up."""

    def cancel_running(self) -> None:
        """Cancel what runs, where that is possible: what is cancelled is handed back."""

    def close(self) -> None:
        """Start nothing more."""


Run: TypeAlias = tuple[Sequence[Event], float]
"""Events that one thread or task runs together, and since when by the monotonic clock."""


def running_of(runs: Iterable[Run], entries: Collection[Held]) -> list[Event]:
    """The events of these entries among those that run."""
    return [one for batch, _ in runs for one in batch if held_of(one) in entries]


def overdue_of(
    runs: Iterable[Run], now_s: float, spec: ConsumerSpec, abandoned: Collection[int]
) -> list[Event]:
    """The events that run beyond max_run, but for those that were given up."""
    longest_s = spec.options.max_run_ms / 1_000
    return [
        one
        for batch, started_s in runs
        for one in batch
        if now_s - started_s > longest_s and not given_up(one, abandoned)
    ]


def given_up(event: Event, abandoned: Collection[int]) -> bool:
    """Whether the outcome of its handler no longer counts."""
    return id(event) in abandoned or held_of(event).taken_over


def batch_outcomes(
    batch: Sequence[Event], result: Any, spec: ConsumerSpec
) -> Sequence[Held | Event | tuple[Event, Outcome]]:
    """What a batch handler's return value, or the exception it raised, means for each event."""
    retry = spec.options.retry
    if isinstance(result, DecodeError):
        corrupt = [_decode_error(one) for one in batch]
        if any(corrupt):  # the others did nothing wrong: they run again without it
            later = Later(0)
            return [
                (one, after_failure(error or later, held_of(one).attempt, retry))
                for one, error in zip(batch, corrupt, strict=True)
            ]
    if isinstance(result, BaseException):
        return [(one, after_failure(result, held_of(one).attempt, retry)) for one in batch]
    if not isinstance(result, Outcomes) or not (result.errors or result.wanted):
        return batch
    last = max((*result.errors, *result.wanted))
    if last >= len(batch):
        problem = IndexError(f"Outcomes names event {last} of a batch of {len(batch)}")
        return batch_outcomes(batch, problem, spec)
    return [_outcome_of(one, i, result, spec) for i, one in enumerate(batch)]


def _outcome_of(
    event: Event, index: int, outcomes: Outcomes, spec: ConsumerSpec
) -> Event | tuple[Event, Outcome]:
    error = outcomes.errors.get(index)
    if error is None:
        try:
            effects = outcomes.effects_of(index, lambda: origin_of(event), spec.stream_name)
        except MillstreamError as problem:  # what cannot be emitted: this event's failure
            error = problem
        else:
            return event if effects is None else (event, done_with(effects))
    return (event, after_failure(error, held_of(event).attempt, spec.options.retry))


def done_with(effects: Effects) -> Outcome:
    """Done, and these are wanted in the step that settles the event."""
    return Outcome(Kind.DONE, effects=effects)


def _decode_error(event: Event) -> DecodeError | None:
    """Why the event cannot be decoded, if it cannot."""
    try:
        _ = event.data, event.type  # its header, too: with one name all are read
    except DecodeError as error:
        return error
    return None


def next_event(queue: Queue) -> Event | None:
    """The next event of a queue that other threads take from too; None if it is empty. None that was taken over."""
    while True:
        try:
            item = queue.popleft()
        except IndexError:
            return None
        if isinstance(item, Event):
            if not item._origin.taken_over:
                return item
        elif not item.taken_over:
            if item.events == 1:
                return item.event(0)
            first, *rest = item.all_events()
            queue.extendleft(reversed(rest))  # the rest of a pack may run elsewhere
            return first


def next_events(queue: Queue, most: int) -> list[Event]:
    """Up to `most` events, as next_event()."""
    events: list[Event] = []
    while len(events) < most:
        try:
            item = queue.popleft()
        except IndexError:
            break
        if isinstance(item, Event):
            if not item._origin.taken_over:
                events.append(item)
        elif not item.taken_over:
            events += item.all_events()
            if len(events) > most:
                queue.extendleft(reversed(events[most:]))
                del events[most:]
    return events


def drained(queue: Queue) -> list[Held | Event]:
    """All that was not started, taken out."""
    items: list[Held | Event] = []
    while True:
        try:
            items.append(queue.popleft())
        except IndexError:
            return items


def done(event: Event) -> Held | Event:
    """What tells that an event is done: its entry, if that has no other, so that the event need not live on."""
    held: Held = event._origin
    return held if held.events == 1 else event
