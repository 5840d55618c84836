"""Every row of the error table that waiting mends: producers and groups go on by themselves, in few words."""

import logging
import time
from collections.abc import Iterator

import pytest

from pipeline.event import Event
from producers.producer import Producer
from tests.conftest import OwnServer, Server
from tests.consuming import Consuming, consuming_on
from tests.faults.refusals import REFUSALS, loads_slowly, restarting
from tests.until import until

LASTS_S = 1.2
"""So long the server refuses, in s."""


@pytest.fixture
def own(own_server: OwnServer) -> Server:
    """A server that this test may have refuse."""
    return own_server()


@pytest.fixture
def mine(own: Server, stream: str) -> Iterator[Consuming]:
    """A stream on it."""
    with consuming_on(own.address, stream) as consuming:
        yield consuming


def two_groups(consuming: Consuming) -> dict[str, set[int]]:
    """Two groups, and what each has handled."""
    seen: dict[str, set[int]] = {"one": set(), "two": set()}
    for group, handled in seen.items():

        def handle(event: Event, handled: set[int] = handled) -> None:
            handled.add(event.data)

        consuming.app.consumer(consuming.stream, group=group, claim_after="2s")(handle)
    return seen


@pytest.mark.parametrize("code", list(REFUSALS))
def test_a_refusal_is_waited_out(
    own: Server, mine: Consuming, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    """Nothing is lost, nothing has to be started again, nobody spins, and it is said in few lines."""
    seen = two_groups(mine)
    with mine.running() as running, Producer(mine.url) as producer:
        producer.send_many(mine.stream, list(range(200))).result()
        until(lambda: all(len(handled) == 200 for handled in seen.values()), what="it is at work")
        caplog.set_level(logging.INFO, logger="millstream")
        caplog.clear()
        with REFUSALS[code](own, mine.link):
            used_s, begun_s = time.process_time(), time.monotonic()
            receipts = [producer.send(mine.stream, number) for number in range(200, 300)]
            until(lambda: time.monotonic() - begun_s > LASTS_S)
            used_s = time.process_time() - used_s
        until(lambda: all(receipt.done for receipt in receipts), 10, what="the sends have ended")
        for receipt in receipts:
            receipt.result()
        producer.send_many(mine.stream, list(range(300, 400))).result()
        until(lambda: all(handled == set(range(400)) for handled in seen.values()), 10, what="all is handled")
        for group in seen:
            mine.until_drained(group)
        assert running.failure is None
        said = [record.getMessage() for record in caplog.records]
        assert len(said) <= 4, said
        assert used_s < 0.6 * LASTS_S, f"{used_s:.2f} s of CPU time in {LASTS_S:g} s of waiting"


def test_a_server_that_loads_is_waited_for(
    own_server: OwnServer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A restart that takes seconds to load: those who ran go on, and who starts meanwhile waits for it."""
    with loads_slowly(1_000) as program:
        own = own_server(binary=program, fsync="always")
        with consuming_on(own.address, stream) as mine:
            seen = two_groups(mine)
            mine.link.calls([("SET", f"filler-{number}", "x") for number in range(3_000)])
            with mine.running() as running, Producer(mine.url) as producer:
                producer.send_many(stream, list(range(100))).result()
                until(lambda: all(len(handled) == 100 for handled in seen.values()), what="it is at work")
                caplog.set_level(logging.INFO, logger="millstream")
                caplog.clear()
                with restarting(own):
                    until(lambda: "LOADING" in caplog.text, 20, what="it loads")
                    receipt = producer.send_many(stream, list(range(100, 200)))
                    late = Consuming(own.address, mine.link, stream)
                    third = two_groups(late)
                    used_s, begun_s = time.process_time(), time.monotonic()
                    with late.running():
                        used_s, waited_s = time.process_time() - used_s, time.monotonic() - begun_s
                        receipt.result()
                        until(
                            lambda: all(seen[group] | third[group] == set(range(200)) for group in seen), 10
                        )
                assert running.failure is None
                assert waited_s > 0.3, "it had loaded before: nothing was shown"
                assert used_s < waited_s / 2
                said = [record.getMessage() for record in caplog.records if "server" in record.name]
                assert len(said) <= 4, said
