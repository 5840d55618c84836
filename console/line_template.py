"""LineTemplate: an event as a line of one's own making: `{time} {level} {data.user.name}`.

What stands around the fields is as typed; what comes from events is escaped, and cannot steer a terminal.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from console.event_view import EventView, level_style, styled
from console.output import as_time
from console.safe_text import json_text, safe
from pipeline.errors import UsageError
from pipeline.levels import level_in
from pipeline.where import values_of

_OWN: dict[str, Callable[[EventView], Any]] = {
    "time": lambda view: as_time(view.time_ms),
    "stream": lambda view: view.stream,
    "entry_id": lambda view: view.entry_id,
    "index": lambda view: view.index,
    "id": lambda view: view.id,
    "type": lambda view: view.type,
    "key": lambda view: view.key,
    "headers": lambda view: view.headers,
    "error": lambda view: view.problem,
    "data": lambda view: view.data,
    "level": lambda view: level_in(view.data),
}
"""What {these} are, even where the data has a field of that name: that is {data.time} then."""
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD = re.compile(r"([\w@$-]+(?:\.[\w@$-]+)*)(?::([<>]?)(\d{1,3}))?")
_ESCAPES = {r"\t": "\t", r"\n": "\n", r"\\": "\\"}


class LineTemplate:
    """A template, taken apart once.

    `{name}` is the event's own (time, stream, entry_id, index, id, type, key, level, headers, error, or data as a
    whole), else a field of its data; `{data.name}` is always the data's, `{headers.name}` a header. `{name:8}` is
    filled up to eight characters, `{name:>8}` from the left. `{{` and `}}` are braces, \\t and \\n what they mean.

    Raises:
        UsageError: a brace without its other half, or a field that cannot be; says where.
    """

    def __init__(self, template: str, option: str = "template") -> None:
        self._parts: list[str | Callable[[EventView, bool], str]] = []
        at = 0
        for piece in _PIECE.finditer(template):
            self._literal(template[at : piece.start()])
            at = piece.end()
            if piece[0] in ("{{", "}}"):
                self._parts.append(piece[0][0])
                continue
            field = None if piece[1] is None else _FIELD.fullmatch(piece[1])
            if field is None:
                raise UsageError(
                    f"{option}={template!r}: expected {{field}}, such as {{time}} or {{data.user.name:8}}, "
                    f"and {{{{ for a brace, at character {piece.start() + 1}"
                )
            self._parts.append(_shown(field[1], field[2], int(field[3] or 0)))
        self._literal(template[at:])

    def line(self, view: EventView, *, colored: bool = False) -> str:
        """The event's line; coloured: its level is."""
        return "".join(part if isinstance(part, str) else part(view, colored) for part in self._parts)

    def _literal(self, text: str) -> None:
        if text:
            self._parts.append(re.sub(r"\\[tn\\]", lambda found: _ESCAPES[found[0]], text))


def _shown(name: str, side: str, width: int) -> Callable[[EventView, bool], str]:
    def shown(view: EventView, colored: bool) -> str:
        found = _found(name, view)
        text = _text(found)
        text = text.rjust(width) if side == ">" else text.ljust(width)
        return styled(text, level_style(found)) if colored and name == "level" else text

    return shown


def _found(name: str, view: EventView) -> Any:
    own = _OWN.get(name)
    if own is not None:
        return own(view)
    first, _, rest = name.partition(".")
    if first == "headers":
        return view.headers.get(rest)
    return _one(values_of(view.data, tuple(name.split("."))))


def _one(values: Iterable[Any]) -> Any:
    found = list(values)
    return found[0] if len(found) == 1 else found or None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return safe(value) if isinstance(value, str) else json_text(value)
