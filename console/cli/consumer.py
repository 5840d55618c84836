"""millstream consumer: who reads for a group, and which names are left over."""

import socket
from dataclasses import asdict

import click

from console.cli.kinds import CONSUMER, GROUP, STREAM
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.output import Column, as_duration, counted, number
from consumers.state import is_on
from pipeline.errors import MillstreamError, NotFoundError, UsageError
from pipeline.keys import StreamKeys
from pipeline.server.groups import retire
from pipeline.server.overview import consumers

_KIND_STYLES = {"member": "green", "leftover": "dim"}


def _as_since(ms: int | None) -> str:
    return "-" if ms is None else as_duration(ms)


_COLUMNS = (
    Column("name", "CONSUMER"),
    Column("kind", "KIND", style=lambda kind: _KIND_STYLES.get(kind, "")),
    number("pending", "PENDING"),
    number("idle_ms", "IDLE", _as_since),
    number("heartbeat_ms", "HEARTBEAT", _as_since),
)


@click.group(
    "consumer",
    cls=Noun,
    examples=[
        ("millstream consumers orders billing", "who reads for the group"),
        (
            "millstream consumer rm orders billing --leftover",
            "forget the names of those that left and hold nothing",
        ),
    ],
)
def verb() -> None:
    """The consumers of a group: its members, and names left over."""


@verb.command(
    "ls",
    cls=Verb,
    examples=[
        ("millstream consumer ls orders billing --json", "for a script"),
        ("millstream consumers orders billing", "the same, for people"),
        (
            "millstream -q consumer ls orders billing --here",
            "whether a worker is alive on this host, by the exit code",
        ),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option(
    "--here",
    is_flag=True,
    help="Only live members on this host, or in this container; exit code 3 if there is none.",
)
@click.pass_obj
def ls(session: Session, stream: str, group: str, here: bool) -> None:
    """List the consumers of a group.

    A member is alive; a leftover is a name that nobody stands behind any more (what it holds is taken over); foreign
    is a consumer that Millstream does not run.
    """

    found = consumers(session.link("consumer"), stream, group)
    if here:
        host = socket.gethostname()
        found = [one for one in found if one.kind == "member" and is_on(host, one.name)]
        if not found:
            raise NotFoundError(f"group {group!r} of stream {stream!r} has no live member on {host}")
    rows = [asdict(one) for one in found]
    session.out.rows(_COLUMNS, rows, none=f"group {group} of {stream} has no consumer")


@verb.command(
    "rm",
    cls=Verb,
    examples=[
        ("millstream consumer rm orders billing web-1-4133", "one name, if it holds nothing"),
        ("millstream consumer rm orders billing --leftover", "all that nobody stands behind"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.argument("names", metavar="[CONSUMER]...", type=CONSUMER, nargs=-1)
@click.option("--leftover", is_flag=True, help="All names that nobody stands behind any more.")
@click.pass_obj
def rm(session: Session, stream: str, group: str, names: tuple[str, ...], leftover: bool) -> None:
    """Remove consumers' names. One that still holds entries stays: removing it would lose them."""

    if bool(names) == leftover:
        raise UsageError("name the consumers, or give --leftover")
    link, out = session.link("consumer"), session.out
    there = {one.name: one for one in consumers(link, stream, group)}
    for name in names:
        if name not in there:
            raise NotFoundError(f"group {group!r} of stream {stream!r} has no consumer {name!r}")
        if there[name].kind == "member":
            raise MillstreamError(f"consumer {name!r} is a live member: stop it first")
    chosen = names or [one.name for one in there.values() if one.kind == "leftover"]
    removed = [name for name in chosen if retire(link, StreamKeys(stream), group, name)]
    kept = [name for name in chosen if name not in removed]
    if kept:
        out.warn(f"kept, since entries are pending with them: {', '.join(kept)}")
    out.done(f"{counted(len(removed), 'name')} removed", removed=removed, kept=kept)
    if kept and names:
        raise MillstreamError(
            "not removed: a consumer that holds entries; a member of the group will take them over"
        )
