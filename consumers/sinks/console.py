"""Console: a batch handler that writes events to a text stream as JSON lines, safe for terminals."""

import sys
from collections.abc import Callable
from typing import TextIO

from consumers.sinks.json_lines import event_lines
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import SinkUrl
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.outcome import Later, Outcomes


class Console:
    """Writes each event as one line of JSON; control characters and text direction marks come as escapes."""

    def __init__(
        self, file: TextIO | None = None, *, on_reader_left: Callable[[], object] | None = None
    ) -> None:
        """file: stdout if None; on_reader_left: called when nobody reads any more. Events wait then."""
        self._file = file
        self._on_reader_left = on_reader_left

    def __call__(self, events: list[Event]) -> Outcomes:
        """Write the events and flush; one that JSON cannot hold, or that is corrupt, fails alone."""
        lines, outcomes = event_lines(events)
        out = self._file or sys.stdout
        try:
            out.write("".join(escape_unprintable(line.decode()) for line in lines))
            out.flush()
        except BrokenPipeError:
            if self._on_reader_left is not None:
                self._on_reader_left()
            raise Later("1s") from None
        return outcomes

    def close(self) -> None:
        """Nothing is held, and the stream is its opener's."""


def escape_unprintable(line: str) -> str:
    """The line with every character that a terminal might act on, except its line end, as a JSON escape."""
    if line[:-1].isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\n" else json_escape(c) for c in line)


def json_escape(character: str) -> str:
    """A character as \\uXXXX, in two halves beyond the basic plane, as JSON wants it."""
    raw = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[i]:02x}{raw[i + 1]:02x}" for i in range(0, len(raw), 2))


def _from_url(url: SinkUrl) -> Console:
    if url.place:
        raise UsageError(f"{url.shown!r}: the console needs no more than console:")
    return Console()


KIND = SinkKind(make=_from_url)
