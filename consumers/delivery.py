"""Delivery: one hand-over of an event to a handler."""

from collections.abc import Callable

from consumers.window import Held
from pipeline.declare import ConsumerSpec
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.outcome import DONE, Later, Outcome, Reject, after_failure
from pipeline.position import parse_entry_id
from pipeline.replayed import WORD
from pipeline.units import Duration


def held_of(event: Event) -> Held:
    """The entry in our hands that an event came in."""
    held: Held = event._origin
    return held


class Delivery:
    """What a handler may know about the run it is in. Made by Millstream, given as the handler's second argument."""

    __slots__ = ("event", "held", "settle", "spec")

    def __init__(self, event: Event, spec: ConsumerSpec) -> None:
        self.event = event
        self.held = held_of(event)
        self.spec = spec
        self.settle: Callable[[Outcome], None] | None = None
        """Set for a delivery that a Consumer handed out: takes its outcome, once."""

    @property
    def index(self) -> int:
        """Place of the event in its entry: 0 unless the entry is a pack."""
        return self.event._index

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
    def replayed(self) -> bool:
        """Whether somebody replayed this event; its retries say so too. Its headers say more: replay-id, -time, -of."""
        return self.held.again is not None and self.held.again.why.startswith(WORD)

    @property
    def taken_over(self) -> bool:
        """Whether another consumer has taken the entry over: what this run does is done twice, and not settled."""
        return self.held.taken_over

    def __repr__(self) -> str:
        return f"Delivery({self.stream!r}, group={self.group!r}, entry_id={self.entry_id!r}, attempt={self.attempt})"
