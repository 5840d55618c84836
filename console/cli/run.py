"""millstream run: the workers of an app, in this process or in several that are looked after."""

import signal
import sys
from collections.abc import Sequence

import click

from console.cli.exit_codes import FAILED, OK
from console.cli.session import Session
from console.cli.verb import Verb
from console.loading import load_app
from console.settings import worker_environment
from consumers.supervisor import FINAL_EXIT, Supervisor, restarted, stop_with_parent
from pipeline.declare import ConsumerSpec
from pipeline.server.connect import Connector


@click.command(
    "run",
    cls=Verb,
    examples=[
        (
            "millstream run shop.workers:app",
            "all groups of the app, in this process, until Ctrl-C or SIGTERM",
        ),
        ("millstream run shop.workers:app --processes 4", "in four processes, each restarted if it ends"),
        ("millstream run shop.workers:app --group billing --stream orders", "one group alone"),
    ],
)
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "-g", "--group", "groups", metavar="GROUP", multiple=True, help="Only this group; may be repeated."
)
@click.option(
    "--stream", "streams", metavar="STREAM", multiple=True, help="Only this stream, or list; may be repeated."
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    metavar="COUNT",
    default=1,
    show_default=True,
    help="Worker processes.",
)
@click.pass_obj
def verb(
    session: Session, target: str, groups: tuple[str, ...], streams: tuple[str, ...], processes: int
) -> int:
    """Run the consumers that an app declares.

    MODULE is looked for in the current folder first; APP is the name of a Pipeline in it (`app` where it is left out).
    SIGTERM and Ctrl-C stop reading, let handlers finish within their grace, settle, hand back what did not start, and
    exit with 0; a second signal ends at once.
    """
    stop_with_parent()
    session.log_to_stderr()
    app = load_app(target)
    specs = app.select(groups, streams)
    url = session.url or app.url
    if processes == 1:
        if not app.run(groups=groups, streams=streams, url=url):
            session.out.warn("some handlers did not end within their grace: their events run again elsewhere")
            return FAILED
        return OK
    # The supervisor uses the server too, so that an embedded one outlives a moment without workers.
    connector = Connector(url)
    try:
        session.out.talk(f"{connector.shown}: {connector.capabilities().durability_line()}")
        return _supervise(target, groups, streams, specs, processes, url)
    finally:
        connector.close()


def _supervise(
    target: str,
    groups: Sequence[str],
    streams: Sequence[str],
    specs: Sequence[ConsumerSpec],
    processes: int,
    url: str | None,
) -> int:
    command = [*own_command(), "run", target, "--processes", "1"]
    for option, names in (("--group", groups), ("--stream", streams)):
        for name in names:
            command += [option, name]
    supervisor = Supervisor(
        command=command,
        processes=processes,
        grace_s=max(spec.options.grace_ms for spec in specs) / 1_000,
        environment=worker_environment(url),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: supervisor.stop(number))
    code = supervisor.run()
    return FINAL_EXIT if supervisor.final and restarted() else code


def own_command() -> list[str]:
    """How this program was called: `python -m millstream`, or the installed script."""
    spec = sys.modules["__main__"].__spec__
    if spec is not None and spec.parent:
        return [sys.executable, "-m", spec.parent]
    return [sys.executable, sys.argv[0]]
