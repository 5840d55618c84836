"""What shipping costs the application that logs: `python -m benchmarks.logs [-o json]`.

Three figures, each against the same program without shipping, in turns, so that what the machine does meanwhile meets
both alike: the duration of one log call, and of its bare steps (benchmarks/limits/log_call.py); how much slower a loop
that computes and logs becomes; and a handler of the standard library against its own QueueHandler. Each line differs
from the last. In the end every line that was logged must be in the stream.
"""

import argparse
import contextlib
import json
import logging
import os
import queue
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from logging.handlers import QueueHandler
from typing import Any, Protocol, TypeAlias

import structlog

from benchmarks.limits.log_call import BareShipping
from pipeline.server.connect import Connector
from pipeline.server.embedded import EmbeddedServer
from pipeline.server.locate import Address, locate
from pipeline.server.replies import parse_entries
from pipeline.wire import decode_entry
from producers.logs import LogHandler, ShipLogs, ship_logs

STREAM = "benchmark-logs"
PER_S = 20_000
EVERY_S = 1 / PER_S
ROUNDS = 8
LINES = 8_000
"""Lines of one turn: 0.4 s."""
DIFFERENT = 4_096
"""Lines before they repeat."""
LEAST_NAP_S = 0.001
"""An application that waits does so for a while, and then has more than one line to log."""

Fields: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[[Fields], object]
"""Logs one line."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Two ways in turns: the medians over all turns, and of the differences within each turn."""

    what: str
    unit: str
    without: float
    with_shipping: float
    more: float
    allowed: float | None
    """The most that `more` may be; None: no bound is set."""


class Pace(Protocol):
    """Waits until it is time for a line."""

    def __call__(self, due_s: float) -> None: ...


def nap(due_s: float) -> None:
    """As an application that waits for its clients."""
    ahead_s = due_s - time.perf_counter()
    if ahead_s > LEAST_NAP_S:
        time.sleep(ahead_s)


def spin(due_s: float) -> None:
    """As an application that computes all the time, and so never gives the interpreter up by itself."""
    while time.perf_counter() < due_s:
        pass


def lines() -> list[Fields]:
    """Different lines of nine fields (level and event come with the call), of about 161 bytes as msgpack."""
    return [
        {
            "logger": "shop.orders",
            "method": ("GET", "POST", "PUT")[number % 3],
            "path": f"/orders/{7_919 * number % 100_000}",
            "status": (200, 201, 404)[number % 7 % 3],
            "duration_ms": number % 997 / 8,
            "request_id": f"{0x9E3779B97F4A7C15 * number % 2**64:016x}",
            "user": f"user-{104_729 * number % 10_000}",
        }
        for number in range(1, DIFFERENT + 1)
    ]


class Silent:
    """The logger at the end of the chain: takes the rendered line, and does nothing with it."""

    def info(self, line: str) -> None:
        """As all others."""


def passes(_logger: object, _method: str, fields: Any) -> Any:
    """The processor in the place of ship_logs() that does nothing."""
    return fields


def chain(end: Any) -> Call:
    """One log call through a short chain of structlog, with `end` before the renderer."""
    log = structlog.wrap_logger(
        Silent(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            end,
            structlog.processors.JSONRenderer(),
        ],
    ).bind()
    return lambda fields: log.info("request served", **fields)


def records(name: str, handler: logging.Handler) -> Call:
    """One log call of the standard library that meets this handler alone."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return lambda fields: logger.info(
        "%s %s served in %s ms", fields["method"], fields["path"], fields["duration_ms"]
    )


def durations_us(call: Call, rows: Sequence[Fields], pace: Pace) -> list[float]:
    """How long each call took, at 20,000 a second."""
    found = []
    clock = time.perf_counter_ns
    due_s = time.perf_counter()
    for number in range(LINES):
        fields = rows[number % DIFFERENT]
        pace(due_s)
        began = clock()
        call(fields)
        found.append((clock() - began) / 1_000)
        due_s += EVERY_S
    return found


def p99(values: Sequence[float]) -> float:
    """What 99 of 100 values stay below."""
    return sorted(values)[len(values) * 99 // 100]


def turns(ways: Sequence[Callable[[], Any]], rounds: int, between: Callable[[], object]) -> list[list[Any]]:
    """What each way gave, round by round; they take turns, and so does who is first."""
    found: list[list[Any]] = [[] for _ in ways]
    for number in range(rounds + 1):
        order = list(enumerate(ways))
        for index, way in order if number % 2 else reversed(order):
            result = way()
            between()
            if number:  # the first round warms up
                found[index].append(result)
    return found


def compared(what: str, unit: str, pairs: Sequence[tuple[float, float]], allowed: float | None) -> Compared:
    """Pairs of (without, with), one a round."""
    return Compared(
        what,
        unit,
        statistics.median(without for without, _ in pairs),
        statistics.median(shipping for _, shipping in pairs),
        statistics.median(shipping - without for without, shipping in pairs),
        allowed,
    )


def call_durations(ship: ShipLogs, bare: BareShipping, rounds: int) -> Iterator[Compared]:
    """The duration of one log call with shipping, with the bare steps of it, and with nothing in its place."""
    rows = lines()

    def between() -> None:
        settle(ship)
        bare.settle()

    for pace, said in ((nap, "an application that waits"), (spin, "an application that computes")):
        ways = [partial(durations_us, chain(end), rows, pace) for end in (passes, ship, bare.take)]
        without, shipping, least = turns(ways, rounds, between)
        for name, of, allowed in (("median", statistics.median, 1.0), ("p99", p99, 5.0)):
            for found, what, most in ((shipping, "", allowed), (least, ", bare steps", None)):
                pairs = [(of(one), of(other)) for one, other in zip(without, found, strict=True)]
                yield compared(f"log call of {said}, {name}{what}", "µs", pairs, most)


@contextlib.contextmanager
def bare_shipping(address: Address) -> Iterator[BareShipping]:
    """The bare steps, into a stream of their own, which is gone afterwards."""
    connector = Connector(address)
    link = connector.link("benchmark")
    try:
        with link.bare() as sock:
            bare = BareShipping(
                sock, f"{STREAM}-bare", frozenset((*lines()[0], "event", "level", "timestamp"))
            )
            try:
                yield bare
            finally:
                bare.close()
        link.call("DEL", f"{STREAM}-bare")
    finally:
        link.close()
        connector.close()


def loop_slowed(ship: ShipLogs, rounds: int) -> Iterator[Compared]:
    """How long a loop takes that computes for as long as 20,000 lines a second leave, and logs."""
    rows = lines()

    def computed(amount: int, call: Call) -> float:
        began = time.perf_counter()
        total = 0
        for number in range(LINES):
            for step in range(amount):
                total += step & number
            call(rows[number % DIFFERENT])
        return (time.perf_counter() - began) / LINES * 1e6

    def nothing(_fields: Fields) -> None:
        """Logs nothing."""

    some = 100
    step_us = min(computed(some, nothing) for _ in range(3)) / some
    bare_us = min(computed(0, chain(passes)) for _ in range(3))
    amount = max(int((EVERY_S * 1e6 - bare_us) / step_us), 1)
    ways = [partial(computed, amount, chain(end)) for end in (passes, ship)]
    without, shipping = turns(ways, rounds, partial(settle, ship))
    pairs = list(zip(without, shipping, strict=True))
    yield compared("loop that computes and logs, per line", "µs", pairs, None)
    percents = [(0.0, (after / before - 1) * 100) for before, after in pairs]
    yield compared("loop that computes and logs, slowed by", "%", percents, 10.0)


def handler_durations(url: str, rounds: int) -> Iterator[Compared]:
    """The duration of one log call of the standard library, with LogHandler and with QueueHandler."""
    rows = lines()
    shipping = LogHandler(STREAM, url=url)
    for kind in (queue.SimpleQueue, queue.Queue):
        waiting: Any = kind()
        calls = [
            records(f"benchmark.{kind.__name__}", QueueHandler(waiting)),
            records(f"benchmark.{kind.__name__}.ship", shipping),
        ]

        def empty(waiting: Any = waiting) -> None:
            settle(shipping)
            while not waiting.empty():
                waiting.get()

        ways = [partial(durations_us, call, rows, nap) for call in calls]
        others, ours = turns(ways, rounds, empty)
        for name, of, allowed in (("median", statistics.median, 0.0), ("p99", p99, None)):
            pairs = [(of(one), of(other)) for one, other in zip(others, ours, strict=True)]
            yield compared(
                f"LogHandler against QueueHandler({kind.__name__}()), {name}", "µs", pairs, allowed
            )


def settle(ship: ShipLogs | LogHandler) -> None:
    """What is queued is sent before the next turn begins."""
    ship.shipper.flush(10_000)


def in_stream(address: Address) -> int:
    """How many lines the stream holds."""
    connector = Connector(address)
    link = connector.link("benchmark")
    found, start = 0, "-"
    try:
        while True:
            entries = parse_entries(link.call("XRANGE", STREAM, start, "+", "COUNT", 500))
            found += sum(decode_entry(entry_id, fields or []).count for entry_id, fields in entries)
            if len(entries) < 500:
                return found
            start = f"({entries[-1][0].decode()}"
    finally:
        link.close()
        connector.close()


@contextlib.contextmanager
def a_server(url: str) -> Iterator[Address]:
    """The server at this address, or one of our own (MILLSTREAM_BENCH_SERVER names its program)."""
    if url:
        yield locate(url)
        return
    folder = tempfile.mkdtemp(prefix="millstream-bench-")
    server = EmbeddedServer.acquire(folder, binary=os.environ.get("MILLSTREAM_BENCH_SERVER") or None)
    try:
        yield server.address
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


FIGURES = ("call", "loop", "handler")


def measured(address: Address, only: Sequence[str], rounds: int) -> tuple[list[Compared], dict[str, int]]:
    """The figures, and what became of the lines."""
    ship = ship_logs(STREAM, url=address.shown)
    before = in_stream(address)
    found: list[Compared] = []
    if "call" in only:
        with bare_shipping(address) as bare:
            found += call_durations(ship, bare, rounds)
    if "loop" in only:
        found += loop_slowed(ship, rounds)
    if "handler" in only:
        found += handler_durations(address.shown, rounds)
    settle(ship)
    shipper = ship.shipper
    return found, {
        "logged": shipper.queued,
        "dropped": shipper.dropped,
        "in_stream": in_stream(address) - before,
    }


def table(found: Sequence[Compared]) -> Iterator[str]:
    """The figures as people read them."""
    width = max(len(one.what) for one in found)
    yield f"{'':{width}}  {'without':>9}  {'shipping':>9}  {'more':>9}  allowed"
    for one in found:
        allowed = "" if one.allowed is None else f"{one.allowed:+.1f}"
        yield (
            f"{one.what:{width}}  {one.without:9.2f}  {one.with_shipping:9.2f}  {one.more:+9.2f}  {allowed} {one.unit}"
        )


def main() -> int:
    """Measure, print, and say by the exit code whether every line arrived."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logs", description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--url", default="", help="a server to ship to, instead of one of our own")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each figure ({ROUNDS})")
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure (may be repeated)")
    args = parser.parse_args()
    with a_server(args.url) as address:
        found, counts = measured(address, args.only or FIGURES, args.rounds)
    if args.output == "json":
        out = json.dumps({"figures": [asdict(one) for one in found], "lines": counts}, indent=2)
    else:
        said = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
        out = "\n".join([*table(found), f"lines: {said}"])
    sys.stdout.write(out + "\n")
    return 0 if counts["dropped"] == 0 and counts["in_stream"] == counts["logged"] else 1


if __name__ == "__main__":
    sys.exit(main())
