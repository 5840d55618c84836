"""The intake of log lines on a real server: little is done at the call, and yet all that is promised holds."""

import logging
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.codec import decode_msgpack
from pipeline.server.connect import Link
from producers.logs import LogHandler, ShipLogs, ship_logs
from producers.logs.line import SMALL_BYTES
from producers.logs.shipper import INTAKE_LINES, LINE_BYTES, LogShipper, end_all
from tests.conftest import Server
from tests.producers.reading import datas, events
from tests.proxy import Proxy
from tests.until import until

NOWHERE = "unix:///nonexistent/millstream/no.sock"


@pytest.fixture(autouse=True)
def shippers_end() -> Iterator[None]:
    """The threads of a test end with it."""
    yield
    end_all()


def flushed(ship: ShipLogs | LogHandler, link: Link, stream: str) -> list[Any]:
    """The data of all lines so far, in order."""
    assert ship.shipper.flush(10_000)
    return datas(link, stream)


def held(shipper: LogShipper) -> tuple[int, int]:
    """How many lines are held, and about how many bytes they take."""
    with shipper._lock:  # nothing moves meanwhile
        bodies = [body for _, _, body in [*shipper.intake, *shipper._lines, *shipper._grave]]
    return len(bodies), sum(map(len, bodies)) + len(bodies) * LINE_BYTES


def test_values_are_taken_at_the_call(server: Server, link: Link, stream: str) -> None:
    """Whatever the application does to its objects before the line is sent."""
    ship = ship_logs(stream, url=server.address.shown, gather="30s")
    numbers, pairs, raw = [1], {"a": [1]}, bytearray(b"before")
    for name in ("once", "again"):  # the second time all names are known
        event = {
            "event": name,
            "level": "info",
            "logger": "app",
            "numbers": numbers,
            "pairs": pairs,
            "raw": raw,
        }
        ship(None, "info", event)
        event["event"] = "changed"
        numbers.append(2)
        pairs["a"].append(2)
        raw[:] = b"after!"
    once, again = flushed(ship, link, stream)
    assert (once["event"], once["numbers"], once["pairs"], once["raw"]) == (
        "once",
        [1],
        {"a": [1]},
        b"before",
    )
    assert (again["event"], again["numbers"], again["pairs"]) == ("again", [1, 2], {"a": [1, 2]})


def test_a_line_that_is_taken_the_short_way_says_the_same(server: Server, link: Link, stream: str) -> None:
    """What is masked, private or an exception stays so, however often its name was met."""
    ship = ship_logs(stream, url=server.address.shown, gather="30s")
    for _ in range(3):
        try:
            raise KeyError("missing")
        except KeyError:
            line = {"event": "failed", "password": "x", "_private": 1, "n": 1, "exc_info": True}
            ship(None, "error", line)
        ship(None, "info", {"event": "flat", "n": 1})
        ship(None, "warn", {"event": "flat", "n": 1, "level": "mine", "logger": "app"})
    found = flushed(ship, link, stream)
    for failed, flat, named in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert failed.pop("exception")["type"] == "KeyError"
        assert failed == {"event": "failed", "password": "***", "n": 1, "level": "error"}
        assert flat == {"event": "flat", "n": 1, "level": "info"}
        assert named == {"event": "flat", "n": 1, "level": "mine", "logger": "app"}
    assert [event.type for event in events(link, stream)][:3] == ["log.error", "log.info", "log.warning"]


def test_lines_stay_in_order_whichever_way_they_are_taken(server: Server, link: Link, stream: str) -> None:
    """Flat, nested, huge, odd and of all levels, by turns."""
    ship = ship_logs(stream, url=server.address.shown)
    values = (1, [1], "x" * 2 * SMALL_BYTES, {1, 2}, None, 2**70, "\ud800", {"a": {"b": 1}})
    for number in range(4_000):
        level = ("info", "error", "warning", "debug")[number % 4]
        ship(None, level, {"event": number, "value": values[number % 7 if number % 50 else 7]})
    expected = [number for number in range(4_000) if number % 4 != 3]
    assert [data["event"] for data in flushed(ship, link, stream)] == expected


@pytest.mark.parametrize("size", [10, SMALL_BYTES - 100, SMALL_BYTES + 100])
def test_the_bounds_hold_for_what_is_not_counted_yet(stream: str, size: int) -> None:
    """At every moment: by their number for small lines, by their bytes for large ones, whoever counts them."""
    # Less than a pack, which would be sent at once.
    ship = ship_logs(
        stream, url=NOWHERE, queue_events=400, queue_bytes="1MB", pack=500, gather="30s", exit="100ms"
    )
    most = 0
    for number in range(3_000):
        ship(None, "info", {"event": number, "text": "x" * size})
        lines, size_bytes = held(ship.shipper)
        assert lines <= 400
        assert size_bytes <= 1_000_000
        most = max(most, lines)
    ship.shipper.settle()
    assert ship.shipper.queued == 3_000
    assert ship.shipper.dropped == 3_000 - held(ship.shipper)[0]
    assert most >= min(400, 1_000_000 // (size + 500))


def test_every_line_is_either_in_the_stream_or_counted_as_dropped(
    server: Server, link: Link, stream: str
) -> None:
    """Threads that log, and a server that goes and comes: the sum is exact, and what is there is in order."""
    with Proxy(server.address) as proxy:
        ship = ship_logs(stream, url=proxy.url, queue_events=500, gather="1ms")

        def work(name: int) -> None:
            for number in range(5_000):
                ship(None, "error" if number % 50 == 0 else "info", {"event": number, "thread": name})

        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        proxy.refuse = True
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        proxy.refuse = False
        until(lambda: ship.flush(1), what="all that is left is sent")
        shipper = ship.shipper

        def said() -> list[Any]:
            """What the stream says itself about lines that are not there."""
            return [line for line in datas(link, stream) if line["event"] == "log lines dropped"]  # type: ignore[index]

        until(
            lambda: sum(line["dropped"] for line in said()) == shipper.dropped,
            what="it is said in the stream",
        )
        there: list[Any] = datas(link, stream)
        found = [line for line in there if line["event"] != "log lines dropped"]
        assert all(line["since"] <= line["until"] and "fit in memory" in line["why"] for line in said())
    assert shipper.queued == 15_000
    assert 0 < shipper.dropped < 15_000
    assert len(found) + shipper.dropped == 15_000
    for name in range(3):
        numbers = [data["event"] for data in found if isinstance(data, dict) and data["thread"] == name]
        assert numbers == sorted(numbers)


def test_the_first_line_after_a_while_wakes_the_thread(server: Server, link: Link, stream: str) -> None:
    """Also if it comes just when the thread is about to sleep."""
    ship = ship_logs(stream, url=server.address.shown, gather="1ms")
    generator = random.Random(7)
    for number in range(200):
        ship(None, "info", {"event": number})
        if number % 20 == 0:
            until(lambda: ship.shipper._asleep, what="the thread sleeps")
        else:
            threading.Event().wait(generator.random() * 0.004)  # about as long as it takes to fall asleep
    until(lambda: len(events(link, stream)) == 200, what="every line is there, and nobody flushed")


def test_a_signal_handler_may_log_in_the_midst_of_a_log_call(stream: str) -> None:
    """While lines are dropped, too: none is lost count of."""
    ship = ship_logs(stream, url=NOWHERE, queue_events=50, gather="30s", exit="100ms")
    count = 0

    def work(*_: object) -> None:
        nonlocal count
        count += 1
        ship(None, "info", {"event": "signal"})

    before = signal.signal(signal.SIGVTALRM, work)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.000_3, 0.000_3)
    try:
        for number in range(20_000):
            ship(None, "info", {"event": number})
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN)
    shipper = ship.shipper
    shipper.settle()
    lines, _ = held(shipper)
    assert count > 0
    assert lines <= 50
    assert shipper.queued == 20_000 + count == shipper.dropped + lines
    signal.signal(signal.SIGVTALRM, before)


def test_lines_faster_than_the_thread_looks_are_settled_by_who_logs(stream: str) -> None:
    """The intake holds so many and no more."""
    ship = ship_logs(stream, url=NOWHERE, gather="30s", exit="100ms")
    for number in range(3 * INTAKE_LINES):
        ship(None, "info", {"event": number})
        assert len(ship.shipper.intake) <= INTAKE_LINES
    bodies = [body for _, _, body in [*ship.shipper._lines, *ship.shipper.intake]]
    assert [decode_msgpack(body)["event"] for body in bodies][-INTAKE_LINES:] == list(
        range(2 * INTAKE_LINES, 3 * INTAKE_LINES)
    )


def test_a_record_of_another_time_is_shipped_as_of_now(server: Server, link: Link, stream: str) -> None:
    """Who makes records may write anything into them; the thread that ships goes on."""
    handler = LogHandler(stream, url=server.address.shown, gather=0)
    for created in (float("nan"), float("inf"), -1.0, 1e300):
        handler.emit(logging.makeLogRecord({"msg": "odd", "name": "app", "levelno": 25, "created": created}))
    assert handler.shipper.flush(10_000)
    found = events(link, stream)
    assert [event.type for event in found] == ["log.info"] * 4
    assert all(abs(event.time_ms - time.time() * 1_000) < 20_000 for event in found)


def test_what_comes_after_the_end_is_counted_as_dropped(server: Server, link: Link, stream: str) -> None:
    """And nothing that was queued before is lost for it."""
    ship = ship_logs(stream, url=server.address.shown, gather="30s")
    for number in range(10):
        ship(None, "info", {"event": number})
    ship.shipper.at_exit()
    ship(None, "info", {"event": "late"})
    assert [data["event"] for data in datas(link, stream) if isinstance(data, dict)] == list(range(10))
    assert (ship.shipper.queued, ship.shipper.dropped) == (11, 1)
