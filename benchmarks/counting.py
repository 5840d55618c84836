"""Counting: the program that check-speed runs under callgrind; it says the instructions per event of each path.

Under valgrind one thread runs at a time, some 40 times slower than without, while the server is as fast as ever and
clocks go on: so threads change by a longer interval, each path is run before it counts, and those that end at a server
are counted more than once. The least is what counts: what else happened meanwhile (a heartbeat, a wait that timed out)
only adds.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

from benchmarks.hot_paths import HotPath, Served, calibration, pure_paths
from benchmarks.instructions import Instructions

SERVED_EVENTS = 4_000
SERVED_ROUNDS = 2
SWITCH_S = 0.2
"""Python's 5 ms, made longer as everything is."""


def count(paths: Mapping[str, HotPath], meter: Instructions, rounds: int) -> dict[str, float]:
    """The least instructions per event of each path."""
    found = {}
    for name, path in paths.items():
        # Imports, caches, code that specializes itself; with as many events, as some of it comes with later requests.
        path(meter)
        found[name] = min(path(meter) for _ in range(rounds))
    return found


def main(args: Sequence[str] | None = None) -> int:
    """Count, and say it as JSON; the calibration has the empty name."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument(
        "--only", action="append", metavar="PATH", help="this path; several: these; default: all"
    )
    options.add_argument("--events", type=int, default=SERVED_EVENTS, help="default: %(default)s")
    options.add_argument("--rounds", type=int, default=SERVED_ROUNDS, help="default: %(default)s")
    given = options.parse_args(args)
    sys.setswitchinterval(SWITCH_S)
    meter = Instructions()

    def meant(paths: Mapping[str, HotPath]) -> dict[str, HotPath]:
        return {name: path for name, path in paths.items() if not given.only or name in given.only}

    found = count({"": calibration()} | meant(pure_paths()), meter, 1)
    if not given.only or not found.keys() >= set(given.only):
        with Served(None, given.events) as served:  # at the address that the environment names
            found |= count(meant(served.paths()), meter, given.rounds)
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
