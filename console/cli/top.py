"""millstream top: streams and groups at a glance, refreshed every second on a terminal."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import click

from console.cli.group import WITH_STREAM, all_groups, group_row
from console.cli.kinds import DURATION, STREAM
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import Column, as_bytes, as_duration, number
from pipeline.errors import MillstreamError, NoSuchStreamError, NotConnectedError
from pipeline.position import parse_entry_id
from pipeline.server.connect import Link
from pipeline.server.overview import (
    GroupFacts,
    StreamFacts,
    groups,
    in_batches,
    server_ms,
    stream_keys,
    streams,
)

GONE = "\x04"
"""The key that ends input, and what is said when the terminal itself is gone."""


def _as_rate(per_s: float | None) -> str:
    return "?" if per_s is None else f"{per_s:,.0f}" if per_s >= 10 or per_s == 0 else f"{per_s:.1f}"


_IN = number("in_per_s", "IN/S", _as_rate)
_OUT = number("out_per_s", "OUT/S", _as_rate)
_STREAMS = (
    Column("name", "STREAM", shrinks=True),
    number("entries", "ENTRIES"),
    number("memory_bytes", "MEMORY", as_bytes),
    number("groups", "GROUPS"),
    number("age_ms", "NEWEST", lambda ms: "-" if ms is None else f"{as_duration(ms)} ago"),
)


@click.command(
    "top",
    cls=Verb,
    examples=[
        ("millstream top", "all streams and groups; q or Ctrl-C ends it"),
        ("millstream top orders --every 5s", "one stream, every five seconds"),
        ("millstream top --json", "one look, for a script"),
    ],
)
@click.argument("streams", metavar="[STREAM]...", type=STREAM, nargs=-1)
@click.option(
    "--every", type=DURATION, default="1s", show_default=True, metavar="DURATION", help="How often to look."
)
@click.option("--once", is_flag=True, help="Look once, as without a terminal.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=50,
    show_default=True,
    help="At most so many streams.",
)
@click.pass_obj
def verb(session: Session, streams: tuple[str, ...], every: int, once: bool, limit: int) -> None:
    """Show streams and groups with what comes in, what is handled, and what waits."""
    out = session.out
    look = _Look(session, streams, limit)
    if once or not out.for_people or not sys.stdout.isatty():
        shot = look.take(session.link("top"))
        if not out.for_people:
            out.done("", streams=shot.streams, groups=shot.groups)
            return
        for line in _lines(session, shot, live=False):
            out.line(line)
        return
    _live(session, look, max(every, 100) / 1_000)


@dataclass(slots=True)
class _Shot:
    """What one look found, as rows."""

    streams: list[dict[str, Any]]
    groups: list[dict[str, Any]]


@dataclass(slots=True)
class _Look:
    """Looks again and again, and knows what it saw the last time: rates are differences."""

    session: Session
    names: Sequence[str]
    limit: int
    _before: dict[tuple[str, ...], tuple[float, int]] = field(default_factory=dict)

    def take(self, link: Link) -> _Shot:
        """Look once."""
        now_s, now_ms = time.monotonic(), server_ms(link)
        keys = [name.encode() for name in self.names] or sorted(islice(stream_keys(link), self.limit))
        found = [facts for batch in in_batches(keys, 100) for facts in streams(link, batch)]
        if self.names:
            for name in set(self.names) - {facts.name for facts in found}:
                raise NoSuchStreamError(f"there is no stream {name!r}")
            listed = [group for name in self.names for group in groups(link, name)]
        else:
            listed = all_groups(self.session, link, self.limit)
        added = {facts.name: _ever(facts) for facts in found}
        return _Shot(
            [asdict(facts) | self._stream_extra(facts, now_s, now_ms) for facts in found],
            [
                group_row(group) | {"out_per_s": self._handled(group, added.get(group.stream), now_s)}
                for group in listed
            ],
        )

    def _stream_extra(self, facts: StreamFacts, now_s: float, now_ms: int) -> dict[str, Any]:
        return {
            "age_ms": max(now_ms - parse_entry_id(facts.last_id)[0], 0) if facts.last_id else None,
            "in_per_s": self._rate((facts.name,), _ever(facts), now_s),
        }

    def _handled(self, group: GroupFacts, added: int | None, now_s: float) -> float | None:
        """Entries settled per second: what was ever added, less what it has not read and what it runs."""
        settled = None if added is None or group.unread is None else added - group.unread - group.running
        return self._rate((group.stream, group.group), settled, now_s)

    def _rate(self, what: tuple[str, ...], count: int | None, now_s: float) -> float | None:
        if count is None:
            return None
        before, self._before[what] = self._before.get(what), (now_s, count)
        if before is None or now_s <= before[0]:
            return None
        return max(count - before[1], 0) / (now_s - before[0])


def _ever(facts: StreamFacts) -> int:
    """Entries ever added; below 7.0 those that are there, which tells a rate as long as nothing is trimmed."""
    return facts.entries if facts.added is None else facts.added


def _lines(session: Session, shot: _Shot, *, live: bool) -> list[str]:
    out = session.out
    if not shot.streams:
        return ["there is no stream"]
    stream_columns = (*_STREAMS[:2], _IN, *_STREAMS[2:]) if live else _STREAMS
    group_columns = (*WITH_STREAM[:5], _OUT, *WITH_STREAM[5:]) if live else WITH_STREAM
    lines = out.table(stream_columns, shot.streams)
    return [*lines, "", *(out.table(group_columns, shot.groups) if shot.groups else ["no group reads them"])]


def _live(session: Session, look: _Look, every_s: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not session.out.color, highlight=False)
    link: Link | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live, _keys() as pressed:
        while sys.stdout.isatty():  # a terminal that was closed is none any more
            try:
                link = link if link is not None and not link.closed else session.link("top")
                lines = _lines(session, look.take(link), live=True)
            except NotConnectedError as error:
                lines = [f"{error}; trying again"]
            except MillstreamError as error:
                if link is None:
                    raise
                lines = [str(error)]
            title = f"{session.connector().shown}   {time.strftime('%H:%M:%S')}   q ends"
            live.update(Text.from_ansi("\n".join([title, "", *lines])), refresh=True)
            if pressed(every_s) in ("q", "Q", GONE):
                return


@contextmanager
def _keys() -> Iterator[Any]:
    """Single keys from the terminal: yields a function that waits so long for one. Ctrl-C ends quietly."""

    def wait(seconds: float) -> str:
        if select.select([sys.stdin], [], [], seconds)[0]:
            return os.read(sys.stdin.fileno(), 1).decode("latin-1") or GONE
        return ""

    def sleep(seconds: float) -> str:
        time.sleep(seconds)
        return ""

    with suppress(KeyboardInterrupt):
        if not sys.stdin.isatty():
            yield sleep
            return
        before = termios.tcgetattr(sys.stdin)
        try:
            tty.setcbreak(sys.stdin)
            yield wait
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
