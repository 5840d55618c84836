"""A list queue on a Redis Cluster of one node, which refuses what would cross its slots."""

import logging
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path

import pytest

from consumers.list_queue import ListQueue
from pipeline.event import Event
from pipeline.keys import slot_of
from pipeline.options import Retry
from tests.clustered import one_node_cluster
from tests.console.command import here
from tests.faults.campaign.server import FaultyServer
from tests.lists.conftest import Listing, listing_on
from tests.until import until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyServer]:
    """The cluster."""
    with one_node_cluster(Path(tmp_path_factory.mktemp("cluster")) / "node") as node:
        yield node


@pytest.fixture
def listing(node: FaultyServer, stream: str) -> Iterator[Listing]:
    """A list on it that no other test uses."""
    with listing_on(node.address, stream) as listing:
        listing.url = listing.app.url = node.url
        yield listing


MakeQueue = Callable[..., ListQueue]


@pytest.fixture
def make(listing: Listing) -> Iterator[MakeQueue]:
    """Makes queues of the list, which are closed at the end."""
    made: list[ListQueue] = []

    def make(**options: object) -> ListQueue:
        made.append(ListQueue(listing.list, listing.url, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for queue in made:
        queue.close()


def test_all_that_becomes_of_a_task_stays_in_its_slot(listing: Listing, make: MakeQueue) -> None:
    """Old pushes and ours, a delay, a retry, a dead letter: the list and all keys of ours share one slot."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list, retry=Retry(attempts=2, initial="10ms"))
    def handle(event: Event) -> None:
        seen.append(event.data)
        if event.data == "bad":
            raise ValueError("no")

    queue = make()
    listing.push("old", "bad")
    queue.push("ours")
    queue.push("later", after="300ms")
    with listing.running():
        until(lambda: len(seen) == 5 and listing.dead_of())
        listing.until_gone()
    assert sorted(map(str, seen)) == ["bad", "bad", "later", "old", "ours"]
    found = [key.decode() for key in listing.link.call("KEYS", "*") if listing.list in key.decode()]
    assert {slot_of(key) for key in found} == {slot_of(listing.list)}, found


def test_what_is_waited_for_taken_and_given_back(listing: Listing, make: MakeQueue) -> None:
    """pop, take, and the worker that leaves: each a step within the slot."""
    queue = make(claim_after="1s")
    queue.push_many(["a", "b", "c"])
    assert queue.pop(0) == "a"
    taken = queue.take("5s")
    assert taken is not None
    assert taken.event.data == "b"
    taken.ack()
    assert queue.status().depth == 1
    running = listing.block_list(concurrency=1)
    with listing.running():
        listing.push("d", "e", "f")
        assert running.wait(10)
        until(lambda: listing.taken() > 1, what="more is taken than runs")
    until(
        lambda: not listing.taken(),
        what="what the worker left is in the list, also if the queue was the last one",
    )
    assert queue.give_back() == 0
    rest = [queue.pop(0) for _ in range(queue.status().depth)]
    assert rest == ["d", "e", "f"][3 - len(rest) :]
    assert listing.gone()
    shown = here("queue", "status", listing.list, "--json", url=listing.url)
    assert (shown.code, shown.json["depth"]) == (0, 0)


def test_a_waiting_worker_is_handed_tasks(listing: Listing) -> None:
    """BLMOVE, and what adds the task to the stream, are of one slot."""
    seen: list[object] = []
    listing.app.consumer(list=listing.list)(lambda event: seen.append(event.data))
    with listing.running() as running:
        for number in range(20):
            until(lambda: running.members[0].state.watching, what="it waits")
            listing.push(f"{number}")
            until(lambda number=number: len(seen) == number + 1)  # type: ignore[misc]
        listing.until_gone()
    assert seen == [str(number) for number in range(20)]


def test_delayed_tasks_under_the_old_name_come_in_two_steps(listing: Listing, make: MakeQueue) -> None:
    """`scheduled` is in another slot: what is due is held there by number, and then placed, once."""
    assert slot_of("scheduled") != slot_of(listing.list)
    options = listing.options(format="classic")
    seen: list[object] = []
    listing.app.consumer(list=options)(lambda event: seen.append(event.data))
    listing.link.call("ZADD", "scheduled", 1, "overdue")
    with listing.running():
        make(format="classic").push("soon", after="200ms")
        until(lambda: sorted(map(str, seen)) == ["overdue", "soon"])
        listing.until_gone()
    assert not listing.link.call("EXISTS", "scheduled")


def test_old_leftovers_in_other_slots_are_put_back_in_steps(
    listing: Listing, caplog: pytest.LogCaptureFixture
) -> None:
    """`processing` and each record have slots of their own: what timed out runs, what is in time stays, once each."""
    seen: list[object] = []
    listing.app.consumer(list=listing.options(old_processing="processing"))(
        lambda event: seen.append(event.data)
    )
    now_s = int(listing.link.call("TIME")[0])
    for number in range(40):
        task, taken_s = f"task {number}", now_s - 600 if number % 2 else now_s
        listing.link.call("LPUSH", "processing", task)
        fields = ("task", task, "task_id", str(number), "timestamp", str(taken_s), "timeout", "300")
        listing.link.call("HSET", f"processing:{md5(task.encode()).hexdigest()}", *fields)
    try:
        with listing.running():
            until(lambda: len(seen) == 20, 20)
            listing.until_gone()
            until(lambda: listing.link.call("LLEN", "processing") == 20)
        assert sorted(map(str, seen)) == sorted(f"task {number}" for number in range(1, 40, 2))
    finally:
        listing.link.call("DEL", "processing")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_old_leftovers_under_a_tag_are_put_back(node: FaultyServer) -> None:
    """With names that share a tag, as a cluster wants them, all is one step."""
    with listing_on(node.address, "{jobs}:emails") as listing:
        listing.app.url = node.url
        seen: list[object] = []
        options = listing.options(old_processing="{jobs}:processing", old_records="{jobs}:processing:")
        listing.app.consumer(list=options)(lambda event: seen.append(event.data))
        listing.link.call("LPUSH", "{jobs}:processing", "left behind")
        listing.link.call(
            "HSET", "{jobs}:processing:1", "task", "left behind", "task_id", "1", "timestamp", "1", "timeout", "1"
        )  # fmt: skip
        with listing.running():
            until(lambda: seen == ["left behind"], 15)
            listing.until_gone()
        assert not listing.link.call("EXISTS", "{jobs}:processing", "{jobs}:processing:1")


def test_nothing_of_it_crosses_slots(node: FaultyServer) -> None:
    """The server has refused no command for that, in all of these tests."""
    with node.link() as link:
        stats = link.call("INFO", "errorstats")
    assert b"CROSSSLOT" not in stats
