"""Batch handlers and packs: many events at a time, each with an outcome of its own."""

import asyncio
import time
from typing import Any

import pytest

from consumers.delivery import Delivery, held_of
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Outcomes
from pipeline.wire import decode_entry
from tests.consuming import PRODUCER, Consuming, total
from tests.until import until

AT_ONCE = Retry(attempts=3, initial=0, longest=0)


def test_a_batch_handler_gets_up_to_so_many_events(consuming: Consuming) -> None:
    """In the order of the stream, one batch at a time."""
    sizes: list[int] = []
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", batch=100)
    def handle(events: list[Event]) -> None:
        sizes.append(len(events))
        seen.extend(event.data for event in events)

    consuming.send(*range(1_050))
    consuming.run_until_drained()
    assert seen == list(range(1_050))
    assert max(sizes) == 100
    assert len(sizes) < 30


def test_an_async_batch_handler_gets_batches_too(consuming: Consuming) -> None:
    """In order as well, its concurrency being 1."""
    sizes: list[int] = []
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", batch=100)
    async def handle(events: list[Event]) -> None:
        await asyncio.sleep(0)
        sizes.append(len(events))
        seen.extend(event.data for event in events)

    consuming.send(*range(1_050))
    consuming.run_until_drained()
    assert seen == list(range(1_050))
    assert max(sizes) == 100
    assert len(sizes) < 30


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_waits_for_company_no_longer_than_told(consuming: Consuming, is_async: bool) -> None:
    """A single event is handled after batch_wait; what comes within it goes along."""
    batches: list[tuple[float, list[int]]] = []

    def handle(events: list[Event]) -> None:
        batches.append((time.monotonic(), [event.data for event in events]))

    async def handle_async(events: list[Event]) -> None:
        handle(events)

    declare = consuming.app.consumer(consuming.stream, group="g", batch=100, batch_wait="300ms")
    declare(handle_async if is_async else handle)
    with consuming.running():
        sent_s = time.monotonic()
        consuming.send(0)
        consuming.send(1)
        until(lambda: batches, what="the batch is handled")
        consuming.until_drained()
    assert [numbers for _, numbers in batches] == [[0, 1]]
    assert 0.25 < batches[0][0] - sent_s < 3


def test_a_full_batch_does_not_wait(consuming: Consuming) -> None:
    """batch_wait is for what is not full."""
    batches: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", batch=10, batch_wait="1h")
    def handle(events: list[Event]) -> None:
        batches.append(len(events))

    consuming.send(*range(30))
    with consuming.running():
        consuming.until_drained()
    assert batches == [10, 10, 10]


def test_an_exception_fails_each_event_of_a_batch_on_its_own(consuming: Consuming) -> None:
    """Each is retried by itself, with its own attempts."""
    runs: dict[int, int] = dict.fromkeys(range(5), 0)

    @consuming.app.consumer(consuming.stream, group="g", batch=5, retry=AT_ONCE)
    def handle(events: list[Event]) -> None:
        for event in events:
            runs[event.data] += 1
        if runs[0] == 1:
            raise ValueError("the first batch fails")

    consuming.send(*range(5))
    running = consuming.run_until_drained()
    assert runs == dict.fromkeys(range(5), 2)
    assert total(running.members)["retried"] == 5
    assert consuming.dead() == []


@pytest.mark.parametrize("is_async", [False, True])
def test_outcomes_decide_about_each_event_of_a_batch(consuming: Consuming, is_async: bool) -> None:
    """Failed, rejected, put off; what is not mentioned is done."""
    batches: list[list[int]] = []

    def handle(events: list[Event]) -> Outcomes:
        batches.append([event.data for event in events])
        outcomes = Outcomes()
        if len(events) == 6:
            outcomes.fail(1, ValueError("failed"))
            outcomes.reject(2, "never")
            outcomes.later(3, "1h")
        return outcomes

    async def handle_async(events: list[Event]) -> Outcomes:
        return handle(events)

    declare = consuming.app.consumer(consuming.stream, group="g", batch=6, batch_wait="300ms", retry=AT_ONCE)
    declare(handle_async if is_async else handle)
    consuming.send(*range(6))
    with consuming.running():
        until(
            lambda: len(batches) == 2 and not consuming.pending(again=True), what="the failed one ran again"
        )
        assert not consuming.pending()
    assert batches == [list(range(6)), [1]]
    assert consuming.waiting() == 1
    ((letter, fields),) = consuming.dead()
    assert letter.reason == "never"
    assert decode_entry(b"1-1", fields).events[0].data == 2


def test_outcomes_beyond_the_batch_fail_it(consuming: Consuming) -> None:
    """A handler that counts wrong is told, by the error of each event."""

    @consuming.app.consumer(consuming.stream, group="g", batch=3, retry=1)
    def handle(events: list[Event]) -> Outcomes:
        outcomes = Outcomes()
        outcomes.reject(len(events), "whose?")
        return outcomes

    consuming.send(*range(3))
    consuming.run_until_drained()
    assert [letter.error for letter, _ in consuming.dead()] == ["IndexError"] * 3


def test_the_events_of_a_pack_are_handled_and_settled_as_one_entry(consuming: Consuming) -> None:
    """In order with one slot; with the ids and numbers they were sent with."""
    seen: list[tuple[str, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1)
    def handle(event: Event) -> None:
        seen.append((event.id, event.data))

    consuming.send_pack(range(100))
    consuming.send_pack(range(100, 200))
    running = consuming.run_until_drained()
    assert seen == [(f"{PRODUCER}-{n + 1}", n) for n in range(200)]
    assert total(running.members)["settled"] == 2


def test_packs_and_single_events_go_into_one_batch(consuming: Consuming) -> None:
    """A batch is made of events, however they were sent."""
    batches: list[list[int]] = []

    @consuming.app.consumer(consuming.stream, group="g", batch=8, batch_wait="300ms")
    def handle(events: list[Event]) -> None:
        batches.append([event.data for event in events])

    consuming.send_pack(range(5))
    consuming.send(5)
    consuming.send_pack(range(6, 16))
    with consuming.running():
        consuming.until_drained()
    assert batches == [list(range(8)), list(range(8, 16))]


def test_an_event_of_a_pack_that_fails_goes_on_alone(consuming: Consuming) -> None:
    """Its neighbours ran once; its id, data and entry stay, also in its dead letter."""
    runs: list[tuple[int, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=AT_ONCE)
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append((event.data, delivery.attempt))
        if event.data == 7:
            raise ValueError("seven")

    entry_id = consuming.send_pack(range(20))
    running = consuming.run_until_drained()
    assert sorted(runs) == sorted([(n, 1) for n in range(20)] + [(7, 2), (7, 3)])
    ((letter, fields),) = consuming.dead()
    assert (letter.entry_id, letter.index, letter.attempts) == (entry_id, 7, 3)
    event = decode_entry(b"1-1", fields, origin=entry_id.encode()).events[0]
    assert (event.id, event.data) == (f"{PRODUCER}-8", 7)
    assert total(running.members)["settled"] == 3  # the pack, its retry, and the retry's retry


def test_a_pack_redelivered_after_a_crash_is_split(consuming: Consuming) -> None:
    """So that one killer does not convict its neighbours: each runs on as a suspect of one crash."""
    seen: list[tuple[int, int, str]] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s")
    def handle(event: Event, delivery: Delivery) -> None:
        seen.append((event.data, delivery.attempt, delivery.entry_id))

    entry_id = consuming.send_pack(range(30))
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    consuming.link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    consuming.run_until_drained()
    assert sorted(seen) == [(n, 2, entry_id) for n in range(30)]
    assert consuming.again_entries() == 0


def test_a_corrupt_pack_is_one_dead_letter(consuming: Consuming) -> None:
    """Its bytes unchanged; the events around it are handled."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event) -> None:
        seen.append(event.data)

    consuming.send_pack(range(3))
    ((_, fields),) = consuming.entries()
    broken = [*fields[:3], fields[3][:-1]]
    entry_id = consuming.send_raw(broken)
    consuming.send(3)
    consuming.run_until_drained()
    assert sorted(seen) == [0, 1, 2, 3]
    ((letter, kept),) = consuming.dead()
    assert (letter.error, letter.entry_id) == ("DecodeError", entry_id)
    assert kept == broken


def test_the_window_counts_the_events_of_packs(consuming: Consuming) -> None:
    """A few large packs fill it: once their size is known, at most one reaches beyond."""
    held: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=2, window_events=100)
    async def handle(event: Event) -> None:
        held.append(running.members[0].state.window.events)
        await asyncio.sleep(0)

    with consuming.running() as running:
        for _ in range(2):
            held.clear()
            for _ in range(40):
                consuming.send_pack(range(50))
            consuming.until_drained()
    assert 50 <= max(held) <= 150
    assert total(running.members)["settled"] == 80


def test_a_batch_that_is_cancelled_before_it_begins_runs_again(consuming: Consuming) -> None:
    """An application may cancel any task of its loop at any time; the attempt is not spent."""
    seen: list[tuple[int, int]] = []
    cancelled: list[str] = []

    def cancel_first(loop: asyncio.AbstractEventLoop, work: Any, **given: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **given)
        if "_run_batch" in work.__qualname__ and not cancelled:
            cancelled.append(work.__qualname__)
            task.cancel()
        return task

    @consuming.app.consumer(consuming.stream, group="g", batch=10, batch_wait="1ms")
    async def handle(events: list[Event]) -> None:
        seen.extend((event.data, held_of(event).attempt) for event in events)
        asyncio.get_running_loop().set_task_factory(cancel_first)

    with consuming.running():
        consuming.send(1)
        until(lambda: seen, what="the first batch")
        consuming.send(2)
        consuming.until_drained()
    assert len(cancelled) == 1
    assert seen == [(1, 1), (2, 1)]
