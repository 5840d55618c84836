"""G3: every event in the stream reaches every group at least once, whatever dies: worker, server, network."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.event import Event
from pipeline.server.connect import Link
from tests.conftest import OwnServer, Server
from tests.consuming import PRODUCER, Consuming, consuming_on
from tests.faults.conftest import Feed
from tests.faults.crew import Crew
from tests.proxy import Proxy
from tests.until import until

SEED = 3


def all_hold_some(crew: Crew, link: Link) -> bool:
    """Whether each worker has events in hand."""
    return all(crew.held_by(link, worker.pid) for worker in crew.workers)


def all_settled(crew: Crew, link: Link) -> bool:
    """Whether nothing is pending."""
    return not crew.unsettled(link)


def handled(seen: set[str], count: int) -> bool:
    """Whether so many events were handled."""
    return len(seen) == count


def test_g3_whatever_dies_every_event_reaches_every_group(
    own_server: OwnServer, stream: str, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """Workers of both groups are killed with events in hand, then the server itself: id by id, none is missing."""
    rng = random.Random(SEED)
    mine = own_server(fsync="always")
    link = mine.connector().link()
    feed = Feed(link, stream)

    def crew(group: str) -> Crew:
        return Crew(tmp_path, mine.url, stream, group=group, work_ms=20)

    with crew("a") as one, crew("b") as other:
        for each in (one, other):
            each.start(2).until_joined(link)
        for _ in range(scaled(10)):
            for each in (one, other):
                feed.add(max(scaled(2_000), 600))  # for longer than a busy machine takes to look and kill
                until(partial(all_hold_some, each, link))
                killed = each.kill(link, rng)
                assert killed.held, "it had nothing in hand: nothing was shown"
        feed.add(scaled(4_000))
        link.close()
        mine.kill()
        mine.restart()
        link = mine.connector().wait_until_up(10_000)
        feed.over(link).add(100)
        for each in (one, other):
            each.until_all(feed.sent, 60)
            assert set(each.times()) == set(feed.sent)
            until(partial(all_settled, each, link), 20)
            assert set(each.stop()) == {0}
    link.close()


@pytest.mark.parametrize(
    ("what", "most"), [("request_bytes", 4_000), ("reply_bytes", 15_000), ("replies", 6)]
)
def test_g3_a_connection_may_break_at_any_byte(
    server: Server, stream: str, what: str, most: int, scaled: Callable[[int], int]
) -> None:
    """Cut again and again while events are read, retried and settled: each is handled, and is settled in the end."""
    rng = random.Random(what)
    seen: set[str] = set()
    total, cuts = scaled(20_000), scaled(100)
    with Proxy(server.address) as proxy, consuming_on(server.address, stream, url=proxy.url) as consuming:

        @consuming.app.consumer(stream, group="g", retry=2)
        def handle(event: Event) -> None:
            if event.data % 100 == 0 and event.id not in seen:
                seen.add(event.id)
                raise ValueError("once")
            seen.add(event.id)

        with consuming.running():
            connections = proxy.connections
            for cut in range(1, cuts + 1):
                proxy.cut_after(**{what: rng.randrange(1, most)})
                consuming.send(*range((cut - 1) * total // cuts, cut * total // cuts))
                until(partial(handled, seen, cut * total // cuts), 20, what="all that was sent is handled")
            assert proxy.connections - connections >= cuts // 2, "hardly a connection was cut"
            consuming.advance(60_000)
            consuming.until_drained(timeout_s=30)
        assert seen == {f"{PRODUCER}-{number + 1}" for number in range(total)}
        assert consuming.dead() == []


def test_g3_what_was_read_and_not_settled_is_never_settled(
    consuming: Consuming, link: Link, tmp_path: Path
) -> None:
    """A worker that dies in its handler has settled nothing of what it had in hand."""
    with Crew(tmp_path, consuming.url, consuming.stream, work_ms=60_000, concurrency=2) as crew:
        crew.start().until_joined(link)
        consuming.send(*range(4))
        (worker,) = crew.workers
        until(lambda: len(crew.held_by(link, worker.pid)) == 4, what="it holds all")
        worker.kill()
        worker.wait()
        assert len(consuming.pending()) == 4
