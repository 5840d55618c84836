"""Priority queues on a real server: the lowest first, the earlier push first among equals; beside old workers too."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pipeline.due import Due
from pipeline.errors import ServerRefusedError, UsageError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.server.list_status import list_status
from tests.conftest import Server, started
from tests.lists.conftest import Listing
from tests.lists.pushing import Pushing, numbered
from tests.lists.test_due import layout


@pytest.fixture
def unique(link: Link, stream: str) -> Pushing:
    """A priority queue in the format unique."""
    return Pushing(link, layout(stream, order="priority"))


@pytest.fixture
def classic(link: Link, stream: str) -> Pushing:
    """A priority queue that old code shares."""
    return Pushing(link, layout(stream, order="priority", format="classic"))


@pytest.fixture(scope="module")
def tight_server() -> Iterator[Server]:
    """A server whose memory limit may be set."""
    with started() as running:
        yield running


def payloads(queue: Pushing) -> list[bytes]:
    """Tasks in the order in which they are taken, without their ids."""
    return [member[17:] for member in queue.taken()]


def test_the_lowest_runs_first_and_the_earlier_among_equals(unique: Pushing) -> None:
    """Numbers of any kind, equal payloads among them."""
    unique.push(b"z", b"a", priority=5)
    unique.push(b"later", b"later", priority=7.5)
    unique.push(b"b", b"a", priority=5)
    unique.push(b"urgent", priority=-1e9)
    assert unique.push(b"usual").length == 8
    assert payloads(unique) == [b"urgent", b"usual", b"z", b"a", b"b", b"a", b"later", b"later"]


def test_priorities_keep_all_of_their_digits(unique: Pushing) -> None:
    """They are numbers of 64 bits, as in the sorted set."""
    for priority in (1 / 3, 2**53 - 1, 1e-300, 1e300, -0.1):
        unique.push(b"%r" % priority, priority=priority)
    found = unique.link.call("ZRANGE", unique.options.name, 0, -1, "WITHSCORES")
    assert [float(score) for score in found[1::2]] == [float(member[17:]) for member in found[::2]]


def test_classic_tasks_are_as_old_code_writes_and_reads_them(classic: Pushing) -> None:
    """`ZADD q {task: priority}` and `ZPOPMIN q 1`."""
    classic.push(b"b", priority=2)
    classic.link.call("ZADD", classic.options.name, 1, "a")
    assert classic.link.call("ZPOPMIN", classic.options.name, 1) == [b"a", b"1"]
    assert classic.link.call("ZPOPMIN", classic.options.name, 1) == [b"b", b"2"]


def test_a_classic_push_that_merges_says_what_the_task_had_before(classic: Pushing) -> None:
    """The later priority wins, as with old code; within one call too."""
    classic.push(b"a", priority=1.5)
    again = classic.push(b"b", b"a", b"b", priority=9)
    assert (again.length, again.merged) == (2, {1: 1.5, 2: 9})
    assert classic.link.call("ZSCORE", classic.options.name, "a") == b"9"


def test_a_repeated_push_is_pushed_once(unique: Pushing, classic: Pushing) -> None:
    """Also if the task was popped in between."""
    for queue in (unique, classic):
        first = queue.push(b"a", priority=3, number=1)
        queue.link.call("ZPOPMIN", queue.options.name)
        again = queue.push(b"a", priority=3, number=1)
        assert again.repeated
        assert again.length == first.length
        assert queue.taken() == []


@pytest.mark.parametrize("priority", [float("nan"), float("inf"), -float("inf"), "high", True])
def test_a_priority_that_is_no_number_is_refused(unique: Pushing, priority: Any) -> None:
    """Naming what was given."""
    with pytest.raises(UsageError, match=f"priority={priority!r} is not a finite number"):
        unique.push(b"a", priority=priority)


def test_a_list_knows_no_priorities(link: Link, stream: str) -> None:
    """The option that makes it a priority queue is named."""
    with pytest.raises(UsageError, match=r"priority=1 needs order='priority' \(ListOptions\)"):
        Pushing(link, layout(stream)).push(b"a", priority=1)


def test_a_delayed_task_keeps_its_priority(unique: Pushing) -> None:
    """It waits among those of its priority by the time it was pushed at."""
    unique.at(1, b"early:5", b"early:5", priority=5)
    unique.push(b"now:5", priority=5)
    unique.at(2, b"low:9", priority=9)
    unique.at(3, b"high:0.25", priority=0.25)
    unique.at(4, b"usual")
    assert unique.promote() == (5, None, 0)
    assert payloads(unique) == [b"usual", b"high:0.25", b"early:5", b"early:5", b"now:5", b"low:9"]
    found = unique.link.call("ZRANGE", unique.options.name, 0, -1, "WITHSCORES")
    assert [float(score) for score in found[1::2]] == [0, 0.25, 5, 5, 5, 9]


def test_a_promoted_task_whose_id_is_taken_gets_another(unique: Pushing) -> None:
    """Nothing merges in the format unique."""
    unique.at(1, b"a", priority=2)
    (member,) = unique.delayed()
    unique.link.call("ZADD", unique.options.name, 2, member[:17] + b"a")
    assert unique.promote().moved == 1
    assert payloads(unique) == [b"a", b"a"]


def test_classic_delayed_tasks_come_in_with_priority_0(classic: Pushing) -> None:
    """There is no place for another: one that is given is refused. What stands there already keeps its own."""
    with pytest.raises(UsageError, match="priority=4 of a delayed task has no place in format='classic'"):
        classic.push(b"a", due=Due(after_ms=5), priority=4)
    classic.push(b"there", priority=8)
    classic.at(1, b"there", b"new")
    assert classic.promote() == (2, None, 1)
    found = classic.link.call("ZRANGE", classic.options.name, 0, -1, "WITHSCORES")
    assert found == [b"new", b"0", b"there", b"8"]


def test_tasks_are_counted_by_priority(unique: Pushing) -> None:
    """The lowest first."""
    unique.push(*numbered(1, 30), priority=2)
    unique.push(*numbered(1, 3), priority=-1)
    unique.push(b"x", priority=0.5)
    status = list_status(unique.link, unique.options)
    assert status.depth == 34
    assert list(status.by_priority or ()) == [(-1, 3), (0.5, 1), (2, 30)]


@pytest.mark.parametrize("which", ["queue", "delayed"])
def test_a_key_of_another_type_is_named(unique: Pushing, which: str) -> None:
    """A list where a priority queue should be; nothing is moved."""
    key = unique.options.name if which == "queue" else unique.options.keys.due
    unique.link.call("RPUSH", key, "task")
    if which == "queue":
        with pytest.raises(WrongKeyTypeError):
            unique.push(b"a", priority=1)
        unique.at(1, b"b")
    with pytest.raises(WrongKeyTypeError, match=r"holds a list, and no zset"):
        unique.promote()
    assert unique.link.call("LRANGE", key, 0, -1) == [b"task"]


def test_when_memory_is_out_a_push_is_refused_whole_and_due_tasks_go_on(
    tight_server: Server, stream: str
) -> None:
    """In both formats."""
    connector = tight_server.connector()
    link = connector.link("test")
    for members in ("unique", "classic"):
        queue = Pushing(link, layout(f"{stream}-{members}", order="priority", format=members))
        queue.at(1, *numbered(1, 5))
        with queue.out_of_memory():
            with pytest.raises(ServerRefusedError, match="OOM"):
                queue.push(b"x", b"y", priority=1)
            assert queue.promote().moved == 5
        assert len(queue.taken()) == 5
    link.close()
    connector.close()


@pytest.mark.parametrize("members", ["unique", "classic"])
def test_workers_run_the_lowest_first(listing: Listing, members: str) -> None:
    """What is pushed runs as an event, with its priority among the headers."""
    options = listing.options(order="priority", format=members)
    queue = Pushing(listing.link, options)
    for number in range(200):
        queue.push(b"%d" % number, priority=(number * 37) % 200)
    seen: list[tuple[Any, Any]] = []

    @listing.app.consumer(list=options, concurrency=1)
    def handle(event: Event) -> None:
        seen.append((event.data, event.headers.get("priority")))

    with listing.running():
        listing.until_gone()
    assert [int(data) * 37 % 200 for data, _ in seen] == list(range(200))
    assert [float(priority) for _, priority in seen] == list(range(200))


def test_old_workers_and_ours_share_a_classic_queue(server: Server, listing: Listing) -> None:
    """ZPOPMIN beside us: each task runs once, with one or the other."""
    options = listing.options(order="priority", format="classic")
    queue = Pushing(listing.link, options)
    tasks = [b"task-%d" % number for number in range(1_000)]
    ran: list[bytes] = []
    stop = threading.Event()

    def old_worker() -> None:
        with redis.Redis(unix_socket_path=server.address.path) as client:
            plain: Any = client
            while not stop.is_set():
                ran.extend(member for member, _ in plain.zpopmin(listing.list, 1))

    @listing.app.consumer(list=options)
    def handle(event: Event) -> None:
        ran.append(event.data.encode())

    worker = threading.Thread(target=old_worker)
    worker.start()
    try:
        with listing.running():
            for start in range(0, len(tasks), 50):
                queue.push(*tasks[start : start + 50], priority=start % 7)
            listing.until_gone()
    finally:
        stop.set()
        worker.join(10)
    assert Counter(ran) == Counter(tasks)
