"""Delivery: one hand-over of an event to a handler."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from consumers.window import Held
from pipeline.declare import ConsumerSpec
from pipeline.effects import Arg, Effects, Emitted, Origin
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.outcome import DONE, Kind, Later, Outcome, Reject, after_failure
from pipeline.position import parse_entry_id
from pipeline.replayed import WORD, once_id
from pipeline.units import Duration


def held_of(event: Event) -> Held:
    """The entry in our hands that an event came in."""
    held: Held = event._origin
    return held


def origin_of(event: Event) -> Origin:
    """What the events are derived from that the run of a handler for this one emits."""
    held = held_of(event)
    return Origin.of(event, held.ref.keys.stream, held.ref.group, held.again.why if held.again else "")


class Delivery:
    """What a handler may know about the run it is in. Made by Millstream, given as the handler's second argument."""

    __slots__ = ("effects", "event", "held", "over", "settle", "spec")

    def __init__(self, event: Event, spec: ConsumerSpec) -> None:
        self.event = event
        self.held = held_of(event)
        self.spec = spec
        self.effects: Effects | None = None
        """What this run wants done in the step that settles the event."""
        self.over = False
        self.settle: Callable[[Outcome], None] | None = None
        """Set for a delivery that a Consumer handed out: takes its outcome, once."""

    @property
    def index(self) -> int:
        """Place of the event in its entry: 0 unless the entry is a pack."""
        return self.event._index

    def emit(
        self,
        stream: str,
        data: Any = None,
        *,
        type: str = "",  # noqa: A002 - CloudEvents' word
        key: str = "",
        id: str = "",  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: datetime | None = None,
    ) -> Emitted:
        """Append an event once, before this delivery counts as done: if the run fails, nothing is appended.

        To be awaited or not, as you like: it is noted here, and appended in the step that settles this event. Its id is
        derived from this event's, so that a repeated run emits the same: what the n-th call emits has the same id in
        each run. traceparent and tracestate are handed on.

        Args:
            data: as for Producer.send(). An event that came from a stream, such as this one, goes on as it is.
            id: an id of your own: within a day, a second event with the same id is not appended.

        Raises:
            EncodeError, EventTooLargeError: it cannot be sent. UsageError: a stream that cannot be, more than 500
            events or 8 MiB in one run, or the run has ended.
        """
        effects = self._open()
        return effects.emit(
            self.spec.stream_name(stream), data, origin_of(self.event),
            type=type, key=key, id=id, headers=headers, time=time,
        )  # fmt: skip

    def effect(self, command: str, key: str, *args: Arg) -> None:
        """Carry out a Redis command in the step that settles this event: both happen, or neither.

        Example:
            delivery.effect("HINCRBY", "totals", event.key, event.data["amount"])

        The commands are those of pipeline.effects.COMMANDS: writes to one key. In a cluster the key shares the stream's
        slot (`{orders}:totals`). What can be found out beforehand is, before anything is done: the arguments now (an
        exception here), the type of what the key holds and that a number stands where one is counted up when the event
        is settled. If that is not so, nothing was done and the event has failed, as if the handler had raised
        EffectRefusedError.

        Raises:
            UsageError: a command or an argument that cannot be, more than 100 commands in one run, or the run has
            ended.
        """
        self._open().call(command, key, *args)

    def end(self) -> Effects | None:
        """The run is over; what it wants done."""
        self.over = True
        return self.effects

    def _open(self) -> Effects:
        if self.over:
            raise UsageError(
                "this run has ended: what it emits or changes is given before its handler returns"
            )
        if self.effects is None:
            self.effects = Effects()
        return self.effects

    def ack(self) -> None:
        """Done (only for a delivery taken from a Consumer; a handler returns instead)."""
        self._decide(DONE)

    def fail(self, error: BaseException) -> None:
        """Failed with `error`: retried with backoff, or a dead letter after the last attempt (Consumer only)."""
        self._decide(after_failure(error, self.attempt, self.spec.options.retry))

    def reject(self, reason: str) -> None:
        """Make it a dead letter now (Consumer only; a handler raises Reject instead)."""
        self.fail(Reject(reason))

    def later(self, delay: Duration) -> None:
        """Run it again after `delay`, the attempt not spent (Consumer only; a handler raises Later instead)."""
        self.fail(Later(delay))

    def _decide(self, outcome: Outcome) -> None:
        if self.settle is None:
            raise UsageError(
                "this delivery is settled by what its handler does: return for done, raise for retry, "
                "raise Reject or Later (ack() and its like are for deliveries taken from a Consumer)"
            )
        effects = self.end()
        if outcome is DONE and effects is not None:
            outcome = Outcome(Kind.DONE, effects=effects)
        self.settle(outcome)

    @property
    def stream(self) -> str:
        """Name of the stream the event was sent to."""
        return self.held.ref.keys.stream

    @property
    def group(self) -> str:
        """Name of the consumer group."""
        return self.held.ref.group

    @property
    def entry_id(self) -> str:
        """Id of the entry in that stream, given by the server: `ms-seq`."""
        return self.held.shown_id

    @property
    def entry_ms(self) -> int:
        """When the server took the event in, in ms since 1970."""
        return parse_entry_id(self.entry_id)[0]

    @property
    def attempt(self) -> int:
        """Number of this run, 1 for the first; runs that ended with their worker count."""
        return self.held.attempt

    @property
    def once_id(self) -> str:
        """What this event goes by where something is done once for it: its id; another one if it is replayed to be done
        again (`replay --again`), which is the same however often that is repeated."""
        return once_id(self.event.id, self.held.again.why if self.held.again else "")

    @property
    def replayed(self) -> bool:
        """Whether somebody replayed this event; its retries say so too. Its headers say more: replay-id, -time, -of."""
        return self.held.again is not None and self.held.again.why.startswith(WORD)

    @property
    def taken_over(self) -> bool:
        """Whether another consumer has taken the entry over: what this run does is done twice, and not settled."""
        return self.held.taken_over

    def __repr__(self) -> str:
        return f"Delivery({self.stream!r}, group={self.group!r}, entry_id={self.entry_id!r}, attempt={self.attempt})"
