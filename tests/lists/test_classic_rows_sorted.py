"""The classic list queue row by row: what its sorted sets do wrong, shown step by step; and that ours does not."""

from typing import Any

from tests.lists import classic
from tests.lists.beside import NAME, TASK, tasks
from tests.lists.classic import ClassicQueue, finish, stop_after

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
