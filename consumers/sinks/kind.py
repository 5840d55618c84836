"""Sink and SinkKind: what a sink is, and what its module declares for `sink()`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from consumers.sinks.sink_url import Option, SinkUrl
from pipeline.event import Event
from pipeline.outcome import Outcomes


class Sink(Protocol):
    """A batch handler that hands events to a target. Several threads may call it, and it may be called after close().

    When it returns, every event is where it belongs, but for those that its Outcomes name: `reject` one that the
    target will never take (a dead letter with the target's reason), `fail` one with an error that a retry may mend, or
    with a SinkAway if the target puts off this one. It raises SinkAway if the target takes nothing just now, and
    SinkRefused if it takes nothing until a person mends it: no event pays for either with an attempt.
    """

    def __call__(self, events: list[Event], /) -> Outcomes | None:
        """Hand the events over."""

    def close(self) -> None:
        """Write what is held, and let go of the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """A kind of sink: each module of this folder that has one calls it KIND."""

    make: Callable[[SinkUrl], Sink]
    """Makes the sink of a URL that was read; UsageError for what cannot be meant. Connects to nothing yet."""
    options: tuple[Option, ...] = ()
    others: bool = False
    """Options that are not declared go on to the target, as `SinkUrl.others`."""
    batch_events: int = 500
    """Events that it is best given at a time."""
