"""Chunks: sends that wait go together, and each is still its own."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.errors import BufferFull, ClosedError, SendError, SendUnknownError
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.receipt import Receipt
from tests.conftest import OwnServer, Server
from tests.producers.reading import datas, events
from tests.proxy import Proxy
from tests.until import until

NOWHERE = "unix:///nonexistent/millstream/no.sock"


def test_an_idle_producer_writes_from_the_thread_that_sends(server: Server, link: Link, stream: str) -> None:
    """It is in the stream although the producer's own thread cannot run."""
    with Producer(server.address.shown) as producer:
        producer.send(stream, 0).result(5)
        until(lambda: producer._sender._asleep)
        with producer._sender._lock:  # its thread can neither take nor settle anything now
            receipt = producer.send(stream, 1)
            until(lambda: link.call("XLEN", stream) == 2)
            assert not receipt.done
        assert receipt.result(5).entry_id


def test_sends_that_wait_for_an_answer_go_in_few_calls(proxy_to: Proxy, link: Link, stream: str) -> None:
    """Each with its own receipt: ids, order and entry ids are those in the stream."""
    with Producer(proxy_to.url) as producer:
        producer.send(stream, -1).result(5)
        before = producer.counts["batches"]
        proxy_to.hold()
        receipts = [producer.send(stream, number, key=str(number)) for number in range(1_200)]
        proxy_to.release()
        producer.flush(10)
        assert producer.counts["batches"] - before <= 5
        entry_ids = [entry_id.decode() for entry_id, _ in link.call("XRANGE", stream, "-", "+")][1:]
        assert [receipt.entry_id for receipt in receipts] == entry_ids
        assert [receipt.event_id for receipt in receipts] == [event.id for event in events(link, stream)[1:]]


def test_ids_to_deduplicate_by_stand_among_others_in_a_chunk(server: Server, link: Link, stream: str) -> None:
    """Those that were there before are skipped; every receipt names where its event stands."""
    with Producer(server.address.shown) as producer:
        first = producer.send(stream, "first", id="b").result(5).entry_id
        receipts = [producer.send(stream, name, id="" if name in "ace" else name) for name in "abcde"]
        producer.flush(5)
        assert datas(link, stream) == ["first", *"acde"]
        assert receipts[1].entry_id == first
        there = [entry_id.decode() for entry_id, _ in link.call("XRANGE", stream, "-", "+")]
        assert [receipts[at].entry_id for at in (0, 2, 3, 4)] == there[1:]


def test_threads_that_send_at_the_same_time_share_chunks(server: Server, link: Link, stream: str) -> None:
    """Nothing is lost or doubled; each thread's events are in its order."""
    with Producer(server.address.shown) as producer:

        def send(who: int) -> None:
            for number in range(2_000):
                producer.send(stream, [who, number])

        threads = [threading.Thread(target=send, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found: list[list[int]] = datas(link, stream)  # type: ignore[assignment]
    for who in range(4):
        assert [number for sender, number in found if sender == who] == list(range(2_000))
    assert len(found) == 8_000


def test_the_failure_of_a_chunk_is_told_by_each_of_its_receipts() -> None:
    """Looked at or not: what nobody looks at is raised by close()."""
    producer = Producer(NOWHERE, send_timeout="200ms")
    receipts = [producer.send("s", number) for number in range(10)]
    many = producer.send_many("s", range(250))
    for receipt in (*receipts[:7], many):
        with pytest.raises(SendError, match="not sent within"):
            receipt.result(5)
    with pytest.raises(SendError, match="3 sends failed and nobody looked"):
        producer.close()


def test_the_bound_of_the_buffer_holds_within_a_chunk() -> None:
    """To the event, whatever waits together."""
    with Producer(NOWHERE, buffer_events=33, when_full="fail", send_timeout="200ms") as producer:
        receipts = [producer.send("s", number) for number in range(33)]
        with pytest.raises(BufferFull, match="33 events"):
            producer.send("s", 33)
        for receipt in receipts:
            until(lambda receipt=receipt: receipt.error is not None)  # type: ignore[misc]


def test_a_closed_producer_takes_nothing_into_what_still_waits(proxy_to: Proxy, stream: str) -> None:
    """Another thread may send while one closes."""
    producer = Producer(proxy_to.url)
    producer.send(stream, 0).result(5)
    proxy_to.hold()
    producer.send(stream, 1)
    receipt = producer.send(stream, 2)
    closing = threading.Thread(target=producer.close, args=("10s",))
    closing.start()
    until(lambda: producer._sender._closing)
    with pytest.raises(ClosedError):
        producer.send(stream, 3)
    proxy_to.release()
    closing.join(20)
    assert receipt.result(0).entry_id


def test_sends_of_one_thread_stay_in_order_whichever_call_they_came_by(
    proxy_to: Proxy, link: Link, stream: str
) -> None:
    """A single send joins nothing that stands before what was sent since."""
    with Producer(proxy_to.url) as producer:
        producer.send(stream, -1).result(5)
        proxy_to.hold()
        for number in range(0, 400, 4):
            producer.send(stream, number)
            producer.send_many(stream, [number + 1, number + 2])
            producer.send(stream, number + 3)
        proxy_to.release()
    assert datas(link, stream) == list(range(-1, 400))


def test_a_signal_handler_that_sends_elsewhere_takes_no_event_from_under_a_send(
    server: Server, link: Link, stream: str
) -> None:
    """Whatever it interrupts: what is confirmed is in the stream, under the id that the receipt gives."""
    beats: list[Receipt] = []
    with Producer(server.address.shown) as producer:
        for name in (stream, f"{stream}-beats"):
            producer.send(name, 0).result(5)
        signal.signal(signal.SIGALRM, lambda *_: beats.append(producer.send(f"{stream}-beats", len(beats))))
        signal.setitimer(signal.ITIMER_REAL, 0.000_5, 0.000_37)
        receipts: list[Receipt] = []
        try:
            while len(beats) < 1_500:
                receipts.append(producer.send(stream, len(receipts)))
                if len(receipts) % 7 == 0:
                    receipts[-1].result(5)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one may be on its way still
        producer.flush(10)
        found = {entry_id.decode() for entry_id, _ in link.call("XRANGE", stream, "-", "+")}
        assert {receipt.result(0).entry_id for receipt in receipts} < found
        assert datas(link, stream) == [0, *range(len(receipts))]
        assert link.call("XLEN", f"{stream}-beats") == 1 + len(beats)


def test_a_send_that_interrupts_another_does_not_wait_for_room() -> None:
    """Nobody could make any: it finds room for itself beyond the bound, unless full is to fail."""
    for when_full, refused in (("block", False), ("fail", True)):
        producer = Producer(NOWHERE, buffer_events=5, when_full=when_full, send_timeout="200ms")
        for number in range(5):
            producer.send("s", number)._disregard()
        began = time.monotonic()
        with producer._sender._lock:
            producer._sender._inside = True  # as in the midst of a send of this thread
            if refused:
                with pytest.raises(BufferFull):
                    producer.send("s", 5)
            else:
                producer.send("s", 5)._disregard()
            producer._sender._inside = False
        assert time.monotonic() - began < 1
        producer.close(0)


def at_work() -> set[int | None]:
    """The threads of producers. One whose start was interrupted may stay in the library's list though it has gone, or
    wait for ever in the library's code before its own."""
    threads = [one for one in threading.enumerate() if one.name == "millstream-producer"]
    return {one.ident for one in threads if one.is_alive()} & sys._current_frames().keys()


class Interruption(BaseException):
    """What a signal handler raises here, as Ctrl-C raises KeyboardInterrupt."""


@pytest.mark.slow
def test_a_send_that_is_interrupted_leaves_the_others_in_no_doubt(
    server: Server, link: Link, stream: str
) -> None:
    """At any instruction of it: those that follow are sent, and their receipts name their own entries."""
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise Interruption

    rng = random.Random("interrupted")
    interrupted = 0
    receipts: dict[int, Receipt] = {}
    signal.signal(signal.SIGALRM, interrupt)
    try:
        with Producer(server.address.shown, send_timeout="10s") as producer:
            producer.send(stream, -1).result(5)
            for number in range(0, 400, 2):
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.000_02, 0.000_15))
                    producer.send(stream, number)
                    armed = False
                except Interruption:
                    armed, interrupted = False, interrupted + 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                receipts[number + 1] = producer.send(stream, number + 1)
                receipts[number + 1].result(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert interrupted > 20
    found = [entry_id.decode() for entry_id, _ in link.call("XRANGE", stream, "-", "+")]
    where = dict(zip(found, datas(link, stream), strict=True))
    assert {number: where[receipt.entry_id] for number, receipt in receipts.items()} == {
        number: number for number in receipts
    }
    assert len(set(where.values())) == len(where)


# A signal handler that raises may do so in a callback of the library, or in the midst of a thread's start.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("first", [True, False], ids=["the first send", "any other"])
def test_sends_that_are_interrupted_leave_one_thread_and_nothing_that_is_counted_for_ever(
    server: Server, link: Link, stream: str, first: bool
) -> None:
    """At any instruction of it, the start of the thread included."""
    armed = False

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interruption

    def interrupted(producer: Producer, after_s: float, number: int) -> bool:
        nonlocal armed
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, after_s)
            producer.send(stream, number, key="k")
            producer.send(f"{stream}-others", "x" * 5_000)
            producer.send_many(stream, [number, number])
            return False
        except Interruption:
            return True
        except RuntimeError as error:
            # threading.Condition.wait(), interrupted on its way back to the lock: what holds it cannot release it.
            if not isinstance(error.__context__, Interruption):
                raise
            return True
        finally:
            armed = False

    rng = random.Random("interrupted")
    signal.signal(signal.SIGALRM, interrupt)
    producer = Producer(server.address.shown, send_timeout="10s")
    hits = 0
    try:
        if first:
            for number in range(150):
                producer.close(5)
                producer = Producer(server.address.shown, send_timeout="10s")
                hits += interrupted(producer, rng.uniform(0.000_02, 0.000_4), number)
                assert producer.send(stream, -1).result(5).entry_id
                thread = producer._sender._thread
                assert thread is not None
                until(lambda: at_work() == {thread.ident})  # noqa: B023 - asked within this turn of the loop
        else:
            producer.send(stream, -1).result(5)
            for number in range(4_000):
                hits += interrupted(producer, rng.uniform(0.000_02, 0.000_25), number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert hits > 20
    assert producer.send(stream, "last").result(5).entry_id
    until(lambda: not producer._sender.held, what=lambda: f"{producer._sender.held} events are held")
    assert producer._sender.outbox.bytes == 0
    producer.close(5)
    # Each of them once, whatever of a send that was interrupted is there.
    ids = [event.id for event in events(link, stream)]
    assert len(ids) == len(set(ids))


def test_an_event_that_comes_while_an_answer_is_awaited_has_its_whole_send_timeout(
    own_server: OwnServer, stream: str
) -> None:
    """It is not counted from when the one before it was sent, whose answer never comes."""
    server = own_server()
    with Producer(server.address.shown, send_timeout="2s", reply_timeout="2s") as producer:
        producer.send(stream, {"n": 0}).result(5)
        until(lambda: producer._sender._asleep)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            first = producer.send(stream, {"n": 1})
            until(lambda: time.monotonic() - began_s > 1.6)
            second = producer.send(stream, {"n": 2})
            with pytest.raises(SendUnknownError):
                first.result(5)
            until(lambda: time.monotonic() - began_s > 2.3)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert second.result(5).entry_id


@pytest.fixture
def proxy_to(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server of this run."""
    with Proxy(server.address) as proxy:
        yield proxy
