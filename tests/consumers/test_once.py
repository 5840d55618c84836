"""once=: an event that a group has done is acknowledged without its handler when it comes again."""

import threading
from typing import Any

import pytest

from consumers.app import Pipeline
from consumers.consumer import Consumer
from consumers.delivery import Delivery
from pipeline.envelope import Again, again_fields
from pipeline.errors import NotConnectedError, UsageError
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Outcomes
from pipeline.replayed import Replayed
from pipeline.server.replies import text
from tests.consuming import Consuming, total
from tests.until import until


def declare(consuming: Consuming, app: Pipeline | None = None, **options: Any) -> list[str]:
    """A handler with once=; the ids of what it handles."""
    seen: list[str] = []

    @(app or consuming.app).consumer(consuming.stream, group="g", once=True, **options)
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.effect("HINCRBY", f"{consuming.stream}-sums", event.id, 1)
        seen.append(event.id)

    return seen


def sums(consuming: Consuming) -> dict[str, int]:
    """How often the effect of each event was carried out."""
    reply = consuming.link.call("HGETALL", f"{consuming.stream}-sums")
    return {text(reply[i]): int(reply[i + 1]) for i in range(0, len(reply), 2)}


def replay(consuming: Consuming, entry_id: str, fields: list[bytes], again: bool, replay_id: str) -> None:
    """The event runs again, as a replay has it."""
    why = Replayed(id=replay_id, at_ms=1, again=again, what="a test").why
    envelope = Again(stream=consuming.stream, entry_id=entry_id, why=why)
    consuming.link.call("XADD", consuming.keys.again("g"), "*", *again_fields(envelope, fields))


def test_an_event_that_is_done_is_not_handed_over_again(consuming: Consuming) -> None:
    """However it comes again: sent twice, in a pack, claimed after a crash that came after its settlement."""
    seen = declare(consuming, claim_after="1s")
    (fields,) = consuming.encoded(1)
    first = consuming.send_raw(fields)
    with consuming.running() as running:
        consuming.until_drained()
        consuming.send_raw(fields)
        consuming.send(2)
        consuming.until_drained()
        until(lambda: total(running.members)["skipped"] == 1)
        # The acknowledgement was lost with a failed primary, the record was not.
        consuming.link.call("XCLAIM", consuming.stream, "g", "dead", 0, first, "FORCE", "IDLE", 60_000)
        until(lambda: total(running.members)["skipped"] == 2)
        consuming.until_drained()
    assert seen == ["test-1", "test-2"]
    assert sums(consuming) == {"test-1": 1, "test-2": 1}


def test_the_record_says_where_and_expires(consuming: Consuming) -> None:
    """By event id, for as long as the option says; by default a day."""
    declare(consuming, once_for="10m")
    (entry_id,) = consuming.send(1)
    consuming.run_until_drained()
    key = consuming.keys.done("g", "test-1")
    assert text(consuming.link.call("GET", key)) == entry_id
    assert 590_000 < consuming.link.call("PTTL", key) <= 600_000


def test_the_same_event_twice_at_once_is_handled_once(consuming: Consuming) -> None:
    """The others wait for the end of the first."""
    runs: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", once=True)
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append(1)
        consuming.go_on.wait(20)

    (fields,) = consuming.encoded(1)
    for _ in range(3):
        consuming.send_raw(fields)
    with consuming.running() as running:
        until(lambda: total(running.members)["retried"] >= 2, what="they wait")
        consuming.go_on.set()
        consuming.until_drained()
    assert len(runs) == 1
    assert total(running.members)["skipped"] == 2
    assert not consuming.dead()


def test_the_same_event_with_two_members_at_once_has_one_effect(consuming: Consuming) -> None:
    """Both handlers run, as nobody knew; the second script finds the record and carries nothing out."""
    both, runs = threading.Barrier(2), []

    def handle(event: Event, delivery: Delivery) -> None:
        delivery.effect("INCR", f"{consuming.stream}-n")
        delivery.emit(f"{consuming.stream}-out", 1)
        runs.append(1)
        both.wait(20)

    other = Pipeline(consuming.url)
    for app in (consuming.app, other):
        app.consumer(consuming.stream, group="g", once=True, concurrency=1, window_events=1)(handle)
    (fields,) = consuming.encoded(1)
    with consuming.running() as one, consuming.running(other) as two:
        consuming.send_raw(fields)
        until(lambda: runs)
        consuming.send_raw(fields)
        consuming.until_drained()
    assert len(runs) == 2
    assert consuming.link.call("GET", f"{consuming.stream}-n") == b"1"
    assert consuming.link.call("XLEN", f"{consuming.stream}-out") == 1
    assert total([*one.members, *two.members])["skipped"] == 1


def test_what_failed_is_not_done(consuming: Consuming) -> None:
    """Retries and dead letters run again, whatever of their pack was done."""
    runs: list[tuple[int, int]] = []

    @consuming.app.consumer(
        consuming.stream, group="g", once=True, retry=Retry(attempts=2, initial="1m", jitter=0)
    )
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append((event.data, delivery.attempt))
        if event.data in (1, 4):
            raise ValueError

    consuming.send(0, 1)
    consuming.send_pack([2, 3, 4])
    with consuming.running():
        until(lambda: consuming.waiting() == 2)
        consuming.advance(120_000)
        consuming.until_drained()
    assert sorted(runs) == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (4, 2)]
    done = {
        text(key).rpartition(":")[2] for key in consuming.link.call("KEYS", consuming.keys.done("g", "*"))
    }
    assert done == {"test-1", "test-3", "test-4"}


def test_a_replay_skips_what_is_done_unless_it_is_to_be_done_again(consuming: Consuming) -> None:
    """And that replay does it once, too."""
    seen = declare(consuming)
    (fields,) = consuming.encoded(1)
    entry_id = consuming.send_raw(fields)
    with consuming.running() as running:
        consuming.until_drained()
        replay(consuming, entry_id, fields, False, "aa")
        consuming.until_drained()
        # The group is drained before its member has read that it is.
        until(lambda: (seen, total(running.members)["skipped"]) == (["test-1"], 1))
        for skipped in (1, 2):
            replay(consuming, entry_id, fields, True, "bb")
            consuming.until_drained()
            until(lambda: (seen, total(running.members)["skipped"]) == (["test-1"] * 2, skipped))  # noqa: B023
    assert sums(consuming) == {"test-1": 2}


def test_groups_do_not_know_of_each_other(consuming: Consuming) -> None:
    """What one has done, the other has not."""
    seen = declare(consuming)
    other: list[str] = []

    @consuming.app.consumer(consuming.stream, group="other", once=True)
    async def handle(event: Event, delivery: Delivery) -> None:
        other.append(event.id)

    consuming.send(1)
    with consuming.running():
        consuming.until_drained("g")
        consuming.until_drained("other")
    assert seen == other == ["test-1"]


def test_only_handlers_that_say_so_do_once(consuming: Consuming) -> None:
    """Of several in one group; batch handlers too."""
    seen: list[tuple[str, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", types="a", once=True, batch=10)
    def a(events: list[Event]) -> Outcomes:
        outcomes = Outcomes()
        for i, event in enumerate(events):
            seen.append(("a", event.data))
            outcomes.effect(i, "HINCRBY", f"{consuming.stream}-sums", event.id, 1)
        return outcomes

    @consuming.app.consumer(consuming.stream, group="g", types="b")
    def b(event: Event) -> None:
        seen.append(("b", event.data))

    fields = [
        *consuming.encoded(1, type="a"),
        *consuming.encoded(2, type="b"),
        *consuming.encoded(3, type="c"),
    ]
    with consuming.running() as running:
        for _ in range(2):
            for each in fields:
                consuming.send_raw(each)
            consuming.until_drained()
    assert sorted(seen) == [("a", 1), ("b", 2), ("b", 2)]
    assert sums(consuming) == {"test-1": 1}
    assert total(running.members)["filtered"] == 2


def test_a_delivery_taken_by_hand_is_done_once(consuming: Consuming) -> None:
    """Consumer(once=True)."""
    (fields,) = consuming.encoded(1)
    for _ in range(2):
        consuming.send_raw(fields)
        with Consumer(consuming.stream, group="g", url=consuming.url, once=True, timeout_s=0.5) as consumer:
            for delivery in consumer:
                assert delivery.once_id == "test-1"
                consuming.link.call("INCR", f"{consuming.stream}-n")
    assert consuming.link.call("GET", f"{consuming.stream}-n") == b"1"


def test_while_the_inbox_cannot_be_asked_events_wait(consuming: Consuming) -> None:
    """And are handled once it can: nothing runs unasked, nothing is lost."""
    seen = declare(consuming)
    with consuming.running() as running:
        consuming.send(1)
        until(lambda: len(seen) == 1)
        inbox = running.members[0]._inbox
        connect = inbox._connect

        def refuse() -> Any:
            raise NotConnectedError("away")

        inbox._connect = refuse
        inbox.close()
        consuming.send(2, 3)
        until(lambda: len(consuming.pending()) == 2)
        until(lambda: running.members[0]._dispatch._unasked, what="they wait")
        assert seen == ["test-1"]
        inbox._connect = connect
        consuming.until_drained()
    assert sorted(seen) == ["test-1", "test-2", "test-3"]


def test_what_waits_for_the_inbox_is_handed_back_when_its_member_stops(consuming: Consuming) -> None:
    """For another member, which may be able to ask."""
    seen = declare(consuming, claim_after="2m")
    with consuming.running() as running:
        until(lambda: consuming.exists())

        def refuse() -> Any:
            raise NotConnectedError("away")

        running.members[0]._inbox._connect = refuse
        consuming.send(1, 2)
        until(lambda: running.members[0]._dispatch._unasked, what="they wait")
    consuming.run_until_drained(timeout_s=30)  # claim_after is 2 minutes
    assert sorted(seen) == ["test-1", "test-2"]


def test_a_handler_that_can_do_nothing_in_the_step_that_notes_it_is_refused(consuming: Consuming) -> None:
    """once= promises what only an effect, an emit or a transaction of its own can hold."""
    with pytest.raises(UsageError, match=r"once=True: handler .* takes no delivery"):

        @consuming.app.consumer(consuming.stream, group="g", once=True)
        def handle(event: Event) -> None: ...

    with pytest.raises(UsageError, match=r"once_for=.*: at least 1"):
        declare(consuming, once_for="10ms")
