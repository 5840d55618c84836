"""The rows of the fault suite, quick: `python -m tests.faults.campaign` does the same with more sends."""

from collections.abc import Iterator

import pytest

from tests.conftest import BINARY
from tests.faults.campaign import report
from tests.faults.campaign.processes import Nursery
from tests.faults.campaign.row import run_row
from tests.faults.campaign.rows import ROWS

pytestmark = pytest.mark.rows


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Forks the workers and producers of all rows."""
    with Nursery() as nursery:
        yield nursery


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ROWS)
def test_row(nursery: Nursery, name: str) -> None:
    """Nothing lost, phantom, corrupt, repeated without cause or stuck; and enough happened to say so."""
    row = ROWS[name]
    why = row.needs(BINARY)
    if why:
        pytest.skip(why)
    result = run_row(row, nursery, sends=1_000, program=BINARY)
    assert result.verdict == "passed", f"{report.line(result)}\n{report.details(result)}"
