"""Chosen: a handler that gets only the events whose data an expression is true of; the others are done as they are.

What is left out is acknowledged: this group has seen it and wants nothing of it. What cannot be read goes on to the
handler, which says so as it always does.
"""

from console.cli.exec_handler import ExecHandler
from consumers.delivery import Delivery
from consumers.sinks.patient import Patient
from pipeline.errors import DecodeError
from pipeline.event import Event
from pipeline.outcome import Outcomes
from pipeline.where import Where, all_take


class ChosenCommand:
    """For a command per event."""

    def __init__(self, handler: ExecHandler, where: tuple[Where, ...]) -> None:
        self.__qualname__ = handler.__qualname__
        self._handler, self._where = handler, where

    async def __call__(self, event: Event, delivery: Delivery) -> None:
        """Run the command, if the event is meant."""
        if _meant(self._where, event):
            await self._handler(event, delivery)


class ChosenBatch:
    """For a sink: it gets what is left of a batch."""

    def __init__(self, handler: Patient, where: tuple[Where, ...]) -> None:
        self.__qualname__ = handler.__qualname__
        self._handler, self._where = handler, where

    def __call__(self, events: list[Event]) -> Outcomes | None:
        """Hand on what is meant; what the sink says of an event is said of its place in the whole batch."""
        places = [at for at, event in enumerate(events) if _meant(self._where, event)]
        if not places:
            return None
        said = self._handler([events[at] for at in places])
        if said is None:
            return None
        found = Outcomes()
        found.errors = {places[at]: error for at, error in said.errors.items()}
        found.wanted = {places[at]: wanted for at, wanted in said.wanted.items()}
        return found


def _meant(where: tuple[Where, ...], event: Event) -> bool:
    try:
        return all_take(where, event.data)
    except DecodeError:
        return True
