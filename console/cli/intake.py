"""millstream intake: listens for events of programs that cannot write streams: HTTP, TCP and syslog."""

import threading
from pathlib import Path

import click

from console.cli.exit_codes import FAILED, OK
from console.cli.kinds import STREAM
from console.cli.session import Session
from console.cli.stopping import stop_by_signal
from console.cli.templates import of
from console.cli.verb import Verb
from console.output import counted
from console.settings import INTAKE_TOKEN
from pipeline.errors import MillstreamError, UsageError
from producers.sources.network.endpoint import Endpoint
from producers.sources.network.intake import ANSWER_WITHIN, GRACE, MAX_BODY, MAX_LINE, TYPE, Intake, Took

WAYS = {
    "http": "HTTP on http://{}/",
    "tcp": "JSON lines over TCP on {}",
    "syslog": "syslog over TCP and UDP on {}",
}
TOKEN_BYTES = 4_096


@click.command(
    "intake",
    cls=Verb,
    examples=[
        (
            "millstream intake logs --http 8080",
            "POST JSON to http://127.0.0.1:8080/, from this machine alone",
        ),
        (
            "millstream intake logs --http 0.0.0.0:8080 --token-file /run/secrets/intake",
            "from others too, if they bring the token",
        ),
        (
            "millstream intake logs --syslog 5514",
            "what `logger --server 127.0.0.1 --port 5514 --rfc5424` sends",
        ),
        (
            "millstream intake logs --tcp 5170 --type '{level}' --key '{host}'",
            "JSON lines, as socat sends them",
        ),
    ],
)
@click.argument("stream", type=STREAM)
@click.option(
    "--http", metavar="HOST:PORT", default="", help="Take JSON over HTTP here; PORT alone is 127.0.0.1:PORT."
)
@click.option("--tcp", metavar="HOST:PORT", default="", help="Take JSON lines over TCP here.")
@click.option("--syslog", metavar="HOST:PORT", default="",
              help="Take syslog here, RFC 5424 and RFC 3164, over TCP and UDP.")  # fmt: skip
@click.option("--type", "event_type", metavar="TEXT", default=TYPE, show_default=True,
              help="The type of what comes over HTTP and TCP; {field} is one of the data.")  # fmt: skip
@click.option("--key", metavar="TEXT", default="", help="Their key, likewise.")
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help=f"A file with the token that requests over HTTP have to bring; else {INTAKE_TOKEN}.")  # fmt: skip
@click.option("--confirm", metavar="LEVEL", default="accepted", show_default=True,
              help="When a request is answered 200: accepted, fsynced, replicated:N or durable:N.")  # fmt: skip
@click.option("--pack/--no-pack", default=True, show_default=True,
              help="Up to 100 events share an entry, which saves most of the memory.")  # fmt: skip
@click.option("--max-body", metavar="SIZE", default=MAX_BODY, show_default=True,
              help="Most of one request, also when it is decompressed.")  # fmt: skip
@click.option("--max-line", metavar="SIZE", default=MAX_LINE, show_default=True,
              help="Most of one line or syslog message; longer ones are passed over and counted.")  # fmt: skip
@click.option("--answer-within", metavar="DURATION", default=ANSWER_WITHIN, show_default=True,
              help="How long a request waits for its events to be confirmed before it is answered 503.")  # fmt: skip
@click.option("--grace", metavar="DURATION", default=GRACE, show_default=True,
              help="How long stopping waits for what is in hand.")  # fmt: skip
@click.pass_obj
def verb(
    session: Session,
    stream: str,
    http: str,
    tcp: str,
    syslog: str,
    event_type: str,
    key: str,
    token_file: Path | None,
    confirm: str,
    pack: bool,
    max_body: str,
    max_line: str,
    answer_within: str,
    grace: str,
) -> int:
    """Listen for events of programs that cannot write streams, and send them into one.

    Over HTTP, a request is answered 200 once all of its events are confirmed in the stream; 503 with Retry-After says
    that they are not, and the sender has to send them again. A repeat does no harm if it has the same Idempotency-Key
    (or X-Request-Id) and the same body. TCP and syslog have no answers: while the server is away, connections are read
    no further, and datagrams that find no room are dropped and counted.

    SIGTERM stops it: nothing more is accepted, what is in hand is confirmed, exit code 0; 1 if lines were lost.
    docs/intake.md has how Vector, Fluent Bit, rsyslog and logger send here.
    """
    session.log_to_stderr()
    intake = Intake(
        stream, http=http, tcp=tcp, syslog=syslog, connector=session.connector(), type=of(event_type), key=of(key),
        token=_token(session, token_file), confirm=confirm, pack=pack, max_body=max_body, max_line=max_line,
        answer_within=answer_within, grace=grace,
    )  # fmt: skip
    threading.Thread(
        target=_say, args=(session, intake, bool(token_file or session.settings.intake_token)), daemon=True
    ).start()
    stop_by_signal(intake.stop)
    took = intake.run()
    session.out.done(
        f"{counted(took.confirmed, 'event')} taken"
        + "".join(f", {counted(n, one)} {what}" for n, one, what in _troubles(took) if n),
        stream=stream,
        events=took.confirmed,
        lost=took.lost,
        unparsed=took.unparsed,
        refused_requests=took.refused_requests,
        too_long=took.too_long,
        unfinished=took.unfinished,
        turned_away=took.turned_away,
        by=took.by,
    )
    return FAILED if took.lost else OK


def _troubles(took: Took) -> list[tuple[int, str, str]]:
    return [
        (took.lost, "line", "lost"),
        (took.unparsed, "line", "sent as text"),
        (took.refused_requests, "request", "refused"),
        (took.too_long, "line", "too long"),
        (took.unfinished, "line", "unfinished"),
        (took.turned_away, "connection", "turned away"),
    ]


def _token(session: Session, file: Path | None) -> str:
    """What requests have to bring; empty: nothing.

    Raises:
        UsageError: the file cannot be read, or holds none.
    """
    if file is None:
        return session.settings.intake_token.strip()
    try:
        with file.open("rb") as opened:
            raw = opened.read(TOKEN_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--token-file={str(file)!r}: {error.strerror}") from None
    token = raw.decode("latin-1").strip()
    if not token or len(raw) > TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise UsageError(
            f"--token-file={str(file)!r}: one line of printable ASCII, at most {TOKEN_BYTES:,} bytes"
        )
    return token


def _say(session: Session, intake: Intake, has_token: bool) -> None:
    """Where it listens, once it does, and who reaches that."""
    intake.listening.wait()
    for way, where in intake.addresses.items():
        session.out.talk(f"listening: {WAYS[way].format(where)} ({_reached_by(way, where, has_token)})")
    try:
        intake.check_server()
    except MillstreamError as error:
        session.out.warn(f"the server cannot be reached yet: {error}")


def _reached_by(way: str, where: Endpoint, has_token: bool) -> str:
    if where.loopback:
        return "from this machine only"
    if way == "http" and has_token:
        return "from anywhere, with the token"
    return "from anywhere: whoever reaches it can send"
