"""millstream demo: the main job in one command: events through a stream into two groups, and nothing lost."""

import sys
from pathlib import Path

import click

from console.cli.session import Session
from console.cli.verb import Verb
from pipeline.errors import UsageError

ONCE_EVENTS = 2_000


@click.command(
    "demo",
    cls=Verb,
    examples=[
        (
            "millstream demo",
            "watch it; kill a worker or the server by a key, or by kill -9 from another terminal",
        ),
        ("millstream demo /var/log/nginx/access.log", "with a log of yours on top"),
        ("millstream demo --once --json", "by itself, with exact counts as JSON; exits 0 if nothing is lost"),
    ],
)
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("millstream-demo"),
    show_default="./millstream-demo",
    help="Data folder; kept between runs, made if missing.",
)
@click.option("--once", is_flag=True, help="End by itself, also on a terminal.")
@click.option(
    "--events",
    type=click.IntRange(min=1),
    default=ONCE_EVENTS,
    show_default=True,
    help="How many events the service sends with --once, or without a terminal.",
)
@click.option(
    "--rate",
    "per_s",
    type=click.FloatRange(1, 5_000),
    default=200,
    show_default=True,
    help="Events the service sends a second.",
)
@click.pass_obj
def verb(
    session: Session, files: tuple[Path, ...], folder: Path, once: bool, events: int, per_s: float
) -> int:
    """See events flow through a Redis stream into two consumer groups, and nothing get lost.

    It starts a server of its own, a small service that logs, and two worker processes each for the groups `archive`
    and `alerts`; on top it follows the log files named, or those found. Keys kill a worker or the server, send a bad
    event, and rewind a group. At the end the ids that the server confirmed are compared with those that each group
    wrote. Without a terminal it does all that by itself.
    """
    from console.demo.play import play

    if session.url is not None:
        raise UsageError("--url is not for the demo: it runs a server of its own, with its data in --dir")

    watched = not once and session.out.for_people and sys.stdin.isatty() and sys.stdout.isatty()
    return play(session.out, folder=folder, files=files, events=None if watched else events, per_s=per_s)
