"""How fast a bridge carries tasks over: `python -m benchmarks.bridge [--tasks 100000] [-o json]`.

Each way in turn, on a server of its own (append-only file synced every second) and between two: a backlog of tasks of
about 100 bytes, until it is on the other side. Every task is looked for there afterwards, in its order; a difference is
an error. Beside the rates stands how busy the bridge's own processor was: below 1 it waits for servers.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from consumers.list_filler import fill_list
from pipeline.server.connect import Connector, Link
from pipeline.server.embedded import EmbeddedServer
from pipeline.wire import decode_entry
from producers.producer import Producer
from producers.sources.lists import follow_list

TASKS = 100_000
ROUNDS = 3
LIST, STREAM = "benchmark-list", "benchmark-stream"


def task(number: int) -> dict[str, object]:
    """What old producers push, as data."""
    return {
        "function": "send_email",
        "args": [number, f"user-{number}@example.com", "welcome", "en"],
        "kwargs": {},
    }


@contextmanager
def own_server() -> Iterator[Connector]:
    """A server for this run, with nothing else to do."""
    folder = tempfile.mkdtemp(prefix="millstream-bridge-")
    embedded = EmbeddedServer.acquire(Path(folder), fsync="everysec")
    connector = Connector(embedded.address)
    try:
        yield connector
    finally:
        connector.close()
        embedded.close()
        shutil.rmtree(folder, ignore_errors=True)


def fill(link: Link, tasks: int) -> None:
    """A backlog in the list."""
    for start in range(0, tasks, 1_000):
        link.call("LPUSH", LIST, *(json.dumps(task(n)) for n in range(start, min(start + 1_000, tasks))))


def to_stream(source: Connector, target: Connector, tasks: int) -> tuple[float, float]:
    """(s, busy) from the list into the stream."""
    link, there = source.link("bench"), target.link("bench")
    there.call("DEL", STREAM)
    fill(link, tasks)
    with Producer(connector=target) as producer:
        took = _timed(
            lambda: follow_list(producer, STREAM, LIST, connector=source, follow=False).confirmed, tasks
        )
    at = "-"
    found: list[int] = []
    while entries := there.call("XRANGE", STREAM, at, "+", "COUNT", 1_000):
        found += [decode_entry(i, fields).events[0].data["args"][0] for i, fields in entries]
        at = "(" + entries[-1][0].decode()
    _check(found, tasks)
    link.close()
    there.close()
    return took


def to_list(source: Connector, target: Connector, tasks: int, pack: int) -> tuple[float, float]:
    """(s, busy) from the stream into the list."""
    link = target.link("bench")
    link.call("DEL", LIST)
    stream = f"{STREAM}-{time.monotonic_ns()}"
    with Producer(connector=source, pack=pack) as producer:
        producer.send_many(stream, [task(n) for n in range(tasks)]).result()
    took = _timed(
        lambda: fill_list(LIST, stream, connector=target, stream_connector=source, follow=False).pushed, tasks
    )
    _check([json.loads(payload)["args"][0] for payload in link.call("LRANGE", LIST, 0, -1)[::-1]], tasks)
    link.call("DEL", LIST, stream)
    link.close()
    return took


def _timed(work: Callable[[], int], tasks: int) -> tuple[float, float]:
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    moved = work()
    took_s = time.perf_counter() - begun_s
    if moved != tasks:
        raise SystemExit(f"error: {moved:,} of {tasks:,} tasks were moved")
    return took_s, (time.process_time() - cpu_s) / took_s


def _check(found: list[int], tasks: int) -> None:
    if found != list(range(tasks)):
        raise SystemExit(f"error: {len(found):,} tasks arrived of {tasks:,}, or not in order")


def measured(
    name: str, way: Callable[[], tuple[float, float]], tasks: int, rounds: int
) -> dict[str, str | float]:
    """The median of the rounds, with the least and the most."""
    took = sorted(way() for _ in range(rounds))
    took_s, busy = took[len(took) // 2]
    return {
        "way": name,
        "per_s": round(tasks / took_s),
        "least": round(tasks / took[-1][0]),
        "most": round(tasks / took[0][0]),
        "busy": round(busy, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    given = parser.parse_args()
    with own_server() as one, own_server() as other:
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "list to stream": lambda: to_stream(one, one, given.tasks),
            "list to stream, two servers": lambda: to_stream(one, other, given.tasks),
            "stream to list": lambda: to_list(one, one, given.tasks, 0),
            "stream of packs to list": lambda: to_list(one, one, given.tasks, 100),
            "stream to list, two servers": lambda: to_list(one, other, given.tasks, 0),
        }
        rows = [measured(name, way, given.tasks, given.rounds) for name, way in ways.items()]
    if given.output == "json":
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        sys.stdout.write(
            f"{row['way']:<28} {row['per_s']:>9,}/s  ({row['least']:,} to {row['most']:,})  busy {row['busy']:.2f}\n"
        )


if __name__ == "__main__":
    main()
