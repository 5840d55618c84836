"""millstream pending: what a group has read and not settled: being handled, or left behind by a consumer that died."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from console.cli.kinds import CONSUMER, DURATION, GROUP, POSITION, STREAM
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.event_view import EventView, views_of
from console.output import Column, as_duration, as_time, number
from pipeline.envelope import Again, read_again
from pipeline.errors import MillstreamError, NotFoundError
from pipeline.keys import GroupRef, StreamKeys
from pipeline.position import parse_entry_id, position_id
from pipeline.server.connect import Link
from pipeline.server.overview import PendingFacts, consumers, pending, server_ms
from pipeline.server.replies import parse_entries, text


def _as_where(again: bool) -> str:
    return "again" if again else ""


_COLUMNS = (
    Column("entry_id", "ENTRY"),
    Column("again", "", _as_where),
    Column("consumer", "CONSUMER", shrinks=True),
    Column("kind", "KIND", style=lambda kind: "yellow" if kind == "leftover" else ""),
    number("idle_ms", "IDLE", as_duration),
    number("deliveries", "DELIVERIES"),
)
_FACTS = (
    Column("entry_id", "entry"),
    Column("again", "again", lambda again: "yes: retried, replayed or split" if again else "no"),
    Column("consumer", "consumer"),
    Column("idle_ms", "idle", as_duration),
    Column("deliveries", "deliveries", _COLUMNS[5].show),
    Column("runs", "earlier runs", _COLUMNS[5].show),
    Column("crashes", "earlier crashes", _COLUMNS[5].show),
    Column("first_failed_ms", "first failed", as_time),
    Column("why", "why again"),
)


@click.group(
    "pending",
    cls=Noun,
    examples=[
        ("millstream pending orders billing", "what is being handled or stuck, oldest first"),
        ("millstream pending orders billing --idle 5m", "what nobody has touched for five minutes"),
        ("millstream pending show orders billing 1700000000000-0", "one entry, with its events"),
    ],
)
def verb() -> None:
    """Pending entries of a group: read, and not settled yet."""


@verb.command(
    "ls",
    cls=Verb,
    examples=[
        ("millstream pending ls orders billing --consumer web-1-4133", "what one consumer holds"),
        ("millstream pending ls orders billing --from 1700000000000-0", "the next page"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--consumer", type=CONSUMER, metavar="NAME", help="Only what this consumer holds.")
@click.option(
    "--idle", type=DURATION, default=0, metavar="DURATION", help="Only what was idle at least so long."
)
@click.option("--from", "start", type=POSITION, metavar="POSITION", help="Only from this entry on.")
@click.option(
    "--again", "again_only", is_flag=True, help="Only what stands in the group's own `again` stream."
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
def ls(
    session: Session,
    stream: str,
    group: str,
    consumer: str | None,
    idle: int,
    start: str | None,
    again_only: bool,
    limit: int,
) -> None:
    """List pending entries, in the order of their ids: first those of the stream, then those that run again."""
    link = session.link("pending")
    begin = position_id(start, server_ms(link), "--from") if start else "-"
    begin = "+" if begin == "$" else begin
    found: list[PendingFacts] = []
    for again in (True,) if again_only else (False, True):
        ref = GroupRef(StreamKeys(stream), group, again=again)
        room = limit + 1 - len(found)
        if room:
            found += pending(
                link,
                ref,
                start="-" if again and not again_only else begin,
                count=room,
                consumer=consumer,
                min_idle_ms=idle,
            )
    kinds = {one.name: one.kind for one in consumers(link, stream, group)} if found else {}
    rows = [asdict(one) | {"kind": kinds.get(one.consumer, "leftover")} for one in found[:limit]]
    session.out.rows(_COLUMNS, rows, none=f"nothing is pending with group {group} of {stream}")
    if len(found) > limit:
        more = found[limit]
        where = " --again" if more.again else ""
        session.out.talk(
            f"there is more: millstream pending ls {stream} {group} --from {more.entry_id}{where}"
        )


@verb.command(
    "show",
    cls=Verb,
    examples=[
        ("millstream pending show orders billing 1700000000000-0", "who holds it, and what it holds"),
        ("millstream pending show orders billing 1700000000000-0 --json", "for a script"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.argument("entry_id", metavar="ENTRY")
@click.pass_obj
def show(session: Session, stream: str, group: str, entry_id: str) -> None:
    """One pending entry: who holds it, how often it was delivered, and its events."""
    link, out = session.link("pending"), session.out
    facts, again, views = _find(link, StreamKeys(stream), group, entry_id)
    row = asdict(facts) | (_earlier(again) if again is not None else {})
    if not out.for_people:
        out.done("", **row, events=[view.as_json() for view in views])
        return
    out.record([column for column in _FACTS if column.name in row], row)
    out.line("")
    for view in views:
        out.line(view.as_line(named=False, colored=out.stdout_colored))
    if not views:
        out.talk("its entry was trimmed: it will be settled without being handled")


def _find(
    link: Link, keys: StreamKeys, group: str, entry_id: str
) -> tuple[PendingFacts, Again | None, list[EventView]]:
    parse_entry_id(entry_id)
    for again in (False, True):
        ref = GroupRef(keys, group, again=again)
        found = [one for one in pending(link, ref, start=entry_id, count=1) if one.entry_id == entry_id]
        if found:
            entries = parse_entries(link.call("XRANGE", ref.key, entry_id, entry_id))
            views: Iterator[EventView] = iter(())
            envelope = None
            if entries:
                envelope, views = unwrapped(keys.stream, entries[0][0], entries[0][1] or [])
            return found[0], envelope, list(views)
    raise NotFoundError(f"entry {entry_id} is not pending with group {group!r} of stream {keys.stream!r}")


def unwrapped(stream: str, entry_id: bytes, fields: list[bytes]) -> tuple[Again | None, Iterator[EventView]]:
    """An entry of a stream or of an `again` stream: how it came there, and its events."""
    try:
        again, original = read_again(fields)
    except (
        MillstreamError
    ):  # the envelope itself is corrupt: the events behind it are shown as far as they can be
        return None, views_of(stream, entry_id, fields)
    if again is None:
        return None, views_of(stream, entry_id, original)
    return again, views_of(stream, entry_id, original, origin=again.entry_id, only=again.index)


def _earlier(again: Again) -> dict[str, Any]:
    return {
        "runs": again.runs,
        "crashes": again.crashes,
        "first_failed_ms": again.first_failed_ms or None,
        "why": text(again.why),
    }
