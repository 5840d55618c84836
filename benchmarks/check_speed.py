"""make check-speed: what an event costs on each hot path, against budgets, so that a slow-down shows in review.

A cost is CPU time of this process per event, divided by that of a calibration loop which runs in between: a slower or
busier machine slows both. The least of several short rounds counts. Budgets (benchmarks/budgets.json) are kept per
version of Python; --record writes those of the one that runs. Exit code 1: a path is over its budget, or a budget has
no path any more.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.budget import SLACK, judge, lost, table
from benchmarks.hot_paths import HotPath, Served, calibration, pure_paths
from benchmarks.own_server import parser, server

BUDGETS = Path(__file__).with_name("budgets.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ROUNDS = 8
RECORDED_OF = 3
"""A budget is the greatest of so many measurements: one lucky one would fail many that come after it."""
PURE_PER_ROUND = 6
"""Pure paths take milliseconds, and what else the machine does takes longer: each round measures them so often."""


def measured(
    pure: Mapping[str, HotPath], served: Mapping[str, HotPath], rounds: int
) -> tuple[dict[str, float], float]:
    """The least cost of each path and of the calibration, per event in microseconds."""
    least: dict[str, float] = {}
    unit = calibration()

    def note(name: str, path: HotPath) -> None:
        cost_us = path() * 1e6
        least[name] = min(cost_us, least.get(name, cost_us))

    for _ in range(rounds):
        for _ in range(PURE_PER_ROUND):
            note("", unit)
            for name, path in pure.items():
                note(name, path)
        for name, path in served.items():
            note("", unit)
            note(name, path)
    return least, least.pop("")


def dearest(runs: Sequence[tuple[Mapping[str, float], float]]) -> tuple[dict[str, float], float]:
    """Of several measurements the greatest ratio of each path, as costs by the calibration of the first."""
    unit_us = runs[0][1]
    return {path: max(us[path] / each_us * unit_us for us, each_us in runs) for path in runs[0][0]}, unit_us


def main(args: Sequence[str] | None = None) -> int:
    """Measure, and judge or record."""
    options = parser(__doc__ or "")
    options.add_argument("--record", action="store_true", help="write what is measured as the new budgets")
    options.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    options.add_argument(
        "--budgets", type=Path, default=BUDGETS, metavar="FILE", help="default: budgets.json here"
    )
    given = options.parse_args(args)
    with server(given.url, given.server) as url, Served(url) as served:
        runs = [
            measured(pure_paths(), served.paths(), given.rounds)
            for _ in range(RECORDED_OF if given.record else 1)
        ]
    us, calibration_us = dearest(runs)
    kept = json.loads(given.budgets.read_text("utf-8")) if given.budgets.exists() else {}
    recorded: dict[str, float] = kept.get(PYTHON, {})
    verdicts = judge(us, calibration_us, recorded)
    gone = lost(us, recorded)
    slow = [one for one in verdicts if one.too_slow]
    if given.record:
        kept[PYTHON] = {one.path: round(one.ratio, 3) for one in verdicts}
        given.budgets.write_text(json.dumps(kept, indent=2, sort_keys=False) + "\n", "utf-8")
    if given.output == "json":
        paths = [
            {"path": one.path, "us": one.us, "ratio": one.ratio, "recorded": one.recorded, "budget": one.budget,
             "change": one.change, "too_slow": one.too_slow}
            for one in verdicts
        ]  # fmt: skip
        print(
            json.dumps(
                {"python": PYTHON, "calibration_us": calibration_us, "paths": paths, "gone": gone}, indent=2
            )
        )
    else:
        print("\n".join(table(verdicts)))
        print(
            f"Python {PYTHON}; ratio 1 is {calibration_us:.2f} us here; a budget is what was recorded x {SLACK}"
        )
    if given.record:
        print(f"recorded in {given.budgets}", file=sys.stderr)
        return 0
    if not recorded:
        print(
            f"nothing is judged: there are no budgets for Python {PYTHON} (--record makes them)",
            file=sys.stderr,
        )
        return 0
    for one in slow:
        print(f"error: {one.path}: {one.word}, beyond its budget", file=sys.stderr)
    for path in gone:
        print(f"error: {path}: recorded, but not measured (--record forgets it)", file=sys.stderr)
    return 1 if slow or gone else 0


if __name__ == "__main__":
    sys.exit(main())
