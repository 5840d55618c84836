"""A server that is killed, flushed, cut off, or loses a group, while events flow."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import OwnServer
from tests.faults.conftest import Feed
from tests.faults.crew import Crew
from tests.proxy import Proxy
from tests.until import until

LOST: dict[str, tuple[str, ...]] = {
    "flushall": ("FLUSHALL",),
    "group destroyed": ("XGROUP", "DESTROY", "{stream}", "g"),
    "stream deleted": ("DEL", "{stream}"),
    "own stream deleted": ("DEL", "{{{stream}}}:again:g"),
    "what is known of groups deleted": ("DEL", "{{{stream}}}:groups"),
    "stream renamed": ("RENAME", "{stream}", "{stream}-away"),
}


@pytest.mark.parametrize("what", LOST)
def test_a_lost_group_is_recreated(own_server: OwnServer, stream: str, tmp_path: Path, what: str) -> None:
    """It works again by itself: everything sent afterwards is handled, with few words."""
    mine = own_server()
    link = mine.connector().link()
    feed = Feed(link, stream)
    with Crew(tmp_path, mine.url, stream).start(2).until_joined(link) as crew:
        crew.until_all(feed.add(500), 20)
        said = len(crew.said().splitlines())
        link.call(*(word.format(stream=stream) for word in LOST[what]))
        crew.until_all(feed.add(500), 10)
        assert len(crew.said().splitlines()) - said < 6, crew.said()
        until(lambda: not crew.unsettled(link))
        assert crew.stop() == [0, 0]
    link.close()


def test_a_group_lost_with_work_pending_starts_before_it(
    own_server: OwnServer, stream: str, tmp_path: Path
) -> None:
    """The group is destroyed while a killed worker's entries are pending: they are handled, too."""
    mine = own_server()
    link = mine.connector().link()
    feed = Feed(link, stream)
    with Crew(tmp_path, mine.url, stream, work_ms=300, concurrency=1).start().until_joined(link) as crew:
        feed.add(10)
        until(lambda: len(crew.handled()) >= 2)
        position = f"{{{stream}}}:groups"
        until(lambda: link.call("HGET", position, "g:pos:main") != b"0-0", what="the position is saved")
        crew.workers[0].kill()
        crew.workers.pop().wait()
        link.call("XGROUP", "DESTROY", stream, "g")
        crew.start()
        crew.until_all(feed.sent, 20)
        assert crew.times().total() < 20, "it did not start from the beginning"
    link.close()


def test_a_killed_server_loses_nothing_that_was_confirmed(
    own_server: OwnServer, stream: str, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """kill -9 of the server under load, with appendfsync always: it comes back, and every event is handled."""
    mine = own_server(fsync="always")
    link = mine.connector().link()
    feed = Feed(link, stream)
    with Crew(tmp_path, mine.url, stream, work_ms=1).start(2).until_joined(link) as crew:
        for _ in range(max(scaled(30) // 3, 1)):
            feed.add(scaled(5_000))
            crew.until_half(feed.sent)
            link.close()
            mine.kill()
            mine.restart()
            link = mine.connector().wait_until_up(10_000)
            feed = feed.over(link)
        feed.add(200)
        crew.until_all(feed.sent, 40)
        until(lambda: not crew.unsettled(link), 20)
        assert crew.stop() == [0, 0], crew.said()
        assert set(crew.times()) == set(feed.sent)
    link.close()


def test_lost_replies_lose_and_repeat_nothing(
    own_server: OwnServer, stream: str, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """Every 15th reply to a worker is swallowed and its connection cut: each event is handled, and once."""
    mine = own_server()
    link = mine.connector().link()
    feed = Feed(link, stream)
    with Proxy(mine.address) as proxy, Crew(tmp_path, proxy.url, stream, claim_after="20s") as crew:
        crew.start().until_joined(link)
        proxy.swallow_every(15)
        for _ in range(10):
            feed.add(scaled(2_000))
            # Sooner than claim_after: what was never seen is fetched, not waited for.
            crew.until_all(feed.sent, 18)
        proxy.swallow = None
        until(lambda: not crew.unsettled(link), 18, what=crew.said())
        assert proxy.swallowed >= 5
        assert crew.stop() == [0]
        assert set(crew.times().values()) == {1}
    link.close()


@pytest.mark.campaign
def test_a_black_hole_is_waited_out(own_server: OwnServer, stream: str, tmp_path: Path) -> None:
    """Nothing passes for longer than the timeout, then everything does: nothing is lost."""
    mine = own_server()
    link = mine.connector().link()
    feed = Feed(link, stream)
    with Proxy(mine.address) as proxy, Crew(tmp_path, proxy.url, stream).start().until_joined(link) as crew:
        crew.until_all(feed.add(100), 20)
        proxy.black_hole()
        feed.add(100)
        until(lambda: "no answer from" in crew.said(), 20)
        proxy.black_hole(False)
        proxy.cut()
        crew.until_all(feed.sent, 30)
        until(lambda: not crew.unsettled(link), 20)
        assert crew.stop() == [0]
    link.close()


def test_a_worker_told_to_go_while_the_server_is_away_waits_for_it(
    own_server: OwnServer, stream: str, tmp_path: Path
) -> None:
    """What it has finished is settled when the server is back within grace, and not run again by the next."""
    mine = own_server(fsync="always")
    link = mine.connector().link()
    feed = Feed(link, stream)
    with (
        Crew(tmp_path, mine.address.shown, stream, work_ms=500, concurrency=4)
        .start()
        .until_joined(link) as crew
    ):
        feed.add(4)
        until(lambda: len(crew.held_by(link, crew.workers[0].pid)) == 4)
        link.close()
        mine.kill()
        until(lambda: len(crew.handled()) == 4)
        leaver = crew.workers[0]
        leaver.terminate()
        until(lambda: "cannot settle what is finished yet" in crew.said(), what=crew.said)
        mine.restart()
        assert leaver.wait(15) == 0, crew.said()
        link = mine.connector().wait_until_up(10_000)
        assert not crew.unsettled(link)
    link.close()
