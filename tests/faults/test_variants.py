"""The broken variants of the product: each differs from it as it says, and its row catches it."""

import pytest

from tests.conftest import BINARY
from tests.faults.campaign import report
from tests.faults.campaign.rows import ROWS
from tests.faults.campaign.trial import attempt
from tests.faults.campaign.variants import VARIANTS, changed


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_is_there(name: str) -> None:
    """Its texts are found, its row exists, and what it makes of the product is still a program."""
    variant = VARIANTS[name]
    assert variant.row in ROWS
    files = changed(variant)
    assert files
    for path, text in files.items():
        if path.endswith(".py"):
            compile(text, path, "exec")


@pytest.mark.rows
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.quick])
def test_a_variant_is_caught(name: str) -> None:
    """A few of them; `python -m tests.faults.campaign --variants` tries all."""
    trial = attempt(VARIANTS[name], sends=1_000, program=BINARY)
    assert trial.caught, "\n".join(map(report.line, trial.results))
