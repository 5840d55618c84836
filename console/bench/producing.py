"""Producing: our own producer, from the first send to the last confirmation."""

from collections.abc import Callable
from typing import Any

from benchmarks.limits.event import events
from console.bench.stopwatch import Stopwatch
from producers.producer import Producer

ROWS = 1_000
"""Rows per send_many(): what a program hands over that reads a file or a table piece by piece."""
CONFIRM_S = 60.0


def produce(
    url: str | None,
    *,
    stream: str,
    count: int,
    many: bool = False,
    pack: bool = False,
    ready: Callable[[], None],
    watch: Stopwatch | None = None,
) -> dict[str, Any]:
    """Send so many events and wait for all receipts. The events are made before the clock runs."""
    rows = events(count)
    watch = watch or Stopwatch()
    with Producer(url, pack=pack) as producer:
        # Connected, and the script known: neither is what is measured.
        producer.send(f"{stream}-first", {"first": True}).result(CONFIRM_S)
        ready()
        watch.start()
        if many:
            receipts = [
                producer.send_many(stream, rows[at : at + ROWS], pack=pack) for at in range(0, count, ROWS)
            ]
        else:
            send = producer.send
            receipts = [send(stream, row) for row in rows]
        for receipt in receipts:
            receipt.result(CONFIRM_S)
        watch.stop()
    return watch.facts()
