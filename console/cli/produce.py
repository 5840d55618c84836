"""millstream produce: lines of files or of standard input into a stream, rows of an outbox, or a single event."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from console.cli import produce_journal, produce_lines, produce_outbox
from console.cli.exit_codes import OK
from console.cli.kinds import STREAM, TABLE
from console.cli.produce_lines import STDIN, Lines
from console.cli.session import Session
from console.cli.stopping import stop_by_signal
from console.cli.templates import filled, of
from console.cli.verb import Verb
from pipeline.errors import UsageError, WrongKeyTypeError
from pipeline.server.overview import named
from pipeline.tables import OUTBOX
from producers.producer import Producer
from producers.sources.feed import PACK_EVENTS, LineOptions
from producers.sources.journal import JournalOptions, journal_time
from producers.sources.parsers import PARSERS, parse_line, parser_named
from producers.sources.records import RULES, RecordOptions, starting_with
from producers.sources.times import TimeOf, time_auto, time_field

PARSE = {"raw": "text"} | {name: name for name in PARSERS if name != "text"}
AUTO, NO_TIME = "auto", "none"
LINE_TYPE = "log"


@click.command(
    "produce",
    cls=Verb,
    examples=[
        ("millstream produce logs app.log", "every line of a file, once"),
        ("millstream produce logs app.log --follow", "and what comes; goes on where it was after a restart"),
        (
            "millstream produce logs --follow /var/log/syslog '/srv/*/log/**/*.log'",
            "many files, also those still to come; quoted, so that the pattern is looked at again and again",
        ),
        (
            "millstream produce logs app.log --follow --multiline traceback",
            "a traceback is one event with its message",
        ),
        (
            "millstream produce web /var/log/nginx/access.log -f --type 'http.{status}'",
            "a web server's log, as data",
        ),
        ("millstream produce logs 'app.log.*.gz'", "compressed ones (gz, zst, bz2, xz), one after the other"),
        ("millstream produce logs --type '{level}' --key '{user}' < app.jsonl", "type and key from fields"),
        (
            "millstream produce logs --journal --follow --unit nginx.service --type '{_SYSTEMD_UNIT}'",
            "systemd's journal",
        ),
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
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on with what is written to the files, also when they are rotated.",
)
@click.option("--data", metavar="TEXT", help="Send one event with this data instead of lines.")
@click.option("--parse", type=click.Choice(list(PARSE)), metavar="HOW", default="auto", show_default=True,
              help="What a line is: json, logfmt, access (of Apache or nginx: common or combined), nginx-error, syslog "
                   "(RFC 5424 or 3164), raw (text), or auto: whichever of them it is for certain.")  # fmt: skip
@click.option("--time", "time_of", metavar="FIELD", default=AUTO, show_default=True,
              help="Where a line says when it happened: a field; auto: fields called time, timestamp, ts and the like, "
                   "or the beginning of the text; none: it happens when it is sent.")  # fmt: skip
@click.option("--multiline", type=click.Choice(sorted(RULES)), metavar="HOW",
              help="Several lines are one event: traceback (a message and the traceback behind it, of Python, Java "
                   "or .NET), or indent (indented lines go on).")  # fmt: skip
@click.option("--multiline-start", metavar="REGEX",
              help="Likewise: a line in which this is found begins an event, every other goes on.")  # fmt: skip
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
              help="Following: the name the position is kept under, if not that of host and file; of several "
                   "files each has its path behind it.")  # fmt: skip
@click.option(
    "--journal",
    is_flag=True,
    help="Send the entries of systemd's journal that were not sent yet; with --follow those to come, too.",
)
@click.option("--unit", "units", metavar="UNIT", multiple=True,
              help="Of the journal only this unit's entries; may be given several times.")  # fmt: skip
@click.option("--since", metavar="TIME", default="",
              help="Of the journal for the first time: from here on, as journalctl takes it.")  # fmt: skip
@click.option(
    "--journal-dir", metavar="FOLDER", default="", help="The journal in this folder, not this machine's own."
)
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
    files: tuple[str, ...],
    follow: bool,
    data: str | None,
    parse: str,
    time_of: str,
    multiline: str | None,
    multiline_start: str | None,
    event_type: str | None,
    key: str,
    pack: bool,
    confirm: str,
    from_end: bool,
    source: str,
    journal: bool,
    units: tuple[str, ...],
    since: str,
    journal_dir: str,
    outbox: str,
    table: str,
) -> int:
    """Send lines into a stream: those of files, or of standard input (-, or nothing where something is piped in).

    A line that is not what --parse says is sent as text and counted. With --follow no line is lost or sent twice,
    whenever this is killed: the position stands on the server beside the stream, written in the step that appends.
    The header source says which file a line is from. docs/files.md has all about rotation and patterns.

    With --journal, each entry of systemd's journal is sent once: the journal's cursor is the position.

    With --outbox, the committed rows of a table are sent instead, each once, and deleted once they are confirmed; with
    --follow also those still to come. `millstream postgres create` makes the table.
    """
    if journal:
        _check_journal(files, data, outbox, multiline or multiline_start, parse)
    elif units or since or journal_dir:
        raise UsageError("--unit, --since and --journal-dir are for --journal")
    else:
        _check(files, data, follow, from_end, source, outbox)
    _check_rows(outbox, table, parse, multiline or multiline_start)
    records = _records(multiline, multiline_start)
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
        stop = threading.Event()
        stop_by_signal(stop.set)
        if outbox:
            return produce_outbox.relay(session, producer, stream, outbox, table, follow, stop)
        lines = Lines(
            stream=stream,
            options=LineOptions(
                parser=parser_named(PARSE[parse]),
                type=of(LINE_TYPE if event_type is None else event_type),
                key=of(key),
                time=_time(time_of, journal),
                records=records,
            ),
            pack=PACK_EVENTS if pack else 0,
            confirm=confirm,
            stop=stop,
        )
        if journal:
            return produce_journal.send_journal(
                session, producer, lines, JournalOptions(units=units, since=since, folder=journal_dir),
                follow=follow, from_end=from_end, source=source,
            )  # fmt: skip
        if not files or files == (STDIN,):
            return produce_lines.send_input(session, producer, lines)
        if follow:
            return produce_lines.follow(session, producer, lines, files, from_end=from_end, source=source)
        return produce_lines.send_files(session, producer, lines, files)


@contextmanager
def _naming(stream: str) -> Iterator[None]:
    """A key of another type is said with its name."""
    try:
        yield
    except WrongKeyTypeError as error:
        raise named(error, stream) from None


def _check(
    files: Sequence[str], data: str | None, follow: bool, from_end: bool, source: str, outbox: str
) -> None:
    """Refuse what cannot be meant together."""
    if outbox:
        if files or data is not None or from_end or source:
            raise UsageError(
                "--outbox sends the rows of a table: give no FILE, --data, --from-end or --source beside it"
            )
        return
    if data is not None and (files or follow):
        raise UsageError("--data sends one event: give no FILE beside it")
    if follow and (not files or STDIN in files):
        raise UsageError("--follow needs a FILE; standard input is followed until it ends")
    if STDIN in files and len(files) > 1:
        raise UsageError("- is standard input: give it alone, without a FILE beside it")
    if (from_end or source) and not follow:
        raise UsageError(("--from-end" if from_end else "--source") + " is for --follow")
    if not files and data is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "nothing to send: name a FILE, pipe lines in, or give --data (- reads what you type)"
        )


def _check_rows(outbox: str, table: str, parse: str, multiline: str | None) -> None:
    """Refuse what is said of rows where there are none, and of lines where there are rows."""
    if table != OUTBOX and not outbox:
        raise UsageError("--table is for --outbox")
    if outbox and (multiline or parse != "auto"):
        raise UsageError("--outbox sends rows as they are: --parse and --multiline are for lines")


def _check_journal(
    files: Sequence[str], data: str | None, outbox: str, multiline: str | None, parse: str
) -> None:
    """Refuse what cannot be meant together with the journal."""
    if files or data is not None or outbox:
        raise UsageError(
            "--journal sends the entries of the journal: give no FILE, --data or --outbox beside it"
        )
    if multiline or parse != AUTO:
        raise UsageError(
            "--parse and --multiline are for lines: entries of the journal have fields, and are whole"
        )


def _time(field: str, journal: bool) -> TimeOf | None:
    """Where an event's time comes from."""
    if field == NO_TIME:
        return None
    if field != AUTO:
        return time_field(field)
    return journal_time if journal else time_auto()


def _records(multiline: str | None, start: str | None) -> RecordOptions | None:
    """Which lines are one event together."""
    if multiline and start:
        raise UsageError("either --multiline or --multiline-start, not both")
    if start is not None:
        return RecordOptions(rule=starting_with(start))
    return RecordOptions(rule=RULES[multiline]) if multiline else None


def _one(
    session: Session, producer: Producer, stream: str, data: str, parse: str, event_type: str, key: str
) -> int:
    """Send a single event and wait for it."""
    value, headers = parse_line(data.encode("utf-8", "surrogateescape"), parser_named(PARSE[parse]))
    if headers:
        session.out.warn("--data is sent as text: " + ", ".join(headers.values()))
    receipt = producer.send(
        stream, value, type=filled(event_type, value), key=filled(key, value), headers=headers
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
