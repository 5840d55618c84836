"""millstream produce: lines of a file or of standard input into a stream, as text, JSON or logfmt."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from console.cli.exit_codes import FAILED, INTERRUPTED, OK
from console.cli.kinds import STREAM, TABLE
from console.cli.progress import Progress
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import counted
from pipeline.errors import SendError, UsageError, WrongKeyTypeError
from pipeline.server.overview import named
from pipeline.tables import OUTBOX
from producers.producer import Producer
from producers.sources.feed import PACK_EVENTS, Fed
from producers.sources.follow import follow_file, send_lines
from producers.sources.parsers import parse_line, parser_named

PARSE = {"auto": "auto", "raw": "text", "json": "json", "logfmt": "logfmt"}
LINE_TYPE = "log"
STDIN = "-"
_FIELD = re.compile(r"\{([\w.@-]+)\}")


@click.command(
    "produce",
    cls=Verb,
    examples=[
        ("millstream produce logs app.log", "every line of a file, once"),
        ("millstream produce logs app.log --follow", "and what comes; goes on where it was after a restart"),
        ("millstream produce logs --type '{level}' --key '{user}' < app.jsonl", "type and key from fields"),
        (
            """millstream produce orders --data '{"id": 7}' --type order.placed --key customer-7""",
            "one event",
        ),
        (
            "millstream produce orders --outbox postgresql://app@db/shop --follow",
            "what transactions put into an outbox table, and what they will",
        ),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("file", required=False)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with what is written to the file, also when it is rotated."
)
@click.option("--data", metavar="TEXT", help="Send one event with this data instead of lines.")
@click.option("--parse", type=click.Choice(list(PARSE)), metavar="HOW", default="auto", show_default=True,
              help="What a line is: json, logfmt, raw (text), or auto: whichever of them it looks like.")  # fmt: skip
@click.option(
    "--type",
    "event_type",
    metavar="TEXT",
    help=f"The events' type; {{field}} stands for a field of the data. For lines '{LINE_TYPE}' if not said.",
)
@click.option("--key", metavar="TEXT", default="", help="The events' key, likewise.")
@click.option("--pack/--no-pack", default=True, show_default=True,
              help=f"Up to {PACK_EVENTS} lines share an entry, which saves most of the memory.")  # fmt: skip
@click.option("--confirm", metavar="LEVEL", default="accepted", show_default=True,
              help="When a line counts as sent: accepted, fsynced, replicated:N or durable:N.")  # fmt: skip
@click.option(
    "--from-end", is_flag=True, help="Following for the first time: begin with what is written from now on."
)
@click.option("--source", metavar="NAME", default="",
              help="Following: the name its position is kept under, if not that of host and file.")  # fmt: skip
@click.option("--outbox", metavar="URL", default="",
              help="Relay the rows of an outbox table in PostgreSQL (postgresql://…) instead of lines.")  # fmt: skip
@click.option(
    "--table",
    type=TABLE,
    metavar="NAME",
    default=OUTBOX,
    show_default=True,
    help="The outbox's table, with --outbox.",
)
@click.pass_obj
def verb(
    session: Session,
    stream: str,
    file: str | None,
    follow: bool,
    data: str | None,
    parse: str,
    event_type: str | None,
    key: str,
    pack: bool,
    confirm: str,
    from_end: bool,
    source: str,
    outbox: str,
    table: str,
) -> int:
    """Send lines into a stream: those of FILE, or of standard input (-, or nothing where something is piped in).

    A line that is not what --parse says is sent as text and counted. With --follow no line is lost or sent twice,
    whenever this is killed: the position stands on the server beside the stream, written in the step that appends.

    With --outbox, the committed rows of a table are sent instead, each once, and deleted once they are confirmed; with
    --follow also those still to come. `millstream postgres create` makes the table.
    """
    _check(file, data, follow, from_end, source, outbox)
    # Before anything is read: a pipe cannot be read twice.
    session.link("produce").close()
    session.log_to_stderr()
    if follow:
        session.out.talk(
            f"{session.connector().shown}: {session.connector().capabilities().durability_line()}"
        )
    with _naming(stream), Producer(connector=session.connector(), confirm=confirm) as producer:
        if data is not None:
            return _one(session, producer, stream, data, parse, event_type or "", key)
        stop = _stop_by_signal()
        if outbox:
            return _relay(session, producer, stream, outbox, table, follow, stop)
        options: dict[str, Any] = {
            "parser": parser_named(PARSE[parse]),
            "type": _of(LINE_TYPE if event_type is None else event_type),
            "key": _of(key),
            "pack": PACK_EVENTS if pack else 0,
            "stop": stop,
        }
        with Progress(session.out, "sent") as progress:
            options["progress"] = lambda fed: progress.at(fed.confirmed)
            if file is None or file == STDIN:
                fed = send_lines(producer, stream, sys.stdin.buffer, **options)
            else:
                options |= {"follow": follow, "from_end": from_end, "source": source}
                fed = follow_file(producer, stream, file, **options)
    _say(session, stream, fed, confirm)
    whole_file = file is not None and file != STDIN and not follow
    return INTERRUPTED if stop.is_set() and whole_file else OK


@contextmanager
def _naming(stream: str) -> Iterator[None]:
    """A key of another type is said with its name."""
    try:
        yield
    except WrongKeyTypeError as error:
        raise named(error, stream) from None


def _relay(
    session: Session,
    producer: Producer,
    stream: str,
    url: str,
    table: str,
    follow: bool,
    stop: threading.Event,
) -> int:
    """Relay an outbox; its driver, an extra, takes long to import: only here."""
    from producers.sources.postgres import relay_outbox

    with Progress(session.out, "sent") as progress:
        done = relay_outbox(
            producer, stream, url, table=table, follow=follow, stop=stop,
            progress=lambda done: progress.at(done.confirmed),
        )  # fmt: skip
    session.out.done(
        f"{counted(done.confirmed, 'row')} sent from {table}"
        + (f" ({done.problems:,} can never be sent: see its column problem)" if done.problems else ""),
        stream=stream,
        table=table,
        events=done.confirmed,
        problems=done.problems,
        restarts=done.restarts,
    )
    if done.problems:
        return FAILED
    return INTERRUPTED if stop.is_set() and not follow else OK


def _check(
    file: str | None, data: str | None, follow: bool, from_end: bool, source: str, outbox: str
) -> None:
    """Refuse what cannot be meant together."""
    if outbox:
        if file is not None or data is not None or from_end or source:
            raise UsageError(
                "--outbox sends the rows of a table: give no FILE, --data, --from-end or --source beside it"
            )
        return
    if data is not None and (file is not None or follow):
        raise UsageError("--data sends one event: give no FILE beside it")
    if follow and (file is None or file == STDIN):
        raise UsageError("--follow needs a FILE; standard input is followed until it ends")
    if (from_end or source) and not follow:
        raise UsageError(("--from-end" if from_end else "--source") + " is for --follow")
    if file is None and data is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "nothing to send: name a FILE, pipe lines in, or give --data (- reads what you type)"
        )


def _one(
    session: Session, producer: Producer, stream: str, data: str, parse: str, event_type: str, key: str
) -> int:
    """Send a single event and wait for it."""
    value, headers = parse_line(data.encode("utf-8", "surrogateescape"), parser_named(PARSE[parse]))
    if headers:
        session.out.warn("--data is sent as text: " + ", ".join(headers.values()))
    receipt = producer.send(
        stream, value, type=_filled(event_type, value), key=_filled(key, value), headers=headers
    )
    sent = receipt.result()
    session.out.done(
        f"sent to {stream}: {sent.entry_id} ({sent.level})",
        stream=stream,
        entry_id=sent.entry_id,
        id=sent.event_id,
        level=sent.level,
    )
    return OK


def _say(session: Session, stream: str, fed: Fed, confirm: str) -> None:
    """One line with the counts; an error if lines are not in the stream that cannot be read again."""
    odd = [
        f"{count:,} {what}"
        for count, what in (
            (fed.unparsed, "as text, since they are not what --parse says"),
            (fed.cut, "cut, being too long"),
        )
        if count
    ]
    session.out.done(
        f"{counted(fed.confirmed, 'line')} sent to {stream}" + (f" ({'; '.join(odd)})" if odd else ""),
        stream=stream,
        events=fed.confirmed,
        failed=fed.failed,
        unparsed=fed.unparsed,
        cut=fed.cut,
        level=confirm,
    )
    if fed.failed:
        raise SendError(f"not in stream {stream!r}: {counted(fed.failed, 'line')}")


def _stop_by_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = threading.Event()
    stopping: list[int] = []

    def on_signal(number: int, _: object) -> None:
        if stopping:
            os._exit(128 + number)
        stopping.append(number)
        # In a thread of its own: the main thread may hold the event's lock, in the wait that the signal interrupts.
        threading.Thread(target=stop.set, name="millstream-stop").start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def _of(template: str) -> str | Callable[[Any], str]:
    """The text itself, or what makes it from a line's data."""
    return (lambda data: _filled(template, data)) if _FIELD.search(template) else template


def _filled(template: str, data: Any) -> str:
    """The text with each {field} replaced by that field of the data; one that is not there is empty."""

    def value(match: re.Match[str]) -> str:
        found = data
        for name in (match[1],) if isinstance(data, Mapping) and match[1] in data else match[1].split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return "" if found is None else str(found)

    return _FIELD.sub(value, template)
