"""Emit and effects: what a handler wants done is done in the step that settles its event, or not at all."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.app import Pipeline
from consumers.consumer import Consumer
from consumers.delivery import Delivery
from consumers.testing import TestPipeline
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Later, Outcomes
from pipeline.server.replies import parse_entries, text
from pipeline.wire import decode_entry
from tests.clustered import one_node_cluster
from tests.conftest import OwnServer
from tests.consuming import Consuming, consuming_on, total
from tests.until import until


@pytest.fixture
def clustered(tmp_path: Path, stream: str) -> Iterator[Consuming]:
    """On a cluster of one node."""
    with one_node_cluster(tmp_path) as server, consuming_on(server.address, stream, url=server.url) as one:
        yield one


def events_of(consuming: Consuming, stream: str) -> list[Event]:
    """All events in a stream."""
    reply = parse_entries(consuming.link.call("XRANGE", stream, "-", "+"))
    return [event for i, fields in reply for event in decode_entry(i, fields or []).events]


def test_what_is_emitted_is_in_its_stream_when_the_event_is_settled(consuming: Consuming) -> None:
    """From plain and async handlers, awaited or not."""
    to = f"{consuming.stream}-out"

    @consuming.app.consumer(consuming.stream, group="plain")
    def handle(event: Event, delivery: Delivery) -> None:
        assert delivery.emit(to, {"n": event.data}, type="plain", key=event.key).event_id

    @consuming.app.consumer(consuming.stream, group="async")
    async def handle_async(event: Event, delivery: Delivery) -> None:
        await asyncio.sleep(0)
        one = await delivery.emit(to, {"n": event.data}, type="async", headers={"a": "b"})
        assert one.stream == to

    consuming.send(*range(30), key="k")
    with consuming.running() as running:
        consuming.until_drained("plain")
        consuming.until_drained("async")
    events = events_of(consuming, to)
    for type_ in ("plain", "async"):
        assert sorted(e.data["n"] for e in events if e.type == type_) == list(range(30))
    assert len({event.id for event in events}) == 60
    assert {event.headers.get("a") for event in events if event.type == "async"} == {"b"}
    assert total(running.members)["emitted"] == 60


def test_what_a_failed_run_emitted_is_discarded(consuming: Consuming) -> None:
    """Whatever it ended by; the run that succeeds emits, once."""
    to = f"{consuming.stream}-out"

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(attempts=3, initial="1m", jitter=0))
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(to, delivery.attempt)
        delivery.effect("INCR", f"{to}-count")
        if delivery.attempt == 1 and event.data == "fails":
            raise ConnectionError
        if event.data == "later" and not put_off.is_set():
            put_off.set()
            raise Later(0)
        if event.data == "dies":
            raise ValueError

    put_off = threading.Event()
    consuming.send("fails", "later", "dies")
    with consuming.running():
        while not consuming.drained():
            until(lambda: consuming.waiting() or consuming.drained())
            consuming.advance(120_000)
    assert sorted(event.data for event in events_of(consuming, to)) == [1, 2]
    assert consuming.link.call("GET", f"{to}-count") == b"2"
    assert len(consuming.dead()) == 1


def test_the_events_of_a_pack_emit_each_for_itself(consuming: Consuming) -> None:
    """Those that fail emit nothing; the others do when the pack is settled."""
    to = f"{consuming.stream}-out"

    @consuming.app.consumer(consuming.stream, group="g", retry=1)
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(to, event.data)
        delivery.emit(to, event.data)
        if event.data % 3 == 0:
            raise ValueError

    consuming.send_pack(range(9))
    consuming.run_until_drained()
    events = events_of(consuming, to)
    assert sorted(event.data for event in events) == sorted([1, 2, 4, 5, 7, 8] * 2)
    assert len({event.id for event in events}) == 12
    assert len(consuming.dead()) == 3


def test_a_pack_that_emits_more_than_one_step_may_add_emits_all_of_it_once(consuming: Consuming) -> None:
    """Ahead of its settlement, by the ids of what it emits."""
    to = f"{consuming.stream}-out"

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        for n in range(300):
            delivery.emit(to, (event.data, n))

    consuming.send_pack(range(5))
    running = consuming.run_until_drained()
    assert sorted(tuple(event.data) for event in events_of(consuming, to)) == [
        (i, n) for i in range(5) for n in range(300)
    ]
    assert total(running.members)["emitted"] == 1_500


def test_a_batch_handler_emits_by_its_outcomes(consuming: Consuming) -> None:
    """For each event on its own; what cannot be is the failure of that event."""
    to = f"{consuming.stream}-out"

    @consuming.app.consumer(consuming.stream, group="g", batch=10, retry=1)
    def handle(events: list[Event]) -> Outcomes:
        outcomes = Outcomes()
        for i, event in enumerate(events):
            outcomes.emit(i, to, object() if event.data == 1 else event.data, type="x")
            outcomes.effect(i, "HINCRBY", f"{to}-sums", "n", event.data)
            if event.data == 2:
                outcomes.reject(i, "no")
        return outcomes

    consuming.send(*range(5))
    consuming.run_until_drained()
    assert sorted(event.data for event in events_of(consuming, to)) == [0, 3, 4]
    assert consuming.link.call("HGET", f"{to}-sums", "n") == b"7"
    assert sorted(letter.error for letter, _ in consuming.dead()) == ["EncodeError", "Reject"]


def test_who_was_taken_over_emits_nothing(consuming: Consuming) -> None:
    """Another member has the event, and its run emits."""
    to = f"{consuming.stream}-out"
    running_here, go_on = threading.Event(), threading.Event()

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(to, 1)
        running_here.set()
        go_on.wait(20)

    (entry_id,) = consuming.send(1)
    with consuming.running() as running:
        assert running_here.wait(20)
        consuming.link.call("XCLAIM", consuming.stream, "g", "another", 0, entry_id)
        consuming.link.call("HSET", consuming.keys.groups, "g:token", "another token")
        go_on.set()
        until(lambda: total(running.members)["taken_over_from_us"] == 1)
    assert events_of(consuming, to) == []
    assert consuming.pending()[entry_id][0] == "another"


def test_an_id_of_one_s_own_is_emitted_once(consuming: Consuming) -> None:
    """Whoever emits it, as with send(id=)."""
    to = f"{consuming.stream}-out"

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(to, event.data, id=f"of-{event.data % 3}")

    consuming.send(*range(9))
    consuming.run_until_drained()
    assert sorted(event.id for event in events_of(consuming, to)) == ["of-0", "of-1", "of-2"]


def test_an_event_goes_on_as_it_is(consuming: Consuming) -> None:
    """With its id, type, key and headers."""
    to = f"{consuming.stream}-out"

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(to, event)

    consuming.send({"a": 1}, type="t", key="k", headers={"h": "v"})
    consuming.run_until_drained()
    ((there,), (here,)) = (events_of(consuming, to), events_of(consuming, consuming.stream))
    assert there == here


def test_a_namespace_is_that_of_what_is_emitted_too(consuming: Consuming) -> None:
    """A handler names streams as its app does."""
    app = Pipeline(consuming.url, namespace="prod")

    @app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(f"{consuming.stream}-out", event.data)

    with TestPipeline(app) as test:
        test.send(consuming.stream, 7)
        test.run_until_idle()
        reply = test._link.call("XLEN", f"prod:{consuming.stream}-out")
    assert reply == 1


def test_a_run_that_has_ended_emits_no_more(consuming: Consuming) -> None:
    """What nobody would append is an error, not a silence."""
    kept: list[Delivery] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        kept.append(delivery)

    consuming.send(1)
    consuming.run_until_drained()
    with pytest.raises(UsageError, match="this run has ended"):
        kept[0].emit("x", 1)
    with pytest.raises(UsageError, match="this run has ended"):
        kept[0].effect("INCR", "x")


def test_a_delivery_taken_by_hand_emits_when_it_is_acknowledged(consuming: Consuming) -> None:
    """And not if it is rejected."""
    to = f"{consuming.stream}-out"
    consuming.send(1, 2)
    with Consumer(consuming.stream, group="g", url=consuming.url, ack="manual") as consumer:
        for delivery in consumer:
            delivery.emit(to, delivery.event.data)
            if delivery.event.data == 2:
                delivery.reject("no")
                break
            delivery.ack()
    assert [event.data for event in events_of(consuming, to)] == [1]


def test_an_effect_is_carried_out_once_with_the_settlement(consuming: Consuming) -> None:
    """Several of one run in their order."""
    key = f"{consuming.stream}-h"

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.effect("HINCRBY", key, "sum", event.data)
        delivery.effect("HSET", key, "last", event.data)
        delivery.effect("RPUSH", f"{key}-list", event.data, "x")

    consuming.send(*range(100))
    consuming.run_until_drained()
    assert consuming.link.call("HGET", key, "sum") == b"4950"
    assert consuming.link.call("LLEN", f"{key}-list") == 200


@pytest.mark.parametrize(
    ("stands", "effect", "problem"),
    [
        ("SET k text", "INCR k", "not a number"),
        ("SET k 9223372036854775807", "INCR k", "64 bit"),
        ("SET k 1", "HINCRBY k f 1", "WRONGTYPE"),
        ("HSET k f 1.5", "HINCRBY k f 1", "not a number"),
        ("RPUSH k 1", "ZADD k 1 m", "WRONGTYPE"),
        ("XADD k * a b", "DEL k", "WRONGTYPE"),
    ],
)
def test_an_effect_that_cannot_be_fails_its_event_and_nothing_was_done(
    consuming: Consuming, stands: str, effect: str, problem: str
) -> None:
    """Found out before anything is written; retried like any failure, and the other entries are settled."""
    key = f"{consuming.stream}-k"

    @consuming.app.consumer(consuming.stream, group="g", retry=1)
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.effect("INCR", f"{key}-count")
        delivery.emit(f"{key}-out", event.data)
        if event.data == 1:
            name, _, *args = effect.split()
            delivery.effect(name, key, *args)

    first, _, *args = stands.split()
    consuming.link.call(first, key, *args)
    consuming.send(0, 1, 2)
    consuming.send_pack([3, 1, 4])
    consuming.run_until_drained()
    assert [letter.error for letter, _ in consuming.dead()] == ["EffectRefusedError"] * 2
    assert all(problem in letter.reason for letter, _ in consuming.dead())
    assert sorted(event.data for event in events_of(consuming, f"{key}-out")) == [0, 2, 3, 4]
    assert consuming.link.call("GET", f"{key}-count") == b"4"


def test_a_stream_that_is_none_fails_the_event_that_emits_to_it(consuming: Consuming) -> None:
    """Not the settlement of all others."""
    consuming.link.call("SET", f"{consuming.stream}-out", "no stream")

    @consuming.app.consumer(consuming.stream, group="g", retry=1)
    def handle(event: Event, delivery: Delivery) -> None:
        if event.data == 1:
            delivery.emit(f"{consuming.stream}-out", 1)

    consuming.send(0, 1, 2)
    consuming.run_until_drained()
    assert [letter.error for letter, _ in consuming.dead()] == ["EffectRefusedError"]
    assert f"{consuming.stream}-out holds a string, not a stream" in consuming.dead()[0][0].reason


def test_effects_refused_in_the_midst_are_a_dead_letter_and_not_repeated(consuming: Consuming) -> None:
    """What could not be foreseen: the first was carried out, the second was not."""
    key = f"{consuming.stream}-k"

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.effect("HINCRBY", key, "n", 1)
        if event.data == 1:
            delivery.effect("HSET", key, "m", "no number")
            delivery.effect("HINCRBY", key, "m", 1)

    consuming.send_pack([0, 1, 2])
    consuming.run_until_drained()
    ((letter, _),) = consuming.dead()
    assert "after others had been carried out" in letter.reason
    assert consuming.link.call("HGET", key, "n") == b"3"


def test_in_a_cluster_one_script_does_what_shares_the_slot(clustered: Consuming) -> None:
    """The stream's own tag."""
    to = f"{{{clustered.stream}}}-out"
    key = f"{{{clustered.stream}}}-count"

    @clustered.app.consumer(clustered.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(to, event.data)
        delivery.effect("INCR", key)

    clustered.send(*range(20))
    clustered.run_until_drained()
    assert sorted(event.data for event in events_of(clustered, to)) == list(range(20))
    assert clustered.link.call("GET", key) == b"20"
    assert not [k for k in clustered.link.call("KEYS", "*") if b":ids:" in k]


def test_in_a_cluster_what_is_elsewhere_is_appended_ahead_once_by_its_id(clustered: Consuming) -> None:
    """And what is of the same slot still in the one step."""
    near, far, other = f"{{{clustered.stream}}}-near", "far-away", "another"

    @clustered.app.consumer(clustered.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(near, event.data)
        delivery.emit(far, event.data)
        delivery.emit(other, event)

    clustered.send(*range(20))
    clustered.send_pack([20, 21])
    running = clustered.run_until_drained()
    for to in (near, far, other):
        assert sorted(event.data for event in events_of(clustered, to)) == list(range(22))
    ids = [text(k) for k in clustered.link.call("KEYS", "*") if b":ids:" in k]
    assert len(ids) == 44
    assert 0 < clustered.link.call("PTTL", ids[0]) <= 86_400_000
    assert total(running.members)["emitted"] == 66


def test_in_a_cluster_a_repeated_run_emits_nothing_twice(clustered: Consuming) -> None:
    """What was appended ahead before its member died is known by its id."""
    runs: list[int] = []

    @clustered.app.consumer(clustered.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append(1)
        delivery.emit("far-away", event.data)

    (entry_id,) = clustered.send(1)
    clustered.run_until_drained()
    # As if the member had died between the two steps: its entry is pending again.
    clustered.link.call("XCLAIM", clustered.stream, "g", "dead", 0, entry_id, "FORCE", "IDLE", 60_000)
    clustered.run_until_drained()
    assert len(runs) == 2
    assert len(events_of(clustered, "far-away")) == 1


def test_in_a_cluster_an_effect_elsewhere_is_refused(clustered: Consuming) -> None:
    """It cannot be in the step that settles; the message says how it can."""

    @clustered.app.consumer(clustered.stream, group="g", retry=1)
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.effect("INCR", "elsewhere")

    clustered.send(1)
    clustered.run_until_drained()
    assert f"as in '{{{clustered.stream}}}:elsewhere'" in clustered.dead()[0][0].reason
    assert not clustered.link.call("EXISTS", "elsewhere")


def test_in_a_cluster_a_stream_elsewhere_that_is_none_fails_its_event(clustered: Consuming) -> None:
    """Found out when it is appended, ahead of the settlement."""
    clustered.link.call("SET", "far-away", "no stream")

    @clustered.app.consumer(clustered.stream, group="g", retry=1)
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit("farther-away", event.data)
        if event.data == 1:
            delivery.emit("far-away", 1)

    clustered.send(0, 1, 2)
    clustered.run_until_drained()
    assert [letter.error for letter, _ in clustered.dead()] == ["EffectRefusedError"]
    assert sorted(event.data for event in events_of(clustered, "farther-away")) in ([0, 1, 2], [0, 2])


def test_in_a_cluster_that_does_not_say_so_the_script_s_refusal_does(clustered: Consuming) -> None:
    """A user that may not ask for CLUSTER INFO."""

    @clustered.app.consumer(clustered.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit("far-away", event.data)

    clustered.send(1)
    with clustered.running() as running:
        for member in running.members:
            member.state.cluster = False
        clustered.send(2)
        clustered.until_drained()
    assert sorted(event.data for event in events_of(clustered, "far-away")) == [1, 2]


def test_out_of_memory_what_is_emitted_is_appended_all_the_same(own_server: OwnServer, stream: str) -> None:
    """With the settlement, as dead letters are: a handler that has run is not run again for want of memory."""
    server = own_server()
    with consuming_on(server.address, stream) as consuming:
        go_on = threading.Event()

        @consuming.app.consumer(stream, group="g")
        def handle(event: Event, delivery: Delivery) -> None:
            delivery.emit(f"{stream}-out", event.data)
            delivery.effect("INCR", f"{stream}-n")
            go_on.wait(20)

        consuming.send(*range(5))
        with consuming.running():
            until(lambda: len(consuming.pending()) == 5)
            consuming.link.call("CONFIG", "SET", "maxmemory", 1)
            go_on.set()
            until(lambda: not consuming.pending())
            consuming.link.call("CONFIG", "SET", "maxmemory", 0)
        assert len(events_of(consuming, f"{stream}-out")) == 5
        assert consuming.link.call("GET", f"{stream}-n") == b"5"
