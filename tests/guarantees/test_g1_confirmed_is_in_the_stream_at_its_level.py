"""G1: a send whose receipt says confirmed is in the stream at the level asked for.

A level that the server cannot give is refused at start; a level not reached in time is NotConfirmed: appended, but
only so far.
"""

import os
import signal
import socket
from collections.abc import Iterator
from itertools import count

import pytest

from pipeline.errors import NotConfirmed, SendError, UnsupportedServerError, UsageError
from pipeline.server.connect import Link
from producers.producer import Producer
from tests.conftest import OwnServer, Server
from tests.producers.reading import datas
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def replicated(own_server: OwnServer) -> Iterator[tuple[Server, Server, Link, Link]]:
    """A primary with one replica that has caught up, and a link to each."""
    primary, replica = own_server(port=_free_port()), own_server()
    port = primary.embedded.port
    assert port is not None
    connectors = [primary.connector(), replica.connector()]
    links = [connector.link() for connector in connectors]
    links[0].call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    links[1].call("REPLICAOF", "127.0.0.1", port)
    until(lambda: b"master_link_status:up" in links[1].call("INFO", "replication"))
    until(lambda: b"connected_slaves:1" in links[0].call("INFO", "replication"))
    yield primary, replica, links[0], links[1]
    # A replica that still writes its first append-only file refuses to stop, and a primary waits for its replicas.
    replica.kill()
    until(lambda: b"connected_slaves:0" in links[0].call("INFO", "replication"))
    for link in links:
        link.close()
    for connector in connectors:
        connector.close()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def has_waitaof(link: Link) -> bool:
    """Whether this server knows WAITAOF."""
    return bool(link.call("COMMAND", "INFO", "waitaof")[0])


def test_g1_accepted_is_in_the_stream(server: Server, link: Link, stream: str) -> None:
    """By the time the receipt says so, and not only afterwards."""
    with Producer(server.address.shown) as producer:
        for number in range(200):
            confirmation = producer.send(stream, number).result(5)
            (last,) = link.call("XREVRANGE", stream, "+", "-", "COUNT", 1)
            assert (last[0].decode(), "accepted") == (confirmation.entry_id, confirmation.level)


def test_g1_fsynced_by_appendfsync_always_survives_a_kill(own_server: OwnServer) -> None:
    """Every reply says that the disk has it: what was confirmed is there after kill -9."""
    server = own_server(fsync="always")
    with Producer(server.address.shown, confirm="fsynced", batch_events=5) as producer:
        receipts = [producer.send("orders", number) for number in range(500)]
        receipts[250].result(10)
        os.kill(server.pid, signal.SIGKILL)
        confirmed = [
            number for number, receipt in enumerate(receipts) if receipt.done and receipt.error is None
        ]
        server.restart()
        connector = server.connector()
        link = connector.wait_until_up(10_000)
        there = datas(link, "orders")
        assert set(confirmed) <= set(there)
        for receipt in receipts:
            assert receipt.result(20).level == "fsynced"
    assert datas(link, "orders") == list(range(500))
    link.close()
    connector.close()


def test_g1_fsynced_waits_for_the_disk_where_the_server_writes_once_a_second(
    server: Server, link: Link, stream: str
) -> None:
    """WAITAOF behind the appends, one for all that were gathered; refused where there is none."""
    if not has_waitaof(link):
        with pytest.raises(UnsupportedServerError, match="no WAITAOF"):
            Producer(server.address.shown, confirm="fsynced")
        return
    with Producer(server.address.shown, confirm="fsynced") as producer:
        receipts = [producer.send(stream, number) for number in range(1_000)]
        for receipt in receipts:
            assert receipt.result(20).level == "fsynced"
        assert link.call("WAITAOF", 1, 0, 1)[0] == 1
    assert datas(link, stream) == list(range(1_000))


def test_g1_replicated_is_on_the_replica(replicated: tuple[Server, Server, Link, Link]) -> None:
    """By the time the receipt says so."""
    primary, _, _, replica_link = replicated
    with Producer(primary.address.shown, confirm="replicated:1") as producer:
        for number in range(50):
            entry_id = producer.send("orders", number).result(5).entry_id
            assert replica_link.call("XREVRANGE", "orders", "+", "-", "COUNT", 1)[0][0].decode() == entry_id


def test_g1_a_level_not_reached_in_time_is_said_and_the_event_is_in_the_stream(
    replicated: tuple[Server, Server, Link, Link],
) -> None:
    """NotConfirmed names the entry; later sends reach the level again as soon as the replica is back."""
    primary, _, link, replica_link = replicated
    with Producer(primary.address.shown, confirm="replicated:1", confirm_timeout="200ms") as producer:
        until(lambda: reaches(producer, 0), 20)
        port = primary.embedded.port
        replica_link.call("REPLICAOF", "NO", "ONE")
        until(lambda: b"connected_slaves:0" in link.call("INFO", "replication"))
        receipt = producer.send("orders", 1)
        with pytest.raises(NotConfirmed, match="not reached in time") as failure:
            receipt.result(5)
        assert failure.value.reached == "accepted"
        assert failure.value.entry_id == receipt.entry_id
        assert datas(link, "orders")[-1] == 1
        assert producer.counts["not_reached"] >= 1
        replica_link.call("REPLICAOF", "127.0.0.1", port or 0)
        until(lambda: reaches(producer, 2), 20)


def reaches(producer: Producer, data: int) -> bool:
    """Whether a send reaches its level just now: a replica may be slow on a busy machine."""
    try:
        return bool(producer.send("orders", data).result(5))
    except NotConfirmed:
        return False


def test_g1_a_repeat_reaches_the_level_too(replicated: tuple[Server, Server, Link, Link]) -> None:
    """Appended before, its answer lost: the repeat is a write, so the wait behind it covers the first append."""
    primary, _, link, replica_link = replicated
    with Proxy(primary.address) as proxy:
        with Producer(proxy.url, confirm="replicated:1", batch_events=5) as producer:
            producer.send("orders", 0).result(5)
            waits = count()
            proxy.swallow = lambda _, reply: reply == b":1\r\n" and next(waits) % 2 == 1  # answers to WAIT
            receipts = [producer.send("orders", number) for number in range(1, 200)]
            for receipt in receipts:
                entry_id = receipt.result(20).entry_id
                assert replica_link.call("XRANGE", "orders", entry_id, entry_id)
        assert proxy.swallowed > 0
    assert datas(link, "orders") == list(range(200))


def test_g1_durable_is_on_both_disks(replicated: tuple[Server, Server, Link, Link]) -> None:
    """WAITAOF 1 1; refused where there is none."""
    primary, _, link, _ = replicated
    if not has_waitaof(link):
        with pytest.raises(UnsupportedServerError, match="no WAITAOF"):
            Producer(primary.address.shown, confirm="durable:1")
        return
    with Producer(primary.address.shown, confirm="durable:1") as producer:
        assert producer.send("orders", 1).result(10).level == "durable:1"
        assert link.call("WAITAOF", 1, 1, 1_000) == [1, 1]


def test_g1_levels_the_server_cannot_give_are_refused_at_start(own_server: OwnServer) -> None:
    """No append-only file, no such replicas; and a level that does not exist."""
    server = own_server()
    connector = server.connector()
    link = connector.link()
    link.call("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(UnsupportedServerError, match="append-only file is off"):
        Producer(server.address.shown, confirm="fsynced")
    with pytest.raises(UnsupportedServerError, match="0 replicas are connected"):
        Producer(server.address.shown, confirm="replicated:1")
    for wrong in ("sometimes", "replicated", "replicated:0", "durable:x"):
        with pytest.raises(UsageError, match="confirm="):
            Producer(server.address.shown, confirm=wrong)
    link.close()
    connector.close()


def test_g1_a_level_that_a_server_can_no_longer_give_fails_at_once(own_server: OwnServer) -> None:
    """Looked at anew with each connection: it may be another server."""
    server = own_server()
    with Proxy(server.address) as proxy:
        connector = server.connector()
        link = connector.link()
        if not has_waitaof(link):
            link.call("CONFIG", "SET", "appendfsync", "always")
        with Producer(proxy.url, confirm="fsynced") as producer:
            producer.send("orders", 1).result(10)
            link.call("CONFIG", "SET", "appendonly", "no")
            proxy.cut()
            with pytest.raises(SendError, match="append-only file is off") as failure:
                producer.send("orders", 2).result(10)
            assert isinstance(failure.value.__cause__, UnsupportedServerError)
        link.close()
        connector.close()
