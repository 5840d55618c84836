"""A dead consumer's backlog: taken over exactly once, in small company, beside whatever else there is to do."""

import asyncio
import threading
import time
from collections import Counter

import pytest

from consumers import claimer
from consumers.delivery import Delivery
from pipeline.event import Event
from pipeline.ladder import company
from tests.consuming import Consuming, total
from tests.until import until

MOST_HELD = company(1)


def leave_behind(consuming: Consuming) -> None:
    """A consumer of group "g" reads all there is, and is gone."""
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    consuming.link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")


@pytest.mark.parametrize("is_async", [False, True])
def test_a_big_backlog_is_taken_over_once_each_and_few_at_a_time(
    consuming: Consuming, is_async: bool
) -> None:
    """Whoever died with them may have died of one: never more than 100 are pending with the member."""
    seen: Counter[int] = Counter()
    attempts: set[int] = set()

    def handle(event: Event, delivery: Delivery) -> None:
        seen[event.data] += 1
        attempts.add(delivery.attempt)

    async def handle_async(event: Event, delivery: Delivery) -> None:
        handle(event, delivery)

    consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=8)(
        handle_async if is_async else handle
    )
    consuming.send(*range(5_000))
    leave_behind(consuming)
    most_held = 0

    def drained() -> bool:
        nonlocal most_held
        held = consuming.consumers()
        most_held = max([most_held, *(count for name, count in held.items() if name != "dead")])
        return consuming.drained()

    with consuming.running() as running:
        until(drained, 30, every_s=0.001, what="all are taken over")
    assert seen == Counter(range(5_000))
    assert attempts == {2}
    assert most_held > 0, "nothing was seen of it"
    assert MOST_HELD is not None
    assert most_held <= MOST_HELD
    counts = total(running.members)
    assert (counts["taken_over_by_us"], counts["taken_over_from_us"], counts["settled"]) == (5_000, 0, 5_000)


def test_new_events_are_handled_while_a_backlog_is_taken_over(consuming: Consuming) -> None:
    """They get their share of the little room there is."""
    order: list[int] = []
    begun = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    def handle(event: Event) -> None:
        order.append(event.data)
        begun.set()
        time.sleep(0.000_5)

    consuming.send(*range(5_000))
    leave_behind(consuming)
    with consuming.running():
        assert begun.wait(20)
        consuming.send(*range(10_000, 10_100))
        consuming.until_drained(timeout_s=30)
    assert Counter(order) == Counter([*range(5_000), *range(10_000, 10_100)])
    assert max(i for i, data in enumerate(order) if data >= 10_000) < len(order) - 500


@pytest.mark.slow
def test_a_long_run_is_renewed_while_a_backlog_is_taken_over(consuming: Consuming) -> None:
    """The sweep leaves its thread to renewals and heartbeats: another member never sees it idle."""
    runs: list[int] = []
    sweeping, long_run = threading.Event(), threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    async def handle(event: Event, delivery: Delivery) -> None:
        sweeping.set()
        if event.data != "long":
            await asyncio.sleep(0.001)
            return
        runs.append(delivery.attempt)
        long_run.set()
        await asyncio.sleep(2.5)

    consuming.send(*range(5_000))
    leave_behind(consuming)
    with consuming.running() as one, consuming.running() as other:
        assert sweeping.wait(20)
        consuming.send("long")
        assert long_run.wait(20)
        consuming.until_drained(timeout_s=30)
    counts = total([*one.members, *other.members])
    assert runs == [1]
    assert (counts["taken_over_by_us"], counts["taken_over_from_us"]) == (5_000, 0)


@pytest.mark.slow
def test_members_share_a_backlog_that_takes_them_long(consuming: Consuming) -> None:
    """One sweeps at a time; whose window lasts for longer than a heartbeat gives the duty up."""
    seen: Counter[int] = Counter()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    def handle(event: Event) -> None:
        seen[event.data] += 1
        time.sleep(0.03)

    consuming.send(*range(300))
    leave_behind(consuming)
    with consuming.running() as one, consuming.running() as other:
        consuming.until_drained(timeout_s=30)
    assert seen == Counter(range(300))
    shares = [total(running.members)["taken_over_by_us"] for running in (one, other)]
    assert sum(shares) == 300
    assert min(shares) >= 50


def test_a_member_that_stops_in_the_midst_hands_back_what_it_took(consuming: Consuming) -> None:
    """What no handler began is claimable at once; each is handled once by the two together."""
    seen: Counter[int] = Counter()
    begun = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    def handle(event: Event, delivery: Delivery) -> None:
        assert delivery.attempt == 2
        seen[event.data] += 1
        begun.set()
        consuming.go_on.wait(60)  # until it is stopped
        time.sleep(0.005)

    consuming.send(*range(1_000))
    leave_behind(consuming)
    with consuming.running() as first:
        assert begun.wait(20)
        first.members[0].state.stop_asked.set()  # before the handlers go on: none begins what is left
    assert len(seen) < 1_000, "it had finished: nothing was shown"
    assert total(first.members)["handed_back"] > 0
    consuming.run_until_drained(timeout_s=30)
    assert seen == Counter(range(1_000))


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_of_suspects_does_not_wait_for_more_than_may_be_held(
    consuming: Consuming, is_async: bool
) -> None:
    """A batch of 500 would never fill: no more than 100 may be held, and more come only once these have ended."""
    seen: list[int] = []

    def handle(events: list[Event]) -> None:
        seen.extend(event.data for event in events)

    async def handle_async(events: list[Event]) -> None:
        handle(events)

    consuming.app.consumer(consuming.stream, group="g", claim_after="1s", batch=500, batch_wait="5s")(
        handle_async if is_async else handle
    )
    consuming.send(*range(1_000))
    leave_behind(consuming)
    begun_s = time.monotonic()
    consuming.run_until_drained()
    assert sorted(seen) == list(range(1_000))
    assert time.monotonic() - begun_s < 5


@pytest.mark.slow
def test_packs_are_split_no_faster_than_their_events_are_worked_off(
    consuming: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event goes on alone, and the group's own stream does not grow with the backlog."""
    monkeypatch.setattr(claimer, "MOST_AGAIN", 200)
    seen: Counter[int] = Counter()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    def handle(event: Event) -> None:
        seen[event.data] += 1

    for pack in range(300):
        consuming.send_pack(range(20 * pack, 20 * pack + 20))
    leave_behind(consuming)
    longest = 0

    def drained() -> bool:
        nonlocal longest
        longest = max(longest, consuming.again_entries())
        return consuming.drained()

    with consuming.running() as running:
        until(drained, 30, every_s=0.001, what="all are taken over")
    assert seen == Counter(range(6_000))
    assert 200 < longest <= 200 + 2 * claimer.BATCH_ENTRIES * 20
    assert total(running.members)["handed_back"] == 0
