"""Bridges killed at random instants, both ways, on one server and between two: no task is lost, and none doubled."""

import random
import subprocess
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from producers.producer import Producer
from tests.conftest import OwnServer, Server
from tests.console.command import end_all, started
from tests.lists.bridging import listed, numbers, task
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

    def reached(count: int) -> bool:
        return there() >= count

    def bridge(*more: str) -> "subprocess.Popen[bytes]":
        return started(*arguments, *more, url=list_server.address.shown, stderr=subprocess.DEVNULL)

    part, left = total // kills, list[int]()
    with Producer(connector=server.connector(), pack=50) as producer:
        for start in range(0, total, part):
            mine = [n // 2 for n in range(start, start + part)]
            if way == "--to":
                for at in range(0, part, 500):
                    at_list.call("LPUSH", name, *map(task, mine[at : at + 500]))
            else:
                producer.send_many(stream, [{"function": "send_email", "args": [n]} for n in mine]).result()
            upto = there() + rng.randrange(1, start + part - there())
            process = bridge()
            until(partial(reached, upto), 30, every_s=0.0002, what=lambda: f"{there():,} are there")
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
