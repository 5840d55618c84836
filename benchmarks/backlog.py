"""Backlog: a consumer died with a million entries pending. How fast a worker takes them over, and who feels it.

Measures the rate of taking over and handling, the worker's memory, and, since claiming is work for the server, the
longest that anybody else waits for it meanwhile: a PING every ms from a process of its own, and what the server's own
slow log and latency monitor saw. The rate counts from the first event handled; how long that took is said too.

A server whose append-only file has grown rewrites it by itself, and stands still for the fork: --no-rewrite tells what
is left of a wait without that.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.limits.append import append
from benchmarks.limits.consume import Replies, packed
from benchmarks.limits.event import Tally, bodies, events, expected
from benchmarks.limits.packs import PER_PACK, append_packs
from benchmarks.own_server import parser, server
from benchmarks.processes import processes
from console.bench.own_keys import OwnKeys
from pipeline.server import scripts
from pipeline.server.connect import Connector, Link
from pipeline.server.replies import info_fields, pairs, text
from pipeline.server.scripts import script

LUA = Path(scripts.__file__).with_name("lua")
CLAIM_AFTER = "3s"
PIECE = 10_000
DEAD = "died"
SLOW_US, LATE_MS = 2_000, 2
"""What counts as slow for the server's own log and monitor, on a server of our own."""


def leave_behind(link: Link, stream: str, group: str, entries: int, *, packs: bool = False) -> None:
    """Append so many entries (packs of PER_PACK events) and have a consumer read them all, which then is gone."""
    link.call("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
    read = packed("XREADGROUP", "GROUP", group, DEAD, "COUNT", str(PIECE), "STREAMS", stream, ">")
    with link.bare() as sock:
        replies = Replies(sock)
        # Small pieces: what this process has had in memory counts as the peak of those that it starts.
        piece = PIECE // PER_PACK if packs else PIECE
        for first in range(0, entries, piece):
            count = min(piece, entries - first)
            if packs:
                append_packs(sock, stream, events(count * PER_PACK, first * PER_PACK))
            else:
                append(sock, stream, bodies(count, first), 1_000, 3)
            sock.sendall(read)
            replies.next()
    pending = link.call("XPENDING", stream, group)[0]
    assert pending == entries, f"{pending:,} of {entries:,} entries are pending"


def watch_closely(link: Link) -> None:
    """Have the server note what is slow; on a server of our own only."""
    link.call("CONFIG", "SET", "slowlog-log-slower-than", SLOW_US, "latency-monitor-threshold", LATE_MS)
    link.call("SLOWLOG", "RESET")
    link.call("LATENCY", "RESET")


def forks(link: Link) -> dict[str, Any]:
    """How often the server has forked, and how long the last time took."""
    found = info_fields(link.call("INFO", "stats"))
    return {
        "forks": int(found.get("total_forks", 0)),
        "last_fork_ms": int(found.get("latest_fork_usec", 0)) / 1e3,
    }


def slow_log(link: Link) -> list[dict[str, Any]]:
    """The commands that the server found slow, the slowest first; scripts by their names."""
    scripts_by_sha = {script(path.stem).sha: path.name for path in LUA.glob("*.lua")}
    slow: dict[str, tuple[int, int]] = {}
    for _, _, took_us, words, *_ in link.call("SLOWLOG", "GET", 128):
        first, second = [*map(text, words[:2]), ""][:2]
        name = scripts_by_sha.get(second, f"{first} {second}"[:60])
        count, most_us = slow.get(name, (0, 0))
        slow[name] = count + 1, max(most_us, took_us)
    ordered = sorted(slow.items(), key=lambda item: -item[1][1])
    return [{"command": name, "times": count, "most_ms": most_us / 1e3} for name, (count, most_us) in ordered]


def latency_events(link: Link) -> list[dict[str, Any]]:
    """What the server's latency monitor saw."""
    return [{"event": text(name), "most_ms": most} for name, _, _, most, *_ in link.call("LATENCY", "LATEST")]


def measure(
    url: str, entries: int, *, own: bool, each: bool, packs: bool, rewrite: bool = True
) -> dict[str, Any]:
    """One run; rewrite: a server of our own may rewrite its append-only file as it likes."""
    total = entries * PER_PACK if packs else entries
    keys = OwnKeys()
    stream, group = keys.stream("backlog"), keys.group()
    total_key, stop_key = keys.stream("total"), keys.stream("stop")
    connector = Connector(url)
    link = connector.link("backlog")
    try:
        if own and not rewrite:
            link.call("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)
        leave_behind(link, stream, group, entries, packs=packs)
        link.call("SET", total_key, total)
        if own:
            watch_closely(link)
        forked_before = forks(link)["forks"]
        with processes(url) as start:
            prober = start("probe", stop_key=stop_key)
            prober.line()
            worker = start(
                "work-through",
                stream=stream,
                group=group,
                total_key=total_key,
                claim_after=CLAIM_AFTER,
                each=each,
            )
            found = worker.result()
            link.call("SET", stop_key, 1)
            stalls = prober.result()
            forked = forks(link)
        groups = [pairs(one) for one in link.call("XINFO", "GROUPS", stream)]
        return {
            "server": connector.capabilities().durability_line(),
            "entries": entries,
            "events": total,
            "right": Tally(found["events"], found["checksum"]) == expected(total),
            "per_s": total / (found["ended_s"] - found["first_s"]),
            "first_s": found["first_s"] - found["began_s"],
            "cpu_us": found["cpu_s"] / total * 1e6,
            "worker_peak_bytes": found["peak_bytes"],
            "pings": stalls["pings"],
            "stall_p99_ms": stalls["p99_ms"],
            "stall_p99.9_ms": stalls["p99.9_ms"],
            "stall_most_ms": stalls["p100_ms"],
            "forks": forked["forks"] - forked_before,
            "last_fork_ms": forked["last_fork_ms"],
            "slow": slow_log(link) if own else [],
            "latency": latency_events(link) if own else [],
            "pending": sum(one["pending"] for one in groups),
        }
    finally:
        link.close()
        keys.remove(connector)
        connector.close()


def show(found: dict[str, Any]) -> None:
    """For people."""
    print(found["server"])
    right = "all handled" if found["right"] else "WRONG: not all arrived, or others"
    print(f"{found['entries']:,} entries ({found['events']:,} events) of a dead consumer: {right}")
    print(f"first after             {found['first_s']:,.2f} s (claim_after {CLAIM_AFTER})")
    print(f"taken over and handled  {found['per_s']:,.0f} events/s, {found['cpu_us']:.1f} us of CPU each")
    print(f"worker's peak memory    {found['worker_peak_bytes'] / 1e6:,.1f} MB")
    print(
        f"others waited           {found['stall_most_ms']:.1f} ms at most, {found['stall_p99.9_ms']:.1f} ms at p99.9, "
        f"{found['stall_p99_ms']:.1f} ms at p99 of {found['pings']:,} pings"
    )
    print(
        f"server forked           {found['forks']} times; the last fork took {found['last_fork_ms']:.1f} ms"
    )
    for slow in found["slow"][:8]:
        print(
            f"server's slow log       {slow['most_ms']:,.1f} ms at most, {slow['times']} times: {slow['command']}"
        )
    for late in found["latency"]:
        print(f"server's latency        {late['most_ms']:,} ms: {late['event']}")


def main(args: Sequence[str] | None = None) -> int:
    """Measure and show."""
    options = parser(__doc__ or "")
    options.add_argument(
        "--entries", type=int, default=1_000_000, help="pending entries; default: %(default)s"
    )
    options.add_argument("--packs", action="store_true", help=f"each entry holds {PER_PACK} events")
    options.add_argument(
        "--batch", action="store_true", help="a handler of batches; default: of single events"
    )
    options.add_argument(
        "--no-rewrite",
        action="store_true",
        help="an own server does not rewrite its append-only file meanwhile",
    )
    given = options.parse_args(args)
    with server(given.url, given.server) as url:
        found = measure(
            url,
            given.entries,
            own=given.url is None,
            each=not given.batch,
            packs=given.packs,
            rewrite=not given.no_rewrite,
        )
    print(json.dumps(found, indent=2)) if given.output == "json" else show(found)
    return 0 if found["right"] and not found["pending"] else 1


if __name__ == "__main__":
    sys.exit(main())
