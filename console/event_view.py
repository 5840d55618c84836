"""EventView: one event as a person or a script reads it: a line of text, or a JSON object.

Reading never fails: what is corrupt, or of a format this version does not know, is shown as that, with its bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from console.output import as_time
from console.safe_text import json_text, safe
from pipeline.errors import DecodeError, UnknownFormatError
from pipeline.event import Event
from pipeline.levels import level_in, rank_of
from pipeline.position import parse_entry_id
from pipeline.selection import ALL, Selection
from pipeline.where import Where, all_take
from pipeline.wire import decode_entry

MOST_RAW_CHARS = 200
"""Of the raw fields of an entry that cannot be read, a person is shown so much; JSON has all."""


_LEVEL_STYLES = ((50, "1;31"), (40, "31"), (30, "33"), (20, ""))
"""From which rank on: bold red, red, yellow, as it is."""


def styled(text: str, code: str) -> str:
    """The text in a colour, for a terminal that has any."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def level_style(level: Any) -> str:
    """The colour of a level; below info it is dim, and what is no level has none."""
    rank = rank_of(level)
    return "" if rank is None else next((code for least, code in _LEVEL_STYLES if rank >= least), "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One event, decoded as far as it can be."""

    stream: str
    entry_id: str
    index: int
    """Its place in the entry: 0 unless that is a pack."""
    in_pack: bool
    time_ms: int
    id: str = ""
    type: str = ""
    key: str = ""
    headers: dict[str, str]
    data: Any = None
    foreign: bool = False
    """Not written by Millstream."""
    problem: str = ""
    """Why the data cannot be shown; `data` then holds the raw fields."""

    def as_json(self) -> dict[str, Any]:
        """What a script gets."""
        shown: dict[str, Any] = {
            "stream": self.stream,
            "entry_id": self.entry_id,
            "index": self.index,
            "id": self.id,
            "type": self.type,
            "key": self.key,
            "time": _iso(self.time_ms),
            "headers": self.headers,
        }
        if self.problem:
            return shown | {"error": self.problem, "fields": self.data}
        return shown | {"data": self.data} | ({"foreign": True} if self.foreign else {})

    def as_line(self, *, named: bool, colored: bool) -> str:
        """What a person gets: time, where, type, key, data; one line whatever the event holds."""

        def style(text: str, code: str) -> str:
            return styled(text, code) if colored else text

        place = f"{self.entry_id}#{self.index}" if self.in_pack else self.entry_id
        parts = [
            style(as_time(self.time_ms), "2"),
            style(safe(self.stream), "35") if named else "",
            style(place, "2"),
        ]
        parts += [style(safe(self.type), "36"), style(f"key={safe(self.key)}", "33") if self.key else ""]
        text = self.data_text()
        if self.problem:
            parts.append(style(f"!! {safe(self.problem)}", "31"))
            text = text if len(text) <= MOST_RAW_CHARS else f"{text[:MOST_RAW_CHARS]}…"
        parts.append(style(text, level_style(level_in(self.data))))
        return " ".join(part for part in parts if part)

    def data_text(self) -> str:
        """The data on one line: text as it is, all else as JSON."""
        return safe(self.data) if isinstance(self.data, str) else json_text(self.data)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are shown; nothing given: all."""

    selection: Selection = ALL
    where: tuple[Where, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.selection or self.where)

    def takes(self, view: EventView) -> bool:
        """Whether the event is asked for. What cannot be read is left out as soon as something is asked for."""
        if not self:
            return True
        return not view.problem and self.selection.takes(view) and all_take(self.where, view.data)


def views_of(
    stream: str, entry_id: bytes, fields: list[bytes], *, origin: str | None = None, only: int | None = None
) -> Iterator[EventView]:
    """The events of an entry; one view that names the problem if it cannot be read.

    Args:
        origin: the entry the event was first appended in, where this one holds it again.
        only: the index of the one event that is meant, in an entry that may be a pack.
    """
    shown_id = origin or entry_id.decode()
    try:
        entry = decode_entry(entry_id, fields, origin=origin.encode() if origin else None)
        events = entry.events
    except (DecodeError, UnknownFormatError) as error:
        yield _unreadable(stream, shown_id, only or 0, fields, error)
        return
    for index, event in enumerate(events):
        if entry.is_pack and only is not None and index != only:
            continue
        place = only if only is not None else index
        in_pack = entry.is_pack or place > 0
        yield view_of(
            stream, shown_id, place, event, in_pack=in_pack, foreign=entry.is_foreign, fields=fields
        )


def view_of(
    stream: str,
    entry_id: str,
    index: int,
    event: Event,
    *,
    in_pack: bool = False,
    foreign: bool = False,
    fields: Sequence[bytes] = (),
) -> EventView:
    """An event that was read already; `fields` are shown in place of data that is corrupt."""
    try:
        data, problem = event.data, ""
    except DecodeError as error:
        data, problem = list(fields), f"corrupt: {error}"
    return EventView(
        stream=stream,
        entry_id=entry_id,
        index=index,
        in_pack=in_pack,
        time_ms=event.time_ms,
        id=event.id,
        type=event.type,
        key=event.key,
        headers=event.headers,
        data=data,
        foreign=foreign,
        problem=problem,
    )


def _unreadable(
    stream: str, entry_id: str, index: int, fields: list[bytes], error: DecodeError | UnknownFormatError
) -> EventView:
    what = "corrupt" if isinstance(error, DecodeError) else "of a newer format"
    return EventView(
        stream=stream,
        entry_id=entry_id,
        index=index,
        in_pack=False,
        time_ms=parse_entry_id(entry_id)[0] if entry_id else 0,
        headers={},
        data=list(fields),
        problem=f"{what}: {error}",
    )


def _iso(time_ms: int) -> str | None:
    try:
        return (
            datetime.fromtimestamp(time_ms / 1_000, tz=UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
    except (ValueError, OverflowError, OSError):
        return None
