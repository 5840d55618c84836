"""Delay: from send() to the handler, at a steady rate, our producer and our consumer in one process.

As with the bare loop it is compared with: two threads of one Python process, and the server between them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.limits.event import event as made
from benchmarks.limits.event import index_of, tally
from benchmarks.limits.latency import percentiles, steadily
from console.bench.consuming import LOOK_S, STALLED_S
from console.bench.stopwatch import Stopwatch
from consumers.app import Pipeline
from pipeline.errors import MillstreamError
from pipeline.event import Event
from producers.producer import Producer

WARM_EVENTS = 20
"""The first of a run pay for connections and threads that every later one finds; they are sent, and not judged."""


def latency(
    url: str | None, *, stream: str, group: str, count: int, rate: float, ready: Callable[[], None]
) -> dict[str, Any]:
    """Send so many events at that rate, and take the time of each at the handler's first line."""
    received: list[tuple[str, float]] = []
    keep, now_s = received.append, time.monotonic
    app = Pipeline(url)

    @app.consumer(stream, group=group)
    def handle(event: Event) -> None:
        at_s = now_s()
        keep((event.data["request_id"], at_s))

    rows = [made(index) for index in range(count)]
    watch = Stopwatch()

    async def run() -> list[float]:
        async with app.running():
            ready()
            with Producer(url) as producer:
                watch.start()
                sent_s = await asyncio.to_thread(
                    steadily, count, rate, lambda index: producer.send(stream, rows[index])
                )
                producer.flush(STALLED_S)
                deadline_s = now_s() + STALLED_S
                while len(received) < count:
                    if now_s() > deadline_s:
                        raise MillstreamError(f"{len(received):,} of {count:,} events arrived")
                    await asyncio.sleep(LOOK_S)
                watch.stop()
        return sent_s

    sent_s = asyncio.run(run())
    seconds = [at_s - sent_s[index_of(request_id)] for request_id, at_s in received]
    arrived = tally(request_id for request_id, _ in received)
    return (
        watch.facts()
        | delays(seconds[WARM_EVENTS:] or seconds)
        | {"events": arrived.events, "checksum": arrived.checksum}
    )


def delays(seconds: Sequence[float]) -> dict[str, Any]:
    """The percentiles, in microseconds."""
    return {f"p{point:g}_us": taken_s * 1e6 for point, taken_s in percentiles(seconds).items()}
