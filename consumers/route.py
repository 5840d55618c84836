"""Route: a ready-made handler: events of one stream go on to another, each once, as they are."""

from consumers.delivery import Delivery
from pipeline.errors import UsageError
from pipeline.event import Event


class Route:
    """Emits each event to another stream: id, type, key, time, headers and data as they were sent.

    Stands on delivery.emit(): the event is in the other stream when it is settled in this one, and is there once,
    whatever dies.
    """

    def __init__(self, stream: str, to: str) -> None:
        """to: the stream that events go on to, as the app names it.

        Raises:
            UsageError: it is the stream that they come from.
        """
        if to == stream:
            raise UsageError(f"to={to!r}: events of stream {stream!r} would go round for ever")
        self.to = to
        self.__qualname__ = f"route to {to}"  # what the log calls the handler

    def __call__(self, event: Event, delivery: Delivery) -> None:
        """Send it on."""
        delivery.emit(self.to, event)
