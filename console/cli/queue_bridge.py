"""millstream queue bridge: tasks from a list into a stream, or events of a stream into a list."""

import threading

import click

from console.cli.exit_codes import INTERRUPTED, OK
from console.cli.kinds import RATE, STREAM, Name
from console.cli.progress import Progress
from console.cli.session import Session
from console.cli.stopping import stop_by_signal
from console.cli.templates import of
from console.cli.verb import Verb
from console.output import counted
from pipeline.errors import UsageError
from pipeline.list_options import ENDS, ListOptions
from pipeline.server.connect import Connector
from pipeline.task import PAYLOADS
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.lists import check_pair, follow_list
from producers.sources.tasks import BAD, TaskOptions

LIST = Name("list")


@click.command(
    "bridge",
    cls=Verb,
    examples=[
        (
            "millstream queue bridge emails --to emails-stream",
            "what old producers push, as events, from now on",
        ),
        (
            "millstream queue bridge emails --to emails-stream --once",
            "until the list is empty; says how many",
        ),
        (
            "millstream queue bridge jobs --to jobs-stream --type '{job}' --key '{customer}'",
            "type and key from fields of the payload",
        ),
        ("millstream queue bridge emails --to emails --to-url redis://new:6379", "to another server"),
    ],
)
@click.argument("name", metavar="LIST", type=LIST)
@click.option("--to", "to", metavar="STREAM", type=STREAM, help="Move the list's tasks into this stream.")
@click.option(
    "--to-url", metavar="URL", default="", help="The stream's server, where it is not that of the list."
)
@click.option("--follow/--once", default=True, show_default=True,
              help="Go on until stopped, or end when the list is empty.")  # fmt: skip
@click.option("--push", type=click.Choice(ENDS), metavar="END", default="left", show_default=True,
              help="The end that tasks are pushed to: left (LPUSH) or right (RPUSH).")  # fmt: skip
@click.option("--lifo", is_flag=True, help="Tasks are taken from the end they are pushed to.")
@click.option("--payload", type=click.Choice(list(PAYLOADS)), metavar="FORMAT", default="auto", show_default=True,
              help="What payloads are: json, text, msgpack, or auto: as their bytes tell.")  # fmt: skip
@click.option("--type", "event_type", metavar="TEXT",
              help="The events' type; {field} stands for a field of the payload. By default its function.")  # fmt: skip
@click.option("--key", metavar="TEXT", default="", help="The events' key, likewise.")
@click.option("--bad", type=click.Choice(BAD), metavar="WHAT", default="keep", show_default=True,
              help="A payload that cannot be decoded: keep (it goes on as it is, and is a dead letter of each group "
                   "that reads it), or stop (before it).")  # fmt: skip
@click.option("--rate", type=RATE, metavar="RATE", help="At most so many a second, such as 500/s.")
@click.option("--id", "bridge_id", metavar="NAME", default="",
              help="To another server: the name under which its progress is kept. Default: the stream's.")  # fmt: skip
@click.pass_obj
def bridge(
    session: Session,
    name: str,
    to: str | None,
    to_url: str,
    follow: bool,
    push: str,
    lifo: bool,
    payload: str,
    event_type: str | None,
    key: str,
    bad: str,
    rate: float | None,
    bridge_id: str,
) -> int:
    """Move the tasks of LIST into a stream, each once and in order, while old workers and producers go on.

    Killed at any point, it loses and doubles nothing: on one server a task is taken from the list and added to the
    stream in one step.
    """
    if to is None:
        raise UsageError("say where to: --to STREAM")
    queue = ListOptions(name=name, push=push, order="lifo" if lifo else "fifo", payload=payload)
    check_pair(queue, to)
    stop = threading.Event()
    options = TaskOptions(key=of(key), bad=bad) if event_type is None else TaskOptions(
        type=of(event_type), key=of(key), bad=bad
    )  # fmt: skip
    session.link("bridge").close()
    session.log_to_stderr()
    stop_by_signal(stop.set)
    target = Connector(to_url, name="millstream-cli") if to_url else session.connector()
    try:
        with Producer(connector=target) as producer, Progress(session.out, "moved") as progress:
            fed = follow_list(
                producer, to, queue, url=session.url if to_url else None, follow=follow, bridge=bridge_id,
                options=options, rate=rate, stop=stop, progress=lambda fed: progress.at(fed.confirmed),
            )  # fmt: skip
    finally:
        if to_url:
            target.close()
    _say(session, name, to, fed)
    return INTERRUPTED if stop.is_set() and not follow else OK


def _say(session: Session, name: str, stream: str, fed: Fed) -> None:
    session.out.done(
        f"{counted(fed.confirmed, 'task')} moved from list {name} to {stream}"
        + (f" ({fed.unparsed:,} as they are, since they cannot be decoded)" if fed.unparsed else ""),
        list=name,
        stream=stream,
        moved=fed.confirmed,
        kept=fed.unparsed,
        restarts=fed.restarts,
    )
