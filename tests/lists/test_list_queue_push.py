"""Pushing to a list queue from code: as old producers do, but each task once, and refused where it cannot be."""

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from consumers.list_queue import ListQueue, Promoted
from pipeline.errors import (
    EncodeError,
    SendError,
    SendUnknownError,
    UnsupportedServerError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.server.connect import Link
from tests.conftest import OwnServer, Server
from tests.faults.refusals import settings
from tests.lists.conftest import Listing
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def queue(server: Server, listing: Listing) -> Iterator[ListQueue]:
    """A queue on the list."""
    with ListQueue(listing.list, server.url) as one:
        yield one


def test_tasks_are_what_old_workers_read(queue: ListQueue, listing: Listing) -> None:
    """Text and bytes as they are, the rest as JSON; how many stand there is told."""
    assert [queue.push(one).length for one in ("text", b"\x00raw", {"id": 1}, [1, 2])] == [1, 2, 3, 4]
    assert listing.left() == [b"[1,2]", b'{"id":1}', b"\x00raw", b"text"]


def test_functions_are_asked_for(queue: ListQueue, listing: Listing) -> None:
    """By name, with positional and named arguments."""
    queue.push_function("send", "ada", 3)
    queue.push_function("send", to="bob")
    assert listing.left() == [
        b'{"function":"send","args":[],"kwargs":{"to":"bob"}}',
        b'{"function":"send","args":["ada",3]}',
    ]


def test_many_are_pushed_in_order(queue: ListQueue, listing: Listing) -> None:
    """In steps, of any iterable; large ones in smaller steps."""
    pushed = queue.push_many(str(n) for n in range(1_234))
    assert (pushed.count, pushed.length) == (1_234, 1_234)
    assert listing.left() == [str(n).encode() for n in reversed(range(1_234))]
    assert queue.push_many(["x" * 700_000] * 3).count == 3
    assert queue.push_many([]).count == 0


def test_msgpack_and_the_other_end(server: Server, listing: Listing) -> None:
    """As options say."""
    with ListQueue(listing.list, server.url, payload="msgpack", push="right") as queue:
        queue.push_many([{"a": 1}, {"b": 2}])
        assert listing.left() == [b"\x81\xa1a\x01", b"\x81\xa1b\x02"]
        assert [queue.pop(0), queue.pop(0)] == [{"a": 1}, {"b": 2}]


def test_delayed_tasks_come_when_they_are_due(queue: ListQueue, listing: Listing) -> None:
    """After a while or at a time; equal ones are tasks each."""
    begins = int(datetime.now(UTC).timestamp() * 1_000)
    pushed = queue.push("a", after="50ms")
    assert pushed.due_ms is not None
    assert begins <= pushed.due_ms - 50 <= begins + 5_000
    queue.push("a", at=datetime.now(UTC) + timedelta(milliseconds=60))
    queue.push("b", after="1h")
    assert queue.status().scheduled[0].count == 3
    moved = 0

    def promoted() -> bool:
        nonlocal moved
        moved += queue.promote().moved
        return moved == 2

    until(promoted)
    assert listing.left() == [b"a", b"a"]
    done = queue.promote()
    assert done.next_due_ms is not None
    assert done == Promoted(0, done.next_due_ms)


def test_merged_tasks_are_reported(
    server: Server, listing: Listing, caplog: pytest.LogCaptureFixture
) -> None:
    """In the classic format, where equal payloads are one task: told in the answer and in the log."""
    with ListQueue(listing.list, server.url, order="priority", format="classic") as queue:
        assert queue.push("a", priority=5).merged == {}
        many = queue.push_many([*map(str, range(600)), "a", "7"], priority=2)
        assert (many.merged, many.count, many.length) == ({600: 5.0, 601: 2.0}, 602, 601)
    assert [record.levelname for record in caplog.records if "one task" in record.getMessage()] == ["WARNING"]


def test_what_cannot_be_is_refused(queue: ListQueue, server: Server, listing: Listing, link: Link) -> None:
    """And nothing is pushed: times that are past or none, priorities without order, data that cannot be sent."""
    for wrong, given in (
        ("in the past", {"at": datetime.now(UTC) - timedelta(hours=1)}),
        ("after=-5", {"after": -5}),
        ("not both", {"after": 1, "at": 4e9}),
        ("needs order='priority'", {"priority": 1}),
    ):
        with pytest.raises(UsageError, match=wrong):
            queue.push("x", **given)
    with pytest.raises(EncodeError):
        queue.push({"a": object()})
    with pytest.raises(UsageError, match="at most 30 s"):
        ListQueue(listing.list, server.url, away_timeout="5m")
    assert not listing.left()
    link.call("XADD", listing.list, "*", "a", "b")
    with pytest.raises(WrongKeyTypeError, match="is a stream, not a list"):
        queue.push("x")


def test_pushes_whose_answers_are_lost_are_done_once(server: Server, listing: Listing) -> None:
    """By several threads at the same time, in the order of each."""
    lost: list[int] = []
    with Proxy(server.address) as proxy, ListQueue(listing.list, proxy.url) as queue:

        def rule(number: int, reply: bytes) -> bool:
            hit = b"$2\r\nok" in reply and number % 7 == 0
            lost.extend([number] * hit)
            return hit

        proxy.swallow = rule

        def push(name: str) -> None:
            for n in range(40):
                queue.push(f"{name}{n}")

        threads = [threading.Thread(target=push, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        proxy.swallow = lambda *_: False
    found = [one.decode() for one in reversed(listing.left())]
    assert lost
    for name in "abc":
        assert [one for one in found if one[0] == name] == [f"{name}{n}" for n in range(40)]


def test_a_push_without_an_answer_is_unknown_in_time(server: Server, listing: Listing) -> None:
    """The next one is another push."""
    with Proxy(server.address) as proxy, ListQueue(listing.list, proxy.url, away_timeout="300ms") as queue:
        proxy.swallow = lambda _, reply: b"$2\r\nok" in reply or b"repeated" in reply
        with pytest.raises(SendUnknownError, match="may be there or not"):
            queue.push("a")
        with pytest.raises(SendUnknownError) as raised:
            queue.push_many(["b"])
        assert raised.value.pushed == 0  # type: ignore[attr-defined]
        proxy.swallow = lambda *_: False
        queue.push("c")
    assert listing.left() == [b"c", b"b", b"a"]


def test_a_server_without_memory_is_waited_for(own_server: OwnServer, stream: str) -> None:
    """A push is tried again until it is taken, or the time is over: then it is not in the list."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    with ListQueue(stream, server.url, away_timeout="10s") as queue:
        with settings(maxmemory=1)(server, link):
            thread = threading.Thread(target=queue.push, args=("a",))
            thread.start()
            until(lambda: b"cmdstat_evalsha" in link.call("INFO", "commandstats"))
        thread.join(10)
        assert link.call("LLEN", stream) == 1
    with (
        settings(maxmemory=1)(server, link),
        ListQueue(stream, server.url, away_timeout="200ms") as queue,
        pytest.raises(SendError, match=r"nothing was pushed.*out of memory") as raised,
    ):
        queue.push("b")
    assert not isinstance(raised.value, SendUnknownError)
    assert link.call("LLEN", stream) == 1
    link.close()
    connector.close()


def test_a_forked_child_pushes_for_itself(queue: ListQueue, listing: Listing) -> None:
    """As another producer: neither's push is taken for a repeat of the other's."""
    queue.push("parent 1")
    child = os.fork()
    if not child:
        queue.push("child")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    queue.push("parent 2")
    assert sorted(listing.left()) == [b"child", b"parent 1", b"parent 2"]


def test_a_queue_that_is_to_be_durable_refuses_a_server_that_is_not(
    own_server: OwnServer, stream: str
) -> None:
    """Without an append-only file, or where lists may be evicted; and says so of any server that is asked."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    with ListQueue(stream, server.url, durable=True) as queue:
        queue.push("a")
        found = {one.what: one.grade for one in queue.check_durable()}
        assert found["appendonly"] == "fine"
        assert found["maxmemory-policy"] == "fine"
        link.call("CONFIG", "SET", "appendonly", "no")
        link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        worst = queue.check_durable()[:2]
        assert {one.what for one in worst} == {"appendonly", "maxmemory-policy"}
        assert all(one.grade == "loses" and one.remedy.startswith("CONFIG SET") for one in worst)
    with ListQueue(stream, server.url, durable=True) as queue, pytest.raises(UnsupportedServerError):
        queue.push("b")
    with ListQueue(stream, server.url) as queue:
        assert queue.pop(0) == "a"
    link.call("ACL", "SETUSER", "some", "on", "nopass", "~*", "+@all", "-config", "-info")
    link.call("AUTH", "some", "")
    from pipeline.server.durability import findings

    assert {one.grade for one in findings(link)} == {"unknown"}
    link.close()
    connector.close()


def test_a_task_may_be_given_back_to_old_workers(queue: ListQueue, listing: Listing) -> None:
    """What ran and is to run again later stays, unless everything is asked for."""
    queue.push("a")
    task = queue.take("10s")
    assert task is not None
    task.later("1h")
    until(lambda: listing.taken() == 0)
    assert queue.give_back() == 0
    assert queue.give_back(everything=True) == 1
    assert listing.left() == [b"a"]
