"""Bridges between a list and a stream, one each way: the second does not begin, and nothing goes round."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from consumers.list_filler import fill_list
from millstream import Producer, UsageError
from pipeline.keys import ListKeys
from pipeline.server import bridge_sign
from pipeline.server.connect import Link
from producers.sources.lists import follow_list
from tests.conftest import Server
from tests.until import until

Bridge = Callable[[threading.Event], Any]


@pytest.fixture
def name(stream: str) -> str:
    """A list that no other test uses."""
    return f"{stream}-list"


@pytest.fixture
def there(server: Server, stream: str, name: str) -> Bridge:
    """The bridge from the list to the stream."""

    def run(stop: threading.Event) -> None:
        with Producer(server.url) as producer:
            follow_list(producer, stream, name, stop=stop)

    return run


@pytest.fixture
def back(server: Server, stream: str, name: str) -> Bridge:
    """The bridge from the stream to the list."""
    return lambda stop: fill_list(name, stream, url=server.url, stop=stop)


class Running:
    """A bridge on a thread of its own."""

    def __init__(self, bridge: Bridge) -> None:
        self.stop, self.error = threading.Event(), ""
        self._bridge = bridge
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._bridge(self.stop)
        except UsageError as error:
            self.error = str(error)


@contextmanager
def running(bridge: Bridge) -> Iterator[Running]:
    """A bridge, until the block ends."""
    one = Running(bridge)
    try:
        yield one
    finally:
        one.stop.set()
        one.thread.join(20)
        assert not one.thread.is_alive()


@pytest.mark.parametrize("first_back", [True, False])
def test_the_other_direction_does_not_begin(
    there: Bridge, back: Bridge, link: Link, name: str, stream: str, first_back: bool
) -> None:
    """It says so; the one at work goes on; and once that has ended, the other one begins at once."""
    first, second = (back, there) if first_back else (there, back)
    way = "from" if first_back else "to"
    with running(first) as one:
        until(lambda: link.call("EXISTS", ListKeys(name).bridging(way, stream)))
        with pytest.raises(UsageError, match="round for ever"):
            second(threading.Event())
        assert not one.stop.is_set()
        if first_back:
            link.call("XADD", stream, "*", "a", "b")
            until(lambda: link.call("LLEN", name) == 1)
        else:
            link.call("LPUSH", name, "x")
            until(lambda: link.call("EXISTS", stream))
    with running(second) as two:
        other = "to" if first_back else "from"
        until(lambda: link.call("EXISTS", ListKeys(name).bridging(other, stream)))
    assert not two.error
    assert link.call("EXISTS", *[ListKeys(name).bridging(one, stream) for one in ("to", "from")]) == 0


def test_one_that_was_killed_holds_nobody_up_for_long(
    there: Bridge, link: Link, name: str, stream: str
) -> None:
    """Its sign expires."""
    link.call("SET", ListKeys(name).bridging("from", stream), "killed", "PX", 500)
    with pytest.raises(UsageError, match="round for ever"):
        there(threading.Event())
    until(lambda: not link.call("EXISTS", ListKeys(name).bridging("from", stream)))
    with running(there) as one:
        link.call("LPUSH", name, "x")
        until(lambda: link.call("EXISTS", stream))
    assert not one.error


def test_two_that_began_all_the_same_end(
    there: Bridge, link: Link, name: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge that finds the other direction at work stops, and says why."""
    monkeypatch.setattr(bridge_sign, "RENEW_S", 0.05)
    with running(there) as one:
        until(lambda: link.call("EXISTS", ListKeys(name).bridging("to", stream)))
        link.call("SET", ListKeys(name).bridging("from", stream), "other", "PX", 5_000)
        one.thread.join(20)
        assert "round for ever" in one.error


def test_several_of_one_direction_are_fine(
    there: Bridge, back: Bridge, link: Link, name: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one ends, the sign is that of the others."""
    monkeypatch.setattr(bridge_sign, "RENEW_S", 0.05)
    sign = ListKeys(name).bridging("to", stream)
    with running(there) as left:
        until(lambda: link.call("EXISTS", sign))
        first = link.call("GET", sign)
        with running(there):
            until(lambda: link.call("GET", sign) not in (first, None))
        until(lambda: link.call("GET", sign) == first)
        with pytest.raises(UsageError, match="round for ever"):
            back(threading.Event())
    assert not left.error


def test_a_server_out_of_memory_has_no_sign(there: Bridge, own_server: Any, name: str, stream: str) -> None:
    """The bridge moves what is there all the same."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    link.call("LPUSH", name, "x", "y")
    link.call("CONFIG", "SET", "maxmemory", 1)
    with Producer(server.url) as producer:
        assert follow_list(producer, stream, name, follow=False).confirmed == 2
    link.call("CONFIG", "SET", "maxmemory", 0)
    link.close()
    connector.close()
