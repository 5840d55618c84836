"""data_json: an event's data as JSON text, for targets that hold JSON."""

import json

from pipeline.event import Event
from pipeline.json_view import json_view

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def data_json(event: Event) -> str:
    """The event's data as JSON; what JSON cannot hold exactly (bytes, infinities) as json_view shows it.

    Raises:
        DecodeError: the event is corrupt.
    """
    return json_text(event.data)


def json_text(data: object) -> str:
    """The data as JSON, as data_json() has it."""
    try:
        return _encode(data)
    except (TypeError, ValueError):
        return _encode(json_view(data))
