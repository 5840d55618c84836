"""produce --outbox: the rows of an outbox table in PostgreSQL into a stream."""

import threading

from console.cli.exit_codes import FAILED, INTERRUPTED, OK
from console.cli.progress import Progress
from console.cli.session import Session
from console.output import counted
from producers.producer import Producer


def relay(
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
