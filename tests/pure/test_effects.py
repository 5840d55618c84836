"""Effects: what a run may ask for is checked when it is asked for, and what it emits is the same in every run."""

from typing import Any

import pytest

from pipeline.effects import MAX_CALLS, MAX_EMITTED, Effects, Emitted, Origin
from pipeline.errors import EncodeError, EventTooLargeError, UsageError
from pipeline.event import Event
from pipeline.replayed import Replayed
from pipeline.wire import decode_entry, encode_entry

EVENT = decode_entry(
    b"1700000000000-0",
    encode_entry(
        Event({"n": 1}, type="order", key="k", headers={"traceparent": "00-a-b-01", "x": "y"}),
        producer="p",
        number=7,
    ),
).events[0]
ORIGIN = Origin.of(EVENT, "orders", "fraud", "")


def emitted(effects: Effects, data: Any = None, **given: Any) -> tuple[Emitted, Event]:
    """What was noted, and the event as its readers will see it."""
    one = effects.emit("payments", data, ORIGIN, **given)
    return one, decode_entry(b"1700000000009-0", list(one.fields)).events[0]


def test_each_run_emits_events_of_the_same_ids() -> None:
    """Derived from the event, the stream and the group: whoever has seen them knows them again."""
    for _ in range(2):
        effects = Effects()
        first, event = emitted(effects, {"a": 1}, type="payment", key="c", headers={"x": "z"})
        second, _ = emitted(effects, {"a": 2})
        assert [first.event_id, second.event_id] == ["p-7:orders:fraud-1", "p-7:orders:fraud-2"]
        assert (event.id, event.type, event.key, event.data) == (first.event_id, "payment", "c", {"a": 1})
        assert event.headers == {"traceparent": "00-a-b-01", "x": "z"}
        assert not first.dedupe


def test_a_chain_that_goes_round_does_not_make_ids_longer_for_ever() -> None:
    """Beyond a length they are digests, which are as good."""
    producer, ids = "p", set()
    for _ in range(50):
        event = decode_entry(b"1-1", encode_entry(Event(1), producer=producer, number=1)).events[0]
        producer = Origin.of(event, "a stream of some length", "a group of some length", "").producer
        assert len(producer) <= 200
        ids.add(producer)
    assert len(ids) == 50


def test_a_replay_that_is_to_do_it_again_emits_others() -> None:
    """With an id of its own, so that nobody takes them for those of the first run."""
    replayed = Replayed(id="5f", at_ms=1, again=True, what="x").why
    once = Replayed(id="5f", at_ms=1, again=False, what="x").why
    assert Origin.of(EVENT, "orders", "fraud", replayed).producer == "p-7:5f:orders:fraud"
    assert Origin.of(EVENT, "orders", "fraud", once).producer == ORIGIN.producer


def test_an_event_goes_on_as_it_is() -> None:
    """Its id, type, key, headers and data; its time written out, as the new entry has another."""
    one, event = emitted(Effects(), EVENT)
    assert event == EVENT
    assert one.event_id == one.dedupe_id == "p-7"
    made, event = emitted(Effects(), Event({"n": 2}, id="mine"))
    assert made.dedupe
    assert (event.id, event.data) == ("mine", {"n": 2})


def test_a_given_id_is_looked_for() -> None:
    """As with Producer.send(id=)."""
    one, event = emitted(Effects(), 1, id="order-7")
    assert one.dedupe
    assert (one.dedupe_id, event.id) == ("order-7", "order-7")


def test_what_cannot_be_emitted_is_refused_at_once() -> None:
    """In the handler, so that nothing is found out too late."""
    effects = Effects()
    with pytest.raises(EncodeError):
        effects.emit("payments", object(), ORIGIN)
    with pytest.raises(UsageError, match="braces"):
        effects.emit("pay{ments", 1, ORIGIN)
    with pytest.raises(UsageError, match="an Event says itself"):
        effects.emit("payments", EVENT, ORIGIN, type="x")
    assert effects.emitted == []
    for _ in range(MAX_EMITTED):
        effects.emit("payments", 1, ORIGIN)
    with pytest.raises(UsageError, match="at most 500 events"):
        effects.emit("payments", 1, ORIGIN)
    effects = Effects()
    for _ in range(9):
        effects.emit("payments", b"x" * 900_000, ORIGIN)
    with pytest.raises(EventTooLargeError, match="8,388,608 bytes"):
        effects.emit("payments", b"x" * 900_000, ORIGIN)


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("HINCRBY", ("totals", "k", 5)),
        ("hincrby", ("totals", "k", b"-5")),
        ("INCR", ("n",)),
        ("SET", ("n", 1.5)),
        ("HSET", ("h", "a", 1, "b", 2)),
        ("ZADD", ("z", 1.5, "m", "2", "n")),
        ("RPUSH", ("l", b"\xff", "x")),
        ("DEL", ("anything",)),
        ("PEXPIRE", ("anything", 1_000)),
    ],
)
def test_a_command_that_can_be_is_noted(command: str, args: tuple[Any, ...]) -> None:
    """Writes to one key."""
    effects = Effects()
    effects.call(command, *args)
    assert [(call.command, call.key) for call in effects.calls] == [(command.upper(), args[0])]


@pytest.mark.parametrize(
    ("command", "args", "problem"),
    [
        ("GET", ("k",), "one of SET"),
        ("EVAL", ("k",), "one of SET"),
        ("FLUSHALL", ("k",), "one of SET"),
        ("HINCRBY", ("h", "f"), "2 arguments"),
        ("HINCRBY", ("h", "f", 1.5), "whole number"),
        ("HINCRBY", ("h", "f", 2**63), "whole number"),
        ("INCRBY", ("k", "1 "), "whole number"),
        ("INCRBY", ("k", True), "text, bytes or a number"),
        ("INCRBYFLOAT", ("k", "nan"), "not a number"),
        ("HSET", ("h", "a", 1, "b"), "groups of 2"),
        ("ZADD", ("z", "NX", "m"), "not a number"),
        ("SET", ("k", None), "text, bytes or a number"),
        ("SET", ("", 1), "the key is text"),
        ("DEL", ("{orders}:groups",), "Millstream's own"),
        ("SET", ("{orders}:done:g:e", 1), "Millstream's own"),
    ],
)
def test_a_command_that_cannot_be_is_refused_at_once(
    command: str, args: tuple[Any, ...], problem: str
) -> None:
    """With what is wrong."""
    with pytest.raises(UsageError, match=problem):
        Effects().call(command, *args)


def test_one_run_uses_a_key_as_one_type() -> None:
    """Else the second command would be refused after the first was carried out."""
    effects = Effects()
    effects.call("HINCRBY", "k", "f", 1)
    with pytest.raises(UsageError, match="it is a hash to another effect"):
        effects.call("INCR", "k")
    effects.call("EXPIRE", "k", 10)
    for _ in range(MAX_CALLS - 2):
        effects.call("INCR", "n")
    with pytest.raises(UsageError, match="at most 100 effects"):
        effects.call("INCR", "n")
