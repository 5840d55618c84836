"""Follow: a log file, or the lines of standard input, into a stream.

Stands on FollowedFile and Feed. A followed file that is killed at any instant neither loses nor repeats a line: its
position is written in the step that appends. What comes through a pipe cannot be read again: what could not be sent
of it is counted and said.
"""

import io
import os
import secrets
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, BinaryIO

from pipeline.errors import ClosedError, UsageError
from pipeline.observe.log import get_logger
from producers.producer import Producer
from producers.sources.feed import PACK_EVENTS, Fed, Feed, LineOptions, Of
from producers.sources.files import FollowedFile, now_ms
from producers.sources.lines import MAX_LINE_BYTES, Lines, LineSplitter
from producers.sources.parsers import Parser, parse_auto
from producers.sources.records import Records
from producers.sources.report import PROGRESS_S, Report
from producers.sources.several import POLL_S, PUT_LINES, Source, file_source

_log = get_logger("source")
Progress = Callable[[Fed], None]


def follow_file(
    producer: Producer,
    stream: str,
    path: str,
    *,
    follow: bool = True,
    keep_position: bool | None = None,
    source: str = "",
    from_end: bool = False,
    parser: Parser = parse_auto,
    type: Of = "log",  # noqa: A002 - CloudEvents' word
    key: Of = "",
    pack: int = PACK_EVENTS,
    max_line_bytes: int = MAX_LINE_BYTES,
    options: LineOptions | None = None,
    fed: Fed | None = None,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> Fed:
    """Send the lines of a file, each once, in order; with follow=True also those still to be written, until `stop`.

    Args:
        keep_position: go on where an earlier run ended; default: as follow. Without it the file is read from its
            start, and still no line of this run is sent twice.
        source: under what name the position is kept; default: this host and the absolute path. Two that follow
            under one name share the file's lines.
        from_end: where no position is stored, begin with the line that is being written now.
        parser: what a line becomes; see sources/parsers.py.
        type, key: one text, or a function of a line's data. pack: lines per entry; 0: an entry each.
        max_line_bytes: of a longer line the beginning is sent, with a header `cut`.
        options: the same as parser, type and key, and more. fed: counts to go on from; they are right also where an
            error ends it.
        stop: ends it soon; what is not confirmed then is read again by the next run.
        progress: called every 0.2 s, and at the end, with the counts.

    Returns:
        The counts; confirmed is the number of lines that are in the stream.

    Raises:
        NotFoundError: no such file (with follow=True it is waited for). UsageError: it cannot be read.
        AccessDeniedError, WrongKeyTypeError, ServerRefusedError: the server will not have the lines.
    """
    stop = stop or threading.Event()
    kept = follow if keep_position is None else keep_position
    name = source or (file_source(path) if kept else f"once:{secrets.token_hex(8)}")
    options = options or LineOptions(parser, type, key)
    file = FollowedFile(
        path, follow=follow, from_end=from_end, max_line_bytes=max_line_bytes, records=options.records
    )
    options = replace(options, source=file.path)
    feed = Feed(producer, stream, source=name, options=options, pack=pack, stop=stop, fed=fed)
    report = Report(feed.fed, progress)
    try:
        stored = feed.stored() if kept else None
        file.resume(stored)
        if kept and stored is None and from_end and file.position():
            feed.remember(file.position())
        _pump(Source(file, feed), stop, report, producer.options.exit_ms / 1_000)
        if not kept:
            feed.forget()
    except ClosedError:
        if not stop.is_set():  # the producer was closed beneath us
            raise
    finally:
        file.close()
        feed.close()
        report.now()
    return feed.fed


def send_lines(
    producer: Producer,
    stream: str,
    lines: BinaryIO,
    *,
    parser: Parser = parse_auto,
    type: Of = "log",  # noqa: A002
    key: Of = "",
    pack: int = PACK_EVENTS,
    max_line_bytes: int = MAX_LINE_BYTES,
    options: LineOptions | None = None,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> Fed:
    """Send the lines of a binary stream, such as sys.stdin.buffer, as they come, until its end or `stop`.

    Arguments as those of follow_file(). Returns once every line has ended; Fed.failed are those not in the stream.

    Raises:
        UsageError: it cannot be read. AccessDeniedError and the like: the server will not have the lines.
    """
    stop = stop or threading.Event()
    options = options or LineOptions(parser, type, key)
    feed = Feed(producer, stream, options=options, pack=pack, stop=stop)
    report = Report(feed.fed, progress)
    splitter = LineSplitter(max_line_bytes=max_line_bytes)
    records = None if options.records is None else Records(options.records)

    def put(found: Lines) -> None:
        for start in range(0, len(found.lines), PUT_LINES):
            few = found.lines[start : start + PUT_LINES]
            feed.put(few, {i - start: n for i, n in found.cut.items() if 0 <= i - start < len(few)})

    try:
        for block in blocks(lines, stop):
            found = splitter.feed(block)
            if records is not None:
                found = records.feed(found, now_ms())
                if records.due(now_ms(), splitter.half):
                    found.extend(records.rest())
            put(found)
            feed.check()
            report.soon()
        rest = splitter.rest()
        if records is not None:
            rest = records.feed(rest, now_ms())
            rest.extend(records.rest())
        put(rest)
        feed.wait()
    finally:
        feed.close()
        report.now()
    return feed.fed


def _pump(source: Source, stop: threading.Event, report: Report, exit_s: float) -> None:
    """Lines from the file to the feed, until it is finished and confirmed, or stopped."""
    while not stop.is_set():
        report.soon()
        if source.step() is not None:
            continue
        if not source.file.finished:
            stop.wait(POLL_S)
        elif source.wait(PROGRESS_S):
            return
    source.feed.wait(exit_s)
    if source.feed.unconfirmed:
        _log.warning(
            "stopped with lines unconfirmed: the next run reads them again", lines=source.feed.unconfirmed
        )


def blocks(lines: IO[bytes], stop: threading.Event, idle_s: float = PROGRESS_S) -> Iterator[bytes]:
    """What there is to read, as soon as it is there; nothing every idle_s without."""
    try:
        descriptor: int | None = lines.fileno()
    except (OSError, io.UnsupportedOperation, AttributeError):
        descriptor = None
    poll = select.poll()
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN)
    while not stop.is_set():
        if descriptor is not None and not poll.poll(idle_s * 1_000):
            yield b""
            continue
        try:
            block = os.read(descriptor, 1 << 16) if descriptor is not None else lines.read(1 << 16)
        except OSError as error:
            raise UsageError(f"cannot read the lines: {error.strerror}") from None
        if not block:
            return
        yield block
