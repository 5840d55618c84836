"""millstream dead: the dead letters of a group: which events it gave up, and why."""

from typing import Any

import click

from console.cli.kinds import GROUP, POSITION, STREAM
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.event_view import EventView, views_of
from console.output import Column, as_count, as_time, number
from console.safe_text import safe_lines
from pipeline.envelope import DeadLetter, read_dead
from pipeline.errors import MillstreamError, NotFoundError
from pipeline.position import after, parse_entry_id, position_id
from pipeline.server.overview import dead_letters, server_ms
from pipeline.server.replies import RawEntry, text

_COLUMNS = (
    Column("dead_id", "DEAD LETTER"),
    Column("died_ms", "DIED", as_time),
    Column("entry_id", "ENTRY"),
    Column("type", "TYPE", shrinks=True),
    Column("key", "KEY", shrinks=True),
    number("attempts", "RUNS"),
    number("crashes", "CRASHES"),
    Column("reason", "REASON", shrinks=True),
)
_FACTS = (
    Column("dead_id", "dead letter"),
    Column("reason", "reason", style=lambda _: "red"),
    Column("error", "error"),
    Column("message", "message"),
    Column("attempts", "runs", as_count),
    Column("crashes", "crashes", as_count),
    Column("first_failed_ms", "first failed", as_time),
    Column("last_failed_ms", "last failed", as_time),
    Column("group", "group"),
    Column("consumer", "consumer"),
    Column("host", "host"),
    Column("stream", "stream"),
    Column("entry_id", "entry"),
    Column("index", "event in entry", as_count),
    Column("replay", "replayed by"),
)


@click.group(
    "dead",
    cls=Noun,
    examples=[
        ("millstream dead orders billing", "the newest dead letters of the group, the last one last"),
        (
            "millstream dead show orders billing 1700000000000-0",
            "why it died: error, traceback, and the event",
        ),
    ],
)
def verb() -> None:
    """Dead letters of a group: events that failed for good, kept until somebody decides."""


@verb.command(
    "ls",
    cls=Verb,
    examples=[
        ("millstream dead ls orders billing --from -1h", "what died within the last hour"),
        ("millstream dead ls orders billing -o ndjson | jq .reason", "for a script"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option(
    "--from", "start", type=POSITION, metavar="POSITION", help="From there on, instead of the newest."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=100,
    show_default=True,
    help="At most so many.",
)
@click.pass_obj
def ls(session: Session, stream: str, group: str, start: str | None, limit: int) -> None:
    """List dead letters in the order they died: the newest, or those from --from on."""
    link, out = session.link("dead"), session.out
    begin = position_id(start, server_ms(link), "--from") if start else "-"
    begin = "+" if begin == "$" else begin
    found = dead_letters(link, stream, group, start=begin, count=limit + 1, newest=start is None)
    shown = found[-limit:] if start is None else found[:limit]
    out.rows(_COLUMNS, [_row(entry) for entry in shown], none=f"group {group} of {stream} has no dead letter")
    if len(found) > limit:
        begin = "start" if start is None else after(shown[-1][0])
        which = "there are older ones" if start is None else "there are more"
        out.talk(f"{which}: millstream dead ls {stream} {group} --from {begin}, or --limit")


@verb.command(
    "show",
    cls=Verb,
    examples=[
        ("millstream dead show orders billing", "the newest: reason, traceback, event"),
        ("millstream dead show orders billing 1700000000000-0", "reason, traceback, event"),
        ("millstream dead show orders billing 1700000000000-0 --json | jq .traceback", "for a script"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.argument("dead_id", metavar="[DEAD_LETTER]", required=False)
@click.pass_obj
def show(session: Session, stream: str, group: str, dead_id: str | None) -> None:
    """One dead letter: why it died, where, and the event itself. The newest, if none is named."""
    if dead_id is not None:
        parse_entry_id(dead_id)
    link, out = session.link("dead"), session.out
    if dead_id is None:
        found = dead_letters(link, stream, group, count=1, newest=True)
    else:
        found = dead_letters(link, stream, group, start=dead_id, end=dead_id, count=1)
    if not found:
        raise NotFoundError(
            f"group {group!r} of stream {stream!r} has no dead letter {dead_id or ''}".rstrip()
        )
    letter, views = _opened(found[0])
    row = _row(found[0]) | _letter_facts(letter)
    if not out.for_people:
        out.done("", **row, events=[view.as_json() for view in views])
        return
    out.record([column for column in _FACTS if row.get(column.name) not in (None, "")], row)
    for line in safe_lines(letter.traceback.rstrip()) if letter and letter.traceback else ():
        out.line(f"  {line}")
    out.line("")
    for view in views:
        out.line(view.as_line(named=False, colored=out.stdout_colored))


def _opened(entry: RawEntry) -> tuple[DeadLetter | None, list[EventView]]:
    """The letter (None where its envelope is corrupt), and its events as far as they can be read."""
    entry_id, fields = entry[0], entry[1] or []
    try:
        letter, original = read_dead(fields)
    except MillstreamError:
        letter, original = None, fields
    if letter is None:
        return None, list(views_of("", entry_id, original))
    return letter, list(
        views_of(letter.stream, entry_id, original, origin=letter.entry_id, only=letter.index)
    )


def _row(entry: RawEntry) -> dict[str, Any]:
    letter, views = _opened(entry)
    view = views[0] if views else None
    return {
        "dead_id": text(entry[0]),
        "died_ms": parse_entry_id(entry[0])[0],
        "entry_id": letter.entry_id if letter else "",
        "event_id": view.id if view else "",
        "type": view.type if view else "",
        "key": view.key if view else "",
        "attempts": letter.attempts if letter else None,
        "crashes": letter.crashes if letter else None,
        "reason": letter.reason if letter else "not a dead letter of Millstream's",
    }


def _letter_facts(letter: DeadLetter | None) -> dict[str, Any]:
    names = "error message traceback first_failed_ms last_failed_ms host consumer group stream index replay".split()
    return {name: getattr(letter, name) for name in names} if letter else {}
