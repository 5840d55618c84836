"""Output: how a verb says what it found. Results go to stdout, everything said about them to stderr.

A verb gives values as the code keeps them (ms, bytes, None for unknown); Columns choose what people see of them, and
how. JSON has all values as they are, under their names, so scripts depend on no wording.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from console.safe_text import json_text, safe
from pipeline.units import show_bytes, show_duration

FORMATS = ("table", "json", "ndjson")
LEAST_WIDTH = 12
"""A column that may be shortened keeps at least this many cells."""

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def as_text(value: object) -> str:
    """Text, escaped; nothing for None and the empty."""
    return "" if value is None else safe(value)


def as_count(value: int | None) -> str:
    """A number with its thousands marked; ? where it is not known."""
    return "?" if value is None else f"{value:,}"


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what it counts: "1 entry", "2,000 entries"."""
    plural = many or (f"{one[:-1]}ies" if one.endswith("y") else f"{one}s")
    return f"{count:,} {one if count == 1 else plural}"


def as_duration(ms: float | None) -> str:
    """A duration; ? where it is not known."""
    return "?" if ms is None else show_duration(ms)


def as_bytes(size: int | None) -> str:
    """A size; ? where it is not known."""
    return "?" if size is None else show_bytes(size)


def as_time(ms: int | None) -> str:
    """A time in the local zone, to the millisecond; a dash where there is none."""
    if ms is None:
        return "-"
    try:
        local = datetime.fromtimestamp(ms / 1_000, tz=UTC).astimezone()
    except (ValueError, OverflowError, OSError):  # an id that someone else chose: 1-0, or beyond the calendar
        return "-"
    return f"{local:%Y-%m-%d %H:%M:%S}.{ms % 1_000:03d}"


@dataclass(frozen=True, slots=True)
class Column:
    """One value of a row: its name, its title, and how people read it."""

    name: str
    title: str
    show: Callable[[Any], str] = as_text
    right: bool = False
    """Numbers stand to the right."""
    shrinks: bool = False
    """May be shortened where the terminal is too narrow; never where the output is no terminal."""
    style: Callable[[Any], str] | None = None
    """The style for a value (red, yellow, …); used on a colour terminal only."""


def number(name: str, title: str, show: Callable[[Any], str] = as_count) -> Column:
    """A column of numbers."""
    return Column(name, title, show, right=True)


class Output:
    """Where a verb's results and its talk go, in the format asked for."""

    def __init__(self, *, color: bool = True) -> None:
        self.format = "table"
        self.quiet = False
        self.verbose = False
        self.color = color

    @property
    def for_people(self) -> bool:
        """Whether results are shown as text, not as JSON."""
        return self.format == "table"

    def rows(self, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], *, none: str = "") -> None:
        """A list of alike things; `none` is said where there are none."""
        if self.format == "ndjson":
            for row in rows:
                self.item(row)
            return
        listed = list(rows)
        if self.format == "json":
            write(sys.stdout, json_text(listed, indent=2))
            return
        if listed:
            for line in self.table(columns, listed):
                write(sys.stdout, line)
        elif none:
            self.talk(none)

    def record(self, columns: Sequence[Column], row: Mapping[str, Any]) -> None:
        """One thing: a line per value."""
        if self.format == "ndjson":
            self.item(row)
        elif self.format == "json":
            write(sys.stdout, json_text(row, indent=2))
        else:
            width = max(len(column.title) for column in columns)
            colored = self.colored(sys.stdout)
            for column in columns:
                value = row.get(column.name)
                title = f"{column.title:<{width}}"
                text = _styled(column.show(value), column, value) if colored else column.show(value)
                write(sys.stdout, f"{_style(title, 'dim') if colored else title}  {text}".rstrip())

    def item(self, value: object) -> None:
        """One JSON object on one line, at once."""
        write(sys.stdout, json_text(value), flush=True)

    def values(self, values: Sequence[object]) -> None:
        """A list of JSON values."""
        write(sys.stdout, json_text(values, indent=2))

    def line(self, text: str) -> None:
        """One line of a result for people. The caller has escaped what is not its own."""
        write(sys.stdout, text)

    def done(self, sentence: str, **facts: object) -> None:
        """What a verb has done: a sentence for people, the facts for scripts."""
        if self.for_people:
            write(sys.stdout, safe(sentence))
        else:
            write(sys.stdout, json_text(facts, indent=2 if self.format == "json" else None))

    def flush(self) -> None:
        """Show results now: somebody waits for them while the verb goes on."""
        sys.stdout.flush()

    def talk(self, text: str) -> None:
        """Something worth knowing beside the result; silent with -q."""
        if not self.quiet:
            write(sys.stderr, safe(text), flush=True)

    def warn(self, text: str) -> None:
        """Something to look at, also with -q."""
        label = _style("warning:", "yellow") if self.colored(sys.stderr) else "warning:"
        write(sys.stderr, f"{label} {safe(text)}", flush=True)

    @property
    def stdout_colored(self) -> bool:
        """Whether results may be coloured."""
        return self.colored(sys.stdout)

    def colored(self, stream: TextIO) -> bool:
        """Whether colour may be used on this stream."""
        return self.color and stream.isatty()

    def table(self, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The lines of a table: a title line, then a line per row, in columns two spaces apart."""
        from rich.cells import cell_len

        colored = self.colored(sys.stdout)
        texts = [[column.show(row.get(column.name)) for column in columns] for row in rows]
        widths = [max(map(cell_len, cells)) for cells in zip([c.title for c in columns], *texts, strict=True)]
        if sys.stdout.isatty():
            widths = _fitted(columns, widths, shutil.get_terminal_size().columns)
        title = _aligned(columns, [column.title for column in columns], widths)
        lines = [_style(title, "bold") if colored else title]
        for row, cells in zip(rows, texts, strict=True):
            values = [row.get(column.name) for column in columns]
            lines.append(_aligned(columns, cells, widths, values if colored else None))
        return lines


def write(stream: TextIO, text: str, *, flush: bool = False) -> None:
    """One line, in one write: lines of several threads do not mix."""
    stream.write(text + "\n")
    if flush:
        stream.flush()


def _fitted(columns: Sequence[Column], widths: list[int], room: int) -> list[int]:
    """The widths, with the widest of the columns that may shrink shortened until the line fits, if it can."""
    widths = list(widths)
    excess = sum(widths) + 2 * (len(widths) - 1) - room
    while excess > 0:
        at = max((i for i, c in enumerate(columns) if c.shrinks), key=lambda i: widths[i], default=None)
        if at is None or widths[at] <= LEAST_WIDTH:
            break
        widths[at] -= 1
        excess -= 1
    return widths


def _aligned(
    columns: Sequence[Column],
    texts: Sequence[str],
    widths: Sequence[int],
    values: Sequence[Any] | None = None,
) -> str:
    from rich.cells import cell_len, set_cell_size

    cells = []
    for at, (column, text, width) in enumerate(zip(columns, texts, widths, strict=True)):
        over = cell_len(text) > width
        fitting = set_cell_size(text, width - 1) + "…" if over else text
        space = " " * max(width - cell_len(fitting), 0)
        styled = _styled(fitting, column, values[at]) if values is not None else fitting
        cells.append(space + styled if column.right else styled + space)
    return "  ".join(cells).rstrip()


def _styled(text: str, column: Column, value: object) -> str:
    name = column.style(value) if column.style is not None else ""
    return _style(text, name) if name else text


def _style(text: str, name: str) -> str:
    return f"\x1b[{_STYLES[name]}m{text}\x1b[0m"
