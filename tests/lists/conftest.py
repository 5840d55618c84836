"""Fixtures: a list queue on the server of the run, an app on it, and what is found of it there."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from consumers.app import Pipeline
from consumers.running import LoopThread, Running
from pipeline.envelope import DeadLetter
from pipeline.event import Event
from pipeline.keys import ListKeys
from pipeline.list_options import WORKERS, ListOptions
from pipeline.server.connect import Connector, Link
from pipeline.server.locate import Address
from pipeline.server.replies import Fields
from tests.conftest import Server, started
from tests.consuming import Consuming
from tests.lists.beside import NAME
from tests.lists.classic import ClassicQueue
from tests.until import until


class Listing(Consuming):
    """A list queue, the Pipeline `app`, and a link to look with; as a Consuming, of the stream of what is taken."""

    def __init__(self, address: Address, link: Link, name: str) -> None:
        self.list = name
        self.list_keys = ListKeys(name)
        super().__init__(address, link, self.list_keys.stream)

    def options(self, **given: str) -> ListOptions:
        """ListOptions of this list."""
        return ListOptions(name=self.list, **given)  # type: ignore[arg-type]

    def push(self, *payloads: str | bytes, end: str = "left") -> None:
        """As old producers do, each with a command of its own."""
        self.link.calls([("LPUSH" if end == "left" else "RPUSH", self.list, one) for one in payloads])

    def block_list(self, **options: Any) -> threading.Event:
        """Declare a handler of the list that never ends by itself, until `go_on`; the event says that it runs."""
        running = threading.Event()

        def handle(event: Event) -> None:
            running.set()
            self.go_on.wait(60)

        self.app.consumer(list=self.list, **options)(handle)
        return running

    def left(self) -> list[bytes]:
        """What stands in the list, the next task last, as LPUSH and BRPOP have it."""
        found: list[bytes] = self.link.call("LRANGE", self.list, 0, -1)
        return found

    def taken(self) -> int:
        """How many tasks members have taken that are not settled, save those that wait for a retry."""
        return int(self.link.call("XLEN", self.stream))

    def gone(self) -> bool:
        """Whether nothing is left anywhere: not in the list, the hand, the stream, nor to be retried."""
        replies = self.link.calls(
            [
                ("MULTI",),
                ("EXISTS", self.list, self.list_keys.hand),
                ("XLEN", self.stream),
                ("XLEN", self.keys.again(WORKERS)),
                ("ZCARD", self.keys.retry(WORKERS)),
                ("EXEC",),
            ]
        )[-1]
        return not any(replies)

    def dead_of(self) -> list[tuple[DeadLetter, Fields]]:
        """Dead letters of the list's workers."""
        return self.dead(WORKERS)

    def until_gone(self, timeout_s: float = 20) -> None:
        """Wait until nothing is left anywhere."""
        until(self.gone, timeout_s, what="every task of the list is done")


@contextlib.contextmanager
def listing_on(address: Address, name: str) -> Iterator[Listing]:
    """A Listing with a link of its own."""
    connector = Connector(address)
    link = connector.link("test")
    try:
        yield Listing(address, link, name)
    finally:
        link.close()
        connector.close()


@contextlib.contextmanager
def worker_of(app: Pipeline) -> Iterator[Running]:
    """A further worker in this process, which is stopped at the end."""
    loops, connector = LoopThread(), Connector(app.url)
    running = Running(connector, app.select())
    try:
        running.start(loops.loop)
        yield running
    finally:
        running.stop()
        loops.close()
        connector.close()


@pytest.fixture
def listing(server: Server, stream: str) -> Iterator[Listing]:
    """A list that no other test uses, on the server of this run."""
    with listing_on(server.address, stream) as one:
        yield one


# Beside old code, which looks at every key there is.


@pytest.fixture(scope="module")
def whole_server() -> Iterator[Server]:
    """A server of these tests alone: old recoverers look at every key there is, and other tests' are not theirs."""
    with started() as running:
        yield running


@pytest.fixture
def old_server(whole_server: Server) -> Server:
    """The server, empty."""
    with redis.Redis(unix_socket_path=whole_server.address.path) as client:
        client.flushall()
        client.config_resetstat()
    return whole_server


@pytest.fixture
def client(old_server: Server) -> Iterator[Any]:
    """A plain client, as old code has it; Any, as its replies are typed for its asynchronous twin too."""
    with redis.Redis(unix_socket_path=old_server.address.path) as client:
        yield client


@pytest.fixture
def ours(old_server: Server) -> Iterator[Listing]:
    """The same queue as workers of ours have it."""
    with listing_on(old_server.address, NAME) as one:
        yield one


@pytest.fixture
def ran() -> list[Any]:
    """The data of tasks that ran."""
    return []


@pytest.fixture
def old(client: Any) -> ClassicQueue:
    """The queue as old processes use it."""
    return ClassicQueue(client, NAME)
