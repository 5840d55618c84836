"""Naps: single events that come one by one are written by who sends them, and nobody is woken for each answer."""

import time
from collections.abc import Iterator

import pytest

from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sender import LOOK_MS, MOST_UNREAD, NAP_MS, QUIET_MS, before_look_ms
from tests.conftest import Server
from tests.producers.reading import datas
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def producer(server: Server) -> Iterator[Producer]:
    """With the options that most have."""
    with Producer(server.address.shown) as producer:
        yield producer


def nap(producer: Producer, stream: str, most: int = 500) -> int:
    """Send single events until the thread naps with an answer unread; how many were sent."""
    sender = producer._sender
    sender._waited_ms = float("-inf")  # whoever waited before did so long ago
    for number in range(most):
        producer.send(stream, number)
        with sender._lock:
            if sender._napping and sender._exchange.in_flight:
                return number + 1
        time.sleep(0.001)
    raise AssertionError(f"no nap within {most} sends")


def test_a_receipt_that_nobody_waits_for_ends_all_the_same(
    producer: Producer, link: Link, stream: str
) -> None:
    """The last of them, too, behind which nothing is sent any more."""
    nap(producer, stream)
    receipt = producer.send(stream, "last")
    until(lambda: receipt.done, what="the thread looks by itself")
    assert receipt.entry_id == link.call("XREVRANGE", stream, "+", "-", "COUNT", 1)[0][0].decode()


def test_who_waits_for_a_receipt_ends_the_nap(producer: Producer, stream: str) -> None:
    """And there is none for a while after it."""
    nap(producer, stream)
    assert producer.send(stream, "asked for").result(5).entry_id
    sender = producer._sender
    for number in range(20):
        producer.send(stream, number).result(5)
        assert not sender._napping


def test_more_events_than_answers_may_be_unread_go_together(
    producer: Producer, link: Link, stream: str
) -> None:
    """A burst in a nap: what finds too many answers unread wakes the thread, and order is kept."""
    sent = nap(producer, stream)
    before = producer.counts["batches"]
    burst = [producer.send(stream, f"burst {number}") for number in range(20 * MOST_UNREAD)]
    producer.flush(10)
    assert datas(link, stream)[sent:] == [f"burst {number}" for number in range(len(burst))]
    assert producer.counts["batches"] - before < len(burst)
    assert all(receipt.done for receipt in burst)


def test_a_connection_that_ends_in_a_nap_loses_and_repeats_nothing(
    server: Server, link: Link, stream: str
) -> None:
    """What was written and not answered is sent again under its number."""
    with Proxy(server.address) as proxy, Producer(proxy.url) as producer:
        sent = nap(producer, stream)
        proxy.cut()
        producer.send(stream, "after")
        producer.flush(10)
        assert proxy.connections >= 2
        assert datas(link, stream) == [*range(sent), "after"]


def test_small_buffers_and_levels_know_no_naps(server: Server) -> None:
    """Where an unread answer would be missed."""
    for more in ({"buffer_events": 10}, {"buffer_bytes": 1_000_000}, {"when_full": "drop_oldest"}):
        with Producer(server.address.shown, **more) as producer:
            assert not producer._sender._may_nap


@pytest.mark.parametrize(
    ("since_ms", "apart_ms", "wait_ms"),
    [
        (0.1, 1.0, QUIET_MS - 0.1),  # one is on its way
        (QUIET_MS + 0.05, 1.0, 0.0),  # between two
        (0.9, 1.0, 0.1 + QUIET_MS),  # the next is about to be sent
        (3.0, 1.0, 0.0),  # it did not come
        (QUIET_MS + LOOK_MS, NAP_MS * 2, 0.0),  # nobody knows when the next comes
    ],
)
def test_a_look_falls_between_two_events(since_ms: float, apart_ms: float, wait_ms: float) -> None:
    """So that it takes the interpreter from neither."""
    assert before_look_ms(since_ms, apart_ms) == pytest.approx(wait_ms)
