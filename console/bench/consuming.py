"""Consuming: our own consumer over a stream that is full, from joining the group to the last entry settled.

Handlers do nothing, and the server says that all was acknowledged; or they keep each event's request_id, and what
arrived is added up when the clock has stopped.
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
from pipeline.server.replies import pairs

LOOK_S = 0.001
LONGEST_LOOK_S = 0.05
STALLED_S = 30.0
BATCH = 500
IDLE = ("plain", "async", "await", "batch")
"""Handlers that do nothing."""


def consume(
    url: str | None,
    *,
    stream: str,
    group: str,
    count: int,
    handler: str,
    ready: Callable[[], None],
    watch: Stopwatch | None = None,
) -> dict[str, Any]:
    """Handle so many events. What joining costs, some ms, is counted."""
    ids: list[str] = []
    app = Pipeline(url)
    declare(app, stream, group, handler, ids)
    watch = watch or Stopwatch()
    connector = Connector(url)
    try:
        asyncio.run(
            _handled(
                app, connector.link("bench"), stream, group, ids, count, ready, watch, handler not in IDLE
            )
        )
    finally:
        connector.close()
    if handler in IDLE:
        return watch.facts() | {"events": count, "checksum": None}
    arrived = tally(ids)
    return watch.facts() | {"events": arrived.events, "checksum": arrived.checksum}


def next_look_s(done: int, count: int, passed_s: float) -> float:
    """When to look again: seldom, since a look takes the interpreter from the handlers, but just in time."""
    left_s = passed_s / done * (count - done) if done else math.inf
    return min(max(left_s * 0.9, LOOK_S), LONGEST_LOOK_S)


def declare(app: Pipeline, stream: str, group: str, handler: str, ids: list[str]) -> None:
    """Declare the handler of this kind: plain, async, await or batch, which do nothing, or data or batch-data."""
    keep = ids.append
    if handler == "plain":

        @app.consumer(stream, group=group)
        def nothing(event: Event) -> None:
            pass

    elif handler == "data":

        @app.consumer(stream, group=group)
        def plain(event: Event) -> None:
            keep(event.data["request_id"])

    elif handler == "async":

        @app.consumer(stream, group=group, concurrency=64)
        async def at_once(event: Event) -> None:
            pass

    elif handler == "await":

        @app.consumer(stream, group=group, concurrency=64)
        async def suspending(event: Event) -> None:
            await asyncio.sleep(0)

    elif handler == "batch":

        @app.consumer(stream, group=group, batch=BATCH)
        def no_batch(events: list[Event]) -> None:
            pass

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
    count_ids: bool,
) -> None:
    wanted = count if count_ids else link.call("XLEN", stream)
    watch.start()
    async with app.running() as running:
        ready()
        (member,) = running.members

        def done() -> int:  # entries, where nothing but acks tells
            return len(ids) if count_ids else member.counts.settled

        seen, since_s = 0, time.monotonic()
        while done() < wanted:
            await asyncio.sleep(next_look_s(done(), wanted, time.monotonic() - watch.began_s))
            if running.failure is not None:
                raise running.failure
            if done() > seen:
                seen, since_s = done(), time.monotonic()
            elif time.monotonic() - since_s > STALLED_S:
                raise MillstreamError(
                    f"{seen:,} of {wanted:,} events arrived, and no other for {STALLED_S:g} s"
                )
        while not _all_acked(link, stream, group):  # noqa: ASYNC110 - nobody tells but the server
            await asyncio.sleep(LOOK_S)
        watch.stop()


def _all_acked(link: Link, stream: str, group: str) -> bool:
    """Whether the group has read all of the stream, and nothing of it is pending."""
    last = pairs(link.call("XINFO", "STREAM", stream))["last-generated-id"]
    groups = [pairs(each) for each in link.call("XINFO", "GROUPS", stream)]
    return any(
        each["name"] == group.encode() and each["last-delivered-id"] == last and not each["pending"]
        for each in groups
    )
