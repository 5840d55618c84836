"""Bridges killed at random instants, both ways, on one server and between two: no task is lost, and none doubled."""

import contextlib
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from consumers.list_filler import Filled, fill_list
from pipeline.server.connect import Connector
from producers.producer import Producer
from tests.conftest import OwnServer, Server
from tests.console.command import end_all, started
from tests.lists.bridging import bridges, listed, numbers, task
from tests.until import until


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The same draws in every run of a test."""
    return random.Random(request.node.name)


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    """A test that fails leaves nothing running."""
    yield
    end_all()


def reached(done: Callable[[], int], count: int) -> bool:
    """Whether so many are done."""
    return done() >= count


@pytest.mark.campaign
@pytest.mark.timeout(240)
@pytest.mark.parametrize("between", ["one-server", "two-servers"])
@pytest.mark.parametrize("way", ["--to", "--from"])
def test_killed_again_and_again_it_loses_and_doubles_nothing(
    own_server: OwnServer,
    server: Server,
    stream: str,
    scaled: Callable[[int], int],
    rng: random.Random,
    way: str,
    between: str,
) -> None:
    """SIGKILL after a random number of tasks of each part; every payload stands there twice."""
    list_server = own_server() if between == "two-servers" else server
    at_list, at_stream = list_server.connector().link("test"), server.connector().link("test")
    name, total, kills = f"{stream}:l", scaled(100_000), scaled(20)
    elsewhere = (f"{way}-url", server.address.shown) if between == "two-servers" else ()
    arguments = ("queue", "bridge", name, way, stream, *elsewhere)
    target = (at_stream, "XLEN", stream) if way == "--to" else (at_list, "LLEN", name)

    def there() -> int:
        link, command, key = target
        return int(link.call(command, key))

    def bridge(*more: str) -> "subprocess.Popen[bytes]":
        return started(*arguments, *more, url=list_server.address.shown, stderr=subprocess.DEVNULL)

    part, left = total // kills, list[int]()
    with Producer(connector=server.connector(), pack=70) as producer:
        for start in range(0, total, part):
            mine = [n // 2 for n in range(start, start + part)]
            if way == "--to":
                for at in range(0, part, 500):
                    at_list.call("LPUSH", name, *map(task, mine[at : at + 500]))
            else:
                producer.send_many(stream, [{"function": "send_email", "args": [n]} for n in mine]).result()
            upto = there() + rng.randrange(1, start + part - there())
            process = bridge()
            until(partial(reached, there, upto), 30, every_s=0.0002, what=lambda: f"{there():,} are there")
            assert process.poll() is None
            process.kill()
            process.wait()
            left.append(start + part - there())
    process = bridge("--once")
    assert process.wait(60) == 0
    found = numbers(at_stream, stream) if way == "--to" else listed(at_list, name)
    assert found == [n // 2 for n in range(total)]
    assert any(left), f"no kill came in the midst of anything: {left}"
    at_list.close()
    at_stream.close()


@pytest.mark.campaign
@pytest.mark.parametrize("way", ["to", "from"])
def test_a_server_that_is_killed_comes_back_with_all(
    own_server: OwnServer, stream: str, scaled: Callable[[int], int], way: str
) -> None:
    """kill -9 of the server in the midst, three times: what it had said is on the disk, and the bridge goes on."""
    server, total = own_server(), scaled(200_000)
    connector = server.connector()
    link = connector.link("test")
    stop, filled = threading.Event(), Filled()
    with Producer(connector=connector, pack=70) as producer:
        if way == "to":
            for start in range(0, total, 500):
                link.call("LPUSH", "l", *map(task, range(start, start + 500)))
        else:
            producer.send_many(stream, [{"function": "f", "args": [n]} for n in range(total)]).result()

        def done() -> int:
            return fed.confirmed if fed is not None else filled.pushed

        with contextlib.ExitStack() as stack:
            fed = stack.enter_context(bridges(producer))(stream, "l")[1] if way == "to" else None
            if fed is None:
                stack.enter_context(filling("l", stream, connector, stop, filled))
            for part in range(1, 4):
                until(partial(reached, done, total * part // 4), 20, every_s=0.0005)
                server.kill()
                server.restart()
            link = connector.wait_until_up(5_000)
            count = ("XLEN", stream) if way == "to" else ("LLEN", "l")
            until(lambda: link.call(*count) >= total, 20, what=lambda: f"{done():,} are there")
    found = numbers(link, stream) if way == "to" else listed(link, "l")
    assert found == list(range(total))
    link.close()


@contextmanager
def filling(
    name: str, stream: str, connector: Connector, stop: threading.Event, filled: Filled
) -> Iterator[None]:
    """A bridge to a list that goes on while the block runs."""
    thread = threading.Thread(
        target=fill_list, args=(name, stream), kwargs={"connector": connector, "stop": stop, "filled": filled}
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
