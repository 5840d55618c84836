"""Row: one kind of fault, the load beside it, and what the history must show; and how one is carried out."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.faults.campaign.checker import Demands, Findings, judge
from tests.faults.campaign.field import Field, Load
from tests.faults.campaign.history import History
from tests.faults.campaign.processes import Nursery
from tests.faults.campaign.server import FaultyServer
from tests.faults.campaign.wire import Wire

Storm = Callable[[Field, random.Random], None]
"""One round of faults: what it breaks it mends before it returns."""
Around = Callable[[Field], AbstractContextManager[None]]
"""What stands around the whole of a row, begun before its workers: a proxy, a network."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a row's server runs."""

    server: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for FaultyServer."""
    wire: Wire | None = None
    """The network in front of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault."""

    name: str
    says: str
    """What is done, for people."""
    storm: Storm
    load: Load = field(default_factory=Load)
    demands: Demands = field(default_factory=Demands)
    server: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of FaultyServer."""
    around: Around | None = None
    site: Callable[[Path], AbstractContextManager[Site]] | None = None
    """Makes the place where the server runs."""
    rounds: int = 2
    """At least so many rounds, for 1,000 sends."""
    most_rounds: int | None = None
    """No more rounds than this: then load goes on without faults."""
    needs: Callable[[str | None], str] = lambda program: ""
    """Why it cannot be had here, given the server's program; empty if it can."""
    drain_s: float = 60.0
    """Everything must be settled so long after the last send."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one row came to."""

    row: Row
    findings: Findings
    history: History
    rounds: int
    seconds: float
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """passed, failed, or unknown."""
        return self.findings.verdict


def run_row(
    row: Row,
    nursery: Nursery,
    *,
    sends: int,
    seed: int = 1,
    program: str | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Result:
    """Carry out a row with at least so many confirmed sends; keep: a folder for its journals, else they are removed."""
    folder = keep or Path(tempfile.mkdtemp(prefix="ms-row-"))
    folder.mkdir(parents=True, exist_ok=True)
    begun_s = time.monotonic()
    rng = random.Random(f"{row.name} {seed}")
    try:
        with (
            row.site(folder) if row.site else nullcontext(Site()) as site,
            FaultyServer(folder, program=program, **{**row.server, **site.server}) as server,
            Field(folder, server, nursery, row.load, seed=seed) as arena,
        ):
            arena.wire = site.wire
            with row.around(arena) if row.around else nullcontext():
                arena.start()
                rounds = _storm(row, arena, rng, sends, say)
                say("draining")
                arena.finish(row.drain_s)
            history = arena.history()
            notes = tuple(arena.notes)
        findings = judge(history, replace(row.demands, confirmed=sends))
        if findings.verdict != "passed":
            notes += (_last_words(folder),)
        return Result(row, findings, history, rounds, time.monotonic() - begun_s, notes)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _storm(row: Row, arena: Field, rng: random.Random, sends: int, say: Callable[[str], None]) -> int:
    """Rounds of faults, until enough of them and enough sends are confirmed."""
    least = max(row.rounds * sends // 1_000, 1)
    if row.most_rounds is not None:
        least = min(least, row.most_rounds)
    rounds = 0
    while rounds < least or arena.confirmed() < sends:
        say(f"round {rounds + 1} of {least}, {arena.confirmed():,} confirmed")
        if row.most_rounds is not None and rounds >= row.most_rounds:
            arena.until_confirmed(min(sends - arena.confirmed(), 100))
            continue
        row.storm(arena, rng)
        rounds += 1
    return rounds


def _last_words(folder: Path) -> str:
    return "\n".join(
        f"{path.name}: " + path.read_text(errors="replace")[-3_000:] for path in sorted(folder.glob("*log*"))
    )
