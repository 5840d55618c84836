"""millstream queue bridge: tasks from a list into a stream, or events of a stream into a list."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from console.cli.exit_codes import FAILED, INTERRUPTED, OK
from console.cli.kinds import RATE, SINCE, STREAM, Name
from console.cli.progress import Progress
from console.cli.session import Session
from console.cli.stopping import stop_by_signal
from console.cli.templates import of
from console.cli.verb import Verb
from console.output import counted
from consumers.list_filler import check_filling, fill_list
from pipeline.errors import UsageError
from pipeline.list_options import ENDS, ListOptions
from pipeline.server.bridging import check_names
from pipeline.server.connect import Connector
from pipeline.task import PAYLOADS, function_of
from producers.producer import Producer
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
@click.option(
    "--from", "source", metavar="STREAM", type=STREAM, help="Push this stream's events to the list."
)
@click.option(
    "--from-url", metavar="URL", default="", help="That stream's server, where it is not that of the list."
)
@click.option("--since", metavar="POSITION", type=SINCE, default="start", show_default=True,
              help="With --from, where to begin at first: start, end, 15m, an ISO time or an entry id.")  # fmt: skip
@click.option("--follow/--once", default=True, show_default=True,
              help="Go on until stopped, or end when the list is empty (or the stream is at its end).")  # fmt: skip
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
@click.option("--confirm", metavar="LEVEL", default="accepted", show_default=True,
              help="To another server, when a task is removed here: accepted, fsynced, durable:N, …")  # fmt: skip
@click.option("--rate", type=RATE, metavar="RATE", help="At most so many a second, such as 500/s.")
@click.option("--id", "bridge_id", metavar="NAME", default="",
              help="To another server: the name under which its progress is kept. Default: the stream's.")  # fmt: skip
@click.pass_obj
def bridge(
    session: Session,
    name: str,
    to: str | None,
    to_url: str,
    source: str | None,
    from_url: str,
    since: str,
    follow: bool,
    push: str,
    lifo: bool,
    payload: str,
    event_type: str | None,
    key: str,
    bad: str,
    confirm: str,
    rate: float | None,
    bridge_id: str,
) -> int:
    """Move the tasks of LIST into a stream (--to), or a stream's events into LIST (--from), each once and in order.

    Old workers and producers go on meanwhile. Killed at any point, it loses and doubles nothing, and goes on where it
    was: on one server a task is taken from the list and added to the stream in one step; else, and on the way back,
    the position stands beside what was written, and was written with it.

    --url is the list's server.
    """
    if (to is None) == (source is None):
        raise UsageError(
            "say either --to STREAM (from the list into it) or --from STREAM (from it into the list)"
        )
    queue = ListOptions(name=name, push=push, order="lifo" if lifo else "fifo", payload=payload)
    stop = threading.Event()
    if to is not None:
        _only_with("--from", from_url=from_url, since="" if since == "start" else since)
        check_pair(queue)
        if not to_url:
            check_names(queue, to)
        options = TaskOptions(
            type=function_of if event_type is None else of(event_type), key=of(key), bad=bad
        )
        _begin(session, stop, follow)
        return _to_stream(session, queue, to, to_url, follow, bridge_id, options, confirm, rate, stop)
    assert source is not None
    _only_with(
        "--to",
        to_url=to_url,
        type=event_type or "",
        key=key,
        bad="" if bad == "keep" else bad,
        confirm="" if confirm == "accepted" else confirm,
    )
    check_filling(queue, source)
    if not from_url:
        check_names(queue, source)
    _begin(session, stop, follow)
    return _to_list(session, queue, source, from_url, follow, since, bridge_id, rate, stop)


def _only_with(option: str, **given: str) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(f"--{name.replace('_', '-')} is for {option}")


def _begin(session: Session, stop: threading.Event, follow: bool) -> None:
    """The list's server is there; a signal stops."""
    session.link("bridge").close()
    session.log_to_stderr()
    if follow:
        session.out.talk(
            f"{session.connector().shown}: {session.connector().capabilities().durability_line()}"
        )
    stop_by_signal(stop.set)


@contextmanager
def _elsewhere(session: Session, url: str) -> Iterator[Connector]:
    """The stream's server, which answers: the list's, or another."""
    if not url:
        yield session.connector()
        return
    connector = Connector(url, name="millstream-cli")
    try:
        connector.link("bridge").close()
        yield connector
    finally:
        connector.close()


def _to_stream(
    session: Session,
    queue: ListOptions,
    stream: str,
    url: str,
    follow: bool,
    bridge_id: str,
    options: TaskOptions,
    confirm: str,
    rate: float | None,
    stop: threading.Event,
) -> int:
    with (
        _elsewhere(session, url) as target,
        Producer(connector=target, confirm=confirm) as producer,
        Progress(session.out, "moved") as progress,
    ):
        fed = follow_list(
            producer, stream, queue, connector=session.connector(), follow=follow, bridge=bridge_id, options=options,
            rate=rate, stop=stop, progress=lambda fed: progress.at(fed.confirmed),
        )  # fmt: skip
    session.out.done(
        f"{counted(fed.confirmed, 'task')} moved from list {queue.name} to stream {stream}"
        + (f" ({fed.unparsed:,} as they are, since no event can be made of them)" if fed.unparsed else ""),
        list=queue.name,
        stream=stream,
        moved=fed.confirmed,
        kept=fed.unparsed,
        restarts=fed.restarts,
    )
    return INTERRUPTED if stop.is_set() and not follow else OK


def _to_list(
    session: Session,
    queue: ListOptions,
    stream: str,
    url: str,
    follow: bool,
    since: str,
    bridge_id: str,
    rate: float | None,
    stop: threading.Event,
) -> int:
    with _elsewhere(session, url) as origin, Progress(session.out, "pushed") as progress:
        filled = fill_list(
            queue, stream, connector=session.connector(), stream_connector=origin, follow=follow, since=since,
            bridge=bridge_id, rate=rate, stop=stop, progress=lambda filled: progress.at(filled.pushed),
        )  # fmt: skip
    odd = [
        f"{count:,} {what}"
        for count, what in (
            (filled.unfit, "left out, since no task can be made of them"),
            (filled.gone, "entries trimmed before they were read"),
        )
        if count
    ]
    session.out.done(
        f"{counted(filled.pushed, 'event')} pushed from stream {stream} to list {queue.name}"
        + (f" ({'; '.join(odd)})" if odd else ""),
        list=queue.name,
        stream=stream,
        pushed=filled.pushed,
        unfit=filled.unfit,
        gone=filled.gone,
        restarts=filled.restarts,
    )
    if filled.unfit:
        return FAILED
    return INTERRUPTED if stop.is_set() and not follow else OK
