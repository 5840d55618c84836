"""Workers of a list whose user may not do everything: what they can do without, and what ends them."""

import logging
import threading
from contextlib import closing
from pathlib import Path

import pytest

from consumers.list_queue import ListQueue
from pipeline.errors import AccessDeniedError
from pipeline.event import Event
from pipeline.server.connect import Connector
from pipeline.server.list_pop import pop_tasks
from producers.producer import Producer
from producers.sources.lists import follow_list
from tests.lists.conftest import Listing
from tests.until import until


def as_user(listing: Listing, name: str, *rights: str) -> str:
    """An URL for a user with these rights."""
    listing.link.call("ACL", "SETUSER", name, "reset", "on", ">secret", *rights)
    return f"{listing.url}?username={name}&password=secret"


@pytest.fixture
def seen(listing: Listing) -> list[object]:
    """What the list's handler has seen."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list)
    def handle(event: Event) -> None:
        seen.append(event.data)

    return seen


def test_who_may_not_wait_at_the_list_looks_and_says_so_once(
    listing: Listing, seen: list[object], stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """BLMOVE is denied: tasks come all the same, within a quarter of a second, and the log has one line of it."""
    listing.app.url = as_user(listing, stream, "+@all", "-blmove", "~*")
    with listing.running():
        for number in range(5):
            listing.push(f"task {number}")
            until(lambda number=number: len(seen) == number + 1, 5)  # type: ignore[misc]
        listing.until_gone()
    assert seen == [f"task {number}" for number in range(5)]
    said = [record for record in caplog.records if "may not wait at the list" in record.getMessage()]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING


def test_who_may_not_take_tasks_ends_and_leaves_them_where_they_are(
    listing: Listing, seen: list[object], stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """XADD is denied, without which nothing can be taken: an end in one line, and the task stands in the list."""
    listing.app.url = as_user(listing, stream, "+@all", "~*")
    with listing.running(well=False) as running:
        listing.link.call("ACL", "SETUSER", stream, "-xadd")
        listing.push("task")
        until(lambda: running.failure, 10, what="the member has ended")
        assert isinstance(running.failure, AccessDeniedError)
        assert "denies access" in str(running.failure)  # which command, not every server says
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    assert not seen
    listing.app.url = listing.url
    with listing.running():
        listing.until_gone()
    assert seen == ["task"]


@pytest.mark.parametrize("order", ["fifo", "lifo", "priority"])
def test_a_pop_that_may_not_be_noted_takes_nothing(listing: Listing, stream: str, order: str) -> None:
    """HSET is denied, by which a popped task is kept until it has arrived: all stands where it stood."""
    url = as_user(listing, stream, "+@all", "-hset", "~*")
    with ListQueue(listing.list, listing.url, order=order) as queue:
        queue.push_many(["a", "b", "c"])
        queue.put_back(b"first")
        before = [(task.data, task.priority) for task in queue.peek()]
        assert len(before) == 4
        with ListQueue(listing.list, url, order=order) as denied, pytest.raises(AccessDeniedError):
            denied.pop(0)
        assert [(task.data, task.priority) for task in queue.peek()] == before
        for count in (2, 4):
            with pytest.raises(AccessDeniedError), closing(Connector(url)) as connector:
                pop_tasks(connector.link("test"), queue.options, "token", count)
            assert [(task.data, task.priority) for task in queue.peek()] == before


def test_what_was_handed_keeps_its_order_when_a_pop_may_not_be_noted(listing: Listing, stream: str) -> None:
    """The hand is first in, first out: what cannot be popped after all stands there as before."""
    url = as_user(listing, stream, "+@all", "-hset", "~*")
    hand = listing.list_keys.hand
    listing.link.call("RPUSH", hand, "first", "second", "third")
    with pytest.raises(AccessDeniedError), closing(Connector(url)) as connector:
        pop_tasks(connector.link("test"), listing.options(), "token", 2)
    assert listing.link.call("LRANGE", hand, 0, -1) == [b"first", b"second", b"third"]


def test_a_queue_reads_a_password_anew_that_stands_in_a_file(
    listing: Listing, stream: str, tmp_path: Path
) -> None:
    """The server's is changed first, the file a while later: who pushes, and who waits for a task, waits for that."""
    as_user(listing, stream, "+@all", "~*")
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    popped: list[object] = []
    with ListQueue(listing.list, f"{listing.url}?username={stream}&password_file={file}") as queue:
        queue.push("one")
        assert queue.pop(0) == "one"
        waiting = threading.Thread(target=lambda: popped.append(queue.pop("20s")))
        waiting.start()
        until(lambda: b"cmd=blmove" in listing.link.call("CLIENT", "LIST"), what="it waits")
        listing.link.call("ACL", "SETUSER", stream, "resetpass", ">another")
        closed = listing.link.call("CLIENT", "KILL", "USER", stream)
        assert closed
        pushing = threading.Thread(target=lambda: queue.push("two"))
        pushing.start()
        until(lambda: refused(listing, stream), what="it is refused")
        file.write_text("another\n", encoding="utf-8")
        pushing.join(20)
        waiting.join(20)
    assert popped == ["two"]


def test_a_bridge_reads_a_password_anew_that_stands_in_a_file(
    listing: Listing, stream: str, tmp_path: Path
) -> None:
    """It waits for it, and goes on where it was."""
    as_user(listing, stream, "+@all", "~*")
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    to, stop = f"{listing.list}-events", threading.Event()
    url = f"{listing.url}?username={stream}&password_file={file}"
    with Producer(url) as producer:
        bridging = threading.Thread(target=lambda: follow_list(producer, to, listing.list, stop=stop))
        bridging.start()
        try:
            listing.push("one")
            until(lambda: listing.link.call("EXISTS", to) and listing.link.call("XLEN", to) == 1)
            listing.link.call("ACL", "SETUSER", stream, "resetpass", ">another")
            assert listing.link.call("CLIENT", "KILL", "USER", stream)
            listing.push("two")
            until(lambda: refused(listing, stream), what="it is refused")
            file.write_text("another\n", encoding="utf-8")
            until(lambda: listing.link.call("XLEN", to) == 2)
        finally:
            stop.set()
            bridging.join(20)


def refused(listing: Listing, user: str) -> bool:
    """Whether the server has refused a password of this user."""
    rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in listing.link.call("ACL", "LOG")]
    return any(row[b"reason"] == b"auth" and row[b"username"] == user.encode() for row in rows)
