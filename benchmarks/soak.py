"""Soak: one process sends packs as fast as it goes and one consumes them, for a minute: the rate, and flat memory.

What is settled is trimmed meanwhile, so that the server holds no more than what is under way. The memory of both is
looked at once a second: it is flat if its median in the last quarter is not beyond that of the second quarter by more
than a tenth and 5 MB. Exit code 1 if it is not, or if not all that was sent arrived.
"""

import json
import sys
import threading
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.limits.event import Tally, expected
from benchmarks.own_server import parser, server
from benchmarks.processes import processes
from console.bench.own_keys import OwnKeys
from pipeline.errors import MillstreamError
from pipeline.position import parse_entry_id
from pipeline.server.connect import Connector, Link
from pipeline.server.replies import pairs, text

GROWTH, GROWTH_BYTES = 1.1, 5_000_000
TRIM_S = 0.5
Sample = Sequence[float]
"""Seconds, events so far, resident bytes."""


def flat(samples: Sequence[Sample]) -> bool:
    """Whether memory stays where it was once all was warm."""
    before, after = warm_bytes(samples), late_bytes(samples)
    return after <= before * GROWTH + GROWTH_BYTES


def warm_bytes(samples: Sequence[Sample]) -> float:
    """Memory in the second quarter of the time."""
    return median(_of(samples, 0.25, 0.5))


def late_bytes(samples: Sequence[Sample]) -> float:
    """Memory in the last quarter."""
    return median(_of(samples, 0.75, 1.0))


def _of(samples: Sequence[Sample], start: float, end: float) -> list[float]:
    few = samples[int(len(samples) * start) : max(int(len(samples) * end), int(len(samples) * start) + 1)]
    return [sample[2] for sample in few]


def settled_id(link: Link, stream: str, group: str) -> str | None:
    """All before this entry is settled; None if nothing was read yet."""
    # Asked in this order: what is read between the two is pending beyond the last one read before.
    groups = {text(found["name"]): found for found in map(pairs, link.call("XINFO", "GROUPS", stream))}
    if group not in groups:
        return None
    ids = [text(groups[group]["last-delivered-id"])]
    oldest = link.call("XPENDING", stream, group)[1]
    return min(ids + ([text(oldest)] if oldest else []), key=parse_entry_id)


def trim(connector: Connector, stream: str, group: str, stop: threading.Event) -> None:
    """Remove what is settled, until stopped."""
    link = connector.link("trim")
    while not stop.wait(TRIM_S):
        try:
            settled = settled_id(link, stream, group)
            if settled is not None:
                link.call("XTRIM", stream, "MINID", "~", settled)
        except MillstreamError:
            if link.closed:
                raise  # else there is no stream yet
    link.close()


def measure(url: str, seconds: float) -> dict[str, Any]:
    """One run."""
    keys = OwnKeys()
    stream, group, total_key = keys.stream("soak"), keys.group(), keys.stream("total")
    connector = Connector(url)
    link = connector.link("soak")
    stop = threading.Event()
    trimmer = threading.Thread(target=trim, args=(connector, stream, group, stop), name="trim", daemon=True)
    try:
        trimmer.start()
        with processes(url) as start:
            consumer = start("work-through", stream=stream, group=group, total_key=total_key)
            consumer.line()
            producer = start("send-for", stream=stream, seconds=seconds)
            sent = producer.result()
            link.call("SET", total_key, sent["events"])
            got = consumer.result()
        return {
            "server": connector.capabilities().durability_line(),
            "events": sent["events"],
            "right": Tally(got["events"], got["checksum"]) == expected(sent["events"]),
            "sent_per_s": sent["events"] / sent["seconds"],
            "consumed_per_s": got["events"] / (got["ended_s"] - got["first_s"]),
            "per_s": got["events"] / (got["ended_s"] - sent["began_s"]),
            "producer": _memory(sent),
            "consumer": _memory(got),
        }
    finally:
        stop.set()
        trimmer.join()
        link.close()
        keys.remove(connector)
        connector.close()


def _memory(found: dict[str, Any]) -> dict[str, Any]:
    samples = found["samples"]
    return {
        "flat": flat(samples),
        "warm_bytes": warm_bytes(samples),
        "late_bytes": late_bytes(samples),
        "peak_bytes": found["peak_bytes"],
        "samples": samples,
    }


def show(found: dict[str, Any]) -> None:
    """For people."""
    print(found["server"])
    right = "all arrived" if found["right"] else "WRONG: not all arrived, or others"
    print(f"{found['events']:,} events in packs, {right}")
    print(f"from first send to last settle {found['per_s']:,.0f} events/s")
    print(f"sent {found['sent_per_s']:,.0f} events/s, consumed {found['consumed_per_s']:,.0f} events/s")
    for who in ("producer", "consumer"):
        memory = found[who]
        word = "flat" if memory["flat"] else "GROWS"
        print(
            f"{who}: memory {word}: {memory['warm_bytes'] / 1e6:,.1f} MB in the second quarter, "
            f"{memory['late_bytes'] / 1e6:,.1f} MB in the last, {memory['peak_bytes'] / 1e6:,.1f} MB at most"
        )
        every = max(len(memory["samples"]) // 6, 1)
        for at_s, events, size in memory["samples"][::every]:
            print(f"  after {at_s:5.1f} s  {events:>12,} events  {size / 1e6:7.1f} MB")


def main(args: Sequence[str] | None = None) -> int:
    """Measure and show."""
    options = parser(__doc__ or "")
    options.add_argument("--seconds", type=float, default=60.0, help="how long is sent; default: %(default)g")
    given = options.parse_args(args)
    with server(given.url, given.server) as url:
        found = measure(url, given.seconds)
    print(json.dumps(found, indent=2)) if given.output == "json" else show(found)
    return 0 if found["right"] and found["producer"]["flat"] and found["consumer"]["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
