"""G10: a failover, a connection that only one side knows to be gone, names of the dead, and a flush amid batches."""

import logging
from collections.abc import Iterator

import pytest

from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.server.locate import locate
from producers.producer import Producer
from tests.conftest import OwnServer, Server
from tests.consuming import Consuming, consuming_on, total
from tests.producers.reading import datas
from tests.proxy import Proxy
from tests.server.test_connect import free_port
from tests.until import until


@pytest.fixture
def own(own_server: OwnServer) -> Server:
    """A server of this test."""
    return own_server()


@pytest.fixture
def mine(own: Server, stream: str) -> Iterator[Consuming]:
    """A stream on it."""
    with consuming_on(own.address, stream) as consuming:
        yield consuming


def test_g10_a_replica_takes_over(
    own_server: OwnServer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Promoted with all that was replicated: producer and group follow by themselves, and in few words."""
    caplog.set_level(logging.INFO, logger="millstream")
    port = free_port()
    primary, replica = own_server(port=port), own_server()
    with (
        Proxy(primary.address) as proxy,
        consuming_on(replica.address, stream, url=proxy.url) as mine,
        Producer(proxy.url, confirm="accepted") as producer,
    ):
        primary_link = primary.connector().link()
        primary_link.calls([("CONFIG", "SET", "repl-diskless-sync-delay", 0)])
        seen: list[int] = []
        mine.app.consumer(stream, group="g", claim_after="1s")(lambda event: seen.append(event.data))
        with mine.running() as running:
            mine.link.call("REPLICAOF", "127.0.0.1", port)
            producer.send_many(stream, list(range(300))).result(10)
            until(lambda: set(seen) == set(range(300)), what="it is at work")
            until(
                lambda: mine.link.calls([("XLEN", stream)])[0] == 300, 15, what="the replica has the stream"
            )
            primary_link.call("SET", "last", 1)
            until(lambda: mine.link.call("EXISTS", "last"), 15, what="the replica has all")
            caplog.clear()
            mine.link.call("REPLICAOF", "NO", "ONE")
            proxy.lead_to(replica.address)
            receipts = [producer.send(stream, number) for number in range(300, 400)]
            for receipt in receipts:
                receipt.result(10)
            until(lambda: set(seen) == set(range(400)), 10, what="all is handled there")
            mine.until_drained()
            assert running.failure is None
        primary_link.close()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) < 6, lines
    assert datas(replica.connector().link(), stream) == list(range(400))


def test_g10_a_replica_that_lacks_the_last_of_it_is_worked_with(
    own_server: OwnServer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it never got is gone; the group is recreated there, and everything sent from then on is handled."""
    primary, replica = own_server(), own_server()
    with (
        Proxy(primary.address) as proxy,
        consuming_on(replica.address, stream, url=proxy.url) as mine,
        Producer(proxy.url) as producer,
    ):
        seen: list[int] = []
        mine.app.consumer(stream, group="g", start="end")(lambda event: seen.append(event.data))
        with mine.running() as running:
            producer.send_many(stream, list(range(100))).result(10)
            until(lambda: set(seen) == set(range(100)), what="it is at work")
            proxy.lead_to(replica.address)
            producer.send_many(stream, list(range(100, 200))).result(10)
            until(lambda: set(seen) == set(range(200)), 10, what="what was sent since is handled")
            assert running.failure is None


@pytest.mark.campaign
@pytest.mark.parametrize("may_kill", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_g10_a_connection_of_which_one_half_is_left_is_given_nothing(
    own: Server, stream: str, may_kill: bool
) -> None:
    """The member has the server close it; where it may not, it looks again once the server has given up waiting."""
    with Proxy(own.address) as proxy, consuming_on(own.address, stream, url=proxy.url) as mine:
        seen: list[int] = []
        mine.app.consumer(stream, group="g", claim_after="60s")(lambda event: seen.append(event.data))
        if not may_kill:
            mine.link.call("ACL", "SETUSER", "default", "-client", "+client|id", "+client|setname")

        def blocked() -> int:
            clients: bytes = mine.link.call("INFO", "clients")
            return int(clients.partition(b"blocked_clients:")[2].split()[0])

        with mine.running() as running:
            mine.send(0)
            until(lambda: seen == [0] and blocked() == 1, what="it waits at the server")
            (member,) = running.members
            before = member.state.reader_client
            proxy.half_open = True
            proxy.hang_up()
            until(lambda: member.state.reader_client != before, what="it reads over another connection")
            if may_kill:
                until(
                    lambda: b"id=%d " % before not in mine.link.call("CLIENT", "LIST"),
                    what="the server knows",
                )
            mine.send(*range(1, 20))
            until(lambda: sorted(seen) == list(range(20)), 4 if may_kill else 20, what="all is handled")
            mine.until_drained()
            counts = total(running.members)
        assert sorted(seen) == list(range(20)), "each once"
        assert counts["taken_over_by_us"] == 0
        proxy.cut()


@pytest.mark.slow
def test_g10_what_a_half_open_connection_was_given_is_not_waited_for(own: Server, stream: str) -> None:
    """The server delivers into a hole, and goes on believing in that connection: it runs long before claim_after."""
    with Proxy(own.address) as proxy, consuming_on(own.address, stream, url=proxy.url) as mine:
        seen: list[int] = []
        mine.app.consumer(stream, group="g", claim_after="60s")(lambda event: seen.append(event.data))
        with mine.running() as running:
            mine.send(0)
            until(lambda: seen == [0], what="it is at work")
            until(
                lambda: b"blocked_clients:1" in mine.link.call("INFO", "clients"),
                what="it waits at the server",
            )
            proxy.half_open = True
            proxy.black_hole()
            mine.send(*range(1, 20))
            proxy.black_hole(False)
            until(lambda: sorted(seen) == list(range(20)), 20, what="all is handled")
            mine.until_drained()
            counts = total(running.members)
        assert sorted(seen) == list(range(20)), "each once"
        assert counts["taken_over_by_us"] == 0
        proxy.cut()


def test_g10_names_of_the_dead_go_though_nobody_lists_them(mine: Consuming) -> None:
    """The list of members was lost: a name goes once it holds nothing, and what it held is handled first."""
    seen: list[int] = []
    mine.app.consumer(mine.stream, group="g", claim_after="1s")(lambda event: seen.append(event.data))
    mine.send(1, 2)
    mine.link.call("XGROUP", "CREATE", mine.stream, "g", "0")
    mine.link.call("XGROUP", "CREATECONSUMER", mine.stream, "g", "dead-1-a")
    mine.link.call("XREADGROUP", "GROUP", "g", "dead-2-b", "STREAMS", mine.stream, ">")
    with mine.running() as running:
        (member,) = running.members
        until(lambda: set(mine.consumers()) == {member.name}, 15, what="the dead ones' names are gone")
    assert sorted(seen) == [1, 2]


def test_g10_a_flush_amid_sixteen_batches(own: Server, stream: str, link: Link) -> None:
    """Of the batches on their way some were appended before the flush: none after it is missing or there twice."""
    look = own.connector().link()
    with Proxy(own.address) as proxy, Producer(proxy.url, batch_events=1) as producer:
        producer.send(stream, -1).result(5)
        for flush in range(5):
            proxy.hold()
            before = [producer.send(stream, (flush, n)) for n in range(8)]
            until(lambda: look.call("XLEN", stream) >= 1, what="some are in the stream")
            look.call("FLUSHALL")
            after = [producer.send(stream, (flush, n)) for n in range(8, 24)]
            proxy.release()
            for receipt in [*before, *after]:
                receipt.result(10)
            there = [data[1] for data in datas(look, stream) if isinstance(data, list) and data[0] == flush]
            assert there == sorted(set(there))
            assert set(range(8, 24)) <= set(there)
    look.close()


def test_g10_another_entry_of_the_same_id_is_not_taken_for_the_one_that_was_lost(mine: Consuming) -> None:
    """The stream is deleted while one of its entries runs; one of the same millisecond gets its id, and runs."""
    begun: list[str] = []

    @mine.app.consumer(mine.stream, group="g", concurrency=4)
    def handle(event: Event) -> None:
        begun.append(event.data)
        if event.data == "lost":
            mine.go_on.wait(20)

    lost, new = mine.encoded("lost", "new")
    mine.link.call("XADD", mine.stream, "5-1", *lost)
    with mine.running():
        until(lambda: begun == ["lost"], what="it runs")
        mine.link.calls([("MULTI",), ("DEL", mine.stream), ("XADD", mine.stream, "5-1", *new), ("EXEC",)])
        until(lambda: begun == ["lost", "new"], what="the new one runs")
        mine.until_drained()
    assert begun == ["lost", "new"]


def test_g10_a_group_whose_record_was_deleted_is_no_new_group_later(mine: Consuming) -> None:
    """S:groups goes, and with it that the group was ever there; then the group: it must not begin at the end."""
    seen: list[int] = []
    mine.app.consumer(mine.stream, group="g", start="end")(lambda event: seen.append(event.data))
    with mine.running():
        mine.send(0)
        until(lambda: seen == [0], what="it is at work")
        mine.link.call("DEL", mine.keys.groups)
        until(lambda: mine.link.call("HEXISTS", mine.keys.groups, "g:since"), what="it is written anew")
        until(
            lambda: mine.link.call("HGET", mine.keys.groups, "g:token"),
            what="a token is there (a missing one would be one that returns)",
        )
    mine.link.call("XGROUP", "DESTROY", mine.stream, "g")
    mine.send(1)
    with mine.running():
        until(lambda: 1 in seen, 10, what="what came meanwhile is handled")


def test_sentinel_style_addresses_take_a_password_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As every other form does; what the file holds is never shown."""
    file = tmp_path_factory.mktemp("secret") / "password"
    file.write_text("k4nary", encoding="utf-8")
    address = locate(f"redis+sentinel://user@a,b/orders?password_file={file}")
    assert address.password_file == str(file)
    assert "k4nary" not in f"{address!r} {address}"
