"""The classic list queue row by row: what its sorted sets do wrong, shown step by step; and that ours does not."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from consumers.delivery import Delivery
from consumers.list_queue import ListQueue
from pipeline.event import Event
from pipeline.list_options import WORKERS, ListOptions
from pipeline.options import Retry
from tests.lists import classic
from tests.lists.beside import NAME, TASK, TASK_DATA, keeping, tasks
from tests.lists.classic import ClassicQueue, finish, stop_after
from tests.lists.conftest import Listing

# Scheduled tasks.


def test_classic_schedule_merges_equal_tasks(client: Any, old: ClassicQueue) -> None:
    """Equal tasks are one member, and the time given last is its time, though it be the later one."""
    old.schedule(TASK, 0)
    old.schedule(TASK, 3_600)
    assert client.zcard(classic.SCHEDULED) == 1
    assert finish(old.process_due()) == [], "the first was due"


def test_classic_schedulers_push_twice(client: Any, old: ClassicQueue) -> None:
    """Two processes find the same task due: each pushes it."""
    old.schedule(TASK, 0)
    one, other = old.process_due(), ClassicQueue(client, NAME).process_due()
    assert [next(one), next(other)] == ["listed", "listed"]
    finish(one)
    finish(other)
    assert tasks(client) == [TASK, TASK]


def test_classic_scheduler_killed_after_the_push_pushes_again(client: Any, old: ClassicQueue) -> None:
    """Killed between RPUSH and ZREM: the task is due once more."""
    old.schedule(TASK, 0)
    stop_after(old.process_due(), "pushed")
    finish(old.process_due())
    assert tasks(client) == [TASK, TASK]


def test_ours_keeps_equal_delayed_tasks_apart(ours: Listing, client: Any) -> None:
    """Format unique: each push is a task of its own, due at its own time."""
    with ListQueue(NAME, ours.url) as queue:
        queue.push(TASK, after="1h")
        queue.push(TASK, after=0)
        assert queue.promote().moved == 1
        assert tasks(client) == [TASK]
        assert client.zcard(ours.list_keys.due) == 1


def test_ours_reports_equal_delayed_tasks_that_merge(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """Format classic: the old key, in which equal tasks are one; whoever pushes the second is told."""
    old.schedule(TASK, 3_600)
    with ListQueue(NAME, ours.url, format="classic") as queue:
        assert not queue.push("another", after="1h").merged
        merged = queue.push(TASK, after=0).merged
        assert list(merged) == [0], "the first of the call"
        assert queue.promote().moved == 1
    assert tasks(client) == [TASK]
    assert client.zrange(classic.SCHEDULED, 0, -1) == [b"another"]


def test_ours_and_old_schedulers_read_the_same_key(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """Format classic: old schedulers push what we delayed, and we what they did."""
    with ListQueue(NAME, ours.url, format="classic") as queue:
        queue.push("of ours", after=0)
        assert finish(old.process_due()) == [b"of ours"]
        old.schedule("of theirs", 0)
        assert queue.promote().moved == 1
    assert tasks(client) == [b"of theirs", b"of ours"], "what is due is next"


def test_ours_promotes_each_task_once(ours: Listing, client: Any) -> None:
    """Four promoters at once: what is due is moved in one step, by whichever comes to it."""
    with ListQueue(NAME, ours.url) as queue, ThreadPoolExecutor(4) as threads:
        queue.push_many((f"task {number}" for number in range(1_000)), after=0)
        moved = [one.moved for one in threads.map(lambda _: queue.promote(), range(4))]
    assert sum(moved) == 1_000
    assert len(set(tasks(client))) == client.llen(NAME) == 1_000


# Priorities.


def test_classic_priority_merges_equal_tasks(client: Any, old: ClassicQueue) -> None:
    """Equal tasks are one member: the second push changes the priority of the first, and is no task."""
    old.push_priority(TASK, 1)
    old.push_priority(TASK, 9)
    assert old.pop_priority() == [(TASK, 9.0)]
    assert old.pop_priority() == []


def test_classic_priority_pop_loses_the_task_of_a_worker_that_dies(client: Any, old: ClassicQueue) -> None:
    """ZPOPMIN and dead: the task is nowhere."""
    old.push_priority(TASK, 1)
    assert old.pop_priority() == [(TASK, 1.0)]
    assert client.dbsize() == 0


def test_ours_keeps_equal_tasks_of_a_priority_queue_apart(ours: Listing, ran: list[Any]) -> None:
    """Format unique: equal tasks are two, each with its own priority, lowest first."""
    with ListQueue(NAME, ours.url, order="priority") as queue:
        queue.push("late", priority=5)
        queue.push(TASK, priority=9)
        queue.push(TASK, priority=1)
        ours.app.consumer(list=queue.options, concurrency=1)(keeping(ran))
        with ours.running():
            ours.until_gone()
    assert ran == [TASK_DATA, "late", TASK_DATA]


def test_ours_reports_equal_tasks_of_a_priority_queue_that_merge(ours: Listing, old: ClassicQueue) -> None:
    """Format classic: old workers pop it; equal tasks are one, and whoever pushes the second is told."""
    old.push_priority(TASK, 1)
    with ListQueue(NAME, ours.url, order="priority", format="classic") as queue:
        assert queue.push(TASK, priority=9).merged == {0: 1.0}, "the priority it had"
    assert old.pop_priority() == [(TASK, 9.0)]


def test_ours_keeps_what_is_popped_by_priority_until_it_is_done(ours: Listing, client: Any) -> None:
    """What a worker has taken stands in the stream until it is settled, and comes again if the worker fails."""
    held: list[int] = []
    options = ListOptions(name=NAME, order="priority", format="classic")

    @ours.app.consumer(list=options, retry=Retry.fixed("10ms", attempts=2))
    def fail_once(event: Event, delivery: Delivery) -> None:
        held.append(int(client.xpending(ours.stream, WORKERS)["pending"]))
        if delivery.attempt == 1:
            raise RuntimeError("killed")

    client.zadd(NAME, {TASK: 1})
    with ours.running():
        ours.until_gone()
    assert held[0] == 1
    assert len(held) == 2
