"""produce --journal: the entries of systemd's journal into a stream."""

from console.cli.exit_codes import INTERRUPTED, OK
from console.cli.produce_lines import Lines, say
from console.cli.progress import Progress
from console.cli.session import Session
from producers.producer import Producer
from producers.sources.journal import JournalOptions, follow_journal


def send_journal(
    session: Session,
    producer: Producer,
    lines: Lines,
    journal: JournalOptions,
    *,
    follow: bool,
    from_end: bool,
    source: str,
) -> int:
    """What the journal has that was not sent yet, and with follow what comes."""
    with Progress(session.out, "sent") as progress:
        fed = follow_journal(
            producer, lines.stream, journal, follow=follow, source=source, from_end=from_end, options=lines.options,
            pack=lines.pack, stop=lines.stop, progress=lambda fed: progress.at(fed.confirmed),
        )  # fmt: skip
    say(session, lines, fed, what="entry")
    return INTERRUPTED if lines.stop.is_set() and not follow else OK
