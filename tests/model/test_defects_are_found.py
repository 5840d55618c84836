"""The machine is shown to notice: each defect that is built in on purpose is found within its budget."""

import pytest
from hypothesis.errors import Flaky

from tests.conftest import Server
from tests.model.defects import DEFECTS, broken
from tests.model.machine import GroupMachine, run_examples

EXAMPLES = 300


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_can_be_built_in(defect: str) -> None:
    """The words that it replaces still stand in the script: who changes them sees what to show anew."""
    with broken(defect):
        pass


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect: str, model_server: Server) -> None:
    """Whatever follows from it breaks a law."""
    with broken(defect), pytest.raises((AssertionError, Flaky)):
        run_examples(GroupMachine, model_server, seeded=1, examples=EXAMPLES, only_find=True)
