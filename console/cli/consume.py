"""millstream consume: a consumer without writing code: a command, a file or the terminal gets the events."""

import errno
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from console.cli.exec_handler import ExecHandler
from console.cli.exit_codes import FAILED, OK
from console.cli.kinds import DURATION, GROUP, POSITION, STREAM
from console.cli.session import Session
from console.cli.verb import Verb
from console.settings import worker_environment
from consumers.app import Pipeline
from consumers.sinks.console import Console
from consumers.sinks.json_lines import JsonLines
from pipeline.declare import ConsumerSpec
from pipeline.errors import NotFoundError, UsageError
from pipeline.event import Event
from pipeline.observe.log import Limited, get_logger
from pipeline.options import Retry, consumer_options
from pipeline.outcome import Later, Outcomes

BATCH_EVENTS = 500
COMMANDS = 8
"""Commands at a time, where --concurrency does not say."""
PATIENCE_S = 8.0
"""How long a batch waits for a disk to have room again, well within grace; then its events are put off."""
PUT_OFF = "10s"
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)

BatchHandler = Callable[[list[Event]], Outcomes]


@click.command(
    "consume",
    cls=Verb,
    examples=[
        ("millstream consume orders -g audit", "each event as a line of JSON on stdout"),
        ("millstream consume orders -g archive --sink jsonl:orders.jsonl", "into a file, rotated at 100 MB"),
        (
            "millstream consume orders -g mail --exec './send-mail --from shop'",
            "a command per event, JSON on its stdin",
        ),
    ],
)
@click.argument("stream", type=STREAM)
@click.option(
    "-g", "--group", required=True, type=GROUP, metavar="GROUP", help="The consumer group to read as."
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
    help="console: (the default), or jsonl:PATH, with ?rotate=SIZE&keep=FILES if need be.",
)
@click.option(
    "--type", "types", metavar="TYPE", multiple=True, help="Only events of this type; * for any part."
)
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
    stream: str,
    group: str,
    command: str | None,
    sink: str | None,
    types: tuple[str, ...],
    start: str,
    concurrency: int | None,
    attempts: int,
    claim_after: int,
    grace: int,
) -> int:
    """Read a stream as a consumer group and hand each event on, at least once, until Ctrl-C or SIGTERM.

    The command finds EVENT_ID, EVENT_TYPE, EVENT_KEY, EVENT_STREAM, EVENT_GROUP, EVENT_ENTRY_ID and EVENT_ATTEMPT in
    its environment, and the event as JSON on its standard input. What fails is retried with growing pauses, in this
    group alone.
    """
    if command is not None and sink is not None:
        raise UsageError("--exec and --sink both say where events go: give one of them")
    if concurrency is not None and command is None:
        raise UsageError("--concurrency is for --exec: a sink writes one batch after the other")
    session.log_to_stderr()
    options: dict[str, Any] = {
        "types": types,
        "start": start,
        "retry": Retry(attempts=attempts),
        "claim_after": claim_after / 1_000,
        "grace": grace / 1_000,
    }
    handler: Callable[..., Any]
    if command is not None:
        handler = ExecHandler(_command(command), worker_environment())
        options["concurrency"] = concurrency or COMMANDS
    else:
        handler = Patient(_sink(sink or "console:"), sink or "console:")
        options["batch"] = BATCH_EVENTS
    app = Pipeline(session.url)
    app.add(ConsumerSpec(stream=stream, group=group, handler=handler, options=consumer_options(**options)))
    clean = app.run(url=session.url)
    if isinstance(handler, Patient) and handler.reader_left:
        raise BrokenPipeError
    if not clean:
        session.out.warn("some events did not finish within the grace: they run again elsewhere")
    return OK if clean else FAILED


class Patient:
    """A sink whose disk may be full for a while, and whose reader may leave: neither is the events' fault."""

    def __init__(self, sink: BatchHandler, name: str) -> None:
        self.__qualname__ = name  # what the log calls the handler
        self._sink = sink
        self._say = Limited(get_logger("sink"))
        self.reader_left = False

    def __call__(self, events: list[Event]) -> Outcomes:
        """Write the events; put them off without counting the attempt while there is nowhere to write to."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._sink(events)
            except BrokenPipeError:
                if not self.reader_left:  # a second signal would end us at once, with what runs unsettled
                    self.reader_left = True
                    os.kill(os.getpid(), signal.SIGTERM)
                raise Later("1s") from None
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                self._say.warning(
                    "full", "the sink cannot write: events wait", error=error.strerror, events=len(events)
                )
                if time.monotonic() > deadline_s:
                    raise Later(PUT_OFF) from None
                time.sleep(0.2)


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


def _sink(url: str) -> BatchHandler:
    kind, _, rest = url.partition(":")
    if kind == "console" and not rest:
        return Console(sys.stdout)
    if kind == "jsonl" and rest:
        path, _, query = rest.partition("?")
        given = dict(part.partition("=")[::2] for part in query.split("&") if part)
        if given.keys() - {"rotate", "keep"} or not given.get("keep", "0").isdigit():
            raise UsageError(f"--sink={url!r}: after the path, ?rotate=SIZE and keep=FILES are allowed")
        keep = int(given["keep"]) if "keep" in given else 10
        return JsonLines(path, rotate=given.get("rotate", "100MB"), keep=keep)
    raise UsageError(f"--sink={url!r} is no sink: console: or jsonl:PATH")
