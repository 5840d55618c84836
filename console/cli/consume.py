"""millstream consume: a consumer without writing code: a command, a file or the terminal gets the events."""

import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from console.cli.chosen import ChosenBatch, ChosenCommand
from console.cli.exec_handler import ExecHandler
from console.cli.exit_codes import FAILED, OK
from console.cli.kinds import DURATION, GROUP, POSITION, STREAM
from console.cli.selecting import WHERE
from console.cli.session import Session
from console.cli.verb import Verb
from console.settings import worker_environment
from consumers.app import Pipeline
from consumers.sinks.by_url import SINKS, shows_password
from consumers.sinks.by_url import sink as sink_by_url
from consumers.sinks.console import Console
from consumers.sinks.patient import Patient
from pipeline.declare import ConsumerSpec, consumed
from pipeline.errors import NotFoundError, UsageError
from pipeline.list_options import ENDS, FORMATS, ORDERS, WORKERS, ListOptions
from pipeline.options import Retry, consumer_options
from pipeline.task import PAYLOADS
from pipeline.where import Where

COMMANDS = 8
"""Commands at a time, where --concurrency does not say."""


@click.command(
    "consume",
    cls=Verb,
    examples=[
        ("millstream consume orders -g audit", "each event as a line of JSON on stdout"),
        ("millstream consume orders -g archive --sink jsonl:orders.jsonl", "into a file, rotated at 100 MB"),
        (
            "millstream consume logs -g alarm --where 'level>=error'",
            "only these; the others are done as they are",
        ),
        (
            "millstream consume logs -g db --sink 'postgresql://app:${PGPASSWORD}@db/shop?table=logs'",
            "each event a row of a table, once; `millstream sinks` lists where else",
        ),
        (
            "millstream consume orders -g mail --exec './send-mail --from shop'",
            "a command per event, JSON on its stdin",
        ),
        (
            "millstream consume --list emails --exec ./send-mail",
            "the tasks of a list queue, beside its old workers",
        ),
    ],
)
@click.argument("stream", type=STREAM, required=False)
@click.option(
    "-g",
    "--group",
    type=GROUP,
    metavar="GROUP",
    help=f"The consumer group to read as; of a list, {WORKERS} if not said.",
)
@click.option(
    "--list", "name", metavar="LIST", help="The list queue to take tasks from, instead of a stream."
)
@click.option(
    "--push",
    type=click.Choice(ENDS),
    default="left",
    show_default=True,
    help="The end of the list that tasks are pushed to.",
)
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    default="fifo",
    show_default=True,
    help="Of the list: fifo takes from its other end; priority: it is a sorted set.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="unique",
    show_default=True,
    help="Of a sorted set's members: with ids of their own, or as old code writes them.",
)
@click.option(
    "--payload",
    type=click.Choice(tuple(PAYLOADS)),
    default="auto",
    show_default=True,
    help="What the list holds.",
)
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    help="Run this for each event, without a shell. Exit code 0: done; 65: dead letter; others: run again later.",
)
@click.option(
    "--sink",
    metavar="URL",
    help=f"Hand batches of events to this: {', '.join(f'{scheme}:' for scheme in SINKS)}; console: if not said. "
    "`millstream sink` lists them with their options. In a password, ${NAME} is read from the environment.",
)
@click.option("--batch", type=click.IntRange(min=1), metavar="COUNT",
              help="Events that the sink gets at a time, at most; what suits it, if not said.")  # fmt: skip
@click.option(
    "--type", "types", metavar="TYPE", multiple=True, help="Only events of this type; * for any part."
)
@WHERE
@click.option("--start", type=POSITION, metavar="POSITION", default="start", show_default=True,
              help="Where a group that does not exist yet begins.")  # fmt: skip
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help=f"Commands at a time; {COMMANDS} if not said.",
)
@click.option("--attempts", type=click.IntRange(min=1), metavar="COUNT", default=5, show_default=True,
              help="Runs in total before an event is a dead letter.")  # fmt: skip
@click.option("--claim-after", type=DURATION, metavar="DURATION", default="30s", show_default=True,
              help="What a dead consumer held is taken over after this time.")  # fmt: skip
@click.option("--grace", type=DURATION, metavar="DURATION", default="20s", show_default=True,
              help="What runs may finish within this time once it is told to stop.")  # fmt: skip
@click.pass_obj
def verb(
    session: Session,
    stream: str | None,
    group: str | None,
    name: str | None,
    push: str,
    order: str,
    format_: str,
    payload: str,
    command: str | None,
    sink: str | None,
    batch: int | None,
    types: tuple[str, ...],
    where: tuple[Where, ...],
    start: str,
    concurrency: int | None,
    attempts: int,
    claim_after: int,
    grace: int,
) -> int:
    """Read a stream, or a list queue, as a consumer group and hand each event on, at least once, until Ctrl-C.

    The command finds EVENT_ID, EVENT_TYPE, EVENT_KEY, EVENT_STREAM, EVENT_GROUP, EVENT_ENTRY_ID and EVENT_ATTEMPT in
    its environment, and the event as JSON on its standard input. What fails is retried with growing pauses, in this
    group alone. What --where leaves out is done as it is: the group will not see it again.
    """
    if command is not None and sink is not None:
        raise UsageError("--exec and --sink both say where events go: give one of them")
    if concurrency is not None and command is None:
        raise UsageError("--concurrency is for --exec: a sink writes one batch after the other")
    if batch is not None and command is not None:
        raise UsageError("--batch is for --sink: --exec runs a command per event")
    asked = click.get_current_context().get_parameter_source
    layout = {"push": push, "order": order, "format": format_, "payload": payload}
    of_stream, of_group, queue = _consumed(stream, group, name, layout)
    session.log_to_stderr()
    options: dict[str, Any] = {
        "types": types,
        "start": start,
        "retry": Retry(attempts=attempts),
        "claim_after": claim_after / 1_000,
        "grace": grace / 1_000,
    }
    handler: Callable[..., Any]
    patient: Patient | None = None
    reader_left = threading.Event()
    if command is not None:
        runs = ExecHandler(_command(command), worker_environment())
        handler = ChosenCommand(runs, where) if where else runs
        options["concurrency"] = concurrency or COMMANDS
    else:
        patient = _sink(sink or "console:", reader_left)
        if sink is not None and asked("sink") is ParameterSource.COMMANDLINE and shows_password(sink):
            session.out.warn(
                "whoever lists processes sees the password in --sink: write '${NAME}' for a variable, name a file with "
                "password_file=, or give the URL as MILLSTREAM_CONSUME_SINK"
            )
        handler = ChosenBatch(patient, where) if where else patient
        options["batch"] = batch or patient.batch_events
    app = Pipeline(session.url)
    app.add(
        ConsumerSpec(
            stream=of_stream, group=of_group, handler=handler, options=consumer_options(**options), list=queue
        )
    )
    try:
        clean = app.run(url=session.url)
    finally:
        if patient is not None:
            patient.close()
    if reader_left.is_set():
        raise BrokenPipeError
    if not clean:
        session.out.warn("some events did not finish within the grace: they run again elsewhere")
    return OK if clean else FAILED


def _consumed(
    stream: str | None, group: str | None, name: str | None, layout: dict[str, str]
) -> tuple[str, str, ListOptions | None]:
    """What is consumed, by the stream or the list that is named, and what goes with it."""
    if (stream is None) is (name is None):
        raise UsageError("say what is read: a STREAM, or a list by --list")
    if name is not None:
        return consumed(None, ListOptions(name=name, **layout), group)  # type: ignore[arg-type]
    source = click.get_current_context().get_parameter_source
    for option in layout:
        if source("format_" if option == "format" else option) is not ParameterSource.DEFAULT:
            raise UsageError(f"--{option} says how a list is laid out: give its name by --list")
    if group is None:
        raise UsageError("say who reads: -g GROUP")
    return consumed(stream, None, group)


def _command(text: str) -> list[str]:
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--exec={text!r} cannot be split into words: {error}") from None
    if not command:
        raise UsageError("--exec is empty")
    if shutil.which(command[0]) is None:
        raise NotFoundError(f"--exec: there is no program {command[0]!r}")
    return command


def _sink(url: str, reader_left: threading.Event) -> Patient:
    def on_reader_left() -> None:
        if not reader_left.is_set():  # a second signal would end us at once, with what runs unsettled
            reader_left.set()
            os.kill(os.getpid(), signal.SIGTERM)

    if url == "console:":
        return Patient(Console(sys.stdout, on_reader_left=on_reader_left), url)
    return sink_by_url(url)
