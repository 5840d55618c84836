"""Scale: what an event costs in a stream that is long, that many groups read, or whose group has many consumers.

Appends and consumes the same number of events each time, with our producer and a plain handler, and says what one
cost: the rate, and CPU time of the client and of the server. A cost that grows down a column grows with the data.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.limits.append import append
from benchmarks.limits.event import Tally, bodies, expected
from benchmarks.own_server import parser, server
from benchmarks.processes import Start, processes
from console.bench.own_keys import OwnKeys
from pipeline.server.connect import Connector, Link
from pipeline.server.replies import info_fields

SAMPLE = 20_000
"""Events appended and consumed to find what one costs."""
PIECE = 100_000
GROUP = "measured"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is there while one line is measured."""

    entries: int
    groups: int = 1
    consumers: int = 1


def sizes(*, quick: bool) -> list[Size]:
    """The lines of the table: one thing grows at a time."""
    base = 10_000 if quick else 100_000
    return [
        *(Size(10**power) for power in range(4, 6 if quick else 8)),
        *(Size(base, groups=groups) for groups in ((10,) if quick else (10, 100))),
        *(Size(base, consumers=consumers) for consumers in ((10, 100) if quick else (10, 100, 1_000))),
    ]


class Ground:
    """A stream that is brought to each size, and made anew where it is larger already."""

    def __init__(self, link: Link, keys: OwnKeys) -> None:
        self._link = link
        self._keys = keys
        self._packed = bodies(PIECE)
        self._made = 0
        self.stream = ""

    def prepare(self, size: Size) -> None:
        """So many entries that all groups have read, and so many consumers that have nothing pending."""
        link = self._link
        if self.stream:
            link.call("UNLINK", self.stream)
        self._made += 1
        self.stream = self._keys.stream(f"scale-{self._made}")
        with link.bare() as sock:
            for first in range(0, size.entries, PIECE):
                append(sock, self.stream, self._packed[: size.entries - first], 1_000, 3)
        for group in [GROUP, *(f"other-{at}" for at in range(1, size.groups))]:
            link.call("XGROUP", "CREATE", self.stream, group, "$")
        for at in range(1, size.consumers):
            link.call("XGROUP", "CREATECONSUMER", self.stream, GROUP, f"idle-{at}")


def server_cpu_s(link: Link) -> float:
    """CPU time until now of the server's main thread, which carries out commands; not of those that free and sync."""
    facts = info_fields(link.call("INFO", "cpu"))
    return sum(
        float(facts.get(f"{name}_main_thread", facts[name])) for name in ("used_cpu_user", "used_cpu_sys")
    )


def measure(link: Link, start: Start, ground: Ground, size: Size) -> dict[str, Any]:
    """One line: SAMPLE events appended, then consumed by the group that has read all before them."""
    ground.prepare(size)
    asked = {"stream": ground.stream, "count": SAMPLE}

    def costs(what: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        before_s = server_cpu_s(link)
        found = do()
        return found | {
            f"{what}_per_s": SAMPLE / found["seconds"],
            f"{what}_us": found["cpu_s"] / SAMPLE * 1e6,
            f"{what}_server_us": (server_cpu_s(link) - before_s) / SAMPLE * 1e6,
        }

    sent = costs("append", lambda: start("produce", many=True, **asked).result())
    got = costs("consume", lambda: start("consume", group=GROUP, handler="data", **asked).result())
    return {
        "entries": size.entries,
        "groups": size.groups,
        "consumers": size.consumers,
        **{name: value for name, value in (sent | got).items() if name.startswith(("append", "consume"))},
        "right": Tally(got["events"], got["checksum"]) == expected(SAMPLE),
    }


def lines(url: str, *, quick: bool, own: bool) -> Iterator[dict[str, Any]]:
    """All lines, one by one; own: nobody else uses the server, so that it may be set."""
    keys = OwnKeys()
    connector = Connector(url)
    link = connector.link("scale")
    try:
        if own:  # a rewrite would fall on whichever line is measured just then
            link.call("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)
        ground = Ground(link, keys)
        with processes(url) as start:
            for size in sizes(quick=quick):
                yield measure(link, start, ground, size)
    finally:
        link.close()
        keys.remove(connector)
        connector.close()


TITLE = f"{'':33}  {'append':>26}  {'consume':>26}\n" + "  ".join(
    f"{word:>{width}}"
    for word, width in (
        ("ENTRIES", 11), ("GROUPS", 8), ("CONSUMERS", 10),
        *(("EVENTS/S", 9), ("US", 6), ("SERVER", 7)) * 2,
    )
)  # fmt: skip


def show(line: dict[str, Any]) -> None:
    """A line for people."""
    costs = "  ".join(
        f"{line[f'{what}_per_s']:>9,.0f}  {line[f'{what}_us']:>6.2f}  {line[f'{what}_server_us']:>7.2f}"
        for what in ("append", "consume")
    )
    wrong = "" if line["right"] else "  WRONG: not all arrived"
    print(
        f"{line['entries']:>11,}  {line['groups']:>8,}  {line['consumers']:>10,}  {costs}{wrong}", flush=True
    )


def main(args: Sequence[str] | None = None) -> int:
    """Measure and show."""
    options = parser(__doc__ or "")
    options.add_argument(
        "--quick", action="store_true", help="up to 100,000 entries, 10 groups, 100 consumers"
    )
    given = options.parse_args(args)
    if given.output == "table":
        print(TITLE)
    found = []
    with server(given.url, given.server) as url:
        for line in lines(url, quick=given.quick, own=given.url is None):
            found.append(line)
            if given.output == "table":
                show(line)
    if given.output == "json":
        print(json.dumps(found, indent=2))
    return 0 if all(line["right"] for line in found) else 1


if __name__ == "__main__":
    sys.exit(main())
