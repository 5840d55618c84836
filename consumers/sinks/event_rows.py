"""Event rows: events as rows of a table, by a list of what goes into which column. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from consumers.sinks.as_json import data_json, json_text
from consumers.window import Held
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.json_view import json_view

Getter: TypeAlias = Callable[[Event], str | None]
"""What an event has in a column, as text; None for NULL."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def stream_of(event: Event) -> str:
    """The name of the stream that an event was read from; empty for one that was read from none."""
    held = event._origin
    return held.ref.keys.stream if isinstance(held, Held) else ""


def level_of(event: Event) -> str | None:
    """The field `level` of the event's data, where it is text."""
    data = event.data
    level = data.get("level") if isinstance(data, dict) else None
    return level if isinstance(level, str) else None


VALUES: dict[str, Getter] = {
    "stream": stream_of,
    "event_id": lambda event: event.id,
    "time": lambda event: event.time.isoformat(),
    "type": lambda event: event.type,
    "key": lambda event: event.key,
    "source": lambda event: event.source,
    "level": level_of,
    "data": data_json,
    "headers": lambda event: json_text(event.headers) if event.headers else "{}",
}
"""What a column may hold, besides data.NAME and headers.NAME."""


@dataclass(frozen=True, slots=True)
class ColumnOf:
    """A column of the table, and what goes there."""

    name: str
    value: str
    """A key of VALUES, data.NAME or headers.NAME; data.A.B goes deeper."""
    get: Getter

    @property
    def is_json(self) -> bool:
        """Whether it is JSON whatever the event."""
        return self.value in ("data", "headers")


USUAL = tuple(ColumnOf(name, name, get) for name, get in VALUES.items())


def columns_of(text: str) -> tuple[ColumnOf, ...]:
    """The columns that `columns=` says: `id:event_id,at:time,message:data.event`; `time` alone is `time:time`.

    Raises:
        UsageError: a name or value that cannot be, a column twice, or no column for the event's id.
    """
    columns: list[ColumnOf] = []
    for part in text.split(","):
        name, _, value = part.strip().partition(":")
        value = value or name
        if not _NAME.fullmatch(name):
            raise UsageError(f"columns={text!r}: {name!r} is no column (small letters, digits and _)")
        if any(column.name == name for column in columns):
            raise UsageError(f"columns={text!r}: {name} stands there twice")
        columns.append(ColumnOf(name, value, _getter(value, text)))
    if all(column.value != "event_id" for column in columns):
        raise UsageError(
            f"columns={text!r}: no column gets event_id, by which an event is known to be there already"
        )
    return tuple(columns)


def names_of(text: str, columns: Sequence[ColumnOf]) -> tuple[str, ...]:
    """The columns of the table's unique index: those of `unique=`, else those of stream and event id.

    Raises:
        UsageError: one that is not among the columns.
    """
    known = [column.name for column in columns]
    if not text:
        return tuple(column.name for column in columns if column.value in ("stream", "event_id"))
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in known:
            raise UsageError(f"unique={text!r}: {name!r} is none of the columns {', '.join(known)}")
    return names


def _getter(value: str, text: str) -> Getter:
    if value in VALUES:
        return VALUES[value]
    where, _, path = value.partition(".")
    names = path.split(".")
    if where == "headers" and path:
        return lambda event: event.headers.get(path)
    if where == "data" and all(names):
        return lambda event: _text(_inside(event.data, names))
    raise UsageError(f"columns={text!r}: {value!r} is none of {', '.join(VALUES)}, data.NAME or headers.NAME")


def _inside(data: Any, names: Sequence[str]) -> Any:
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _text(value: Any) -> str | None:
    """A value as a column of its own takes it: text and numbers plainly, lists and dicts as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    view = json_view(value)
    return view if isinstance(view, str) else json_text(view)
