"""millstream stream: which streams there are, what one holds, making one, trimming one."""

from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from console.cli.group import GROUP_COLUMNS, group_row
from console.cli.kinds import DURATION, POSITION, STREAM
from console.cli.progress import Progress
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.output import Column, as_bytes, as_time, counted, number
from pipeline.errors import UsageError
from pipeline.position import after, parse_entry_id, position_id
from pipeline.position import before as id_before
from pipeline.server.changes import create_stream, trim_floor, trim_stream
from pipeline.server.overview import (
    count_entries,
    groups,
    in_batches,
    server_ms,
    stream_facts,
    stream_keys,
    streams,
)

BATCH = 100
"""Streams asked about in one round trip."""

_TIMES = (Column("first_ms", "OLDEST", as_time), Column("last_ms", "NEWEST", as_time))
_COLUMNS = (
    Column("name", "STREAM", shrinks=True),
    number("entries", "ENTRIES"),
    number("memory_bytes", "MEMORY", as_bytes),
    number("groups", "GROUPS"),
    *_TIMES,
)
_FACTS = (
    Column("name", "stream"),
    Column("entries", "entries", _COLUMNS[1].show),
    Column("memory_bytes", "memory", as_bytes),
    Column("first_id", "oldest entry"),
    Column("first_ms", "oldest from", as_time),
    Column("last_id", "newest entry"),
    Column("last_ms", "newest from", as_time),
    Column("newest_id", "last id given"),
)


@click.group(
    "stream",
    cls=Noun,
    examples=[
        ("millstream stream", "the streams there are"),
        ("millstream stream show orders", "what one holds, and its groups"),
        ("millstream stream trim orders --keep 24h", "shows what would go, and asks"),
    ],
)
def verb() -> None:
    """Streams: which there are, what one holds, making and trimming one."""


@verb.command(
    "ls",
    cls=Verb,
    examples=[
        ("millstream streams", "all of them"),
        ("millstream stream ls --match 'prod:*' --json", "some of them, for a script"),
    ],
)
@click.option("--match", metavar="GLOB", help="Only names that match, with * ? [].")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=1_000,
    show_default=True,
    help="At most so many.",
)
@click.pass_obj
def ls(session: Session, match: str | None, limit: int) -> None:
    """List streams, in the order of their names. What Millstream keeps beside them is left out."""

    link = session.link("stream")
    keys = list(islice(stream_keys(link, match=match), limit + 1))
    found = [facts for batch in in_batches(keys[:limit], BATCH) for facts in streams(link, batch)]
    rows = [_row(facts) for facts in sorted(found, key=lambda facts: facts.name)]
    session.out.rows(
        _COLUMNS, rows, none="there is no stream" + (f" that matches {match!r}" if match else "")
    )
    if len(keys) > limit:
        session.out.talk(f"there are more than {limit:,}: --match chooses, --limit shows more")


@verb.command(
    "show",
    cls=Verb,
    examples=[
        ("millstream stream show orders", "entries, memory, first and last, and every group with its state"),
        ("millstream stream show orders --json | jq '.groups[].unread'", "for a script"),
    ],
)
@click.argument("stream", type=STREAM)
@click.pass_obj
def show(session: Session, stream: str) -> None:
    """What a stream holds, and where its groups stand."""

    link = session.link("stream")
    facts = _row(stream_facts(link, stream))
    listed = [group_row(group) for group in groups(link, stream)]
    out = session.out
    if not out.for_people:
        out.done("", **facts | {"groups": listed})
        return
    out.record(_FACTS, facts)
    if listed:
        out.line("")
        out.rows(GROUP_COLUMNS, listed)
    else:
        out.talk("no group reads it")


@verb.command(
    "create",
    cls=Verb,
    examples=[
        ("millstream stream create orders", "an empty stream; harmless if it is there"),
        ("millstream stream create '{shop}:orders'", "in the cluster slot of all that is tagged shop"),
    ],
)
@click.argument("stream", type=STREAM)
@click.pass_obj
def create(session: Session, stream: str) -> None:
    """Make an empty stream. Sending to a stream makes it too; this is for those who read first."""

    created = create_stream(session.link("stream"), stream)
    session.out.done(
        f"stream {stream} created" if created else f"stream {stream} is there already",
        stream=stream,
        created=created,
    )


@verb.command(
    "trim",
    cls=Verb,
    examples=[
        (
            "millstream stream trim orders --keep 24h",
            "what is older than a day and settled by every group may go",
        ),
        ("millstream stream trim orders --before 1700000000000-0 --execute", "without asking"),
    ],
)
@click.argument("stream", type=STREAM)
@click.option("--keep", type=DURATION, metavar="DURATION", help="Remove what is older than this: 24h, 7d.")
@click.option(
    "--before",
    type=POSITION,
    metavar="POSITION",
    help="Remove what lies before it: an id, -2h, an ISO time, end.",
)
@click.option("--execute", is_flag=True, help="Do it without asking.")
@click.pass_obj
def trim(session: Session, stream: str, keep: int | None, before: str | None, execute: bool) -> None:
    """Remove a stream's oldest entries, but none that some group has not settled.

    Shows first what would go, and which group holds the rest.
    """

    if (keep is None) == (before is None):
        raise UsageError("say what goes: --keep DURATION or --before POSITION")
    link, out = session.link("trim"), session.out
    facts = stream_facts(link, stream)
    now_ms = server_ms(link)
    below_id = (
        f"{max(now_ms - keep, 0)}-0" if keep is not None else position_id(before or "", now_ms, "--before")
    )
    below_id = after(facts.newest_id) if below_id == "$" else below_id
    plan = trim_floor(link, stream, below_id)
    going = 0
    if parse_entry_id(plan.floor_id) > (0, 0):
        with Progress(out, "counted", facts.entries) as progress:
            for step in count_entries(link, stream, "-", id_before(plan.floor_id)):
                going += step
                progress.at(going)
    held = f"group {plan.holder} has not settled what lies from {plan.floor_id} on" if plan.holder else ""
    said = f"nothing to remove from {stream}: " + (held or f"no entry lies before {plan.floor_id}")
    if going:
        why = held or ("" if facts.groups else "no group has read it")
        out.talk(
            f"{going:,} of the {counted(facts.entries, 'entry')} of {stream} go, those before {plan.floor_id}"
            + (why and f"; {why}")
        )
        session.consent("remove them?", execute)
    removed = 0
    with Progress(out, "removed", going) as progress:
        for step in trim_stream(link, stream, below_id) if going else ():
            removed += step
            progress.at(removed)
    out.done(
        f"{counted(removed, 'entry')} removed from {stream}" if going else said,
        stream=stream,
        removed=removed,
        floor_id=plan.floor_id,
        held_by=plan.holder or None,
    )


def _row(facts: Any) -> dict[str, Any]:
    row = asdict(facts)
    for end in ("first", "last"):
        row[f"{end}_ms"] = parse_entry_id(row[f"{end}_id"])[0] if row[f"{end}_id"] else None
    return row
