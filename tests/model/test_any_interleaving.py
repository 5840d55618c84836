"""Any interleaving of what producers, members and operators do leaves every event in exactly one place.

A failing example is printed as the steps that lead to it. Each run of a seed draws the same examples.
"""

import pytest

from tests.conftest import OwnServer, Server
from tests.model.machine import GroupMachine, RestartingMachine, run_examples


@pytest.mark.timeout(240)
@pytest.mark.parametrize("examples", [15, pytest.param(80, marks=pytest.mark.campaign)])
def test_every_event_is_in_exactly_one_place_after_every_step(model_server: Server, examples: int) -> None:
    """Nothing lost, nothing doubled, nothing done by who may not."""
    run_examples(GroupMachine, model_server, seeded=1, examples=examples)


@pytest.mark.campaign
@pytest.mark.timeout(240)
def test_nor_does_a_killed_server_lose_or_double_anything(own_server: OwnServer) -> None:
    """With each write on the disk before it is answered."""
    run_examples(RestartingMachine, own_server(fsync="always"), seeded=1, examples=10)


@pytest.mark.faults
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seeded", range(2, 12))
def test_many_more_examples(seeded: int, model_server: Server, own_server: OwnServer) -> None:
    """From ten more seeds."""
    run_examples(GroupMachine, model_server, seeded=seeded, examples=500)
    run_examples(RestartingMachine, own_server(fsync="always"), seeded=seeded, examples=30)
