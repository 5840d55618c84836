"""The processes of backlog.py, scale.py and soak.py: what each does, beside the duties of `millstream bench`."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.limits.address import call
from benchmarks.limits.event import Tally, events, tally
from benchmarks.limits.latency import percentiles
from console.bench.consuming import BATCH, LOOK_S, STALLED_S
from console.bench.stopwatch import Stopwatch, peak_bytes
from console.bench.work import DUTIES, main
from consumers.app import Pipeline
from pipeline.errors import MillstreamError
from pipeline.server.connect import Connector, Link
from producers.producer import Producer
from producers.receipt import Receipt

SAMPLE_S = 1.0
ROWS = 1_000
UNCONFIRMED = 20
"""Sends of ROWS events that may wait for their confirmation."""
PROBE_S = 0.001


def send_for(url: str | None, *, stream: str, seconds: float, ready: Callable[[], None]) -> dict[str, Any]:
    """Send packs as fast as it goes, for so long. Events are made on the way: nothing grows but what we keep."""
    sent, samples = 0, Samples()
    unconfirmed: deque[Receipt] = deque()
    watch = Stopwatch()
    with Producer(url, pack=True) as producer:
        ready()
        watch.start()
        while time.monotonic() - watch.began_s < seconds:
            unconfirmed.append(producer.send_many(stream, events(ROWS, sent)))
            sent += ROWS
            if len(unconfirmed) > UNCONFIRMED:
                unconfirmed.popleft().result(STALLED_S)
            samples.take(sent)
        while unconfirmed:
            unconfirmed.popleft().result(STALLED_S)
        watch.stop()
    return watch.facts() | {"events": sent, "samples": samples.taken}


def work_through(
    url: str | None,
    *,
    stream: str,
    group: str,
    total_key: str,
    claim_after: str | None = None,
    each: bool = False,
    ready: Callable[[], None],
) -> dict[str, Any]:
    """Handle events in batches, or each on its own, and keep nothing of them but a sum, until as many have come as
    total_key says."""
    app, got, samples = Pipeline(url), [Tally()], Samples()
    noted: deque[str] = deque()

    @app.consumer(stream, group=group, batch=None if each else BATCH, claim_after=claim_after)
    def add_up(some: Any) -> None:
        if each:
            noted.append(some.data["request_id"])
        else:
            noted.extend(event.data["request_id"] for event in some)

    def count() -> int:
        got[0] += tally([noted.popleft() for _ in range(len(noted))])
        return got[0].events

    watch = Stopwatch()
    first_s = [0.0]

    async def run(link: Link) -> None:
        total, seen, since_s = None, 0, time.monotonic()
        watch.start()
        async with app.running() as running:
            ready()
            while total is None or count() < total:
                await asyncio.sleep(LOOK_S * 10)
                samples.take(count())
                if running.failure is not None:
                    raise running.failure
                if got[0].events > seen:
                    first_s[0] = first_s[0] or time.monotonic()
                    seen, since_s = got[0].events, time.monotonic()
                elif time.monotonic() - since_s > STALLED_S:
                    raise MillstreamError(
                        f"{seen:,} of {total or 0:,} events came, and no other for {STALLED_S:g} s"
                    )
                if total is None and (said := link.call("GET", total_key)) is not None:
                    total = int(said)
            while link.call("XPENDING", stream, group)[0]:  # noqa: ASYNC110 - nobody tells but the server
                await asyncio.sleep(LOOK_S)
            watch.stop()

    connector = Connector(url)
    try:
        asyncio.run(run(connector.link("look")))
    finally:
        connector.close()
    return watch.facts() | {
        "events": got[0].events,
        "checksum": got[0].checksum,
        "first_s": first_s[0],
        "samples": samples.taken,
    }


def probe(url: str | None, *, stop_key: str, ready: Callable[[], None]) -> dict[str, Any]:
    """PING every ms until the key is there; how long the answers took. A late one is what others waited, too."""
    taken_s: list[float] = []
    connector = Connector(url)
    link, looking = connector.link("probe"), connector.link("look")
    try:
        with link.bare() as sock:
            ready()
            while len(taken_s) % 100 or not looking.call("EXISTS", stop_key):
                began_s = time.perf_counter()
                call(sock, "PING")
                taken_s.append(time.perf_counter() - began_s)
                time.sleep(PROBE_S)
    finally:
        link.close()
        looking.close()
        connector.close()
    return {"pings": len(taken_s)} | {
        f"p{point:g}_ms": took * 1e3 for point, took in percentiles(taken_s).items()
    }


class Samples:
    """How many events and how much memory, once a second: [seconds, events, resident bytes]."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, int, int]] = []
        self._began_s = self._next_s = time.monotonic()

    def take(self, count: int) -> None:
        """Called often; takes one when it is time."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s += SAMPLE_S
            self.taken.append((now_s - self._began_s, count, resident_bytes()))


def resident_bytes() -> int:
    """What this process has resident just now; where the system does not say, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return peak_bytes()
    import resource

    return pages * resource.getpagesize()


MORE: Mapping[str, Callable[..., dict[str, Any]]] = {
    "send-for": send_for,
    "work-through": work_through,
    "probe": probe,
}

if __name__ == "__main__":
    sys.exit(main({**DUTIES, **MORE}))
