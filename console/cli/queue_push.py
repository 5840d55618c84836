"""millstream queue push: a task, a call of a function, or a task for each line, onto a list."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import click

from console.cli.exit_codes import FAILED, OK
from console.cli.kinds import DURATION
from console.cli.progress import Progress
from console.cli.queue_options import LIST, Layout, laid_out
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import as_time, counted
from consumers.list_queue import ListQueue
from pipeline.due import Due, due_of
from pipeline.errors import MillstreamError, UsageError
from pipeline.server.list_push import MAX_PAYLOADS, Pushed
from pipeline.task import decode_task

STDIN = "-"
READ_BYTES = 1 << 18
CALL_BYTES = 1 << 20
SHOWN_BAD = 5


@click.command(
    "push",
    cls=Verb,
    examples=[
        ("""millstream queue push emails '{"to": "ada@example.org"}'""", "one task"),
        ("millstream queue push emails --function send_email --arg ada@example.org --arg 3", "a call of a function"),
        ("millstream queue push emails --after 10m 'remind ada'", "in ten minutes"),
        ("millstream queue push emails --at 2030-01-01T09:00 'a happy new year'", "at a time"),
        ("millstream queue push jobs --order priority --priority 5 'tidy up'", "into a priority queue"),
        ("millstream queue push emails --lines tasks.jsonl", "a task for each line of a file; - is standard input"),
    ],
)  # fmt: skip
@click.argument("name", metavar="LIST", type=LIST)
@click.argument("payload_text", metavar="[PAYLOAD]", required=False)
@click.option("--lines", metavar="FILE", help="A task for each line of this file; -: of standard input.")
@click.option("--function", metavar="NAME", help="A task that asks workers to call this function of theirs.")
@click.option("--arg", "args", metavar="VALUE", multiple=True,
              help="An argument of it, in order: JSON, or text if it is none.")  # fmt: skip
@click.option("--kwarg", "kwargs", metavar="NAME=VALUE", multiple=True, help="A named argument of it.")
@click.option("--after", type=DURATION, metavar="DURATION", help="Not before so long from now: 30s, 10m.")
@click.option("--at", "at", metavar="TIME", help="Not before this time: an ISO time, or seconds since 1970.")
@click.option(
    "--priority", type=float, metavar="NUMBER", help="With --order priority: the lowest runs first."
)
@laid_out
@click.pass_obj
def push(
    session: Session,
    name: str,
    payload_text: str | None,
    lines: str | None,
    function: str | None,
    args: tuple[str, ...],
    kwargs: tuple[str, ...],
    after: int | None,
    at: str | None,
    priority: float | None,
    layout: Layout,
) -> int:
    """Push tasks onto LIST, as old producers do: what workers get is the payload as it is given here.

    A push whose answer is lost is repeated, and done once. Without PAYLOAD, --function or --lines, each line of
    standard input is a task, if it is no terminal.
    """
    due = due_of(after=None if after is None else after / 1_000, at=None if at is None else _time(at))
    given = [payload_text is not None, lines is not None, function is not None]
    if sum(given) > 1:
        raise UsageError("what is to be pushed? One of PAYLOAD, --lines and --function")
    if (args or kwargs) and function is None:
        raise UsageError("--arg and --kwarg are those of a --function")
    if function == "":
        raise UsageError("--function has no name: no worker could find it")
    if not any(given):
        if sys.stdin.isatty():
            raise UsageError(
                "what is to be pushed? PAYLOAD, --function NAME, or --lines FILE (-: standard input)"
            )
        lines = STDIN
    session.link("queue").close()  # a server that is away from the start is said at once, not waited for
    with ListQueue(layout.of(name), connector=session.connector()) as queue:
        if lines is not None:
            return _push_lines(session, queue, lines, due, priority)
        if function is not None:
            data: dict[str, Any] = {"function": function, "args": [_value(one) for one in args]}
            if kwargs:
                data["kwargs"] = dict(_named(one) for one in kwargs)
            payload = queue.encode(data)
        else:
            assert payload_text is not None, "one of the three is given"
            payload = _payload(queue, payload_text.encode("utf-8", "surrogateescape"))
        pushed = queue.push_payloads([payload], due, priority)
        _say(session, queue, pushed)
    return OK


def _push_lines(
    session: Session, queue: ListQueue, path: str, due: Due | None, priority: float | None
) -> int:
    """A task for each line; what is none is said, and holds nothing up."""
    pushed: Pushed | None = None
    count = merged = number = under_way = 0
    bad: list[int] = []
    try:
        with Progress(session.out, "pushed") as progress:
            for some in _in_calls(_lines(path)):
                payloads = []
                for line in some:
                    number += 1
                    if not line:
                        continue
                    try:
                        payloads.append(_payload(queue, line))
                    except MillstreamError as error:
                        bad.append(number)
                        if len(bad) <= SHOWN_BAD:
                            session.out.warn(f"line {number:,} is not pushed: {error}")
                if payloads:
                    under_way = len(payloads)
                    pushed = queue.push_payloads(payloads, due, priority)
                    count, under_way = count + len(payloads), 0
                    merged += len(pushed.merged)
                    progress.at(count)
    except KeyboardInterrupt:
        session.out.warn(
            f"interrupted: {counted(count, 'task')} pushed to {queue.name}"
            + (f"; {under_way:,} more may be there: the server had not answered yet" if under_way else "")
        )
        raise
    except MillstreamError as error:
        error.add_note(
            f"{counted(count, 'task')} pushed to {queue.name} before that, of the first {number:,} lines"
        )
        raise
    session.out.done(
        f"{counted(count, 'task')} pushed to {queue.name}"
        + (f", which holds {pushed.length:,}" if pushed and pushed.due_ms is None else "")
        + (f", due {as_time(pushed.due_ms)}" if pushed and pushed.due_ms is not None else "")
        + (f"; {merged:,} of them are one task with an equal one" if merged else "")
        + (f"; {counted(len(bad), 'line')} not pushed" if bad else ""),
        list=queue.name,
        pushed=count,
        length=pushed.length if pushed else None,
        due_ms=pushed.due_ms if pushed else None,
        merged=merged,
        bad=len(bad),
    )
    return FAILED if bad else OK


def _say(session: Session, queue: ListQueue, pushed: Pushed) -> None:
    where = queue.name if pushed.due_ms is None else f"the delayed tasks of {queue.name}"
    session.out.done(
        f"1 task pushed to {where}, {'which holds' if pushed.due_ms is None else 'which are'} {pushed.length:,}"
        + (f"; it is due {as_time(pushed.due_ms)}" if pushed.due_ms is not None else "")
        + ("; an equal one was there: they are one task now" if pushed.merged else ""),
        list=queue.name,
        pushed=1,
        length=pushed.length,
        due_ms=pushed.due_ms,
        merged=len(pushed.merged),
    )


def _payload(queue: ListQueue, text: bytes) -> bytes:
    """What is pushed for what was typed: the bytes as they are, if they are of the queue's format; msgpack is made of
    JSON."""
    form = queue.options.payload
    if form != "msgpack":
        decode_task(text, queue.options.codec)
        return text
    try:
        return queue.encode(json.loads(text))
    except ValueError as error:
        raise UsageError(f"not JSON, which --payload msgpack is made from: {error}") from None


def _lines(path: str) -> Iterator[list[bytes]]:
    """The lines of a file, as many together as are there to be read: what comes slowly is pushed as it comes."""
    if os.path.isdir(path):
        raise UsageError(f"--lines {path}: it is a folder")
    descriptor = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY)
    try:
        rest = b""
        while data := os.read(descriptor, READ_BYTES):
            *whole, rest = (rest + data).split(b"\n")
            if whole:
                yield [line.removesuffix(b"\r") for line in whole]
        if rest:
            yield [rest]
    finally:
        if path != STDIN:
            os.close(descriptor)


def _in_calls(groups: Iterator[list[bytes]]) -> Iterator[Sequence[bytes]]:
    """The lines in as many as one call takes."""
    for lines in groups:
        start = size = 0
        for at, line in enumerate(lines):
            if at > start and (at - start == MAX_PAYLOADS or size + len(line) > CALL_BYTES):
                yield lines[start:at]
                start, size = at, 0
            size += len(line)
        yield lines[start:]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _named(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--kwarg {text!r}: write NAME=VALUE")
    return name, _value(value)


def _time(text: str) -> datetime | float:
    """A time as it is typed: local, unless it says its zone."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--at={text!r} is not a time: write an ISO time such as 2030-01-01T09:00, or seconds since 1970"
        ) from None
