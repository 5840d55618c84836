"""The rows of the fault suite, one after the other: load, faults, and what the history of both shows.

    python -m tests.faults.campaign                              # all rows, 10,000 confirmed sends each
    python -m tests.faults.campaign --sends 1000 --row workers-killed --seed 7 --keep /tmp/row
    python -m tests.faults.campaign --server ~/redis-6.2/redis-server -o json
    python -m tests.faults.campaign --variants --sends 1000      # the product broken on purpose: is it found out?

Exit code 0: all passed. 1: a row failed, or shows too little.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.faults.campaign import report
from tests.faults.campaign.processes import Nursery
from tests.faults.campaign.row import Result, run_row
from tests.faults.campaign.rows import ROWS
from tests.faults.campaign.server import show_version
from tests.faults.campaign.trial import attempt
from tests.faults.campaign.variants import VARIANTS


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--row", action="append", choices=list(ROWS), metavar="ROW", help="one row; may be repeated"
    )
    parser.add_argument("--sends", type=int, default=10_000, help="confirmed sends of each row, at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", help="the server's program, if not the embedded one")
    parser.add_argument("--keep", type=Path, help="a folder in which journals and logs are kept")
    parser.add_argument(
        "--variants", action="store_true", help="try the broken variants instead of the product"
    )
    parser.add_argument(
        "--variant", action="append", choices=list(VARIANTS), metavar="NAME", help="one of them"
    )
    parser.add_argument("--list", action="store_true", help="only say what rows there are")
    parser.add_argument("-o", choices=("lines", "table", "json"), default="lines")
    given = parser.parse_args()
    if given.list:
        out("\n".join(f"{row.name:26} {row.says}" for row in ROWS.values()))
        return 0
    version = show_version(given.server)
    if given.variants or given.variant:
        return try_variants(given.variant or list(VARIANTS), given.sends, given.seed, given.server)
    results: list[Result] = []
    good = True
    with Nursery() as nursery:
        for name in given.row or ROWS:
            row = ROWS[name]
            why = row.needs(given.server)
            if why:
                out(f"{name:26} skipped: {why}", to=sys.stderr if given.o != "lines" else sys.stdout)
                continue
            result = run_row(
                row,
                nursery,
                sends=given.sends,
                seed=given.seed,
                program=given.server,
                keep=given.keep and given.keep / name,
                say=lambda words, name=name: progress(f"{name:26} {words}"),  # type: ignore[misc]
            )
            progress("")
            results.append(result)
            good = good and result.verdict == "passed"
            out(report.as_json(result, version) if given.o == "json" else report.line(result),
                to=sys.stderr if given.o == "table" else sys.stdout)  # fmt: skip
            if result.verdict != "passed":
                out(report.details(result), to=sys.stderr)
    if given.o == "table":
        out(report.table(results))
    out(f"{len(results)} rows on {version}: {'all passed' if good else 'NOT all passed'}", to=sys.stderr)
    return 0 if good else 1


def try_variants(names: Sequence[str], sends: int, seed: int, program: str | None) -> int:
    """Whether each variant is caught by its row; 0 if all are."""
    missed = 0
    for name in names:
        variant = VARIANTS[name]
        trial = attempt(
            variant,
            sends=sends,
            seed=seed,
            program=program,
            say=lambda words, name=name: progress(f"{name:38} {words}"),  # type: ignore[misc]
        )
        progress("")
        if trial.skipped:
            out(f"{name:38} skipped: {trial.skipped}")
            continue
        missed += not trial.caught
        seconds = sum(result.seconds for result in trial.results)
        out(
            f"{name:38} {'caught' if trial.caught else 'MISSED'} in {seconds:.1f} s by {variant.row} "
            f"({variant.breaks}): {trial.shown}"
        )
        if not trial.caught:
            out("\n".join(report.line(result) for result in trial.results))
    out(f"{len(names)} variants: {f'{missed} MISSED' if missed else 'all caught'}", to=sys.stderr)
    return 1 if missed else 0


def progress(words: str) -> None:
    """Where it is, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{words}")
        sys.stderr.flush()


def out(words: str, *, to: TextIO | None = None) -> None:
    """A line."""
    stream = to or sys.stdout
    stream.write(words + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
