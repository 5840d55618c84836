"""Quick handlers run in the thread that reads; one that is not quick after all holds up no other event."""

import threading
from typing import Any

import pytest

from consumers.running import Running
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Reject
from tests.consuming import Consuming
from tests.until import until


class Here:
    """A handler that notes where each event ran; data 0 and below keeps it until go_on."""

    def __init__(self, consuming: Consuming, **options: Any) -> None:
        self.ran: dict[int, str] = {}
        self.stuck = threading.Event()
        self._consuming = consuming
        self._next = 1

        @consuming.app.consumer(consuming.stream, group="g", **options)
        def handle(event: Event) -> None:
            self.ran[event.data] = threading.current_thread().name
            if event.data <= 0:
                self.stuck.set()
                consuming.go_on.wait(60)

    def one(self) -> str:
        """Send an event by itself, and wait until it is settled; where it ran."""
        number, self._next = self._next, self._next + 1
        self._consuming.send(number)
        until(lambda: number in self.ran, what=f"event {number} is handled")
        until(
            lambda: not self._consuming.pending().keys() - self.stuck_ids, what=f"event {number} is settled"
        )
        return self.ran[number]

    def until_read_by(self, reader: str) -> None:
        """Send one after the other, until one runs in this thread."""
        until(lambda: self.one() == reader, what=f"a handler runs in {reader}")

    stuck_ids: frozenset[str] = frozenset()

    def get_stuck(self, data: int = 0) -> None:
        """Have a handler that does not end run in the thread that reads."""
        until(lambda: self._stuck_where_read(data), 30, what="a handler is stuck where it is read")

    def _stuck_where_read(self, data: int) -> bool:
        until(lambda: self.one().startswith("millstream-g-reader-"), what="a handler runs where it is read")
        self.stuck.clear()
        sent = frozenset(self._consuming.send(data))
        until(self.stuck.is_set)
        if "reader" in self.ran[data]:
            self.stuck_ids |= sent
            return True
        # The last one took long, on a busy machine: so this one was given to another thread. It is let go.
        self._consuming.go_on.set()
        until(lambda: not self._consuming.pending().keys() - self.stuck_ids)
        self._consuming.go_on.clear()
        return False


def test_a_quick_handler_runs_in_the_thread_that_reads(consuming: Consuming) -> None:
    """Once it is known to be quick, and as long as events come one by one."""
    here = Here(consuming)
    with consuming.running():
        here.until_read_by("millstream-g-reader-0")
        consuming.until_drained()


def test_a_handler_stuck_where_it_is_read_holds_up_no_other(consuming: Consuming) -> None:
    """Another thread reads on; the entry stays ours, and is settled when the handler ends."""
    here = Here(consuming, claim_after="1s")
    with consuming.running() as running:
        here.get_stuck()
        for _ in range(20):
            here.one()
        (held,) = here.stuck_ids
        until(lambda: consuming.idle_ms(held) > 200)
        until(lambda: consuming.idle_ms(held) < 200)  # it was renewed
        assert consuming.pending() == {held: (running.members[0].name, 1)}
        consuming.go_on.set()
        consuming.until_drained()
        assert running.members[0].counts.settled == len(here.ran)
        here.until_read_by("millstream-g-reader-1")  # the one that took the turn has kept it


def test_two_that_are_stuck_one_after_the_other_hold_up_no_other(consuming: Consuming) -> None:
    """While nobody stands by, nothing runs in the thread that reads; afterwards it does again."""
    here = Here(consuming)
    with consuming.running():
        here.get_stuck()
        for _ in range(30):
            assert "reader" not in here.one()
        consuming.go_on.set()
        consuming.until_drained()
        consuming.go_on.clear()
        here.stuck_ids = frozenset()
        here.get_stuck(-1)
        for _ in range(5):
            assert "reader" not in here.one()
        consuming.go_on.set()
        consuming.until_drained()


def test_stopping_waits_for_what_runs_where_it_is_read(consuming: Consuming) -> None:
    """Within grace it may end, and is settled; what came behind it is handed back."""
    here = Here(consuming, concurrency=1)
    with consuming.running() as running:
        here.get_stuck()
        consuming.send(1_000)
        until(lambda: running.members[0].counts.read == len(here.ran) + 1)
        stopped: list[bool] = []
        thread = threading.Thread(target=lambda: stopped.append(running.stop(grace_ms=20_000)))
        thread.start()
        until(lambda: running.members[0].state.counts.handed_back == 1)
        assert thread.is_alive()
        consuming.go_on.set()
        thread.join(20)
        assert stopped == [True]
    assert 1_000 not in here.ran
    assert all(deliveries == 0 for _, deliveries in consuming.pending().values())


def test_stopping_does_not_wait_for_ever(consuming: Consuming) -> None:
    """Beyond grace the entry stays pending, for others to take over."""
    here = Here(consuming)
    with consuming.running() as running:
        here.get_stuck()
        assert not running.stop(grace_ms=100)
        assert consuming.pending().keys() == here.stuck_ids


def test_what_ran_beyond_max_run_where_it_is_read_has_failed(consuming: Consuming) -> None:
    """Its slot is lost, and the others go on."""
    here = Here(consuming, max_run="300ms", retry=Retry(attempts=1), concurrency=2)
    with consuming.running():
        here.get_stuck()
        until(lambda: [letter.error for letter, _ in consuming.dead()] == ["MaxRunError"])
        here.stuck_ids = frozenset()
        here.one()


def test_what_fails_where_it_is_read_is_retried_or_buried(consuming: Consuming) -> None:
    """SystemExit too, which would end the thread."""
    ran: list[tuple[object, str]] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(2, "1m", "1m", jitter=0))
    def handle(event: Event) -> None:
        ran.append((event.data, threading.current_thread().name))
        if event.data == "exit":
            raise SystemExit(1)
        if event.data == "reject":
            raise Reject("no")

    def here(running: Running) -> bool:
        count = running.members[0].counts.settled
        consuming.send("quick")
        until(lambda: running.members[0].counts.settled > count)
        return "reader" in ran[-1][1]

    with consuming.running() as running:
        until(lambda: here(running))
        consuming.send("reject")
        until(lambda: len(consuming.dead()) == 1)
        until(lambda: here(running))
        consuming.send("exit")
        until(lambda: consuming.waiting() == 1)
        consuming.advance(120_000)
        until(lambda: len(consuming.dead()) == 2)
        until(lambda: here(running))


@pytest.mark.parametrize("options", [{"executor": "inline"}, {"batch": 10, "batch_wait": "1ms"}])
def test_other_ways_to_run_go_on_as_before(consuming: Consuming, options: dict[str, Any]) -> None:
    """Inline handlers, and those of batches."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", **options)
    def handle(given: Event | list[Event]) -> None:
        seen.extend(event.data for event in (given if isinstance(given, list) else [given]))

    with consuming.running():
        for number in range(50):
            consuming.send(number)
            until(lambda: len(seen) > number)  # noqa: B023 - asked within this turn of the loop
        consuming.until_drained()
    assert seen == list(range(50))
