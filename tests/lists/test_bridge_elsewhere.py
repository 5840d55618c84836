"""The bridge from a list to a stream on another server, or in another slot: held, appended by number, removed."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.list_filler import fill_list
from pipeline.errors import DecodeError, UnsupportedServerError, UsageError
from pipeline.list_options import ListOptions
from pipeline.server.bridging import hold_command, load_scripts
from pipeline.server.connect import Connector, Link
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.lists import follow_list
from producers.sources.tasks import TaskOptions
from tests.clustered import one_node_cluster
from tests.conftest import OwnServer, Server
from tests.lists.bridging import bridges, events, is_sorted, listed, numbers, push, task
from tests.proxy import Proxy
from tests.until import until


class Old:
    """The old server, with the list."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.address.shown
        self.connector = server.connector()
        self.link = self.connector.link("test")

    def held(self, stream: str) -> list[bytes]:
        """What a bridge holds."""
        found: list[bytes] = self.link.call("LRANGE", ListOptions(name="l").keys.bridge(stream), 0, -1)
        return found


@pytest.fixture
def old(own_server: OwnServer) -> Iterator[Old]:
    """A server that has the list `l`."""
    old = Old(own_server())
    yield old
    old.link.close()


@pytest.fixture
def producer(server: Server) -> Iterator[Producer]:
    """A producer to the server of this run."""
    with Producer(connector=server.connector()) as producer:
        yield producer


def test_tasks_come_in_order_and_nothing_is_held_afterwards(
    producer: Producer, old: Old, link: Link, stream: str
) -> None:
    """Again with more, as another run; what the run before counted is gone on from."""
    push(old.link, "l", range(3_000))
    assert follow_list(producer, stream, "l", url=old.url, follow=False).confirmed == 3_000
    push(old.link, "l", range(3_000, 3_100))
    assert follow_list(producer, stream, "l", url=old.url, follow=False).confirmed == 100
    assert numbers(link, stream) == list(range(3_100))
    assert old.held(stream) == [] and not old.link.call("EXISTS", "l")


def test_list_and_stream_may_have_one_name_on_two_servers(
    old: Old, server: Server, link: Link, stream: str
) -> None:
    """Moving to another server keeps the name, there and back; on one server it is refused, however it is reached."""
    queue = stream
    push(old.link, queue, range(300))
    with Producer(connector=server.connector()) as producer:
        assert follow_list(producer, queue, queue, url=old.url, follow=False).confirmed == 300
    assert numbers(link, queue) == list(range(300)) and not old.link.call("EXISTS", queue)
    filled = fill_list(queue, queue, url=old.url, stream_url=server.address.shown, follow=False)
    assert filled.pushed == 300 and listed(old.link, queue) == list(range(300))
    with Producer(connector=old.connector) as producer, pytest.raises(UsageError, match="one key"):
        follow_list(producer, queue, queue, url=old.url, follow=False)
    with pytest.raises(UsageError, match="one key"):
        fill_list(queue, queue, url=old.url, stream_url=old.url, follow=False)
    assert old.link.call("LLEN", queue) == 300


def test_what_a_bridge_to_elsewhere_left_is_said_by_one_within_the_server(
    old: Old, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was started with another address: what it held stays where it is, and is not forgotten."""
    options = ListOptions(name="l")
    push(old.link, "l", range(20))
    load_scripts(old.link)
    old.link.call(*hold_command(options, stream, 7, "life:0"))
    with Producer(connector=old.connector) as producer:
        assert follow_list(producer, stream, "l", follow=False).confirmed == 13
    assert "tasks=7" in caplog.text and len(old.held(stream)) == 7


def test_it_goes_on_while_tasks_come_and_stops_with_nothing_held(
    producer: Producer, old: Old, link: Link, stream: str
) -> None:
    """A bridge that is stopped delivers what it holds; all that is behind it is still in the list, in order."""
    with bridges(producer) as running:
        stop, fed = running(stream, "l", url=old.url)
        push(old.link, "l", range(10))
        until(lambda: fed.confirmed == 10)
        push(old.link, "l", range(10, 20_000))
        until(lambda: fed.confirmed > 100)
        stop.set()
    moved = numbers(link, stream)
    assert moved + listed(old.link, "l") == list(range(20_000))
    assert old.held(stream) == [] and len(moved) == fed.confirmed


@pytest.mark.parametrize("side", ["list", "stream"])
@pytest.mark.parametrize("nth", [5, 7, 11])
def test_lost_replies_double_nothing(
    server: Server, old: Old, link: Link, stream: str, side: str, nth: int
) -> None:
    """Every fifth to eleventh reply that matters is lost with its connection, on either side."""
    push(old.link, "l", range(8_000))
    behind = old.server if side == "list" else server
    with Proxy(behind.address) as proxy:
        target = proxy.url if side == "stream" else server.address.shown
        with Producer(target) as producer:
            producer.connector.capabilities()
            seen = itertools.count(1)
            words = (b"ok\r\n",) if side == "stream" else (b"dropped\r\n", b":0\r\n", b":1000\r\n")
            proxy.swallow = lambda _, reply: (
                reply.startswith(b"*") and any(word in reply[:64] for word in words) and next(seen) % nth == 0
            )
            fed = follow_list(
                producer, stream, "l", url=old.url if side == "stream" else proxy.url, follow=False
            )
            assert proxy.swallowed and fed.restarts
            proxy.swallow = None
    assert numbers(link, stream) == list(range(8_000))
    assert old.held(stream) == []


def test_two_bridges_of_one_name_double_nothing(
    producer: Producer, old: Old, link: Link, stream: str
) -> None:
    """They hold each other up; each task is in the stream once all the same."""
    push(old.link, "l", range(4_000))
    with bridges(producer) as running:
        for _ in range(2):
            running(stream, "l", url=old.url)
        # One that is held up just now has not let go yet of what it delivered.
        until(lambda: link.call("XLEN", stream) >= 4_000 and not old.held(stream), 30, what="all are moved")
    assert numbers(link, stream) == list(range(4_000))


def test_bridges_of_one_name_may_come_and_go(producer: Producer, old: Old, link: Link, stream: str) -> None:
    """Each that is stopped delivers what it believes to hold, while others do the same."""
    push(old.link, "l", range(12_000))
    with bridges(producer) as running:
        for part in range(1, 7):
            stops = [running(stream, "l", url=old.url)[0] for _ in range(2)]
            until(lambda part=part: link.call("XLEN", stream) >= part * 1_000, 30)  # type: ignore[misc]
            for stop in stops:
                stop.set()
    follow_list(producer, stream, "l", url=old.url, follow=False)
    assert numbers(link, stream) == list(range(12_000))
    assert old.held(stream) == []


def test_two_bridges_of_two_names_share_a_list(producer: Producer, old: Old, link: Link, stream: str) -> None:
    """To one stream or to two: each task goes one way."""
    push(old.link, "l", range(4_000))
    with bridges(producer) as running:
        running(stream, "l", url=old.url, bridge="a")
        running(f"{stream}-b", "l", url=old.url, bridge="b")
        until(lambda: not old.link.call("EXISTS", "l") and not old.held("a") and not old.held("b"))
    first, second = numbers(link, stream), numbers(link, f"{stream}-b")
    assert sorted(first + second) == list(range(4_000)) and is_sorted(first) and is_sorted(second)


def test_what_is_in_the_stream_and_still_held_is_not_sent_again(
    producer: Producer, old: Old, link: Link, stream: str
) -> None:
    """Killed between the append and the removal: the state that this leaves is made by hand, and gone on from."""
    push(old.link, "l", range(20))
    follow_list(producer, stream, "l", url=old.url, follow=False)
    keys = ListOptions(name="l").keys
    counter = keys.position(f"held:{stream}")
    life = old.link.call("GET", counter).decode().partition(":")[0]
    old.link.call("SET", counter, f"{life}:15")
    old.link.call("RPUSH", keys.bridge(stream), *map(task, range(15, 25)))
    push(old.link, "l", range(25, 30))
    assert follow_list(producer, stream, "l", url=old.url, follow=False).confirmed == 10
    assert numbers(link, stream) == list(range(30))


def test_a_flushed_list_server_begins_anew(producer: Producer, old: Old, link: Link, stream: str) -> None:
    """Numbers that it gives out again mean other tasks: none is taken for one that was moved before."""
    push(old.link, "l", range(50))
    follow_list(producer, stream, "l", url=old.url, follow=False)
    old.link.call("FLUSHALL")
    push(old.link, "l", range(100, 130))
    assert follow_list(producer, stream, "l", url=old.url, follow=False).confirmed == 30
    assert numbers(link, stream) == [*range(50), *range(100, 130)]


def test_a_list_server_that_lost_its_last_writes_loses_no_more(
    producer: Producer, old: Old, link: Link, stream: str
) -> None:
    """It holds other tasks under numbers that are in the stream: they are sent, rather than left out."""
    push(old.link, "l", range(20))
    follow_list(producer, stream, "l", url=old.url, follow=False)
    counter = ListOptions(name="l").keys.position(f"held:{stream}")
    life = old.link.call("GET", counter).decode().partition(":")[0]
    old.link.call("SET", counter, f"{life}:10")  # as it was before the last ten
    push(old.link, "l", range(200, 205))
    assert follow_list(producer, stream, "l", url=old.url, follow=False).confirmed == 5
    assert numbers(link, stream) == [*range(20), *range(200, 205)]


def test_other_tasks_under_numbers_that_are_in_the_stream_are_sent(
    producer: Producer, old: Old, link: Link, stream: str
) -> None:
    """The list's server lost its last writes, and old workers took what was held: numbers say nothing any more."""
    push(old.link, "l", range(20))
    follow_list(producer, stream, "l", url=old.url, follow=False)
    keys = ListOptions(name="l").keys
    counter = keys.position(f"held:{stream}")
    life = old.link.call("GET", counter).decode().partition(":")[0]
    old.link.call("SET", counter, f"{life}:10")
    old.link.call("RPUSH", keys.bridge(stream), *map(task, range(300, 315)))
    assert follow_list(producer, stream, "l", url=old.url, follow=False).confirmed == 15
    assert numbers(link, stream) == [*range(20), *range(300, 315)]


def test_a_flushed_stream_server_gets_what_is_left(old: Old, own_server: OwnServer, stream: str) -> None:
    """What it had confirmed and lost is gone; what is not moved yet is moved."""
    new = own_server()
    connector = new.connector()
    link = connector.link("test")
    with Producer(connector=connector) as producer:
        push(old.link, "l", range(50))
        follow_list(producer, stream, "l", url=old.url, follow=False)
        link.call("FLUSHALL")
        push(old.link, "l", range(50, 60))
        follow_list(producer, stream, "l", url=old.url, follow=False)
        assert numbers(link, stream) == list(range(50, 60))
    link.close()


def test_a_stream_server_without_memory_is_waited_for(old: Old, own_server: OwnServer, stream: str) -> None:
    """Tasks stay where they are, or held, and go on once there is room."""
    new = own_server()
    connector = new.connector()
    link = connector.link("test")
    link.call("CONFIG", "SET", "maxmemory", "1")
    push(old.link, "l", range(100))
    with Producer(connector=connector) as producer, bridges(producer) as running:
        _, fed = running(stream, "l", url=old.url)
        until(lambda: fed.restarts >= 2, what="it is refused")
        assert len(old.held(stream)) + old.link.call("LLEN", "l") == 100
        link.call("CONFIG", "SET", "maxmemory", "0")
        until(lambda: fed.confirmed == 100)
    assert numbers(link, stream) == list(range(100))
    link.close()


def test_tasks_are_removed_once_they_are_as_safe_as_asked(
    old: Old, own_server: OwnServer, stream: str
) -> None:
    """confirm=fsynced: what the new server may still lose is still held by the old one."""
    new = own_server()
    connector = new.connector()
    link = connector.link("test")
    try:
        producer = Producer(connector=connector, confirm="fsynced", confirm_timeout_ms=300)
    except UnsupportedServerError:
        pytest.skip("no WAITAOF")
    with producer:
        push(old.link, "l", range(1_000))
        assert follow_list(producer, stream, "l", url=old.url, follow=False).confirmed == 1_000
        assert numbers(link, stream) == list(range(1_000)) and old.held(stream) == []
    link.close()


def test_with_bad_stop_the_error_says_where_the_task_is(
    producer: Producer, old: Old, link: Link, stream: str
) -> None:
    """It is held, with what was taken behind it, until the bridge runs again, with another option."""
    old.link.call("LPUSH", "l", '{"n": 1}', b"{no", '{"n": 3}')
    queue = ListOptions(name="l", payload="json")
    with pytest.raises(DecodeError, match="held in"):
        follow_list(producer, stream, queue, url=old.url, follow=False, options=TaskOptions(bad="stop"))
    assert link.call("XLEN", stream) == 1 and old.held(stream) == [b"{no", b'{"n": 3}']
    assert follow_list(producer, stream, queue, url=old.url, follow=False) == Fed(
        lines=2, confirmed=2, unparsed=1
    )
    assert [event.headers.get("kept", "")[:14] for event in events(link, stream)] == [
        "",
        "not valid JSON",
        "",
    ]


def test_on_a_cluster_other_slots_are_reached_in_steps(tmp_path: Path) -> None:
    """`emails` and `emails-stream` are in different slots; `{emails}:stream` is in that of `emails`: one step."""
    with one_node_cluster(tmp_path / "cluster") as node:
        connector = Connector(node.url)
        link = connector.link("test")
        with Producer(connector=connector) as producer:
            for stream in ("emails-stream", "{emails}:stream"):
                push(link, "emails", range(300))
                assert follow_list(producer, stream, "emails", follow=False) == Fed(lines=300, confirmed=300)
                assert numbers(link, stream) == list(range(300))
        assert link.call("EXISTS", ListOptions(name="emails").keys.position("held:emails-stream"))
        assert not link.call("EXISTS", ListOptions(name="emails").keys.position("held:{emails}:stream"))
        link.close()
