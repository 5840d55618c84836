"""The server's clock is set forward and back: nobody loses an entry by it, and nothing waits for it to catch up."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.delivery import Delivery
from pipeline.event import Event
from producers.producer import Producer
from tests.clock_shift import ClockServer, ShiftedServer, clock_server
from tests.consuming import Consuming, consuming_on, total
from tests.faults.crew import Crew, say_took_over
from tests.until import until

__all__ = ["clock_server"]
HOUR_MS = 3_600_000
CLAIM_AFTER_S = 1.0


@pytest.fixture
def own(clock_server: ClockServer) -> ShiftedServer:
    """A server of this test."""
    return clock_server()


@pytest.fixture
def mine(own: ShiftedServer, stream: str) -> Iterator[Consuming]:
    """A stream on it."""
    with consuming_on(own.address, stream) as consuming:
        yield consuming


@pytest.mark.campaign
@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS, 5_000, -5_000])
def test_a_live_member_keeps_its_entries(own: ShiftedServer, mine: Consuming, step_ms: int) -> None:
    """Handlers run on for several claim_after; all entries look abandoned for an hour, or delivered in an hour."""
    runs: list[int] = []
    go_on = threading.Event()

    @mine.app.consumer(mine.stream, group="g", claim_after="1s", concurrency=4)
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        if event.data < 4:
            go_on.wait(30)

    with mine.running() as one, mine.running() as other:
        mine.send(*range(4))
        until(lambda: len(runs) == 4, what="four run")
        own.shift(step_ms)
        stepped_s = time.monotonic()
        until(lambda: time.monotonic() - stepped_s > 3.2 * CLAIM_AFTER_S)
        mine.send(4, 5)
        go_on.set()
        mine.until_drained()
        assert total([*one.members, *other.members])["taken_over_by_us"] == 0
    assert runs == [1] * 6


@pytest.mark.campaign
@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
def test_what_a_dead_worker_held_does_not_wait_for_the_clock(
    own: ShiftedServer, mine: Consuming, tmp_path: Path, step_ms: int
) -> None:
    """Killed just before the step: one more claim_after, in which the living have renewed, and it runs again."""
    with Crew(tmp_path, own.url, mine.stream, work_ms=100, concurrency=4) as crew:
        crew.start(2).until_joined(mine.link)
        mine.send(*range(12))
        until(lambda: all(crew.held_by(mine.link, w.pid) for w in crew.workers), what="both hold some")
        killed = crew.kill(mine.link, random.Random(1))
        own.shift(step_ms)
        crew.until_entries(killed.held, 15)
        waits = say_took_over(crew, killed)
        assert waits
        assert max(waits) <= 2 * CLAIM_AFTER_S + 2
        mine.until_drained()
        assert crew.until_joined(mine.link).stop() == [0, 0]


def test_a_clock_set_back_while_nobody_ran_holds_nothing_up(
    own: ShiftedServer, mine: Consuming, tmp_path: Path
) -> None:
    """The last worker is dead, with the duty and entries in its hands; the next one starts after the step."""
    own.shift(HOUR_MS)
    with Crew(tmp_path, own.url, mine.stream, work_ms=200, concurrency=2) as crew:
        crew.start().until_joined(mine.link)
        mine.send(*range(6))
        until(lambda: crew.held_by(mine.link, crew.workers[0].pid), what="it holds some")
        crew.workers[0].kill()
        crew.workers.pop().wait()
        own.shift(0)
        crew.start()
        mine.until_drained(timeout_s=15)
        assert crew.stop() == [0]
    assert mine.consumers() == {}, "the dead one's name is gone, too"


def test_sends_go_on_whatever_the_clock_does(own: ShiftedServer, mine: Consuming) -> None:
    """Forward and back, each event is appended once and in order: ids never go back."""
    with Producer(mine.url) as producer:
        for number, step_ms in enumerate([0, HOUR_MS, -HOUR_MS, 30 * 24 * HOUR_MS, 0]):
            own.shift(step_ms)
            receipts = [producer.send(mine.stream, 10 * number + n) for n in range(10)]
            ids = [receipt.result(10).entry_id for receipt in receipts]
            assert len(set(ids)) == 10
    entries = [entry_id for entry_id, _ in mine.entries()]
    assert len(entries) == 50
