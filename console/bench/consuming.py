"""Consuming: our own consumer over a stream that is full, from joining the group to the last entry settled.

Its handlers keep each event's request_id and do nothing else: what arrived is added up when the clock has stopped.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.limits.event import tally
from console.bench.stopwatch import Stopwatch
from consumers.app import Pipeline
from pipeline.errors import MillstreamError
from pipeline.event import Event
from pipeline.server.connect import Connector, Link

LOOK_S = 0.001
LONGEST_LOOK_S = 0.05
STALLED_S = 30.0
BATCH = 500


def consume(
    url: str | None, *, stream: str, group: str, count: int, handler: str, ready: Callable[[], None]
) -> dict[str, Any]:
    """Handle so many events. What joining costs, some ms, is counted."""
    ids: list[str] = []
    app = Pipeline(url)
    declare(app, stream, group, handler, ids)
    watch = Stopwatch()
    connector = Connector(url)
    try:
        asyncio.run(_handled(app, connector.link("bench"), stream, group, ids, count, ready, watch))
    finally:
        connector.close()
    arrived = tally(ids)
    return watch.facts() | {"events": arrived.events, "checksum": arrived.checksum}


def next_look_s(done: int, count: int, passed_s: float) -> float:
    """When to look again: seldom, since a look takes the interpreter from the handlers, but just in time."""
    left_s = passed_s / done * (count - done) if done else math.inf
    return min(max(left_s * 0.9, LOOK_S), LONGEST_LOOK_S)


def declare(app: Pipeline, stream: str, group: str, handler: str, ids: list[str]) -> None:
    """Declare the handler of this kind: plain, async, await or batch."""
    keep = ids.append
    if handler == "plain":

        @app.consumer(stream, group=group)
        def plain(event: Event) -> None:
            keep(event.data["request_id"])

    elif handler == "async":

        @app.consumer(stream, group=group, concurrency=64)
        async def at_once(event: Event) -> None:
            keep(event.data["request_id"])

    elif handler == "await":

        @app.consumer(stream, group=group, concurrency=64)
        async def suspending(event: Event) -> None:
            await asyncio.sleep(0)
            keep(event.data["request_id"])

    else:

        @app.consumer(stream, group=group, batch=BATCH)
        def batch(events: list[Event]) -> None:
            ids.extend([event.data["request_id"] for event in events])


async def _handled(
    app: Pipeline,
    link: Link,
    stream: str,
    group: str,
    ids: Sequence[str],
    count: int,
    ready: Callable[[], None],
    watch: Stopwatch,
) -> None:
    watch.start()
    async with app.running() as running:
        ready()
        seen, since_s = 0, time.monotonic()
        while len(ids) < count:
            await asyncio.sleep(next_look_s(len(ids), count, time.monotonic() - watch.began_s))
            if running.failure is not None:
                raise running.failure
            if len(ids) > seen:
                seen, since_s = len(ids), time.monotonic()
            elif time.monotonic() - since_s > STALLED_S:
                raise MillstreamError(
                    f"{seen:,} of {count:,} events arrived, and no other for {STALLED_S:g} s"
                )
        while link.call("XPENDING", stream, group)[0]:  # noqa: ASYNC110 - nobody tells but the server
            await asyncio.sleep(LOOK_S)
        watch.stop()
