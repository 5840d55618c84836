"""Workers that are killed, stopped, slow or told to go, while events flow."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from tests.conftest import Server
from tests.faults.conftest import Feed
from tests.faults.crew import Crew, say_took_over
from tests.until import until

CLAIM_AFTER_S = 1.0


@pytest.mark.campaign
def test_killed_workers_lose_nothing(
    server: Server,
    link: Link,
    stream: str,
    feed: Feed,
    tmp_path: Path,
    rng: random.Random,
    scaled: Callable[[int], int],
) -> None:
    """kill -9 of random workers while events flow: lost 0, taken over in time, repeated at most what the dead held."""
    events, kills = scaled(50_000), scaled(20)
    with Crew(tmp_path, server.url, stream, work_ms=2).start(3).until_joined(link) as crew:
        for _ in range(kills):
            feed.add(events // kills)
            until(lambda: any(crew.held_by(link, worker.pid) for worker in crew.workers))
            killed = crew.kill(link, rng)
            # One death at a time, and room for what it held: what G4 promises for.
            crew.until_entries(killed.held, 30)
            waits = say_took_over(crew, killed)
            assert max(waits, default=0) <= CLAIM_AFTER_S + 1, crew.said()
            crew.until_joined(link)
        crew.until_all(feed.sent, 60)
        until(lambda: not crew.unsettled(link))
        assert crew.stop() == [0, 0, 0]
        times = crew.times()
        repeated = sum(times.values()) - len(times)
        assert set(times) == set(feed.sent)
        assert repeated <= sum(len(killed.held) for killed in crew.killed)
        assert any(killed.held for killed in crew.killed), "nobody held anything: nothing was shown"


@pytest.mark.campaign
def test_all_workers_killed_at_once(
    server: Server, link: Link, stream: str, feed: Feed, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """All workers die at one moment: those that are started next handle everything."""
    # Slower than the feed: there is a second's work when all is sent, at least.
    with Crew(tmp_path, server.url, stream, work_ms=20).start(2).until_joined(link) as crew:
        feed.add(scaled(10_000))
        until(lambda: all(crew.held_by(link, worker.pid) for worker in crew.workers))
        for worker in crew.workers:
            worker.kill()
        for worker in crew.workers:
            worker.wait()
        crew.workers.clear()
        crew.start(2)
        crew.until_all(feed.sent, 60)
        assert crew.stop() == [0, 0]
        assert set(crew.times()) == set(feed.sent)


@pytest.mark.campaign
def test_a_slow_handler_is_not_run_twice(
    server: Server, link: Link, stream: str, feed: Feed, tmp_path: Path
) -> None:
    """A handler of 5 x claim_after keeps its entry, though another member looks for what is abandoned."""
    with (
        Crew(tmp_path, server.url, stream, work_ms=5_000, claim_after="1s", concurrency=1)
        .start(2)
        .until_joined(link) as crew
    ):
        feed.add(2)
        crew.until_all(feed.sent, 30)
        until(lambda: not crew.unsettled(link))
        assert crew.stop() == [0, 0]
        assert set(crew.times().values()) == {1}


@pytest.mark.campaign
def test_a_worker_that_stood_still_settles_nothing_it_lost(
    server: Server, link: Link, stream: str, feed: Feed, tmp_path: Path
) -> None:
    """SIGSTOP beyond the lease: another takes over; the one that wakes leaves the other's entry alone."""
    with Crew(tmp_path, server.url, stream, work_ms=1_500, concurrency=1).start().until_joined(link) as crew:
        feed.add(1)
        first = crew.workers[0]
        # Held is not yet running; 0.2 s later it is.
        until(lambda: link.call("XPENDING", stream, "g", "IDLE", 200, "-", "+", 1))
        first.send_signal(signal.SIGSTOP)
        second = crew.start().workers[1]  # the first may be off the list by the time that this one is on it
        until(lambda: crew.held_by(link, second.pid), 20, what=crew.said)
        first.send_signal(signal.SIGCONT)
        # The woken one finishes at once: its sleep was over while it stood still.
        until(lambda: any(one.pid == first.pid for one in crew.handled()))
        until(lambda: "taken over" in crew.said() and str(first.pid) in crew.said())
        if not any(one.pid == second.pid for one in crew.handled()):
            assert crew.held_by(link, second.pid), "the woken worker settled what the other holds"
        until(lambda: any(one.pid == second.pid for one in crew.handled()))
        until(lambda: not crew.unsettled(link))
        assert crew.stop() == [0, 0]
        assert crew.times().total() == 2


def test_sigterm_under_load_hands_back_at_once(
    server: Server, link: Link, stream: str, feed: Feed, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """SIGTERM: exit 0 within grace, nothing finished is run again, what was handed back runs without waiting."""
    with (
        Crew(tmp_path, server.url, stream, work_ms=20, claim_after="30s").start(2).until_joined(link) as crew
    ):
        feed.add(scaled(5_000))
        until(lambda: len(crew.handled()) > 50)
        leaver = crew.workers.pop(0)
        leaver.terminate()
        assert leaver.wait(10) == 0, crew.said()
        crew.until_all(feed.sent, 20)  # claim_after is 30 s: what was not handed back would still be missing
        until(lambda: not crew.unsettled(link))
        assert crew.stop() == [0]
        assert set(crew.times().values()) == {1}
        assert {one.attempt for one in crew.handled()} == {1}


def test_a_second_signal_ends_at_once_and_nothing_is_lost(
    server: Server, link: Link, stream: str, feed: Feed, tmp_path: Path
) -> None:
    """A worker told twice to go does not wait for its handler; what it ran is taken over."""
    with Crew(tmp_path, server.url, stream, work_ms=60_000, concurrency=1).start().until_joined(link) as crew:
        feed.add(1)
        first = crew.workers[0]
        # Held is not yet running; 0.2 s later it is.
        until(lambda: link.call("XPENDING", stream, "g", "IDLE", 200, "-", "+", 1))
        first.terminate()
        until(lambda: "stopping" in crew.said())
        begun_s = time.monotonic()
        first.terminate()
        assert first.wait(5) == 128 + signal.SIGTERM
        assert time.monotonic() - begun_s < 1
        crew.workers.clear()
    with Crew(tmp_path, server.url, stream).start() as crew:
        crew.until_all(feed.sent, 20)
