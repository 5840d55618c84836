"""Answers that two connections of a member get in another order than the server carried out what they answer."""

from collections.abc import Iterator

import pytest

from consumers.delivery import held_of
from pipeline.outcome import HAND_BACK, Kind
from pipeline.server.scripts import script
from tests.conftest import Server
from tests.consuming import Consuming
from tests.model.fickle import FickleConnector
from tests.model.member import CLAIM_AFTER_MS, SteppedMember


@pytest.fixture
def member(consuming: Consuming, server: Server) -> Iterator[SteppedMember]:
    """A member of group "g" on duty, which runs the stream's first event."""
    connector = FickleConnector(server.address)
    member = SteppedMember(connector, consuming.keys, "g", "m")
    for name in ("take", "settle", "hand_back"):
        consuming.link.load(script(name))
    try:
        consuming.send("first")
        member.beat()
        read_on(member)
        assert member.start() is not None
        yield member
    finally:
        member.crash()
        connector.close()


def read_on(member: SteppedMember) -> None:
    """The reader settles what is finished, and takes in all the answers."""
    for _ in range(3):
        member.read()


def test_what_was_settled_behind_a_claim_does_not_run_again(
    consuming: Consuming, member: SteppedMember
) -> None:
    """The claim takes what nobody renewed; it is done, and the answer to its settlement overtakes the claim's."""
    (held,) = member.state.window
    idle_ms = CLAIM_AFTER_MS + 1_000
    consuming.link.call("XCLAIM", consuming.stream, "g", "m", 0, held.entry_id, "IDLE", idle_ms, "JUSTID")
    member.finish(0, Kind.DONE)
    member._link("duty").meanwhile = (
        1,
        lambda: read_on(member),
    )  # the first claim is of the group's own stream
    member.sweep(missing=True)
    member.beat()
    read_on(member)
    assert member.start() is None
    assert len(member.state.window) == 0
    assert member.state.counts.settled == 1
    assert consuming.link.call("XPENDING", consuming.stream, "g")[0] == 0


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_claimed_before_the_answer_to_its_hand_back_runs(
    consuming: Consuming, member: SteppedMember, lost: bool
) -> None:
    """At once, and with the count it had: not after another claim_after, as if it had killed somebody."""
    event = member.hand.running.pop()
    member.state.finished.append((event, HAND_BACK))
    link = member._link("reader")

    def claim() -> None:
        member.sweep(missing=True)
        link.lose_from = 0 if lost else None

    link.meanwhile = (0, claim)
    read_on(member)
    member.settle()
    assert member.state.counts.handed_back == (not lost)
    ((_, _, idle_ms, _),) = consuming.link.call("XPENDING", consuming.stream, "g", "-", "+", 10)
    assert idle_ms < CLAIM_AFTER_MS, "it is handed back no more"
    again = member.start()
    assert again is not None
    assert held_of(again) is not held_of(event)
    assert held_of(again).attempt == 1
    assert list(member.state.window) == [held_of(again)]
    assert member.state.given == set()
    member.finish(0, Kind.DONE)
    read_on(member)
    assert len(member.state.window) == 0
    assert (member.state.window.events, member.state.window.bytes) == (0, 0)
    assert consuming.link.call("XPENDING", consuming.stream, "g")[0] == 0
