"""millstream replay: hands a selection of history to one group again; other groups see nothing of it."""

from datetime import UTC, datetime

import click

from console.cli.kinds import DURATION, GROUP, POSITION, STREAM
from console.cli.progress import Progress
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.output import counted
from consumers.replay import abandoned, check_group, replay_pending, replay_range
from pipeline.errors import MillstreamError
from pipeline.keys import StreamKeys
from pipeline.position import after, before, parse_entry_id, position_id
from pipeline.server.overview import count_entries, groups, named, server_ms, stream_facts
from pipeline.units import show_duration


@click.group(
    "replay",
    cls=Noun,
    default="range",
    subcommand_metavar="[pending] STREAM GROUP ...",
    examples=[
        ("millstream replay orders billing --from -15m", "shows how many entries that is, and asks"),
        (
            "millstream replay orders billing --from 2026-11-23T14:00 --to 2026-11-23T15:00 --execute",
            "one hour",
        ),
        ("millstream replay pending orders billing", "what dead consumers left behind runs at once"),
    ],
)
def verb() -> None:
    """Hand history to one group again. What is replayed runs beside what is new; no other group sees it."""


@verb.command(
    "range",
    cls=Verb,
    short_help="A stretch of the stream, by ids or times.",
    examples=[
        ("millstream replay orders billing --from start", "all that the stream still holds"),
        ("millstream replay orders billing --from -1h --to -30m --execute", "without asking"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--from", "start", type=POSITION, required=True, metavar="POSITION",
              help="The first entry: an id, start, -15m, or an ISO time.")  # fmt: skip
@click.option("--to", "end", type=POSITION, default="end", show_default=True, metavar="POSITION",
              help="Up to this entry or time; end is what the stream holds now.")  # fmt: skip
@click.option("--execute", is_flag=True, help="Do it without asking.")
@click.pass_obj
def entries(session: Session, stream: str, group: str, start: str, end: str, execute: bool) -> None:
    """Hand the entries from --from to --to to a group again.

    The group gets a copy of each event, marked as replayed; its position and what it has pending stay as they are.
    """
    link, out, keys = session.link("replay"), session.out, StreamKeys(stream)
    facts = stream_facts(link, stream)
    state = groups(link, stream, only=group)[0]
    now_ms = server_ms(link)
    first = position_id(start, now_ms, "--from")
    last = _last_id(end, position_id(end, now_ms, "--to"), facts.newest_id)
    first = after(facts.newest_id) if first == "$" else first
    count = 0
    if parse_entry_id(first) <= parse_entry_id(last):
        with Progress(out, "counted", facts.entries) as progress:
            for step in count_entries(link, stream, first, last):
                count += step
                progress.at(count)
    if not count:
        said = f"nothing to replay: {stream} holds no entry from {_when(first)} to {_when(last)}"
        out.done(said, stream=stream, group=group, entries=0, events=0)
        return
    out.talk(
        f"{count:,} of the {counted(facts.entries, 'entry')} of {stream} go to group {group} again: "
        f"{_when(first)} to {_when(last)}"
    )
    if parse_entry_id(last) > parse_entry_id(state.last_read_id):
        out.warn(
            f"group {group} has not read those beyond {state.last_read_id} yet: it will handle them twice"
        )
    if not state.members:
        out.talk(f"no member of group {group} is alive: the events wait for one")
    session.consent("replay them?", execute)
    with Progress(out, "handed over", None) as progress:
        events = replay_range(
            session.connector(), keys, group, first, last, progress=lambda fed, waiting: progress.at(fed)
        )
    out.done(
        f"{counted(events, 'event')} of {counted(count, 'entry')} handed to group {group} of {stream} again",
        stream=stream,
        group=group,
        entries=count,
        events=events,
    )


@verb.command(
    "pending",
    cls=Verb,
    short_help="Have abandoned entries run again at once.",
    examples=[
        (
            "millstream replay pending orders billing",
            "what nobody has renewed for as long as the group allows",
        ),
        ("millstream replay pending orders billing --idle 5m --execute", "without asking"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--idle", type=DURATION, metavar="DURATION",
              help="Left alone for so long or longer; if not said, the group's claim-after, or 30s.")  # fmt: skip
@click.option("--execute", is_flag=True, help="Do it without asking.")
@click.pass_obj
def pending(session: Session, stream: str, group: str, idle: int | None, execute: bool) -> None:
    """Have a group's abandoned entries run again at once, instead of waiting to be taken over one by one.

    Only entries that their consumer stopped renewing; what is being handled is left alone.
    """
    link, out, keys = session.link("replay"), session.out, StreamKeys(stream)
    state = groups(link, stream, only=group)[0]
    least_ms = state.claim_after_ms or 30_000
    idle_ms = least_ms if idle is None else idle
    try:
        check_group(link, keys, group)
        count = abandoned(link, keys, group, idle_ms)
    except MillstreamError as error:
        raise named(error, stream, group) from None
    if not count:
        out.done(
            f"nothing to replay: no entry was left alone for {show_duration(idle_ms)}",
            stream=stream,
            group=group,
            entries=0,
        )
        return
    out.talk(
        f"{counted(count, 'entry')} left alone for {show_duration(idle_ms)} or longer: to be run again at once"
    )
    if idle_ms < least_ms:
        out.warn(
            f"a live member renews within {show_duration(least_ms)}: with --idle below that, entries that are being "
            "handled just now run twice"
        )
    session.consent("replay them?", execute)
    moved = replay_pending(link, keys, group, min_idle_ms=idle_ms)
    out.done(
        f"{counted(moved, 'entry')} of group {group} of {stream} to be run again at once",
        stream=stream,
        group=group,
        entries=moved,
    )


def _last_id(written: str, position: str, newest_id: str) -> str:
    """The last entry id meant: at most what the stream holds now, so that the end does not run away."""
    if position == "$":
        return newest_id
    # A time means all before it; an entry id means that entry too.
    last = position if written.strip() == position or not position.endswith("-0") else before(position)
    return min(last, newest_id, key=parse_entry_id)


def _when(entry_id: str) -> str:
    ms = parse_entry_id(entry_id)[0]
    if not ms:
        return "the start"
    try:
        return f"{datetime.fromtimestamp(ms / 1_000, tz=UTC).astimezone():%Y-%m-%d %H:%M:%S} ({entry_id})"
    except (ValueError, OverflowError, OSError):
        return entry_id
