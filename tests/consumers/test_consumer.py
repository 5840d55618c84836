"""Consumer: deliveries as an iterator, settled by taking the next, by hand, or by leaving the block."""

import asyncio
import contextlib
import threading

import pytest

from consumers.consumer import Consumer
from consumers.delivery import Delivery
from pipeline.errors import ClosedError, UsageError, WrongKeyTypeError
from pipeline.event import Event
from tests.consuming import Consuming
from tests.until import until


def consumer(consuming: Consuming, **options: object) -> Consumer:
    """A Consumer of the test's stream that ends when nothing comes."""
    given: dict[str, object] = {"timeout_s": 0.3, **options}
    return Consumer(consuming.stream, group="g", url=consuming.url, **given)  # type: ignore[arg-type]


def test_iterating_gives_every_event_and_acknowledges_it(consuming: Consuming) -> None:
    """Taking the next one acknowledges the last; the last of all is acknowledged at the end."""
    consuming.send(*range(50))
    with consumer(consuming) as deliveries:
        seen = [(delivery.event.data, delivery.attempt) for delivery in deliveries]
    assert seen == [(n, 1) for n in range(50)]
    assert consuming.drained()
    assert consuming.consumers() == {}


def test_async_iteration_gives_every_event_and_acknowledges_it(consuming: Consuming) -> None:
    """The same on an event loop, which is never blocked."""
    consuming.send(*range(50))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    async def main() -> list[int]:
        ticking = asyncio.create_task(tick())
        async with consumer(consuming) as deliveries:
            seen = [delivery.event.data async for delivery in deliveries]
        ticking.cancel()
        return seen

    assert asyncio.run(main()) == list(range(50))
    assert consuming.drained()
    assert ticks > 10


def test_iterating_without_a_block_works(consuming: Consuming) -> None:
    """It starts by itself; close() settles and leaves."""
    consuming.send(1, 2)
    deliveries = consumer(consuming)
    assert [delivery.event.data for delivery in deliveries] == [1, 2]
    deliveries.close()
    deliveries.close()
    assert consuming.drained()
    with pytest.raises(ClosedError):
        next(deliveries)


def test_an_iteration_waits_for_what_comes(consuming: Consuming) -> None:
    """Without timeout_s it waits for as long as it takes."""
    seen: list[int] = []

    def take() -> None:
        with consumer(consuming, timeout_s=None) as deliveries:
            for delivery in deliveries:
                seen.append(delivery.event.data)
                if delivery.event.data == 2:
                    break

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(3):
        until(lambda number=number: len(seen) == number, what="the one before was taken")  # type: ignore[misc]
        consuming.send(number)
    thread.join(10)
    assert seen == [0, 1, 2]
    assert consuming.drained()


def test_leaving_the_block_early_hands_back_what_was_not_taken(consuming: Consuming) -> None:
    """The one in hand is done, the rest is the next consumer's at once, its attempt not spent."""
    consuming.send(*range(20))
    with consumer(consuming, concurrency=10) as deliveries:
        for delivery in deliveries:
            if delivery.event.data == 2:
                break
    assert len(consuming.pending()) > 0
    with consumer(consuming, timeout_s=2) as deliveries:
        seen = []
        for delivery in deliveries:
            seen.append((delivery.event.data, delivery.attempt))
            if len(seen) == 17:
                break
    assert sorted(seen) == [(n, 1) for n in range(3, 20)]
    assert consuming.drained()


def test_an_exception_in_the_block_fails_the_one_in_hand(consuming: Consuming) -> None:
    """It is retried with backoff, or dead after its last attempt."""
    consuming.send(1)
    with contextlib.suppress(ValueError), consumer(consuming, retry=1) as deliveries:
        for _ in deliveries:
            raise ValueError("no such luck")
    assert [letter.reason for letter, _ in consuming.dead()] == ["no such luck"]
    assert consuming.drained()


def test_an_interrupt_in_the_block_hands_the_one_in_hand_back(consuming: Consuming) -> None:
    """The event did nothing wrong: its attempt is not spent."""
    consuming.send(1)
    with contextlib.suppress(KeyboardInterrupt), consumer(consuming, retry=1) as deliveries:
        for _ in deliveries:
            raise KeyboardInterrupt
    assert consuming.dead() == []
    assert [deliveries for _, deliveries in consuming.pending().values()] == [0]


def test_by_hand_nothing_is_settled_until_it_is_said(consuming: Consuming) -> None:
    """ack="manual": done, failed, rejected, put off; in any order."""
    consuming.send(*range(5))
    with consumer(consuming, ack="manual", concurrency=5, retry=1) as deliveries:
        taken: dict[int, Delivery] = {delivery.event.data: delivery for delivery in deliveries}
        assert len(consuming.pending()) == 5
        taken[3].later("1h")
        taken[1].fail(ValueError("failed"))
        taken[2].reject("never")
        taken[0].ack()
        until(lambda: len(consuming.pending()) == 1, what="four are settled")
    assert sorted(letter.reason for letter, _ in consuming.dead()) == ["failed", "never"]
    assert consuming.waiting() == 1
    (holder,) = consuming.pending().values()
    assert holder[1] == 0  # handed back: nobody said anything about it


def test_a_delivery_is_settled_once(consuming: Consuming) -> None:
    """A second outcome is refused, also after it was handed back."""
    consuming.send(1, 2)
    with consumer(consuming, ack="manual") as deliveries:
        first = next(deliveries)
        first.ack()
        with pytest.raises(UsageError, match="settled already"):
            first.ack()
        second = next(deliveries)
    with pytest.raises(UsageError, match="settled already"):
        second.ack()


def test_a_delivery_given_to_a_handler_is_not_settled_by_hand(consuming: Consuming) -> None:
    """What the handler does is what counts: ack() there is a mistake, and says so."""
    problems: list[str] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        with pytest.raises(UsageError) as caught:
            delivery.ack()
        problems.append(str(caught.value))

    consuming.send(1)
    consuming.run_until_drained()
    assert "return for done" in problems[0]


def test_a_cancelled_wait_loses_nothing(consuming: Consuming) -> None:
    """Waiting is not reading: what comes later goes to who waits next."""

    async def main() -> list[int]:
        async with consumer(consuming, timeout_s=None) as deliveries:
            for _ in range(3):
                waiting = asyncio.ensure_future(anext(deliveries))
                await asyncio.sleep(0.02)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
            await asyncio.to_thread(consuming.send, *range(5))
            seen = []
            async for delivery in deliveries:
                seen.append(delivery.event.data)
                if len(seen) == 5:
                    return seen
        raise AssertionError("unreachable")

    assert asyncio.run(main()) == list(range(5))
    assert consuming.drained()


def test_a_consumer_that_cannot_go_on_raises(consuming: Consuming) -> None:
    """Waiting ends with the error, on both sides."""
    consuming.link.call("SET", consuming.stream, "text")
    with pytest.raises(WrongKeyTypeError):
        next(consumer(consuming))


def test_a_consumer_whose_stream_turns_into_something_else_raises(consuming: Consuming) -> None:
    """No waiting for ever on what will not come back."""
    consuming.send(1)
    with consumer(consuming, timeout_s=None) as deliveries:
        next(deliveries)
        consuming.link.calls(
            [("MULTI",), ("DEL", consuming.stream), ("SET", consuming.stream, "text"), ("EXEC",)]
        )
        with pytest.raises(WrongKeyTypeError):
            next(deliveries)


@pytest.mark.parametrize(
    ("options", "named"), [({"ack": "maybe"}, "ack"), ({"pace": 1}, "pace"), ({"grace": -1}, "grace")]
)
def test_options_that_cannot_be_are_refused(
    consuming: Consuming, options: dict[str, object], named: str
) -> None:
    """At once, by name."""
    with pytest.raises(UsageError, match=named):
        consumer(consuming, **options)


def test_two_consumers_share_a_group(consuming: Consuming) -> None:
    """Each event goes to one of them."""
    consuming.send(*range(100))
    seen: list[int] = []

    def take() -> None:
        with consumer(consuming, timeout_s=0.5) as deliveries:
            seen.extend(delivery.event.data for delivery in deliveries)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(100))
    assert consuming.drained()
