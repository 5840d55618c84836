"""make check-speed: what an event costs on each hot path, against budgets, so that a slow-down shows in review.

A cost is the number of instructions this process takes per event, which valgrind counts: a fact about the code, the
same on a busy machine as on an idle one. Where valgrind is not installed, it is CPU time, which says as much about the
machine, and is judged with much slack. Either is divided by the cost of a calibration loop. Budgets
(benchmarks/budgets.json) are kept per version of Python, of both kinds; --record writes those that can be measured
here. Exit code 1: a path is over its budget, or a budget has no path any more.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import counting
from benchmarks.budget import INSTRUCTIONS, TIME, Measure, Verdict, dearest, judge, lost, lowered, table
from benchmarks.hot_paths import HotPath, Served, calibration, pure_paths
from benchmarks.instructions import counted, unavailable
from benchmarks.meter import CpuTime
from benchmarks.own_server import parser, server

BUDGETS = Path(__file__).with_name("budgets.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TIME_ROUNDS = 8
AGAIN_ROUNDS = 4
"""Paths over their budget are counted so often again: what disturbs a count (a machine so busy that chunks, which are
measured by the clock, become small) only adds to it, so that the least is what the code takes."""
RECORDED_OF = 3
"""A budget is the greatest of so many measurements: one lucky one would fail many that come after it."""
PURE_PER_ROUND = 6
"""Pure paths take milliseconds, and what else the machine does takes longer: each round times them so often."""


def timed(
    pure: Mapping[str, HotPath], served: Mapping[str, HotPath], rounds: int
) -> tuple[dict[str, float], float]:
    """The least CPU time of each path and of the calibration, per event in microseconds."""
    least: dict[str, float] = {}
    unit, meter = calibration(), CpuTime()

    def note(name: str, path: HotPath) -> None:
        cost_us = path(meter)
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


def measured(
    measure: Measure, url: str, rounds: int | None, only: Sequence[str] = ()
) -> tuple[dict[str, float], float]:
    """What each path costs per event, and the calibration. only: of instructions, these paths."""
    if measure is TIME:
        with Served(url) as served:
            return timed(pure_paths(), served.paths(), rounds or TIME_ROUNDS)
    more = [] if rounds is None else ["--rounds", str(rounds)]
    for path in only:
        more += ["--only", path]
    # The address goes by the environment: a command line is read by everyone who lists processes.
    found: dict[str, float] = json.loads(counted(["-m", counting.__name__, *more], {"MILLSTREAM_URL": url}))
    return found, found.pop("")


def options() -> argparse.ArgumentParser:
    """What the check takes."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--by",
        choices=(INSTRUCTIONS.name, TIME.name),
        help="what is judged; default: instructions where valgrind is installed, else time",
    )
    made.add_argument("--record", action="store_true", help="write what is measured as the new budgets")
    made.add_argument("--rounds", type=int, help=f"default: 2 of instructions, {TIME_ROUNDS} of time")
    made.add_argument(
        "--budgets", type=Path, default=BUDGETS, metavar="FILE", help="default: budgets.json here"
    )
    return made


def main(args: Sequence[str] | None = None) -> int:
    """Measure, and judge or record."""
    given = options().parse_args(args)
    missing = unavailable()
    by = given.by or (TIME.name if missing else INSTRUCTIONS.name)
    if by == INSTRUCTIONS.name and missing:
        print(f"error: instructions cannot be counted: {missing} (--by time)", file=sys.stderr)
        return 1
    if missing and given.by is None:
        print(f"note: judged by time, not by instructions: {missing}", file=sys.stderr)
    measures = [one for one in (INSTRUCTIONS, TIME) if one.name == by]
    if given.record and given.by is None and not missing:
        measures = [INSTRUCTIONS, TIME]
    kept = json.loads(given.budgets.read_text("utf-8")) if given.budgets.exists() else {}
    budgets: dict[str, dict[str, float]] = kept.setdefault(PYTHON, {})
    said: list[dict[str, Any]] = []
    failures: list[str] = []
    with server(given.url, given.server) as url:
        for measure in measures:
            recorded = budgets.get(measure.name, {})
            runs = [measured(measure, url, given.rounds) for _ in range(RECORDED_OF if given.record else 1)]
            costs, unit = dearest(runs)
            verdicts, gone = judge(measure, costs, unit, recorded), lost(costs, recorded)
            slow = [one.path for one in verdicts if one.too_slow]
            if slow and measure is INSTRUCTIONS and not given.record:
                print(f"counted again, more often: {', '.join(slow)}", file=sys.stderr)
                costs = lowered(costs, unit, *measured(measure, url, AGAIN_ROUNDS, slow))
                verdicts = judge(measure, costs, unit, recorded)
            failures += failed(verdicts, gone)
            if given.record:
                budgets[measure.name] = {one.path: round(one.ratio, 3) for one in verdicts}
            if given.output == "table":
                show(measure, verdicts, unit)
            said.append(facts(measure, verdicts, unit, gone))
            if not recorded and not given.record:
                print(
                    f"nothing is judged: there are no budgets of {measure.name} for Python {PYTHON}"
                    " (--record makes them)",
                    file=sys.stderr,
                )
    if given.output == "json":
        print(json.dumps({"python": PYTHON, "measures": said}, indent=2))
    if given.record:
        given.budgets.write_text(json.dumps(kept, indent=2, sort_keys=False) + "\n", "utf-8")
        print(f"recorded in {given.budgets}", file=sys.stderr)
        return 0
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def failed(verdicts: Sequence[Verdict], gone: Sequence[str]) -> list[str]:
    """What the check fails for, a line each."""
    return [f"{one.path}: {one.word}, beyond its budget" for one in verdicts if one.too_slow] + [
        f"{path}: recorded, but not measured (--record forgets it)" for path in gone
    ]


def show(measure: Measure, verdicts: Sequence[Verdict], unit: float) -> None:
    """For people."""
    print("\n".join(table(verdicts)))
    print(
        f"judged by {measure.name}, Python {PYTHON}; ratio 1 is {measure.said(unit)} here;"
        f" a budget is what was recorded x {measure.slack}"
    )


def facts(measure: Measure, verdicts: Sequence[Verdict], unit: float, gone: Sequence[str]) -> dict[str, Any]:
    """For programs."""
    paths = [
        {"path": one.path, "cost": one.cost, "ratio": one.ratio, "recorded": one.recorded, "budget": one.budget,
         "change": one.change, "too_slow": one.too_slow}
        for one in verdicts
    ]  # fmt: skip
    return {"by": measure.name, "calibration": unit, "paths": paths, "gone": list(gone)}


if __name__ == "__main__":
    sys.exit(main())
