"""Report: what rows came to, as lines for people, as a table for docs/reliability.md, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from tests.faults.campaign.checker import WRONG
from tests.faults.campaign.row import Result


def line(result: Result) -> str:
    """One line for one row; beneath it what is wrong, and what is in doubt."""
    counts, found = result.findings.counts, result.findings
    summary = (
        f"{result.row.name:26} {result.verdict:8} {result.seconds:6.1f} s  {counts.confirmed:,} confirmed, "
        f"{counts.failed:,} failed, {counts.unknown:,} unknown; {len(result.history.faults)} faults, "
        f"{found.in_flight} in flight; {counts.runs:,} runs, {counts.duplicated:,} repeated, "
        f"{counts.retried:,} retried, {counts.dead:,} dead, {counts.excused:,} excused; "
        f"recovered {found.recovered_s:.1f} s, taken over {found.taken_over_s:.1f} s"
    )
    words = [summary]
    for name, count in found.wrong.items():
        words.append(f"    {name}: {count:,}")
        words += [f"        {example}" for example in found.examples[name]]
    words += [f"    {doubt}" for doubt in found.doubts]
    return "\n".join(words)


def details(result: Result) -> str:
    """What the processes said, where a row did not pass."""
    return "\n".join(f"    {note}" for note in result.notes)


def table(results: Sequence[Result]) -> str:
    """Rows of a Markdown table."""
    names = (
        *("row", "what is done", "confirmed", "failed / unknown", "faults", "repeated", "recovered after"),
        *("lost, phantom, unexplained, stuck", "verdict"),
    )
    shown = [f"| {' | '.join(names)} |", "|---|---|---:|---:|---:|---:|---:|---:|---|"]
    for result in results:
        counts = result.findings.counts
        zeros = ", ".join(
            f"{getattr(counts, name):,}" for name in ("lost", "phantom", "unexplained", "stuck")
        )
        shown.append(
            f"| {result.row.name} | {result.row.says} | {counts.confirmed:,} | {counts.failed:,} / {counts.unknown:,} "
            f"| {len(result.history.faults):,} | {counts.duplicated:,} | {result.findings.recovered_s:.1f} s "
            f"| {zeros} | {result.verdict} |"
        )
    return "\n".join(shown)


def as_json(result: Result, server: str) -> str:
    """One row as a JSON object."""
    found = result.findings
    return json.dumps(
        {
            "row": result.row.name,
            "server": server,
            "verdict": result.verdict,
            "seconds": round(result.seconds, 1),
            "faults": len(result.history.faults),
            "in_flight": found.in_flight,
            "recovered_s": round(found.recovered_s, 2),
            "taken_over_s": round(found.taken_over_s, 2),
            "doubts": found.doubts,
            **asdict(found.counts),
        }
    )


def nothing_wrong(result: Result) -> bool:
    """Whether every count that must be 0 is."""
    return not any(getattr(result.findings.counts, name) for name in WRONG)
