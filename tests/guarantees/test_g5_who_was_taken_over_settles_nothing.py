"""G5: a consumer whose entry was taken over cannot settle it; the handler can see it, and an async one is cancelled."""

import asyncio
import signal
import threading
from pathlib import Path

import pytest

from consumers.delivery import Delivery
from pipeline.event import Event
from pipeline.keys import GroupRef
from pipeline.options import Retry
from pipeline.outcome import Reject
from pipeline.server.connect import Link
from pipeline.server.groups import take_words
from pipeline.server.scripts import script
from tests.consuming import Consuming, total
from tests.faults.crew import Crew
from tests.until import until


def take_over(consuming: Consuming) -> None:
    """Another consumer claims all that is pending, as if its holder had stopped renewing it."""
    ref = GroupRef(consuming.keys, "g")
    used = script("take")
    consuming.link.load(used)
    commands: list[tuple[str | bytes | int | float, ...]] = [
        ("XCLAIM", ref.key, "g", holder, 0, entry_id, "IDLE", 90_000, "JUSTID")
        for entry_id, (holder, _) in consuming.pending().items()
    ]
    keys, args = take_words(ref, "thief", min_idle_ms=60_000, cursor="0-0", count=50, latest_ms=1 << 52)
    # In one step: the holder's own sweep would find its entry idle.
    replies = consuming.link.calls([("MULTI",), *commands, used.command(keys, args), ("EXEC",)])[-1]
    assert len(replies[-1][4]) == len(commands) > 0


@pytest.mark.parametrize("outcome", ["return", "raise", "reject"])
def test_g5_what_was_taken_over_is_not_settled(consuming: Consuming, outcome: str) -> None:
    """Done, failed or rejected: the entry stays with its new holder, and nothing is added anywhere."""
    running, go_on = threading.Event(), threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="60s", retry=Retry(3, 0, 0))
    def handle(event: Event) -> None:
        running.set()
        go_on.wait(30)
        if outcome == "raise":
            raise ValueError
        if outcome == "reject":
            raise Reject("no")

    (entry_id,) = consuming.send(1)
    with consuming.running() as members:
        assert running.wait(10)
        take_over(consuming)
        go_on.set()
        until(members.members[0].idle, what="the outcome is taken in")
        counts = total(members.members)
    assert consuming.pending() == {entry_id: ("thief", 2)}
    assert (consuming.dead(), consuming.waiting(), consuming.again_entries()) == ([], 0, 0)
    assert (counts["settled"], counts["taken_over_from_us"]) == (0, 1)


def test_g5_a_handler_sees_that_it_was_taken_over(consuming: Consuming) -> None:
    """With the next renewal, while it runs."""
    saw: list[bool] = []
    running = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s")
    def handle(event: Event, delivery: Delivery) -> None:
        saw.append(delivery.taken_over)
        running.set()
        until(lambda: delivery.taken_over, what="it sees it")
        saw.append(delivery.taken_over)

    (entry_id,) = consuming.send(1)
    with consuming.running() as members:
        assert running.wait(10)
        take_over(consuming)
        until(lambda: len(saw) == 2 and members.members[0].idle(), what="the handler has ended")
        assert consuming.pending()[entry_id][0] == "thief"
    assert saw == [False, True]


def test_g5_an_async_handler_is_cancelled(consuming: Consuming) -> None:
    """What it does from then on would be done twice; its end is not an outcome."""
    steps: list[str] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s")
    async def handle(event: Event, delivery: Delivery) -> None:
        steps.append("runs")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append(f"cancelled, taken over: {delivery.taken_over}")

    (entry_id,) = consuming.send(1)
    with consuming.running() as members:
        until(lambda: steps, what="it runs")
        take_over(consuming)
        until(lambda: len(steps) == 2 and members.members[0].idle(), what="it is cancelled")
        assert consuming.pending()[entry_id][0] == "thief"
    assert steps == ["runs", "cancelled, taken over: True"]


def test_g5_what_was_taken_over_before_it_began_does_not_run(consuming: Consuming) -> None:
    """It waited for a slot when another took it: it runs there, not here."""
    seen: list[int] = []
    go_on = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=1)
    def handle(event: Event) -> None:
        seen.append(event.data)
        go_on.wait(30)

    consuming.send(0, 1)
    with consuming.running() as members:
        until(lambda: seen == [0] and len(consuming.pending()) == 2, what="one runs, one waits")
        take_over(consuming)
        until(lambda: members.members[0].idle(), what="both are known to be lost")
        go_on.set()
        consuming.send(2)
        until(lambda: 2 in seen, what="what comes next runs")
    assert seen == [0, 2]


def test_g5_a_worker_that_slept_settles_nothing_that_it_no_longer_owns(
    consuming: Consuming, link: Link, tmp_path: Path
) -> None:
    """Stopped beyond its lease and woken: each entry is settled by who runs it now."""
    with Crew(tmp_path, consuming.url, consuming.stream, work_ms=1_200, concurrency=2) as crew:
        crew.start().until_joined(link)
        consuming.send(*range(4))
        sleeper = crew.workers[0]
        until(lambda: len(crew.held_by(link, sleeper.pid)) == 4, what="it holds all")
        # Held is not yet running; 0.2 s later two are.
        until(lambda: link.call("XPENDING", consuming.stream, "g", "IDLE", 200, "-", "+", 1))
        sleeper.send_signal(signal.SIGSTOP)
        # Not until_joined(): it may have retired the sleeper before both are seen at the same time.
        other = crew.start().workers[1]
        until(lambda: len(crew.held_by(link, other.pid)) == 4, what="the other holds all")
        sleeper.send_signal(signal.SIGCONT)
        until(lambda: [one for one in crew.handled() if one.pid == sleeper.pid], what="the sleeper finishes")
        # Whatever the other has not finished is still pending with it: the sleeper settled none of it.
        finished = {one.entry_id for one in crew.handled() if one.pid == other.pid}
        assert set(consuming.pending()) >= set(consuming.pending()) - finished
        held = {
            entry_id for entry_id, (holder, _) in consuming.pending().items() if f"-{other.pid}-" in holder
        }
        finished = {one.entry_id for one in crew.handled() if one.pid == other.pid}
        assert len(held | finished) == 4
        consuming.until_drained()
        by_other = [one for one in crew.handled() if one.pid == other.pid]
        assert len(by_other) == 4
