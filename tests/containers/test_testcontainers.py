"""Millstream on a server that testcontainers starts, as the tests of a user's application would.

MILLSTREAM_TEST_IMAGE names another image than the one that compose/images.sh found: MILLSTREAM_TEST_IMAGE=redis:7.2.
"""

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from millstream import Event, Pipeline, Producer, Reject, Retry
from tests.console.command import here
from tests.containers.conftest import code_of
from tests.until import until

redis_module = pytest.importorskip(
    "testcontainers.community.redis", reason="testcontainers (extra `test`) is not installed"
)
PASSWORD = "canary-of-testcontainers"


@pytest.fixture(scope="module", autouse=True)
def reaper(engine: str) -> Iterator[None]:
    """The container that removes what a killed run leaves: done without where its image cannot be had."""
    from testcontainers.core.config import testcontainers_config as config

    before = config.ryuk_disabled
    if not before and code_of("image", "inspect", config.ryuk_image) != 0:
        config.ryuk_disabled = code_of("pull", "-q", config.ryuk_image) != 0
    yield
    config.ryuk_disabled = before


@pytest.fixture
def url(images: dict[str, str]) -> Iterator[str]:
    """A server of this test alone, with a password, and its address."""
    image = os.environ.get("MILLSTREAM_TEST_IMAGE") or images["REDIS_IMAGE"]
    with redis_module.RedisContainer(image, password=PASSWORD) as server:
        yield f"redis://:{PASSWORD}@{server.get_container_host_ip()}:{server.get_exposed_port(6379)}/0"


def test_an_app_runs_on_a_server_in_a_container(url: str) -> None:
    """Two groups get every event; one that is rejected is a dead letter, of its group alone; what failed runs again."""
    app = Pipeline(url)
    billed: list[int] = []
    mailed: list[int] = []
    failed = threading.Event()

    @app.consumer("orders", group="billing", retry=Retry(initial="10ms"))
    def bill(event: Event) -> None:
        if event.data["n"] == 7:
            raise Reject("no bill for 7")
        if event.data["n"] == 8 and not failed.is_set():
            failed.set()
            raise RuntimeError("the first time")
        billed.append(event.data["n"])

    @app.consumer("orders", group="mail", batch=50)
    def mail(events: list[Event]) -> None:
        mailed.extend(event.data["n"] for event in events)

    async def work() -> None:
        async with app.running():
            with Producer(url) as producer:
                for n in range(500):
                    producer.send("orders", {"n": n}, id=f"order-{n}")
            await asyncio.to_thread(until, lambda: len(billed) >= 499 and len(mailed) >= 500, 30)

    asyncio.run(work())
    assert sorted(mailed) == list(range(500))
    assert sorted(billed) == [n for n in range(500) if n != 7]
    dead = here("dead", "ls", "orders", "billing", "--json", url=url)
    assert len(dead.json) == 1
    assert "no bill for 7" in dead.out
    assert PASSWORD not in dead.out + dead.err


def test_what_a_send_says_twice_is_there_once(url: str) -> None:
    """The same id again, from another producer, is appended once, on this server too."""
    for _ in range(2):
        with Producer(url) as producer:
            for receipt in [producer.send("once", {"n": n}, id=f"n-{n}") for n in range(100)]:
                receipt.result(timeout=30)
    assert here("stream", "show", "once", "--json", url=url).json["entries"] == 100
