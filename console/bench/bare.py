"""Bare: the loops of benchmarks/limits, each as a duty of the bench."""

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.limits.append import DEPTHS, append, best
from benchmarks.limits.consume import consume, single_ids
from benchmarks.limits.event import bodies, events, tally
from benchmarks.limits.latency import latency
from benchmarks.limits.packs import PER_PACK, append_packs, pack_ids
from benchmarks.limits.send import send
from console.bench.delay import WARM_EVENTS, delays
from console.bench.stopwatch import Stopwatch
from pipeline.server.connect import Connector, Link
from pipeline.server.scripts import script

BLOCK_MS = 1_000


@contextmanager
def _links(url: str | None, count: int = 1) -> Iterator[list[Link]]:
    connector = Connector(url)
    links = [connector.link("bench") for _ in range(count)]
    try:
        yield links
    finally:
        for link in links:
            link.close()
        connector.close()


@contextmanager
def _appending(url: str | None, ready: Callable[[], None]) -> Iterator[tuple[socket.socket, Stopwatch]]:
    """A socket to append by, and a watch that runs until the end of the block."""
    with _links(url) as (link,), link.bare() as sock:
        ready()
        watch = Stopwatch()
        watch.start()
        yield sock, watch
        watch.stop()


def bare_append(
    url: str | None, *, stream: str, count: int, once: bool = False, ready: Callable[[], None]
) -> dict[str, Any]:
    """Append so many events, one per entry: at the best of the DEPTHS, or once at the middle one."""
    packed = bodies(count)
    if once:
        with _appending(url, ready) as (sock, watch):
            append(sock, stream, packed, *DEPTHS[len(DEPTHS) // 2])
        return watch.facts()
    with _appending(url, ready) as (sock, watch):
        seconds = best(sock, stream, packed)
    return watch.facts() | {"seconds": seconds, "cpu_s": watch.cpu_s / len(DEPTHS)}


def bare_packs_append(
    url: str | None, *, stream: str, count: int, ready: Callable[[], None]
) -> dict[str, Any]:
    """Append so many events in packs."""
    rows = events(count)
    with _appending(url, ready) as (sock, watch):
        append_packs(sock, stream, rows)
    return watch.facts()


def bare_send(
    url: str | None, *, stream: str, count: int, pack: bool = False, ready: Callable[[], None]
) -> dict[str, Any]:
    """Send so many events one by one, from one thread to another, by the append script."""
    rows = events(count)
    with _appending(url, ready) as (sock, watch):
        send(
            sock, stream, script("append").text, rows,
            per_pack=PER_PACK if pack else 0, producer=secrets.token_hex(8),
        )  # fmt: skip
    return watch.facts()


def bare_consume(
    url: str | None,
    *,
    stream: str,
    group: str,
    count: int,
    block: bool = False,
    packs: bool = False,
    ready: Callable[[], None],
) -> dict[str, Any]:
    """Read and acknowledge a whole stream; with block, one that is being written."""
    with _links(url) as (link,):
        link.call("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
        entries = count if block else link.call("XLEN", stream)
        ready()
        watch, decode = Stopwatch(), pack_ids if packs else single_ids
        with link.bare() as sock:
            watch.start()
            _, ids = consume(sock, stream, group, entries, decode, BLOCK_MS if block else 0)
            watch.stop()
    arrived = tally(ids)
    return watch.facts() | {"events": arrived.events, "checksum": arrived.checksum}


def bare_packs_consume(
    url: str | None, *, stream: str, group: str, count: int, ready: Callable[[], None]
) -> dict[str, Any]:
    """The same with a stream of packs."""
    return bare_consume(url, stream=stream, group=group, count=count, packs=True, ready=ready)


def bare_latency(
    url: str | None, *, stream: str, group: str, count: int, rate: float, ready: Callable[[], None]
) -> dict[str, Any]:
    """Send at a rate in one thread, and receive in another."""
    with _links(url, 2) as (sender, reader):
        sender.call("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
        ready()
        watch = Stopwatch()
        with sender.bare() as sending, reader.bare() as receiving:
            watch.start()
            seconds, ids = latency(sending, receiving, stream, group, count, rate)
            watch.stop()
    arrived = tally(ids)
    return (
        watch.facts()
        | delays(seconds[WARM_EVENTS:] or seconds)
        | {"events": arrived.events, "checksum": arrived.checksum}
    )
