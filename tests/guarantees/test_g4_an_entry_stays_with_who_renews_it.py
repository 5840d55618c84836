"""G4: an entry is handed to a second consumer only if its consumer stopped renewing it for claim_after; then soon."""

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from consumers.delivery import Delivery
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.server.connect import Link
from tests.consuming import Consuming, total
from tests.faults.crew import Crew, Killed, say_took_over
from tests.until import until

CLAIM_AFTER_S = 1.0


@pytest.mark.parametrize("is_async", [False, True])
def test_g4_a_long_run_keeps_its_entry(consuming: Consuming, is_async: bool) -> None:
    """A handler of 5 x claim_after, beside a second member that looks for abandoned entries all the time."""
    runs: list[int] = []

    async def handle_async(event: Event, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        await asyncio.sleep(2.5)

    def handle(event: Event, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        time.sleep(2.5)

    declare = consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=1)
    declare(handle_async if is_async else handle)
    with consuming.running() as one, consuming.running() as other:
        consuming.send(1)
        consuming.until_drained()
    assert runs == [1]
    assert total([*one.members, *other.members])["taken_over_by_us"] == 0


def test_g4_a_handler_that_blocks_its_event_loop_keeps_its_entries(consuming: Consuming) -> None:
    """Renewing goes on in a thread of its own: blocked code looks like a long run, not like a dead process."""
    runs: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    async def handle(event: Event, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        if event.data == 0:
            time.sleep(2.5)  # noqa: ASYNC251 - blocking the loop is what is tested

    with consuming.running() as one, consuming.running() as other:
        consuming.send(*range(8))
        consuming.until_drained()
    assert runs == [1] * 8
    assert total([*one.members, *other.members])["taken_over_by_us"] == 0


def test_g4_what_a_dead_process_held_runs_again_within_claim_after_and_a_second(
    consuming: Consuming, link: Link, tmp_path: Path
) -> None:
    """Counted from its death; the survivor has free slots."""
    with Crew(tmp_path, consuming.url, consuming.stream, work_ms=100, concurrency=4) as crew:
        crew.start(2).until_joined(link)
        consuming.send(*range(12))
        until(lambda: all(crew.held_by(link, worker.pid) for worker in crew.workers), what="both hold some")
        killed = crew.kill(link, random.Random(4))
        crew.until_entries(killed.held, 15)
        waits = say_took_over(crew, killed)
    assert waits
    assert max(waits) <= CLAIM_AFTER_S + 1


def test_g4_what_a_hung_process_held_runs_again_within_twice_claim_after(
    consuming: Consuming, link: Link, tmp_path: Path
) -> None:
    """It stands still (SIGSTOP) and still is a member: it renews nothing, which is what counts."""
    with Crew(tmp_path, consuming.url, consuming.stream, work_ms=100, concurrency=4) as crew:
        crew.start(2).until_joined(link)
        consuming.send(*range(12))
        hung = crew.workers[0]
        until(lambda: crew.held_by(link, hung.pid), what="it holds something")
        hung.send_signal(signal.SIGSTOP)
        stopped = Killed(hung.pid, time.time(), crew.held_by(link, hung.pid))
        crew.until_entries(stopped.held, 15)
        waits = say_took_over(crew, stopped)
        attempts = {
            one.attempt for one in crew.handled() if one.entry_id in stopped.held and one.pid != hung.pid
        }
    assert waits
    assert max(waits) <= 2 * CLAIM_AFTER_S
    assert attempts == {2}


def test_g4_many_entries_of_a_dead_process_run_through_a_small_window(consuming: Consuming) -> None:
    """One slot, and a hundred entries to take over: as fast as they are handled, not some per heartbeat."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=1)
    def handle(event: Event) -> None:
        seen.append(event.data)

    consuming.send(*range(100))
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    consuming.link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    begun_s = time.monotonic()
    consuming.run_until_drained()
    assert sorted(seen) == list(range(100))
    assert time.monotonic() - begun_s < CLAIM_AFTER_S + 2


@pytest.mark.parametrize("window_events", [None, 4])
def test_g4_a_backlog_does_not_hold_up_what_a_dead_process_held(
    consuming: Consuming, window_events: int | None
) -> None:
    """What it left is older than what is new: it gets its share of the slots, however much is in the stream."""
    order: list[int] = []

    @consuming.app.consumer(
        consuming.stream, group="g", claim_after="1s", concurrency=2, window_events=window_events
    )
    async def handle(event: Event) -> None:
        order.append(event.data)
        await asyncio.sleep(0.001)

    consuming.send(*range(20))
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    consuming.link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    consuming.send(*range(100, 10_000))
    with consuming.running():
        until(lambda: set(range(20)) <= set(order[:]), 15, what="what the dead one held has run")
        assert len(order) < 9_000, "there was no backlog any more: nothing was shown"


def test_g4_max_run_bounds_a_handler_that_never_returns(consuming: Consuming) -> None:
    """Its entry is not kept for ever: the attempt fails, and the event runs again."""
    attempts: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", max_run="300ms", retry=Retry(2, 0, 0))
    async def handle(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            await asyncio.Event().wait()

    consuming.send(1)
    consuming.run_until_drained()
    assert attempts == [1, 2]
