"""produce FILE…: the lines of files, followed or once, or of standard input, into a stream."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from console.cli.exit_codes import FAILED, INTERRUPTED, OK
from console.cli.progress import Progress
from console.cli.session import Session
from console.output import counted
from pipeline.errors import NotFoundError, SendError, UsageError
from producers.producer import Producer
from producers.sources.feed import Fed, LineOptions
from producers.sources.follow import follow_file, send_lines
from producers.sources.several import follow_files
from producers.sources.watched import Watched, files_of, is_pattern

STDIN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What is to be done with lines, wherever they come from."""

    stream: str
    options: LineOptions
    pack: int
    confirm: str
    stop: threading.Event


def send_input(session: Session, producer: Producer, lines: Lines) -> int:
    """Standard input, to its end."""
    with Progress(session.out, "sent") as progress:
        fed = send_lines(
            producer, lines.stream, sys.stdin.buffer, options=lines.options, pack=lines.pack, stop=lines.stop,
            progress=lambda fed: progress.at(fed.confirmed),
        )  # fmt: skip
    say(session, lines, fed)
    return OK


def send_files(session: Session, producer: Producer, lines: Lines, paths: Sequence[str]) -> int:
    """Files, one after the other, each to its end. One that cannot be read is said, and stops no other."""
    files = files_of(paths)
    alone = len(files) == 1
    total = Fed()
    failed = 0
    with Progress(session.out, "sent") as progress:
        for path in files:
            if lines.stop.is_set():
                break
            fed = Fed()
            try:
                follow_file(
                    producer, lines.stream, path, follow=False, options=lines.options, pack=lines.pack,
                    stop=lines.stop, fed=fed, progress=lambda fed: progress.at(total.confirmed + fed.confirmed),
                )  # fmt: skip
            except (NotFoundError, UsageError) as error:
                if alone:
                    raise
                failed += 1
                session.out.warn(str(error))
            total.add(fed)
    say(session, lines, total, files=len(files))
    if failed:
        session.out.warn(f"{failed:,} of {counted(len(files), 'file')} could not be read to the end")
    return INTERRUPTED if lines.stop.is_set() else FAILED if failed else OK


def follow(
    session: Session, producer: Producer, lines: Lines, paths: Sequence[str], *, from_end: bool, source: str
) -> int:
    """Files and what is written to them, until a signal."""
    with Progress(session.out, "sent") as progress:
        if len(paths) == 1 and not is_pattern(paths[0]):
            Watched(paths)  # says what is no file to be followed
            fed = follow_file(
                producer, lines.stream, paths[0], options=lines.options, pack=lines.pack, stop=lines.stop,
                from_end=from_end, source=source, progress=lambda fed: progress.at(fed.confirmed),
            )  # fmt: skip
        else:
            fed = follow_files(
                producer, lines.stream, paths, options=lines.options, pack=lines.pack, stop=lines.stop,
                from_end=from_end, source=source, progress=lambda fed: progress.at(fed.confirmed),
            )  # fmt: skip
    say(session, lines, fed)
    return OK


def say(session: Session, lines: Lines, fed: Fed, *, files: int = 1, what: str = "line") -> None:
    """One line with the counts; an error if lines are not in the stream that cannot be read again."""
    odd = [
        f"{count:,} {what}"
        for count, what in (
            (fed.unparsed, "as text, since they are not what --parse says"),
            (fed.cut, "cut, being too long"),
            (fed.untimed, "with a time of their own that cannot be right, or none where --time says"),
        )
        if count
    ]
    session.out.done(
        f"{counted(fed.confirmed, what)} sent to {lines.stream}"
        + (f" from {files:,} files" if files != 1 else "")
        + (f" ({'; '.join(odd)})" if odd else ""),
        stream=lines.stream,
        events=fed.confirmed,
        failed=fed.failed,
        unparsed=fed.unparsed,
        cut=fed.cut,
        untimed=fed.untimed,
        level=lines.confirm,
    )
    if fed.failed:
        raise SendError(f"not in stream {lines.stream!r}: {counted(fed.failed, what)}")
