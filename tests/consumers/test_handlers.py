"""Handlers: what a decorated function gets, where it runs, and what its outcome does."""

import asyncio
import threading

from consumers.delivery import Delivery
from pipeline.event import Event
from pipeline.outcome import Reject
from tests.consuming import PRODUCER, Consuming, total
from tests.until import until


def test_a_plain_handler_gets_every_event(consuming: Consuming) -> None:
    """In threads of the member; with id, type, key, headers and data as sent."""
    seen: list[Event] = []
    threads: set[str] = set()

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event) -> None:
        threads.add(threading.current_thread().name)
        seen.append(event)

    consuming.send({"n": 1}, type="order.placed", key="k", headers={"trace": "t"})
    consuming.send({"n": 2})
    running = consuming.run_until_drained()
    first, second = sorted(seen, key=lambda event: event.number)
    assert (first.id, first.type, first.key, first.headers, first.data) == (
        f"{PRODUCER}-1",
        "order.placed",
        "k",
        {"trace": "t"},
        {"n": 1},
    )
    assert (second.type, second.key, second.headers, second.data) == ("", "", {}, {"n": 2})
    assert all(name.startswith("millstream-g-") for name in threads)
    assert total(running.members)["settled"] == 2


def test_an_async_handler_gets_every_event(consuming: Consuming) -> None:
    """On one event loop, many at a time."""
    seen: list[int] = []
    running = most = 0

    @consuming.app.consumer(consuming.stream, group="g", concurrency=10)
    async def handle(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        seen.append(event.data)

    consuming.send(*range(100))
    consuming.run_until_drained()
    assert sorted(seen) == list(range(100))
    assert 2 <= most <= 10


def test_plain_handlers_run_so_many_at_a_time(consuming: Consuming) -> None:
    """concurrency threads, and no more."""
    together = threading.Barrier(4, timeout=10)
    running = most = 0
    lock = threading.Lock()

    @consuming.app.consumer(consuming.stream, group="g", concurrency=4)
    def handle(event: Event) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1

    consuming.send(*range(16))
    consuming.run_until_drained()
    assert most == 4


def test_inline_handlers_run_one_after_the_other(consuming: Consuming) -> None:
    """In the order of the stream."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", executor="inline")
    def handle(event: Event) -> None:
        seen.append(event.data)

    consuming.send(*range(500))
    consuming.run_until_drained()
    assert seen == list(range(500))


def test_one_slot_handles_in_order(consuming: Consuming) -> None:
    """concurrency=1 keeps the order of the stream while nothing fails, plain or async."""
    plain: list[int] = []
    awaited: list[int] = []

    @consuming.app.consumer(consuming.stream, group="plain", concurrency=1)
    def handle(event: Event) -> None:
        plain.append(event.data)

    @consuming.app.consumer(consuming.stream, group="async", concurrency=1)
    async def handle_async(event: Event) -> None:
        await asyncio.sleep(0)
        awaited.append(event.data)

    consuming.send(*range(1_000))
    with consuming.running():
        consuming.until_drained("plain")
        consuming.until_drained("async")
    assert plain == awaited == list(range(1_000))


def test_the_decorated_function_stays_as_it_is(consuming: Consuming) -> None:
    """It can be called and tested like any other."""

    @consuming.app.consumer(consuming.stream, group="g")
    def double(event: Event) -> int:
        return 2 * int(event.data)

    assert double(Event(21)) == 42


def test_a_handler_may_ask_for_its_delivery(consuming: Consuming) -> None:
    """Stream, group, entry id, attempt, and whether it was replayed or taken over."""
    seen: list[tuple[str, str, str, int, bool, bool]] = []

    @consuming.app.consumer(consuming.stream, group="plain")
    def handle(event: Event, delivery: Delivery) -> None:
        seen.append(
            (
                delivery.stream,
                delivery.group,
                delivery.entry_id,
                delivery.attempt,
                delivery.replayed,
                delivery.taken_over,
            )
        )

    @consuming.app.consumer(consuming.stream, group="async")
    async def handle_async(event: Event, delivery: Delivery) -> None:
        handle(event, delivery)

    (entry_id,) = consuming.send(1)
    with consuming.running():
        consuming.until_drained("plain")
        consuming.until_drained("async")
    assert sorted(seen) == [
        (consuming.stream, "async", entry_id, 1, False, False),
        (consuming.stream, "plain", entry_id, 1, False, False),
    ]


def test_every_group_gets_every_event(consuming: Consuming) -> None:
    """Groups know nothing of each other."""
    seen: dict[str, list[int]] = {"a": [], "b": []}
    for group, numbers in seen.items():

        def handle(event: Event, numbers: list[int] = numbers) -> None:
            numbers.append(event.data)

        consuming.app.consumer(consuming.stream, group=group)(handle)
    consuming.send(*range(50))
    with consuming.running():
        consuming.until_drained("a")
        consuming.until_drained("b")
    assert sorted(seen["a"]) == sorted(seen["b"]) == list(range(50))


def test_members_of_a_group_share_its_events(consuming: Consuming) -> None:
    """Two members, each event with one of them."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1)
    async def handle(event: Event) -> None:
        await asyncio.sleep(0.001)
        seen.append(event.data)

    with consuming.running() as one, consuming.running() as two:
        consuming.send(*range(200))
        consuming.until_drained()
    assert sorted(seen) == list(range(200))
    assert total(one.members)["settled"] + total(two.members)["settled"] == 200


def test_events_go_to_the_handler_that_takes_their_type(consuming: Consuming) -> None:
    """The first that matches, in the order of declaration; * stands for any part."""
    seen: list[tuple[str, str]] = []
    for name, types in (("placed", "order.placed"), ("order", "order.*"), ("both", ["a", "*.b"])):

        def handle(event: Event, name: str = name) -> None:
            seen.append((name, event.type))

        consuming.app.consumer(consuming.stream, group="g", types=types)(handle)
    for type_ in ("order.placed", "order.paid", "a", "x.b", "x.a", "", "orders"):
        consuming.send(1, type=type_)
    running = consuming.run_until_drained()
    assert sorted(seen) == [
        ("both", "a"),
        ("both", "x.b"),
        ("order", "order.paid"),
        ("placed", "order.placed"),
    ]
    assert total(running.members)["filtered"] == 3


def test_the_events_of_a_pack_are_routed_one_by_one(consuming: Consuming) -> None:
    """Each to the handler of its type; the entry is settled once all have an outcome."""
    seen: list[tuple[str, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", types="even")
    def even(event: Event) -> None:
        seen.append(("even", event.data))

    @consuming.app.consumer(consuming.stream, group="g", types="odd")
    async def odd(event: Event) -> None:
        seen.append(("odd", event.data))

    consuming.send_pack(range(10), types=["even", "odd"] * 5)
    running = consuming.run_until_drained()
    assert sorted(seen) == sorted((("even", "odd")[n % 2], n) for n in range(10))
    assert total(running.members)["settled"] == 1


def test_a_handler_s_own_system_exit_is_a_failure_of_its_event(consuming: Consuming) -> None:
    """It neither ends the worker nor costs the event its outcome."""

    @consuming.app.consumer(consuming.stream, group="plain", retry=1)
    def handle(event: Event) -> None:
        raise SystemExit(3)

    @consuming.app.consumer(consuming.stream, group="async", retry=1)
    async def handle_async(event: Event) -> None:
        raise SystemExit(3)

    consuming.send(1)
    with consuming.running():
        for group in ("plain", "async"):
            until(lambda group=group: consuming.dead(group), what="a dead letter")  # type: ignore[misc]
    assert [letter.error for letter, _ in consuming.dead("plain")] == ["SystemExit"]
    assert [letter.error for letter, _ in consuming.dead("async")] == ["SystemExit"]


def test_a_cancellation_of_the_handler_s_own_making_is_a_failure(consuming: Consuming) -> None:
    """Only a cancelled run of ours is handed back: this one would run again at once, for ever."""
    runs = 0

    @consuming.app.consumer(consuming.stream, group="g", retry=1)
    async def handle(event: Event) -> None:
        nonlocal runs
        runs += 1
        raise asyncio.CancelledError

    consuming.send(1)
    with consuming.running():
        until(lambda: consuming.dead(), what="a dead letter")
    assert runs == 1
    assert [letter.error for letter, _ in consuming.dead()] == ["CancelledError"]


def test_a_handler_beyond_max_run_has_failed(consuming: Consuming) -> None:
    """An async one is cancelled; its attempt is spent."""
    attempts: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=1, max_run="200ms")
    async def handle(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        await asyncio.sleep(3_600)

    consuming.send(1)
    with consuming.running():
        until(lambda: consuming.dead(), what="a dead letter")
    ((letter, _),) = consuming.dead()
    assert letter.error == "MaxRunError"
    assert "max_run=200 ms" in letter.reason
    assert attempts == [1]


def test_a_plain_handler_beyond_max_run_loses_its_slot(consuming: Consuming) -> None:
    """Its thread cannot be stopped: the event fails, the other slot goes on."""
    stuck = threading.Event()
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=1, max_run="200ms", concurrency=2)
    def handle(event: Event) -> None:
        if event.data == 0:
            stuck.wait(30)
        seen.append(event.data)

    consuming.send(*range(20))
    with consuming.running():
        until(lambda: consuming.dead() and len(seen) >= 19, what="a dead letter, and the others")
        stuck.set()
    assert sorted(seen)[-19:] == list(range(1, 20))
    assert [letter.error for letter, _ in consuming.dead()] == ["MaxRunError"]


def test_a_member_whose_slots_are_all_stuck_ends(consuming: Consuming) -> None:
    """Its process exits for its supervisor: it could do nothing any more."""
    stuck = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", retry=1, max_run="100ms", concurrency=1)
    def handle(event: Event) -> None:
        stuck.wait(30)

    consuming.send(1)
    with consuming.running(well=False) as running:
        until(lambda: running.failure is not None, what="the member ends")
        stuck.set()
    assert "never return" in str(running.failure)


def test_a_rejected_event_dies_at_once(consuming: Consuming) -> None:
    """Whatever attempts it had left, with the reason given."""

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event) -> None:
        raise Reject(f"no such order: {event.data}")

    consuming.send(7)
    consuming.run_until_drained()
    ((letter, _),) = consuming.dead()
    assert (letter.reason, letter.attempts) == ("no such order: 7", 1)
