"""Documents: events as what JSON can hold, for targets that keep each as a record of its own. Pure.

What cannot be read is put down as that event's failure: one bad event costs its batch nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, TypeVar

from consumers.sinks.event_rows import stream_of
from pipeline.errors import DecodeError, EncodeError, UsageError
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.outcome import Outcomes

T = TypeVar("T")


def made_of(events: Sequence[Event], make: Callable[[Event], T]) -> tuple[dict[int, T], Outcomes]:
    """What make() makes of each event, by index, and the outcomes of those of which nothing can be made."""
    made: dict[int, T] = {}
    outcomes = Outcomes()
    for index, event in enumerate(events):
        try:
            made[index] = make(event)
        except EncodeError as error:
            outcomes.reject(index, str(error))
        except (DecodeError, UsageError) as error:
            outcomes.fail(index, error)
    return made, outcomes


def document(event: Event) -> dict[str, Any]:
    """An event as a flat record: stream, id, time (ISO, UTC), type, key, source, headers, data; none that is empty.

    Data is as json_view shows it: bytes as text or base64, times as ISO text.
    """
    headers = {name: value for name, value in event.headers.items() if name != "source"}
    fields = {
        "stream": stream_of(event),
        "id": event.id,
        "time": iso_time(event),
        "type": event.type,
        "key": event.key,
        "source": event.source,
        "headers": headers,
    }
    return {name: value for name, value in fields.items() if value} | {"data": json_view(event.data)}


def unique_id(event: Event) -> str:
    """An id that no event of another stream has: a producer numbers each stream on its own."""
    stream = stream_of(event)
    return f"{stream}:{event.id}" if stream else event.id


def iso_time(event: Event) -> str:
    """When it happened, as 2026-11-26T02:00:00.123Z."""
    return event.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8 of what json_view made; a lone surrogate becomes ?."""
    return _encode(value).encode("utf-8", "replace")


def json_text(value: Any) -> str:
    """The same as text."""
    return json_bytes(value).decode()


def in_requests(bodies: Mapping[int, Sized], most_bytes: int, most_events: int = 100_000) -> list[list[int]]:
    """The indexes in order, in as few groups as keep each within these bounds; what is longer is alone."""
    parts: list[list[int]] = []
    size = 0
    for index, body in bodies.items():
        if not parts or size + len(body) > most_bytes or len(parts[-1]) == most_events:
            parts.append([])
            size = 0
        parts[-1].append(index)
        size += len(body)
    return parts
