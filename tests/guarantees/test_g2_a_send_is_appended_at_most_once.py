"""G2: a send is appended at most once, however often it is retried, on every supported server."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from pipeline.errors import SendError, SendUnknownError
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.receipt import Receipt
from tests.conftest import OwnServer, Server
from tests.producers.reading import datas
from tests.proxy import Proxy
from tests.until import until

APPENDED = b"*2\r\n$"  # how the append script's answers begin


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The same draws in every run of a test."""
    return random.Random(request.node.name)


@pytest.mark.timeout(300)
def test_g2_lost_replies_and_random_cuts(
    server: Server, link: Link, stream: str, scaled: Callable[[int], int], rng: random.Random
) -> None:
    """20,000 sends, at most 10 a call, every 50th reply swallowed and the connection cut at random bytes."""
    sends = scaled(20_000)
    with Proxy(server.address) as proxy, Producer(proxy.url, batch_events=10) as producer:
        producer.send(stream, -1).result(5)
        replies = count(1)
        proxy.swallow = lambda _, reply: reply.startswith(APPENDED) and next(replies) % 50 == 0
        receipts = []
        for number in range(sends):
            receipts.append(producer.send(stream, number))
            if rng.random() < 1 / 150:
                where = rng.choice(["request_bytes", "reply_bytes", "replies"])
                proxy.cut_after(**{where: rng.randint(1, 3_000 if where == "request_bytes" else 60)})
        for receipt in receipts:
            receipt.result(60)
        assert proxy.swallowed > sends // 1_000
        assert producer.counts["repeats"] > 0
    assert datas(link, stream) == list(range(-1, sends))


@pytest.mark.timeout(120)
def test_g2_sends_that_time_out_are_there_at_most_once_and_what_is_confirmed_once(
    server: Server, link: Link, stream: str, scaled: Callable[[int], int], rng: random.Random
) -> None:
    """Answers held for longer than sends may take: unknown is at most once, failed is never there, order is kept."""
    sends = count()
    receipts: dict[object, Receipt] = {}
    with Proxy(server.address) as proxy:
        with Producer(proxy.url, batch_events=3, send_timeout="150ms", reply_timeout="100ms") as producer:
            for _ in range(scaled(100)):
                until(lambda: sent(producer, stream, next(sends)))
                proxy.hold()
                held = [next(sends) for _ in range(rng.randint(1, 10))]
                receipts.update({number: producer.send(stream, number) for number in held})
                until(lambda held=held: receipts[held[rng.randrange(len(held))]].done)  # type: ignore[misc]
                proxy.release()
            producer.flush(10)
            fates = {number: type(receipt.error) for number, receipt in receipts.items()}
    failed = {number for number, fate in fates.items() if fate is SendError}
    confirmed = {number for number, fate in fates.items() if fate is type(None)}
    assert SendUnknownError in fates.values()
    there = Counter(datas(link, stream))
    assert max(there.values()) == 1
    assert list(there) == sorted(there)  # type: ignore[type-var]
    assert confirmed <= set(there)
    assert not failed & set(there)


@pytest.mark.parametrize("pack", [0, 5])
def test_g2_refused_for_memory_while_others_are_in_flight(own_server: OwnServer, pack: int) -> None:
    """Batch 2 refused while batch 3 is in flight: both are in the stream, in order, once."""
    server = own_server()
    connector = server.connector()
    link = connector.link()
    with Proxy(server.address) as proxy, Producer(proxy.url, batch_events=1, pack=pack) as producer:
        producer.send("orders", 0).result(5)
        for turn in range(5):
            # The answers wait, so that several batches are in flight when the server runs out of memory.
            proxy.hold()
            producer.send("orders", 3 * turn + 1)
            link.call("CONFIG", "SET", "maxmemory", "1")
            producer.send("orders", 3 * turn + 2)
            last = producer.send("orders", 3 * turn + 3)
            batches = producer.counts["batches"]
            proxy.release()
            until(lambda batches=batches: producer.counts["batches"] > batches + 3)  # type: ignore[misc]
            assert not last.done
            link.call("CONFIG", "SET", "maxmemory", "0")
            last.result(10)
    assert datas(link, "orders") == list(range(16))
    link.close()
    connector.close()


def test_g2_the_same_id_is_appended_once_by_whomever_it_is_sent(
    server: Server, link: Link, stream: str
) -> None:
    """Three producers and lost replies; every receipt names the one entry."""
    with Proxy(server.address) as proxy:
        producers = [Producer(proxy.url, batch_events=5) for _ in range(3)]
        proxy.swallow_every(7, having=APPENDED)
        receipts = [
            [producer.send(stream, number, id=f"order-{number}") for producer in producers]
            for number in range(200)
        ]
        for same in receipts:
            assert len({receipt.result(20).entry_id for receipt in same}) == 1
        for producer in producers:
            producer.close()
    assert sorted(datas(link, stream)) == list(range(200))  # type: ignore[type-var]


def test_g2_a_producer_the_server_forgot_goes_on(server: Server, link: Link, stream: str) -> None:
    """Its record expired or was lost in a failover: nothing is appended twice, and nothing stops."""
    with Producer(server.address.shown, batch_events=2) as producer:
        for turn in range(10):
            for number in range(20):
                producer.send(stream, 20 * turn + number)
            producer.flush(10)
            assert link.call("DEL", *link.call("KEYS", f"*{stream}*producer*")) == 1
    assert datas(link, stream) == list(range(200))


def test_g2_an_unknown_send_is_not_repeated_behind_the_callers_back(
    server: Server, link: Link, stream: str
) -> None:
    """The request was swallowed, so it is not there, and stays away."""
    with Proxy(server.address) as proxy:
        with Producer(proxy.url, send_timeout="300ms", reply_timeout="5s") as producer:
            producer.send(stream, 0).result(5)
            proxy.black_hole()
            receipt = producer.send(stream, 1)
            with pytest.raises(SendUnknownError):
                receipt.result(5)
            proxy.black_hole(False)
            proxy.cut()
            for number in (2, 3):
                until(lambda number=number: sent(producer, stream, number))  # type: ignore[misc]
    assert [data for data in datas(link, stream) if data in (0, 1)] == [0]


def sent(producer: Producer, stream: str, number: int) -> bool:
    """Whether it could be sent."""
    try:
        return bool(producer.send(stream, number).result(5))
    except SendError:
        return False
