"""What makes consumers fast takes nothing from what they promise: late decoding, shared tasks, threads on call."""

import asyncio
import contextvars
import threading

import pytest

from consumers.delivery import Delivery
from pipeline.event import Event
from pipeline.wire import encode_entry, encode_pack
from tests.consuming import PRODUCER, Consuming, total
from tests.until import until

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def test_a_slow_handler_among_quick_ones_holds_up_nobody(consuming: Consuming) -> None:
    """One thread does for quick handlers; as soon as it is stuck, another goes on with the queue."""
    seen: list[int] = []
    stuck, go_on = threading.Event(), threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", concurrency=4)
    def handle(event: Event) -> None:
        if event.data % 1_000 == 500:
            stuck.set()
            go_on.wait(30)
        seen.append(event.data)

    consuming.send(*range(3_000))
    with consuming.running():
        until(stuck.is_set)
        until(
            lambda: len(seen) == 2_997, what=lambda: f"{len(seen)} have ended beside the three that are stuck"
        )
        go_on.set()
        consuming.until_drained()
    assert sorted(seen) == list(range(3_000))


def test_threads_that_wait_are_all_called_for_slow_handlers(consuming: Consuming) -> None:
    """As many at a time as there are threads, once it is known how long they take."""
    running, most, lock = 0, 0, threading.Lock()
    all_at_once = threading.Barrier(4)

    @consuming.app.consumer(consuming.stream, group="g", concurrency=4)
    def handle(event: Event) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        all_at_once.wait(20)  # nobody gets on before four are here
        with lock:
            running -= 1

    consuming.send(*range(40))
    consuming.run_until_drained()
    assert most == 4


def test_what_one_async_handler_sets_the_next_does_not_see(consuming: Consuming) -> None:
    """A context of its own for each run, also where one task runs both; kept while the handler waits."""
    found: list[tuple[str, str]] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1)
    async def handle(event: Event) -> None:
        before = WHO.get()
        token = WHO.set(f"event {event.data}")
        if event.data % 2:
            await asyncio.sleep(0)
        found.append((before, WHO.get()))
        WHO.reset(token)  # refused in another context than the one it was set in

    consuming.send(*range(50))
    consuming.run_until_drained()
    assert sorted(found) == sorted(("nobody", f"event {number}") for number in range(50))


def test_an_async_handler_may_use_what_needs_a_task(consuming: Consuming) -> None:
    """timeout(), TaskGroup and child tasks, one run after the other in a task that several share."""
    ended: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=2)
    async def handle(event: Event) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(10)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        ended.append(event.data)

    consuming.send(*range(20))
    running = consuming.run_until_drained()
    assert sorted(ended) == list(range(20))
    assert total(running.members)["retried"] == 0


def test_a_handler_that_is_cancelled_takes_no_other_with_it(consuming: Consuming) -> None:
    """Beyond max_run one run is cancelled; those that follow in its place are not."""
    ended: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1, max_run="300ms", retry=1)
    async def handle(event: Event) -> None:
        if event.data == 3:
            await asyncio.sleep(60)
        await asyncio.sleep(0)
        ended.append(event.data)

    consuming.send(*range(10))
    consuming.run_until_drained()
    assert ended == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    ((letter, _),) = consuming.dead()
    assert "max_run" in letter.reason


def test_quick_async_handlers_leave_the_loop_to_others(consuming: Consuming) -> None:
    """A timer of the application is not held up until all events are through."""
    seen: list[int] = []
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            ticks.append(len(seen))
            await asyncio.sleep(0)

    ticking: list[asyncio.Task[None]] = []

    @consuming.app.consumer(consuming.stream, group="g")
    async def handle(event: Event) -> None:
        if not ticking:
            ticking.append(asyncio.get_running_loop().create_task(tick()))
        seen.append(event.data)

    consuming.send(*range(5_000))
    with consuming.running():
        until(lambda: len(seen) == 5_000)
        ticking[0].get_loop().call_soon_threadsafe(ticking[0].cancel)
        consuming.until_drained()
    assert len({at for at in ticks if 0 < at < 5_000}) >= 3


def test_a_pack_found_corrupt_while_it_runs_becomes_one_dead_letter(consuming: Consuming) -> None:
    """Whole, its bytes unchanged, and once: though each of its events was looked at."""
    looked: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        looked.append(delivery.index)
        _ = event.data

    header = encode_pack([Event(1), Event(2), Event(3)], producer=PRODUCER, first_number=1, compress=False)[1]
    consuming.send_raw([b"h", header, b"b", b"\xc1\xc1"])
    consuming.run_until_drained()
    assert sorted(looked) == [0, 1, 2]
    ((letter, fields),) = consuming.dead()
    assert "cannot be decoded" in letter.reason
    assert list(fields) == [b"h", header, b"b", b"\xc1\xc1"]


def test_a_corrupt_header_meets_a_handler_with_types_as_a_dead_letter(consuming: Consuming) -> None:
    """It is looked at to find the handler; none runs."""
    ran: list[Event] = []
    consuming.app.consumer(consuming.stream, group="g", types=["order.*"])(ran.append)
    good = encode_entry(Event(1, type="order.placed"), producer=PRODUCER, number=1)
    consuming.send_raw([b"h", good[1][:12], b"b", good[3]])
    consuming.send(2, type="order.placed")
    consuming.run_until_drained()
    assert [event.data for event in ran] == [2]
    assert len(consuming.dead()) == 1


def test_a_corrupt_header_in_a_batch_is_the_only_one_that_dies(consuming: Consuming) -> None:
    """The others of its batch did nothing wrong: they run again without it."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", batch=10, batch_wait="300ms")
    def handle(events: list[Event]) -> None:
        for event in events:
            assert event.type == "t"
        seen.extend(event.data for event in events)

    consuming.send(*range(5), type="t")
    bad = encode_entry(Event(5, type="t"), producer=PRODUCER, number=6)
    consuming.send_raw([b"h", bad[1][:-1], b"b", bad[3]])
    consuming.send(*range(6, 9), type="t")
    with consuming.running():
        until(lambda: len(consuming.dead()) == 1)
        consuming.advance(60_000)
        consuming.until_drained()
    assert len(consuming.dead()) == 1
    assert sorted(set(seen)) == [0, 1, 2, 3, 4, 6, 7, 8]


def test_an_event_with_a_corrupt_header_can_be_shown(consuming: Consuming) -> None:
    """A log line about it must not fail in its turn."""
    shown: list[str] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event) -> None:
        shown.append(repr(event))

    good = encode_entry(Event({"n": 1}, type="t"), producer=PRODUCER, number=1)
    consuming.send_raw([b"h", good[1][:-1], b"b", good[3]])
    consuming.run_until_drained()
    assert shown == ["Event({'n': 1}, <corrupt header>)"]


def test_singles_and_packs_in_turn_are_counted_right(consuming: Consuming) -> None:
    """The window reckons by what it saw lately, and is right again once an entry is looked at."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event) -> None:
        seen.append(event.data)

    number = 0
    for _ in range(30):
        consuming.send_pack(list(range(number, number + 50)))
        consuming.send(*range(number + 50, number + 60))
        number += 60
    with consuming.running() as running:
        consuming.until_drained()
        (member,) = running.members
        until(member.idle)
        assert (member.state.window.events, member.state.window.bytes) == (0, 0)
    assert sorted(seen) == list(range(number))
