"""millstream queue pop and peek: tasks off a list, or only looked at."""

import sys
from typing import Any

import click

from console.cli.exit_codes import NOT_FOUND, OK
from console.cli.kinds import DURATION
from console.cli.queue_options import LIST, Layout, laid_out
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import Column, as_text, number
from console.safe_text import json_text, safe, safe_bytes
from consumers.list_queue import ListQueue
from pipeline.errors import DecodeError, UsageError
from pipeline.server.list_peek import ListTask

SHOWN_CHARS = 200
"""Of a payload a person is shown so much; JSON has all."""


@click.command(
    "pop",
    cls=Verb,
    examples=[
        ("millstream queue pop emails", "the next task, on standard output; exit code 3 if there is none"),
        ("millstream queue pop urgent emails --timeout 1m", "of the first list that has one, waiting for it"),
        ("millstream queue pop emails --count 100 -o ndjson", "up to a hundred, for a script"),
        ("millstream queue pop jobs --order priority", "the one of the lowest priority number"),
    ],
)
@click.argument("names", metavar="LIST...", type=LIST, nargs=-1, required=True)
@click.option("--count", type=click.IntRange(min=1), metavar="COUNT", default=1, show_default=True,
              help="At most so many tasks.")  # fmt: skip
@click.option("--timeout", type=DURATION, metavar="DURATION", default="0s", show_default=True,
              help="Wait so long for each.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait for ever.")
@laid_out
@click.pass_obj
def pop(
    session: Session, names: tuple[str, ...], count: int, timeout: int, wait: bool, layout: Layout
) -> int:
    """Take tasks off LIST and print their payloads, each on a line: the plain pop, as BRPOP.

    What is printed is gone from the list, whatever becomes of it: for work that must be done use workers (`millstream
    run`, or take() of ListQueue). Of several lists the first that has a task is taken from. Exit code 3: no task came.
    """
    out = session.out
    if wait and timeout:
        raise UsageError("--wait waits for ever, --timeout for a while: one of them")
    limit_s = None if wait else timeout / 1_000
    session.link("queue").close()  # a server that is away from the start is said at once, not waited for
    queues = [ListQueue(layout.of(name), connector=session.connector()) for name in dict.fromkeys(names)]
    rows: list[dict[str, Any]] = []
    popped = 0
    try:
        for _ in range(count):
            found = ListQueue.pop_payload(queues, limit_s)
            if found is None:
                break
            queue, payload = found
            popped += 1
            if out.format == "json":
                rows.append(_row(queue, payload))
                continue
            try:
                if out.for_people:
                    # As it is where a program reads it, with nothing that could steer a terminal where a person does.
                    line = safe_bytes(payload).encode() if sys.stdout.isatty() else payload
                    sys.stdout.flush()
                    _write(line + b"\n")
                else:
                    _write((json_text(_row(queue, payload)) + "\n").encode())
            except OSError:
                # Nobody has read it: it is not lost for that.
                queue.put_back(payload)
                raise
    finally:
        for queue in queues:
            queue.close()
    if out.format == "json":
        out.values(rows)
    if not popped:
        out.talk(f"no task came: {' and '.join(names)} {'is' if len(names) == 1 else 'are'} empty")
    return OK if popped else NOT_FOUND


@click.command(
    "peek",
    cls=Verb,
    examples=[
        ("millstream queue peek emails", "the next ten, in the order they will be taken"),
        (
            "millstream queue peek emails --start 100 --count 5 --json",
            "five of those behind them, for a script",
        ),
    ],
)
@click.argument("name", metavar="LIST", type=LIST)
@click.option("--count", type=click.IntRange(min=1, max=10_000), metavar="COUNT", default=10, show_default=True,
              help="At most so many tasks.")  # fmt: skip
@click.option("--start", type=click.IntRange(min=0), metavar="PLACE", default=0, show_default=True,
              help="Pass over so many first.")  # fmt: skip
@laid_out
@click.pass_obj
def peek(session: Session, name: str, count: int, start: int, layout: Layout) -> None:
    """Show the tasks that will be taken next from LIST; none is. What cannot be decoded is shown as that."""
    options = layout.of(name)
    with ListQueue(options, connector=session.connector()) as queue:
        found = queue.peek(count, start=start)
    columns = [
        number("place", "PLACE"),
        *([number("priority", "PRIORITY", _score)] if options.is_sorted else []),
        Column("function", "FUNCTION", as_text),
        Column("payload", "PAYLOAD", _short, shrinks=True),
    ]  # fmt: skip
    rows = [_peeked(task) for task in found]
    session.out.rows(
        columns, rows, none=f"no task waits in {name}" + (f" from place {start:,} on" if start else "")
    )


def _peeked(task: ListTask) -> dict[str, Any]:
    return {
        "place": task.place,
        "priority": task.priority,
        "function": task.function,
        "data": task.data,
        "payload": task.payload,
        "error": task.error,
        "handed": task.handed,
    }


def _row(queue: ListQueue, payload: bytes) -> dict[str, Any]:
    try:
        return {"list": queue.name, "data": queue.decode(payload), "payload": payload, "error": ""}
    except DecodeError as error:
        return {"list": queue.name, "data": None, "payload": payload, "error": str(error)}


def _score(priority: float | None) -> str:
    return "?" if priority is None else f"{priority:g}"


def _short(payload: bytes) -> str:
    text = safe(payload.decode("utf-8", "backslashreplace"))
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def _write(data: bytes) -> None:
    """Write it now: an error is of this and of nothing before."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
