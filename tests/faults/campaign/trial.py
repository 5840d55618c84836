"""Trial: a broken variant put before the row that must catch it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.faults.campaign.processes import Nursery
from tests.faults.campaign.row import Result, run_row
from tests.faults.campaign.rows import ROWS
from tests.faults.campaign.variants import Variant, tree_of

TRIES = 3
"""What a fault hits is drawn: another seed may hit what this one missed."""
DRAIN_S = 12.0
"""What a variant leaves behind is not waited for as long as for the product."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it."""

    variant: Variant
    results: list[Result]
    skipped: str = ""

    @property
    def caught(self) -> bool:
        """Whether the last run shows what the variant breaks."""
        return any(set(self.variant.shows) & set(result.findings.wrong) for result in self.results)

    @property
    def shown(self) -> str:
        """What it was caught by."""
        wrong = self.results[-1].findings.wrong if self.results else {}
        return ", ".join(f"{name} {count:,}" for name, count in wrong.items()) or "nothing"


def attempt(
    variant: Variant,
    *,
    sends: int,
    seed: int = 1,
    program: str | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Trial:
    """Run the variant's row against it, with up to three seeds."""
    row = ROWS[variant.row]
    why = row.needs(program)
    trial = Trial(variant, [], why)
    if why:
        return trial
    with tree_of(variant) as tree, Nursery(tree) as nursery:
        for number in range(TRIES):
            row_now = replace(row, drain_s=min(DRAIN_S, row.drain_s))
            trial.results.append(
                run_row(row_now, nursery, sends=sends, seed=seed + number, program=program, say=say)
            )
            if trial.caught:
                break
    return trial
