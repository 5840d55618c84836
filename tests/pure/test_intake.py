"""Intake: what it makes of the events that lie there."""

import threading
from typing import Any

from pipeline.codec import Codec
from pipeline.header import read_header
from pipeline.limits import DEFAULT_LIMITS
from pipeline.options import ProducerOptions
from producers.batch import Chunk
from producers.encoder import Encoder
from producers.intake import Intake
from producers.receipt import Awaited, Ending, Failures, Receipt


def intake(**options: Any) -> Intake:
    """An intake, of which the test is the producer's thread."""
    failures, encoder = Failures(), Encoder(Codec.MSGPACK)

    def chunk(stream: str, deadline_ms: float) -> Chunk:
        return Chunk(deadline_ms, Ending(failures, encoder.producer, "accepted", stream))

    awaited = Awaited(failures, encoder.producer, "accepted")
    return Intake(encoder, ProducerOptions(**options), chunk, awaited)


def put(into: Intake, stream: str, body: bytes, *, key: str = "", now_ms: float = 0.0) -> Receipt:
    """Put an event there, as Sender.send() does."""
    frame = into.frame(stream, "t", key)
    receipt = Receipt.of(frame.awaited, frame.number())
    into.put((receipt, frame, body), now_ms)
    return receipt


def test_each_stream_keeps_its_order_and_each_event_its_number_and_key() -> None:
    """Whatever was sent between; a chunk that another call made stands where it was put."""
    into = intake()
    made = Chunk(0.0, None)
    receipts = [put(into, "ab"[number % 2], b"%d" % number, key=str(number % 3)) for number in range(6)]
    into.put(("a", made, b""), 0.0)
    receipts += [put(into, "a", b"6"), put(into, "b", b"7")]
    taken = into.take(1.0)
    bodies: dict[str, list[bytes]] = {"a": [], "b": []}
    for stream, chunk, is_new in taken:
        assert is_new is (chunk is not made)
        bodies[stream] += chunk.values[1::2] if is_new else [b"made"]
    assert bodies == {"a": [b"0", b"2", b"4", b"made", b"6"], "b": [b"1", b"3", b"5", b"7"]}
    for _, chunk, is_new in taken:
        for index, receipt in enumerate(chunk.receipts if is_new else []):
            header = read_header(chunk.values[2 * index], DEFAULT_LIMITS)
            number = int(chunk.values[2 * index + 1])
            assert receipt is receipts[number]
            assert (header[5], header[6], header[7]) == (
                receipt._number,
                "t",
                str(number % 3) if number < 6 else "",
            )
            assert receipt._ending is chunk.ending
    assert into.entries == []


def test_chunks_are_whole_batches_and_no_larger_in_bytes() -> None:
    """What makes no whole batch may be left for the next time; its deadline is that of when it came."""
    into = intake(batch_events=10, send_timeout_ms=1_000, batch_bytes=500)
    for number in range(25):
        put(into, "s", b"x" * (5 if number < 20 else 100), now_ms=50.0 + number)
    first = into.take(100.0, only_full=True)
    assert [chunk.events for _, chunk, _ in first] == [10, 10]
    assert {chunk.deadline_ms for _, chunk, _ in first} == {1_050.0}
    assert into.events == 5
    assert into.take(110.0, only_full=True) == []
    rest = into.take(2_000.0)
    assert sum(chunk.events for _, chunk, _ in rest) == 5
    assert all(chunk.events == 1 or chunk.size_bytes <= 700 for _, chunk, _ in rest)
    assert {chunk.deadline_ms for _, chunk, _ in rest} == {1_050.0}


def test_who_waits_for_an_event_in_the_intake_hears_of_the_chunk_it_came_into() -> None:
    """It asked before there was one."""
    into = intake()
    receipt, other = put(into, "s", b"1"), put(into, "t", b"2")
    woken = threading.Event()
    assert receipt._ending.add_waiter(woken, receipt)
    taken = {stream: chunk for stream, chunk, _ in into.take(1.0)}
    assert taken["s"].ending.waiters == [woken]
    assert taken["t"].ending.waiters is None
    assert other._ending is taken["t"].ending
    assert not receipt.done
