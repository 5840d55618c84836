"""millstream group: where each group of a stream stands; making, pausing and removing one."""

import getpass
import os
import socket
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from console.cli.group_reset import reset
from console.cli.kinds import GROUP, POSITION, STREAM
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.output import Column, as_count, as_duration, as_time, counted, number
from pipeline.errors import MillstreamError, NoSuchGroupError, NotConnectedError, NotFoundError, UsageError
from pipeline.keys import StreamKeys
from pipeline.position import position_id
from pipeline.server.changes import remove_group
from pipeline.server.connect import Link
from pipeline.server.groups import join, pause, resume
from pipeline.server.overview import GroupFacts, consumers, groups, named, server_ms, stream_keys
from pipeline.server.replies import text

_STATE_STYLES = {"drained": "dim", "working": "green", "lagging": "yellow", "stuck": "red", "paused": "red"}


def _state_style(state: str) -> str:
    return _STATE_STYLES.get(state, "")


def _as_wait(ms: int | None) -> str:
    return "-" if ms is None else as_duration(ms) if ms else "now"


def _as_behind(ms: int) -> str:
    return as_duration(ms) if ms else "-"


STATE = Column("state", "STATE", style=_state_style)
GROUP_COLUMNS = (
    Column("group", "GROUP", shrinks=True),
    STATE,
    number("unread", "UNREAD"),
    number("behind_ms", "BEHIND", _as_behind),
    number("running", "RUNNING"),
    number("waiting", "WAITING"),
    number("next_due_ms", "NEXT DUE", _as_wait),
    number("dead", "DEAD"),
    number("members", "MEMBERS"),
)
WITH_STREAM = (Column("stream", "STREAM", shrinks=True), *GROUP_COLUMNS)
_FACTS = (
    Column("stream", "stream"),
    Column("group", "group"),
    Column("state", "state", style=_state_style),
    Column("unread", "unread", as_count),
    Column("behind_ms", "behind", _as_behind),
    Column("running", "running", as_count),
    Column("waiting", "waiting", as_count),
    Column("next_due_ms", "next due in", _as_wait),
    Column("dead", "dead", as_count),
    Column("members", "live members", as_count),
    Column("consumers", "names", as_count),
    Column("last_read_id", "read up to"),
    Column("claim_after_ms", "claim after", as_duration),
    Column("types", "takes types", lambda types: types or "?"),
    Column("paused_ms", "paused since", as_time),
    Column("paused_by", "paused by"),
    Column("paused_reason", "paused because"),
    Column("of_list", "of the list"),
)


@click.group(
    "group",
    cls=Noun,
    examples=[
        ("millstream groups", "every group of every stream"),
        ("millstream group show orders billing", "unread, running, waiting, dead, and one word for the sum"),
        ("millstream group create orders audit --start end", "from now on only"),
        ("millstream group resume orders billing", "ends a pause, its breaker's or one by hand"),
    ],
)
def verb() -> None:
    """Consumer groups: where each stands; making one, pausing it, removing it."""


@verb.command(
    "ls",
    cls=Verb,
    examples=[
        ("millstream groups", "every group of every stream"),
        ("millstream group ls orders --json", "those of one stream, for a script"),
    ],
)
@click.argument("stream", type=STREAM, required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=200,
    show_default=True,
    help="At most so many streams.",
)
@click.pass_obj
def ls(session: Session, stream: str | None, limit: int) -> None:
    """List groups with what each has unread, running, waiting and dead.

    States: drained (nothing to do), working, lagging (its oldest unread entry has waited 10 s), stuck (work, but
    nobody who does it, or entries that nobody takes over), paused (by its breaker, or by hand). Counts are of entries:
    a pack is one. UNREAD is ? where the server cannot tell; BEHIND, how long the oldest of them has waited, is always
    known.
    """

    link = session.link("group")
    if stream is not None:
        rows = [group_row(facts) for facts in groups(link, stream)]
        session.out.rows(
            GROUP_COLUMNS if session.out.for_people else WITH_STREAM, rows, none=f"no group reads {stream}"
        )
        return
    rows = [group_row(facts) for facts in all_groups(session, link, limit)]
    session.out.rows(WITH_STREAM, rows, none="there is no group")


@verb.command(
    "show",
    cls=Verb,
    examples=[
        ("millstream group show orders billing", "where it stands, value by value"),
        ("millstream group show orders billing --json | jq -r .state", "the one word, for a script"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.pass_obj
def show(session: Session, stream: str, group: str) -> None:
    """Where one group stands."""

    link = session.link("group")
    facts = groups(link, stream, only=group)[0]
    columns = [c for c in _FACTS if facts.paused_ms is not None or not c.name.startswith("paused_")]
    session.out.record(columns, group_row(facts))
    if facts.paused_ms is not None and session.out.for_people:
        session.out.talk(f"paused: nothing is read for it until `millstream group resume {stream} {group}`")
    if facts.state == "stuck" and session.out.for_people:
        left = [one for one in consumers(link, stream, group) if one.kind == "leftover" and one.pending]
        held = (
            f"; {counted(sum(one.pending for one in left), 'entry')} held by {counted(len(left), 'name')} left over"
            if left
            else ""
        )
        nobody = "nobody reads for it" if not facts.members else "nobody takes over what was left"
        look = f". `millstream pending {stream} {group}` lists what is held" if facts.running else ""
        session.out.talk(f"stuck: {nobody}{held}{look}")


@verb.command(
    "create",
    cls=Verb,
    examples=[
        ("millstream group create orders billing", "gets everything the stream holds"),
        (
            "millstream group create orders audit --start -15m",
            "gets the last quarter of an hour, and what comes",
        ),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option(
    "--start", type=POSITION, metavar="POSITION", default="start", show_default=True,
    help="Where it begins: start, end, -15m, an ISO time, or an entry id (read from the next one on).",
)  # fmt: skip
@click.pass_obj
def create(session: Session, stream: str, group: str, start: str) -> None:
    """Make a consumer group. A consumer makes its group too; this is to decide beforehand where it begins."""

    link = session.link("group")
    try:
        joined = join(
            link, StreamKeys(stream), group, start=position_id(start, server_ms(link), "--start"), lost=False
        )
    except MillstreamError as error:
        raise named(error, stream, group) from None
    if joined.state == "exists":
        said = f"group {group} of {stream} is there already; its position was not changed"
    elif joined.state == "recreated":
        said = (
            f"group {group} of {stream} was lost and is there again, at its saved position {joined.position}"
        )
    elif joined.position == "0-0":
        said = f"group {group} of {stream} created at the start: it gets {counted(joined.entries, 'entry')}"
    else:
        said = f"group {group} of {stream} created: it gets what comes after {joined.position}"
    session.out.done(said, stream=stream, group=group, state=joined.state, position=joined.position)


@verb.command(
    "pause",
    cls=Verb,
    short_help="Have its members read nothing more, until it is resumed.",
    examples=[
        ("millstream group pause orders billing", "within half a second, wherever its members run"),
        ("millstream group pause orders billing --reason 'bank is down'", "said to whoever looks"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option(
    "--reason", metavar="TEXT", default="by hand", show_default=True, help="Why, for whoever looks."
)
@click.pass_obj
def pause_verb(session: Session, stream: str, group: str, reason: str) -> None:
    """Pause a group: its members read, take over and retry nothing more until it is resumed, and keep running.

    What their handlers have begun ends and is settled; what they had read and not begun is given back. The pause is
    kept on the server: it holds for members that start later, too.
    """

    link = session.link("group")
    groups(link, stream, only=group)
    changed, stands = pause(link, StreamKeys(stream), group, by=person(), reason=reason)
    if changed:
        said = f"group {group} of {stream} is paused; `millstream group resume {stream} {group}` ends it"
    else:
        when = as_time(stands.since_ms)
        said = f"group {group} of {stream} was paused already, at {when} by {stands.by}: {stands.reason}"
    session.out.done(
        said, stream=stream, group=group, changed=changed, paused_ms=stands.since_ms, paused_by=stands.by,
        paused_reason=stands.reason,
    )  # fmt: skip


@verb.command(
    "resume",
    cls=Verb,
    short_help="Have its members read again.",
    examples=[("millstream group resume orders billing", "goes on where it was, within half a second")],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.pass_obj
def resume_verb(session: Session, stream: str, group: str) -> None:
    """End the pause of a group. What ended before it is forgotten: its breaker judges what comes anew."""

    link = session.link("group")
    groups(link, stream, only=group)
    ended = resume(link, StreamKeys(stream), group)
    if ended is None:
        said = f"group {group} of {stream} was not paused"
    else:
        said = f"group {group} of {stream} goes on; it was paused by {ended.by}: {ended.reason}"
    session.out.done(said, stream=stream, group=group, changed=ended is not None)


@verb.command(
    "rm",
    cls=Verb,
    examples=[
        ("millstream group rm orders billing", "shows what would be forgotten, and asks"),
        ("millstream group rm orders billing --dead --execute", "without asking, its dead letters too"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--dead", "with_dead", is_flag=True, help="Remove its dead letters too; else they are kept.")
@click.option("--execute", is_flag=True, help="Do it without asking.")
@click.pass_obj
def rm(session: Session, stream: str, group: str, with_dead: bool, execute: bool) -> None:
    """Remove a group: its position, what it has pending, and what waits to run again. The stream stays as it is.

    Refused while members of the group are alive; for the workers of a list, also while they have tasks.
    """

    link, out = session.link("group"), session.out
    facts = groups(link, stream, only=group)[0]
    left = (facts.unread or 0) + facts.running + facts.waiting
    if facts.of_list and left:
        raise UsageError(
            f"group {group} of {stream} holds {counted(left, 'task')} of the list {facts.of_list}, "
            f"and nothing else does: `millstream queue return {facts.of_list} --everything` gives back what it can"
        )
    unread = "an unknown number of entries" if facts.unread is None else counted(facts.unread, "entry")
    out.talk(
        f"group {group} of {stream} has {unread} unread, {facts.running:,} running, {facts.waiting:,} waiting: "
        "it will never handle them"
    )
    if facts.dead:
        out.talk(f"its dead letters ({facts.dead:,}) " + ("go too" if with_dead else "are kept"))
    session.consent("remove the group?", execute)
    if not remove_group(link, stream, group, with_dead=with_dead):
        raise NoSuchGroupError(f"stream {stream!r} has no group {group!r}")
    out.done(f"group {group} of {stream} removed", stream=stream, group=group, removed=True)


def person() -> str:
    """Who gives this command: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


verb.add_command(reset)


def group_row(facts: GroupFacts) -> dict[str, Any]:
    """A group's facts as a row."""
    return asdict(facts)


def all_groups(session: Session, link: Link, limit: int) -> list[GroupFacts]:
    """The groups of the first `limit` streams, by name. A stream that cannot be looked at hides no other."""
    keys = sorted(islice(stream_keys(link), limit + 1))
    if len(keys) > limit:
        session.out.talk(f"there are more than {limit:,} streams: name one, or give --limit")
    found: list[GroupFacts] = []
    for key in keys[:limit]:
        try:
            found += groups(link, text(key))
        except NotConnectedError:
            raise
        except (NotFoundError, UsageError):
            continue  # gone meanwhile, or a name that Millstream's keys cannot be made of
        except MillstreamError as error:
            session.out.warn(str(error))
    return found
