"""G9: SIGTERM and SIGINT stop reading, let handlers finish, settle, hand back what did not start, and exit 0."""

import signal
import threading
from pathlib import Path

import pytest

from consumers.member import Member
from pipeline.event import Event
from pipeline.server.connect import Link
from tests.consuming import PRODUCER, Consuming
from tests.faults.crew import Crew
from tests.until import until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g9_a_stopped_worker_hands_over_cleanly(
    consuming: Consuming, link: Link, tmp_path: Path, number: signal.Signals
) -> None:
    """What ran is finished and settled, once; what did not start runs at once elsewhere, as its first attempt."""
    with Crew(
        tmp_path, consuming.url, consuming.stream, work_ms=300, claim_after="60s", concurrency=4
    ) as crew:
        crew.start().until_joined(link)
        (leaver,) = crew.workers
        consuming.send(*range(12))
        until(lambda: len(crew.handled()) >= 4, what="four have run, and the next four run")
        leaver.send_signal(number)
        assert leaver.wait(10) == 0, crew.said()
        by_leaver = {one.event_id for one in crew.handled()}
        assert 4 < len(by_leaver) < 12
        assert {holder.split("-")[-2] for holder, _ in consuming.pending().values()} <= {str(leaver.pid)}
        assert len(by_leaver) + len(consuming.pending()) <= 12
        crew.workers.clear()
        crew.start()
        consuming.until_drained(timeout_s=10)  # claim_after is a minute: nothing waited for it
        handled = crew.handled()
        assert sorted(one.event_id for one in handled) == sorted(f"{PRODUCER}-{n}" for n in range(1, 13))
        assert {one.attempt for one in handled} == {1}
        assert crew.stop() == [0]
    assert consuming.pending() == {}


def test_g9_what_ended_just_as_the_stop_came_is_settled(consuming: Consuming) -> None:
    """A handler ends in the reader's own thread, and the stop comes before its outcome is on its way."""
    stopped = threading.Event()
    ours: list[Member] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event) -> None:
        if ours and "reader" in threading.current_thread().name:
            ours[0].state.stop_asked.set()
            stopped.set()

    with consuming.running() as members:
        ours += members.members
        until(lambda: consuming.send(0) and stopped.is_set(), 20, what="the reader runs a handler")
        assert ours[0].stop()
        assert consuming.pending() == {}


def test_g9_a_handler_beyond_grace_keeps_its_entry_for_others(consuming: Consuming) -> None:
    """It may still be at it: the entry is not handed back but goes idle, and the stop is not a clean one."""
    running = consuming.block()
    (entry_id,) = consuming.send(1)
    with consuming.running() as members:
        until(lambda: running.is_set(), what="it runs")
        (member,) = members.members
        assert not member.stop(grace_ms=100)
        assert consuming.pending() == {entry_id: (member.name, 1)}
        assert consuming.consumers() == {member.name: 1}


def test_g9_an_async_handler_beyond_grace_is_cancelled_and_handed_back(consuming: Consuming) -> None:
    """It can be stopped, so its entry is free at once, its attempt not spent."""
    running = consuming.block(is_async=True)
    (entry_id,) = consuming.send(1)
    with consuming.running() as members:
        until(lambda: running.is_set(), what="it runs")
        (member,) = members.members
        assert member.stop(grace_ms=100)
        assert consuming.pending() == {entry_id: (member.name, 0)}
        assert consuming.idle_ms(entry_id) >= 30_000


def test_g9_an_idle_worker_stops_at_once(consuming: Consuming, link: Link, tmp_path: Path) -> None:
    """A read that waits at the server is ended, and its name is gone."""
    with Crew(tmp_path, consuming.url, consuming.stream) as crew:
        crew.start().until_joined(link)
        assert crew.stop(timeout_s=3) == [0]
    assert consuming.consumers() == {}
    assert link.call("HLEN", consuming.keys.members("g")) == 0
