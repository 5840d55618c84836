"""take(): a task is its taker's until it is settled, and another's if its taker dies."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from consumers.list_queue import ListQueue
from pipeline.errors import ClosedError, TakenOverError, UsageError, WrongKeyTypeError
from pipeline.keys import GroupRef
from pipeline.list_options import WORKERS
from pipeline.options import Retry
from pipeline.server.connect import Link
from tests.conftest import Server
from tests.lists.conftest import Listing
from tests.until import until

MakeQueue = Callable[..., ListQueue]


@pytest.fixture
def make(server: Server, listing: Listing) -> Iterator[MakeQueue]:
    """Makes queues of the list, which are closed at the end."""
    made: list[ListQueue] = []

    def one(**options: Any) -> ListQueue:
        made.append(ListQueue(listing.list, server.url, **options))
        return made[-1]

    yield one
    for queue in made:
        queue.close()


def test_a_task_is_its_takers_until_it_is_acknowledged(make: MakeQueue, listing: Listing) -> None:
    """It has left the list, counts as in progress, and is gone once it is done."""
    queue = make()
    queue.push({"id": 1})
    task = queue.take("5s")
    assert task is not None
    assert (task.event.data, task.attempt, listing.left(), listing.taken()) == ({"id": 1}, 1, [], 1)
    assert queue.status().in_progress == 1
    task.ack()
    until(listing.gone)
    with pytest.raises(UsageError, match="settled already"):
        task.ack()
    assert queue.take(0) is None


def test_no_more_is_taken_than_is_asked_for(make: MakeQueue, listing: Listing) -> None:
    """Ten tasks wait: who takes one leaves nine to the others, also once it is done."""
    listing.push(*map(str, range(10)))
    queue = make()
    first = queue.take("5s")
    assert first is not None
    assert (listing.taken(), len(listing.left())) == (1, 9)
    first.ack()
    until(lambda: listing.taken() == 0)
    assert len(listing.left()) == 9
    second, third = queue.take("5s"), queue.take("5s")  # both are held at the same time
    assert second is not None
    assert third is not None
    assert [second.event.data, third.event.data] == ["1", "2"]
    assert (listing.taken(), len(listing.left())) == (2, 7)


def test_a_take_waits_no_longer_than_it_was_told_to(make: MakeQueue, listing: Listing) -> None:
    """And what comes just behind it goes to others: an old worker finds it in the list, or the next take does."""
    queue = make()
    began = time.monotonic()
    assert queue.take("200ms") is None
    assert 0.2 <= time.monotonic() - began < 2
    listing.push("late")
    task = queue.take("10s")
    assert task is not None
    assert task.event.data == "late"


def test_a_take_that_does_not_wait_finds_what_is_there(make: MakeQueue, listing: Listing) -> None:
    """And knows at once that nothing is."""
    queue = make()
    assert queue.take(0) is None
    listing.push("a", "b")
    found = [queue.take(0), queue.take(0)]
    assert [task.event.data for task in found if task is not None] == ["a", "b"]
    began = time.monotonic()
    assert queue.take(0) is None
    assert time.monotonic() - began < 0.9


def test_what_comes_when_nobody_asks_any_more_is_in_the_list(make: MakeQueue, listing: Listing) -> None:
    """It may be taken on its way, as the take before still waits at the server; an old worker gets it all the same."""
    queue = make()
    assert queue.take("200ms") is None
    listing.push("one", "two", "three")
    until(lambda: listing.left() != [b"three", b"two", b"one"], what="one is taken")
    until(lambda: listing.left() == [b"three", b"two", b"one"], 10)
    assert (listing.taken(), listing.link.call("EXISTS", listing.list_keys.hand)) == (0, 0)
    task = queue.take("10s")
    assert task is not None
    assert (task.event.data, task.attempt) == ("one", 1)


def test_what_failed_runs_again_and_then_is_a_dead_letter(make: MakeQueue, listing: Listing) -> None:
    """With the attempt's number; rejected at once, put off without spending one."""
    queue = make(retry=Retry(attempts=2, initial="10ms", longest="10ms"))
    queue.push("fails")
    for attempt in (1, 2):
        task = queue.take("10s")
        assert task is not None
        assert task.attempt == attempt
        task.fail(ValueError("no"))
    queue.push("rejected")
    task = queue.take("10s")
    assert task is not None
    task.reject("never")
    queue.push("later")
    task = queue.take("10s")
    assert task is not None
    task.later("10ms")
    task = queue.take("10s")
    assert task is not None
    assert (task.event.data, task.attempt) == ("later", 1)
    task.ack()
    until(listing.gone)
    assert listing.link.call("XLEN", listing.keys.dead(WORKERS)) == 2


def test_iterating_acknowledges_the_last(make: MakeQueue, listing: Listing) -> None:
    """Leaving by an exception has the one that was under way retried; without one it is done."""
    listing.push("a", "b", "c")
    with make() as queue:
        for task in queue:
            if task.event.data == "b":
                break
    until(lambda: listing.left() == [b"c"] and listing.taken() == 0)
    later = Retry(initial="1h", longest="1h", jitter=0)
    with pytest.raises(ValueError, match="no number"), make(retry=later) as queue:
        [int("no number") for _ in queue]
    until(lambda: listing.link.call("ZCARD", listing.keys.retry(WORKERS)) == 1)


def test_what_is_not_settled_at_the_end_is_handed_back(make: MakeQueue, listing: Listing) -> None:
    """At once, the attempt not spent."""
    listing.push("a")
    queue = make()
    assert queue.take("5s") is not None
    queue.close()
    other = make()
    task = other.take("10s")
    assert task is not None
    assert (task.event.data, task.attempt) == ("a", 1)
    task.ack()


def test_a_task_of_a_killed_process_goes_to_another(
    server: Server, make: MakeQueue, listing: Listing
) -> None:
    """Within claim_after, with the number of its run."""
    listing.push("a")
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_take_and_sleep, args=(listing.list, server.url))
    process.start()
    until(lambda: listing.taken() == 1, 20)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    task = make(claim_after="1s").take("20s")
    assert task is not None
    assert (task.event.data, task.attempt) == ("a", 2)
    task.ack()
    until(listing.gone)


def _take_and_sleep(name: str, url: str) -> None:
    queue = ListQueue(name, url, claim_after="1s")
    queue.take()
    threading.Event().wait()


def test_who_was_taken_over_is_told(make: MakeQueue, listing: Listing, link: Link) -> None:
    """Settling it raises, once that is known; the other's run is not disturbed."""
    listing.push("a")
    queue = make(claim_after="1s")
    task = queue.take("5s")
    assert task is not None
    ref = GroupRef(listing.keys, WORKERS)
    link.call("XCLAIM", ref.key, WORKERS, "other", 0, task.entry_id)
    link.call("HSET", listing.keys.groups, f"{WORKERS}:token", "1-moved")
    until(lambda: task.taken_over)
    with pytest.raises(TakenOverError, match="not its taker's any more"):
        task.ack()
    assert listing.taken() == 1


def test_a_task_that_takes_too_long_has_failed(make: MakeQueue, listing: Listing) -> None:
    """With timeout=, also if its taker lives: it runs again, and the late one is told."""
    listing.push("slow")
    queue = make(timeout="300ms", retry=Retry(attempts=3, initial="10ms", longest="10ms"))
    slow = queue.take("5s")
    assert slow is not None
    again = queue.take("10s")
    assert again is not None
    assert (again.event.data, again.attempt) == ("slow", 2)
    with pytest.raises(TakenOverError):
        slow.ack()
    again.ack()
    until(listing.gone)


def test_threads_take_from_one_queue(make: MakeQueue, listing: Listing) -> None:
    """Each task goes to one of them."""
    listing.push(*map(str, range(100)))
    queue = make()
    done: list[str] = []

    def work() -> None:
        while (task := queue.take("500ms")) is not None:
            done.append(task.event.data)
            task.ack()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(done, key=int) == [*map(str, range(100))]
    until(listing.gone)


def test_close_ends_a_take(make: MakeQueue) -> None:
    """From another thread."""
    queue = make()
    assert queue.take(0) is None  # it has joined
    ended: list[str] = []

    def take() -> None:
        try:
            queue.take()
        except ClosedError as error:
            ended.append(str(error))

    thread = threading.Thread(target=take)
    thread.start()
    queue.close()
    thread.join(10)
    assert len(ended) == 1
    with pytest.raises(ClosedError):
        queue.take(0)


def test_what_cannot_be_is_said(make: MakeQueue, listing: Listing, link: Link) -> None:
    """An option that is none, a negative timeout, a key that is a stream."""
    with pytest.raises(UsageError, match="colour"):
        make(colour="red")
    with pytest.raises(UsageError, match="timeout"):
        make().take(-1)
    link.call("XADD", listing.list, "*", "a", "b")
    with pytest.raises(WrongKeyTypeError):
        make().take("10s")
