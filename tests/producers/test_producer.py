"""Producer on a real server: what is confirmed is there once and in order, what is not is said."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import (
    BufferFull,
    ClosedError,
    EncodeError,
    EventTooLargeError,
    SendError,
    SendUnknownError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.receipt import Receipt
from tests.conftest import OwnServer, Server
from tests.producers.reading import datas, events
from tests.proxy import Proxy
from tests.until import until

ROOT = Path(__file__).parent.parent.parent
APPENDED = b"*2\r\n$"  # how the append script's answers begin
NOWHERE = "unix:///nonexistent/millstream/no.sock"


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server of this run."""
    with Proxy(server.address) as proxy:
        yield proxy


def script(text: str, *args: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(text), *args],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def test_a_confirmed_send_is_in_the_stream_under_the_ids_of_its_receipt(
    producer: Producer, link: Link, stream: str
) -> None:
    """Entry id, event id, type, key, headers, time and data."""
    when = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
    receipt = producer.send(
        stream,
        {"id": 7},
        type="order.placed",
        key="customer-7",
        headers={"a": "b"},
        time=when,
        source="/shop",
    )
    confirmation = receipt.result(timeout=5)
    (event,) = events(link, stream)
    assert receipt.done
    assert confirmation.level == "accepted"
    assert confirmation.entry_id == receipt.entry_id == link.call("XRANGE", stream, "-", "+")[0][0].decode()
    assert confirmation.event_id == receipt.event_id == event.id == f"{producer.id}-1"
    assert (event.data, event.type, event.key, event.time) == ({"id": 7}, "order.placed", "customer-7", when)
    assert event.headers == {"a": "b", "source": "/shop"}


def test_an_event_object_is_sent_as_it_is(producer: Producer, link: Link, stream: str) -> None:
    """What it says itself cannot be said twice."""
    producer.send(stream, Event([1, 2], type="t", id="mine")).result(5)
    (event,) = events(link, stream)
    assert (event.data, event.type, event.id) == ([1, 2], "t", "mine")
    with pytest.raises(UsageError, match="Event says itself"):
        producer.send(stream, Event(1), type="t")


def test_a_namespace_stands_before_stream_names(server: Server, link: Link, stream: str) -> None:
    """As Pipeline(namespace=…) has it."""
    with Producer(server.address.shown, namespace="prod") as producer:
        producer.send(stream, 1).result(5)
    assert datas(link, f"prod:{stream}") == [1]


@pytest.mark.parametrize("codec", ["json", "fields"])
def test_other_codecs_are_sent(server: Server, link: Link, stream: str, codec: str) -> None:
    """Also in one batch with entries of another shape."""
    with Producer(server.address.shown, codec=codec) as producer:
        producer.send_many(stream, [{"a": "1"}, {"a": "2", "b": "x"}]).result(5)
    assert datas(link, stream) == [{"a": "1"}, {"a": "2", "b": "x"}]


@pytest.mark.parametrize("pack", [0, 7, True])
def test_send_many_gives_one_receipt_for_all_rows(
    producer: Producer, link: Link, stream: str, pack: int | bool
) -> None:
    """In order, each with its id, as single entries or in packs."""
    rows = [{"n": number} for number in range(1_234)]
    receipt = producer.send_many(stream, rows, type=lambda row: f"t{row['n'] % 2}", key="k", pack=pack)
    confirmation = receipt.result(timeout=10)
    found = events(link, stream)
    assert [event.data for event in found] == rows
    assert [event.id for event in found] == list(confirmation.event_ids)
    assert [event.type for event in found[:3]] == ["t0", "t1", "t0"]
    assert len(confirmation.entry_ids) == receipt.events == 1_234
    ids = [entry[0].decode() for entry in link.call("XRANGE", stream, "-", "+")]
    assert sorted(set(confirmation.entry_ids), key=ids.index) == ids
    assert len(ids) == {0: 1_234, 7: 177, True: 13}[pack]


def test_rows_with_an_id_are_not_packed(producer: Producer, link: Link, stream: str) -> None:
    """Deduplication is by entry."""
    rows: list[object] = [1, Event(2, id="two"), 3, 4, Event(5, id="five")]
    receipt = producer.send_many(stream, rows, pack=100)
    assert receipt.result(5).event_ids[1] == "two"
    assert datas(link, stream) == [1, 2, 3, 4, 5]
    assert link.call("XLEN", stream) == 4
    assert [event.id for event in events(link, stream)] == receipt.event_ids


def test_sending_nothing_is_confirmed_at_once(producer: Producer, stream: str) -> None:
    """An empty list of rows is no error."""
    receipt = producer.send_many(stream, [])
    assert receipt.done
    assert receipt.result().entry_ids == []


def test_a_flood_is_gathered_in_packs(server: Server, link: Link, stream: str) -> None:
    """pack= gathers what is sent while an answer is awaited; ids and order are kept, nothing waits."""
    with Producer(server.address.shown, pack=50) as producer:
        receipts = [producer.send(stream, {"n": number}, type="x") for number in range(2_000)]
        assert [receipt.result(10).event_id for receipt in receipts] == [
            event.id for event in events(link, stream)
        ]
    assert datas(link, stream) == [{"n": number} for number in range(2_000)]
    assert link.call("XLEN", stream) < 500


def test_data_changed_after_the_send_is_sent_as_it_was(server: Server, link: Link, stream: str) -> None:
    """Also where events wait to be packed."""
    with Producer(server.address.shown, pack=50) as producer:
        data = {"n": 0}
        for number in range(100):
            data["n"] = number
            producer.send(stream, data)
    assert datas(link, stream) == [{"n": number} for number in range(100)]


def test_the_same_id_is_appended_once(producer: Producer, server: Server, link: Link, stream: str) -> None:
    """Within dedupe_for, by whichever producer; every receipt names the one entry."""
    first = producer.send(stream, "a", id="order-7").result(5)
    with Producer(server.address.shown) as other:
        again = other.send(stream, "b", id="order-7").result(5)
    assert again.entry_id == first.entry_id
    assert again.event_id == "order-7"
    assert datas(link, stream) == ["a"]


def test_what_cannot_be_sent_is_refused_before_anything_is_queued(
    producer: Producer, link: Link, stream: str
) -> None:
    """One bad row, and none of the rows is sent."""
    with pytest.raises(EncodeError):
        producer.send(stream, {"f": object()})
    with pytest.raises(EventTooLargeError, match="max_entry_bytes"):
        producer.send(stream, "x" * 3_000_000)
    with pytest.raises(EncodeError):
        producer.send_many(stream, [1, 2, object()], pack=10)
    with pytest.raises(EventTooLargeError, match="2,500 fields"), Producer(NOWHERE, codec="fields") as other:
        other.send(stream, {str(number): "x" for number in range(2_499)})
    with pytest.raises(UsageError, match="braces"):
        producer.send("{", 1)
    producer.flush(5)
    assert link.call("EXISTS", stream) == 0


def test_a_key_of_another_type_fails_its_own_sends_only(producer: Producer, link: Link, stream: str) -> None:
    """The receipt says which key, and the rest goes on."""
    link.call("SET", stream, "text")
    bad = [producer.send(stream, number) for number in range(3)]
    good = producer.send(f"{stream}-2", 1)
    for receipt in bad:
        with pytest.raises(SendError, match="another type") as failure:
            receipt.result(5)
        assert isinstance(failure.value.__cause__, WrongKeyTypeError)
    assert good.result(5).entry_id
    link.call("DEL", stream)
    assert producer.send(stream, 4).result(5).entry_id


def test_every_fifth_reply_lost_and_nothing_is_missing_or_twice(
    server: Server, proxy: Proxy, link: Link, stream: str
) -> None:
    """2,000 sends, at most 10 a call; all confirmed, in the order they were sent."""
    with Producer(proxy.url, batch_events=10) as producer:
        producer.send(stream, -1).result(5)
        proxy.swallow_every(5, having=APPENDED)
        receipts = [producer.send(stream, number) for number in range(2_000)]
        for receipt in receipts:
            receipt.result(60)
        assert producer.counts["repeats"] > 0
    assert proxy.swallowed > 20
    found = events(link, stream)
    assert [event.data for event in found] == list(range(-1, 2_000))
    assert [receipt.event_id for receipt in receipts] == [event.id for event in found[1:]]


def test_the_servers_memory_of_a_producer_lasts_for_two_send_timeouts(
    proxy: Proxy, link: Link, stream: str
) -> None:
    """It is renewed now and then, after a refusal, and on every new connection; with a long timeout, always."""

    def kept_ms(producer: Producer, data: int) -> int:
        key = StreamKeys(stream).producer(producer.id)
        link.call("PEXPIRE", key, 50_000)
        producer.send(stream, data).result(10)
        return int(link.call("PTTL", key))

    with Producer(proxy.url) as producer:
        producer.send(stream, 0).result(5)
        assert kept_ms(producer, 1) <= 50_000
        link.call("RENAME", stream, f"{stream}-2")
        link.call("SET", stream, "text")
        with pytest.raises(SendError, match="another type"):
            kept_ms(producer, 2)
        link.call("RENAME", f"{stream}-2", stream)
        assert kept_ms(producer, 3) > 80_000_000
        assert kept_ms(producer, 4) <= 50_000
        proxy.cut()
        assert kept_ms(producer, 5) > 80_000_000
    with Producer(proxy.url, send_timeout="12h") as patient:
        patient.send(stream, 6).result(5)
        assert kept_ms(patient, 7) > 80_000_000
    assert datas(link, stream) == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("where", ["request_bytes", "reply_bytes"])
def test_a_connection_cut_at_any_byte_loses_and_repeats_nothing(
    proxy: Proxy, link: Link, stream: str, where: str
) -> None:
    """Whole or half requests and answers."""
    with Producer(proxy.url, batch_events=7, pack=3) as producer:
        sent = 0
        for amount in range(1, 2_000, 61):
            proxy.cut_after(**{where: amount})
            for _ in range(20):
                producer.send(stream, sent)
                sent += 1
            producer.flush(20)
    assert datas(link, stream) == list(range(sent))


def test_an_answer_that_never_comes_is_given_up_and_the_batch_sent_again(
    proxy: Proxy, link: Link, stream: str
) -> None:
    """A black hole on the way, for longer than reply_timeout."""
    with Producer(proxy.url, reply_timeout="300ms") as producer:
        producer.send(stream, 0).result(5)
        proxy.black_hole()
        receipt = producer.send(stream, 1)
        until(lambda: proxy.connections > 1)
        proxy.black_hole(False)
        proxy.cut()
        receipt.result(10)
    assert datas(link, stream) == [0, 1]


def test_a_send_that_may_have_arrived_ends_as_unknown(proxy: Proxy, link: Link, stream: str) -> None:
    """It was on its way when its time ran out, and is never sent again."""
    with Producer(proxy.url, send_timeout="400ms", reply_timeout="10s") as producer:
        producer.send(stream, 0).result(5)
        proxy.hold()
        receipt = producer.send(stream, 1)
        with pytest.raises(SendUnknownError, match="may or may not"):
            receipt.result(5)
        proxy.release()
        assert producer.send(stream, 2).result(5).entry_id
    assert datas(link, stream) == [0, 1, 2]


def test_a_send_that_never_left_has_failed_for_certain(stream: str) -> None:
    """No server: the error says so, and no doubt is left."""
    with Producer(NOWHERE, send_timeout="300ms") as producer:
        receipt = producer.send(stream, 1)
        with pytest.raises(SendError, match=r"not sent within 0.3 s: cannot reach") as failure:
            receipt.result(5)
        assert type(failure.value) is SendError


def test_result_waits_no_longer_than_it_is_told_to(stream: str) -> None:
    """The send itself goes on."""
    with Producer(NOWHERE, send_timeout="1s") as producer:
        receipt = producer.send(stream, 1)
        with pytest.raises(TimeoutError):
            receipt.result(0.05)
        with pytest.raises(TimeoutError):
            producer.flush(0.05)
        assert receipt.error is None
        until(lambda: receipt.done)
        assert isinstance(receipt.error, SendError)


def test_a_full_buffer_blocks_then_refuses(stream: str) -> None:
    """Nothing of the event is queued; the message says what is held and why."""
    with Producer(NOWHERE, buffer_events=10, block="200ms", send_timeout="600ms") as producer:
        held = [producer.send(stream, number) for number in range(10)]
        began = time.monotonic()
        with pytest.raises(BufferFull, match="buffer_events=10"):
            producer.send(stream, 11)
        assert time.monotonic() - began >= 0.2
        for receipt in held:
            until(lambda receipt=receipt: receipt.done)  # type: ignore[misc]
            assert receipt.error is not None


def test_a_full_buffer_refuses_at_once_where_asked_to(stream: str) -> None:
    """when_full=fail; in bytes as in events."""
    producer = Producer(NOWHERE, buffer_bytes=1_000, when_full="fail", send_timeout="1s")
    producer.send(stream, "x" * 900)
    with pytest.raises(BufferFull, match="buffer_bytes=1,000"):
        producer.send(stream, "x" * 900)
    with pytest.raises(SendError, match="1 sends failed and nobody looked"):
        producer.close()


def test_a_full_buffer_drops_the_oldest_where_asked_to(stream: str) -> None:
    """Counted, and the receipts say so; close() does not complain of what was asked for."""
    with Producer(NOWHERE, buffer_events=10, when_full="drop_oldest", send_timeout="500ms") as producer:
        receipts = [producer.send(stream, number) for number in range(25)]
        assert producer.counts["dropped"] == 15
        for receipt in receipts[:15]:
            with pytest.raises(SendError, match="to make room"):
                receipt.result(0)
        assert not any(receipt.done for receipt in receipts[15:])
        for receipt in receipts[15:]:
            until(lambda receipt=receipt: receipt.error is not None)  # type: ignore[misc]


def test_a_new_event_is_dropped_where_all_older_ones_are_on_their_way(
    proxy: Proxy, link: Link, stream: str
) -> None:
    """drop_oldest neither blocks nor raises."""
    with Producer(proxy.url, buffer_events=5, batch_events=1, when_full="drop_oldest") as producer:
        producer.send(stream, -1).result(5)
        proxy.hold()
        for number in range(5):
            producer.send(stream, number)
        until(lambda: not producer._sender.outbox.stream(stream).waiting)
        with pytest.raises(SendError, match="on their way"):
            producer.send(stream, 5).result(0)
        proxy.release()
    assert producer.counts["dropped"] == 1
    assert datas(link, stream) == list(range(-1, 5))


def test_a_blocked_sender_goes_on_as_soon_as_there_is_room(proxy: Proxy, link: Link, stream: str) -> None:
    """A slow server slows the application down, and nothing else."""
    with Producer(proxy.url, buffer_events=5) as producer:
        producer.send(stream, -1).result(5)
        proxy.hold()
        for number in range(5):
            producer.send(stream, number)
        timer = threading.Timer(0.2, proxy.release)
        timer.start()
        producer.send(stream, 5).result(5)
        timer.join()
    assert datas(link, stream) == list(range(-1, 6))


def test_many_rows_pass_through_a_small_buffer(server: Server, link: Link, stream: str) -> None:
    """send_many blocks row by row."""
    with Producer(server.address.shown, buffer_events=50) as producer:
        producer.send_many(stream, range(1_000)).result(10)
    assert datas(link, stream) == list(range(1_000))


def test_rows_that_found_no_room_are_said_in_the_receipt(proxy: Proxy, link: Link, stream: str) -> None:
    """What went in before is sent; how many that is can be read."""
    with Producer(proxy.url, buffer_events=50, block="100ms") as producer:
        producer.send(stream, -1).result(5)
        proxy.hold()
        receipt = producer.send_many(stream, range(100))
        assert not receipt.done
        proxy.release()
        with pytest.raises(SendError, match=r"50 of 100 events are in it.*buffer_events=50"):
            receipt.result(5)
    assert datas(link, stream) == list(range(-1, 50))


def test_out_of_memory_is_waited_for_and_order_is_kept(own_server: OwnServer) -> None:
    """Batches refused while others are in flight: all once, in order, as soon as there is memory."""
    server = own_server()
    connector = server.connector()
    link = connector.link()
    with Producer(server.address.shown, batch_events=2) as producer:
        producer.send("orders", 0).result(5)
        link.call("CONFIG", "SET", "maxmemory", "1")
        receipts = [producer.send("orders", number) for number in range(1, 40)]
        until(lambda: producer.counts["batches"] > 5)
        assert not any(receipt.done for receipt in receipts)
        link.call("CONFIG", "SET", "maxmemory", "0")
        for receipt in receipts:
            receipt.result(10)
    assert datas(link, "orders") == list(range(40))
    link.close()
    connector.close()


def test_a_server_killed_and_started_again_loses_nothing_confirmed(own_server: OwnServer) -> None:
    """kill -9 under load; everything sent meanwhile arrives once, in order."""
    server = own_server(fsync="always")
    with Producer(server.address.shown, batch_events=20) as producer:
        receipts = []
        for number in range(3_000):
            receipts.append(producer.send("orders", number))
            if number == 1_500:
                os.kill(server.pid, signal.SIGKILL)
                server.restart()
        for receipt in receipts:
            receipt.result(30)
    connector = server.connector()
    link = connector.link()
    assert datas(link, "orders") == list(range(3_000))
    link.close()
    connector.close()


def test_forgotten_scripts_are_loaded_again(own_server: OwnServer) -> None:
    """SCRIPT FLUSH under way: nothing was run, so all is sent again."""
    server = own_server()
    connector = server.connector()
    link = connector.link()
    with Producer(server.address.shown, batch_events=3) as producer:
        for number in range(200):
            producer.send("orders", number)
            if number % 20 == 0:
                link.call("SCRIPT", "FLUSH")
    assert datas(link, "orders") == list(range(200))
    link.close()
    connector.close()


def test_a_refused_password_fails_sends_at_once(own_server: OwnServer) -> None:
    """It is no use to wait; the next send tries anew."""
    server = own_server()
    connector = server.connector()
    link = connector.link()
    link.call("CONFIG", "SET", "requirepass", "secret-canary")
    with Producer(f"unix://{server.address.path}?password=wrong-canary") as producer:
        with pytest.raises(SendError, match="refuses") as failure:
            producer.send("orders", 1).result(5)
        assert "canary" not in str(failure.value)
        link.call("CONFIG", "SET", "requirepass", "wrong-canary")

        def accepted() -> bool:
            try:
                return bool(producer.send("orders", 1).result(5).entry_id)
            except SendError:
                return False

        until(accepted)
    link.close()
    connector.close()


def test_a_failure_nobody_looks_at_is_reported_and_raised_by_close(
    link: Link, server: Server, stream: str
) -> None:
    """Given to on_error when its receipt is thrown away; a receipt that somebody read is not counted."""
    link.call("SET", stream, "text")
    said: list[SendError] = []
    producer = Producer(server.address.shown, on_error=said.append)
    producer.send(stream, 1)
    producer.send(stream, 2)
    read = producer.send(stream, 3)
    with pytest.raises(SendError):
        read.result(5)
    gc.collect()
    until(lambda: len(said) == 2)
    with pytest.raises(SendError, match="2 sends failed and nobody looked"):
        producer.close()
    producer.close()


def test_on_error_that_raises_does_not_stop_the_sender(link: Link, server: Server, stream: str) -> None:
    """It is someone else's code."""
    link.call("SET", stream, "text")

    def fail(_error: SendError) -> None:
        raise RuntimeError("on_error is broken")

    producer = Producer(server.address.shown, on_error=fail)
    producer.send(stream, 1)
    assert producer.send(f"{stream}-2", 1).result(5).entry_id
    with pytest.raises(SendError):
        producer.close()


def test_an_error_in_the_block_is_not_hidden_by_failed_sends(link: Link, server: Server, stream: str) -> None:
    """The first error goes on; the sends are logged."""
    link.call("SET", stream, "text")

    def work() -> None:
        with Producer(server.address.shown) as producer:
            producer.send(stream, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_a_closed_producer_takes_nothing(server: Server, stream: str) -> None:
    """Closing twice is no error."""
    producer = Producer(server.address.shown)
    producer.close()
    producer.close()
    with pytest.raises(ClosedError):
        producer.send(stream, 1)


def test_close_gives_up_after_its_timeout(stream: str) -> None:
    """What is not sent by then has failed, and close() says so."""
    producer = Producer(NOWHERE)
    receipt = producer.send(stream, 1)
    with pytest.raises(SendError, match="1 sends failed"):
        producer.close(timeout="100ms")
    with pytest.raises(SendError, match="closed before it was confirmed"):
        receipt.result(0)


def test_a_producer_thrown_away_sends_what_it_holds(server: Server, link: Link, stream: str) -> None:
    """Its thread ends by itself then."""
    producer = Producer(server.address.shown)
    for number in range(100):
        producer.send(stream, number)
    thread = producer._sender._thread
    assert thread is not None
    del producer
    gc.collect()
    until(lambda: not thread.is_alive())
    assert datas(link, stream) == list(range(100))


def test_threads_may_share_a_producer(producer: Producer, link: Link, stream: str) -> None:
    """Each thread's events are in its order."""

    def send(name: int) -> None:
        for number in range(500):
            producer.send(stream, [name, number])

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    producer.flush(10)
    found: list[list[int]] = datas(link, stream)  # type: ignore[assignment]
    assert len(found) == 2_000
    for name in range(4):
        assert [number for who, number in found if who == name] == list(range(500))


def test_a_signal_handler_may_send(producer: Producer, link: Link, stream: str) -> None:
    """In the midst of a send of the thread it interrupts."""
    signals: list[int] = []

    def send(*_: object) -> None:
        signals.append(len(signals))
        producer.send(f"{stream}-signals", signals[-1])

    signal.signal(signal.SIGVTALRM, send)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    try:
        sent = 0
        while sent < 5_000 or len(signals) < 20:
            producer.send(stream, sent)
            sent += 1
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN)  # one may be on its way still
    producer.flush(10)
    assert datas(link, stream) == list(range(sent))
    assert sorted(datas(link, f"{stream}-signals")) == signals  # type: ignore[type-var]
    ids = [event.id for name in (stream, f"{stream}-signals") for event in events(link, name)]
    assert len(ids) == len(set(ids))


def in_child(work: Callable[[], None]) -> int:
    """Run it in a forked child; the child's exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_begins_with_nothing_and_works(proxy: Proxy, link: Link, stream: str) -> None:
    """Another producer id, another connection; what the parent held is sent by the parent, once."""
    with Producer(proxy.url) as producer:
        producer.send(stream, "before").result(5)
        proxy.hold()
        held = producer.send(stream, "held by the parent")
        parent = producer.id

        def work() -> None:
            assert producer.id != parent
            try:
                held.result(1)
            except SendError as error:
                assert "parent" in str(error)  # noqa: PT017 - no pytest.raises beyond a fork
            assert producer.counts["confirmed"] == 0
            assert "0 events held" in repr(producer)

        assert in_child(work) == 0
        proxy.release()
        held.result(5)
        producer.send(stream, "after").result(5)
    assert datas(link, stream) == ["before", "held by the parent", "after"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_parent_and_child_both_send_after_a_fork(server: Server, link: Link, stream: str) -> None:
    """While the parent's other threads are sending, which may hold any lock at that moment."""
    with Producer(server.address.shown) as producer:
        stop = threading.Event()
        sent: list[Receipt] = []

        def send() -> None:
            while not stop.is_set():
                sent.append(producer.send(stream, len(sent)))

        thread = threading.Thread(target=send)
        thread.start()

        def work() -> None:
            for number in range(50):
                producer.send(f"{stream}-children", number)
            producer.close()

        for _ in range(5):
            assert in_child(work) == 0
        stop.set()
        thread.join()
        producer.flush(10)
    assert datas(link, stream) == list(range(len(sent)))
    assert sorted(datas(link, f"{stream}-children")) == sorted(list(range(50)) * 5)  # type: ignore[type-var]


def test_the_end_of_the_process_waits_for_what_is_not_sent(server: Server, link: Link, stream: str) -> None:
    """Without close(); also in a child of multiprocessing, which ends without atexit."""
    done = script(
        """
        import multiprocessing, sys
        from producers.producer import Producer
        url, stream = sys.argv[1:]
        producer = Producer(url)
        for number in range(1000):
            producer.send(stream, number)

        def work():
            for number in range(1000):
                producer.send(stream + "-child", number)

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        """,
        server.address.shown,
        stream,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert datas(link, stream) == list(range(1_000))
    assert datas(link, f"{stream}-child") == list(range(1_000))


def test_the_end_of_the_process_says_what_could_not_be_sent(stream: str) -> None:
    """In bounded time, on stderr."""
    began = time.monotonic()
    done = script(
        """
        import sys
        from producers.producer import Producer
        producer = Producer(sys.argv[1], exit=0.3)
        for number in range(10):
            producer.send("orders", number)
        """,
        NOWHERE,
    )
    assert time.monotonic() - began < 10
    assert "given_up_events=10" in done.stderr


def test_a_send_in_the_very_last_moment_is_sent_or_refused_but_not_lost(
    server: Server, link: Link, stream: str
) -> None:
    """A first send from an atexit handler, when threads can no longer be started on newer Pythons."""
    done = script(
        """
        import atexit, sys
        from producers.producer import Producer
        producer = Producer(sys.argv[1])
        atexit.register(lambda: producer.send(sys.argv[2], "last"))
        """,
        server.address.shown,
        stream,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert datas(link, stream) == ["last"]


def test_many_streams_are_sent_to_with_bounded_memory(producer: Producer, link: Link, stream: str) -> None:
    """Numbers of idle streams are let go, and sending to them again still works."""
    for turn in range(2):
        for number in range(1_500):
            producer.send(f"{stream}-{number}", turn)
            if number % 100 == 0:
                producer.flush(20)
        producer.flush(20)
    assert len(producer._sender.outbox._streams) <= 1_000
    assert datas(link, f"{stream}-0") == [0, 1]
    assert datas(link, f"{stream}-1499") == [0, 1]
