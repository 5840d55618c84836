"""Retry: what becomes of events that fail, are put off, cannot be read, or were written by something else."""

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from consumers.delivery import Delivery
from pipeline.codec import Codec
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Later, Outcomes, Reject
from pipeline.wire import decode_entry, encode_entry
from tests.consuming import PRODUCER, Consuming, total
from tests.until import until

AT_ONCE = Retry(attempts=3, initial=0, longest=0)


def test_a_failed_event_runs_again_until_it_succeeds(consuming: Consuming) -> None:
    """The attempt says which run it is; id, time and data stay; the entry id is that of the stream."""
    runs: list[tuple[int, str, int, str]] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=AT_ONCE)
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append((delivery.attempt, event.id, event.time_ms, delivery.entry_id))
        if delivery.attempt < 3:
            raise ValueError("not yet")

    (entry_id,) = consuming.send({"n": 1})
    consuming.run_until_drained()
    time_ms = int(entry_id.split("-")[0])
    assert runs == [(attempt, f"{PRODUCER}-1", time_ms, entry_id) for attempt in (1, 2, 3)]
    assert consuming.dead() == []
    assert consuming.again_entries() == 0


def test_an_event_out_of_attempts_is_a_dead_letter(consuming: Consuming) -> None:
    """With reason, error, traceback, attempts and origin, and the entry as it was sent."""
    runs = 0

    @consuming.app.consumer(consuming.stream, group="g", retry=AT_ONCE)
    def charge(event: Event) -> None:
        nonlocal runs
        runs += 1
        raise LookupError(f"no customer {event.data}")

    (entry_id,) = consuming.send(7)
    running = consuming.run_until_drained()
    ((letter, fields),) = consuming.dead()
    assert runs == 3
    assert (letter.reason, letter.error, letter.attempts, letter.crashes) == (
        "no customer 7",
        "LookupError",
        3,
        0,
    )
    assert (letter.stream, letter.group, letter.entry_id, letter.index) == (
        consuming.stream,
        "g",
        entry_id,
        0,
    )
    assert "raise LookupError" in letter.traceback
    assert "in charge" in letter.traceback
    assert letter.consumer == running.members[0].name
    assert letter.host != ""
    assert int(entry_id.split("-")[0]) - 60_000 < letter.first_failed_ms <= letter.last_failed_ms
    event = decode_entry(b"1-1", fields, origin=entry_id.encode()).events[0]
    assert (event.id, event.data) == (f"{PRODUCER}-1", 7)


def test_the_first_failure_is_remembered(consuming: Consuming) -> None:
    """Across all retries: a dead letter says since when it failed."""

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(2, "1m", "1m", jitter=0))
    def handle(event: Event) -> None:
        raise ValueError

    consuming.send(1)
    with consuming.running():
        until(consuming.waiting, what="the retry waits")
        consuming.advance(60_000)
        until(consuming.dead, what="a dead letter")
    ((letter, _),) = consuming.dead()
    assert 0 < letter.first_failed_ms < letter.last_failed_ms


def test_a_failing_event_waits_out_its_backoff(consuming: Consuming) -> None:
    """Doubling from `initial` up to `longest`, by the server's clock."""

    runs = 0

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(9, "10s", "30s", jitter=0))
    def handle(event: Event) -> None:
        nonlocal runs
        runs += 1
        raise ValueError

    consuming.send(1)
    waits: list[float] = []
    with consuming.running():
        for run in range(1, 5):
            until(lambda run=run: runs == run and consuming.waiting(), what="the retry waits")  # type: ignore[misc]
            seconds, micros = consuming.link.call("TIME")
            _, due_ms = consuming.link.call("ZRANGE", consuming.keys.retry("g"), 0, 0, "WITHSCORES")
            waits.append(float(due_ms) / 1_000 - int(seconds) - int(micros) / 1e6)
            consuming.advance(40_000)
    for wait, planned in zip(waits, (10, 20, 30, 30), strict=True):
        assert planned - 2 < wait <= planned + 0.1


def test_a_failing_event_holds_up_no_other(consuming: Consuming) -> None:
    """Behind it all others are handled at once, though only one runs at a time."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1, retry=Retry(5, "1h", "1h", jitter=0))
    def handle(event: Event) -> None:
        if event.data % 10 == 0:
            raise ValueError
        seen.append(event.data)

    consuming.send(*range(100))
    with consuming.running():
        until(lambda: len(seen) == 90 and consuming.waiting() == 10, what="the others are handled")
        until(lambda: not consuming.pending(), what="their entries are settled")
    assert seen == [n for n in range(100) if n % 10]


def test_a_failing_event_is_retried_in_its_own_group_only(consuming: Consuming) -> None:
    """The other group handles it once, and never sees the retry."""
    runs: list[str] = []

    @consuming.app.consumer(consuming.stream, group="bad", retry=AT_ONCE)
    def bad(event: Event) -> None:
        runs.append("bad")
        raise ValueError

    @consuming.app.consumer(consuming.stream, group="good")
    def good(event: Event) -> None:
        runs.append("good")

    consuming.send(1)
    with consuming.running():
        consuming.until_drained("bad")
        consuming.until_drained("good")
    assert sorted(runs) == ["bad", "bad", "bad", "good"]
    assert consuming.dead("good") == []
    assert len(consuming.entries()) == 1


def test_without_retry_given_an_event_has_five_attempts(consuming: Consuming) -> None:
    """The default; the backoff is passed over here by the server's clock."""
    attempts: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g")
    async def handle(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise ValueError

    consuming.send(1)
    with consuming.running():

        def died() -> bool:
            consuming.advance(60_000)  # what waits just now: with full jitter maybe for an instant only
            return bool(consuming.dead())

        until(died, what="a dead letter")
    assert attempts == [1, 2, 3, 4, 5]


def test_later_puts_an_event_off_without_spending_an_attempt(consuming: Consuming) -> None:
    """As often as it is raised, also with one attempt in all."""
    attempts: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=1)
    def handle(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) < 4:
            raise Later("5m")

    consuming.send(1)
    with consuming.running():
        for run in range(1, 4):
            until(lambda run=run: len(attempts) == run and consuming.waiting(), what="it waits")  # type: ignore[misc]
            assert not consuming.pending()
            consuming.advance(300_000)
        consuming.until_drained()
    assert attempts == [1, 1, 1, 1]
    assert consuming.dead() == []


def test_a_retry_outlives_its_worker(consuming: Consuming) -> None:
    """It waits on the server: another member runs it, with the attempt it has."""
    attempts: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(2, "1m", "1m", jitter=0))
    def handle(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            raise ValueError

    consuming.send(1)
    with consuming.running():
        until(consuming.waiting, what="the retry waits")
    consuming.advance(60_000)
    consuming.run_until_drained()
    assert attempts == [1, 2]


def test_what_a_handler_does_to_its_event_does_not_show_in_the_retry(consuming: Consuming) -> None:
    """Each run gets the event as it was sent."""
    datas: list[dict[str, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=AT_ONCE)
    def handle(event: Event, delivery: Delivery) -> None:
        datas.append(dict(event.data))
        event.data.clear()
        if delivery.attempt < 3:
            raise ValueError

    consuming.send({"n": 1})
    consuming.run_until_drained()
    assert datas == [{"n": 1}] * 3


class Unavailable(ConnectionError):
    """A subclass of what is retried."""


FAILURES: dict[str, Exception] = {
    "retried": Unavailable("down"),
    "not named": ValueError("bad"),
    "given up": ConnectionRefusedError("refused"),
    "rejected": Reject("no"),
}
CHOOSY = Retry(2, 0, 0, retry_on=ConnectionError, give_up_on=ConnectionRefusedError)
REASONS = {
    "retried": ("down", 2),
    "not named": ("ValueError is not retried (retry_on): bad", 1),
    "given up": ("ConnectionRefusedError is given up on (give_up_on): refused", 1),
    "rejected": ("no", 1),
}


def handlers(runs: Counter[str]) -> dict[str, Callable[..., object]]:
    """The three kinds of handlers, each failing by what the event says."""

    def plain(event: Event) -> None:
        runs[event.data] += 1
        if event.data in FAILURES:
            raise FAILURES[event.data]

    async def on_the_loop(event: Event) -> None:
        plain(event)

    def batch(events: list[Event]) -> Outcomes:
        outcomes = Outcomes()
        for index, event in enumerate(events):
            try:
                plain(event)
            except Exception as error:  # noqa: BLE001 - told apart by Retry
                outcomes.fail(index, error)
        return outcomes

    return {"plain": plain, "async": on_the_loop, "batch": batch}


@pytest.mark.parametrize("kind", ["plain", "async", "batch"])
def test_what_is_not_to_be_retried_is_a_dead_letter_at_once(consuming: Consuming, kind: str) -> None:
    """By the class of the exception, subclasses included; the reason says which option decided."""
    runs: Counter[str] = Counter()
    options = {"batch": 10} if kind == "batch" else {}
    consuming.app.consumer(consuming.stream, group="g", retry=CHOOSY, **options)(handlers(runs)[kind])  # type: ignore[arg-type]
    consuming.send("fine")
    consuming.send(*FAILURES)
    consuming.send_pack([*FAILURES, "fine"])
    consuming.run_until_drained()
    assert runs == {"fine": 2, **{name: 2 * attempts for name, (_, attempts) in REASONS.items()}}
    found = Counter((letter.reason, letter.attempts) for letter, _ in consuming.dead())
    assert found == Counter(dict.fromkeys(REASONS.values(), 2))
    assert {letter.message for letter, _ in consuming.dead()} == {"down", "bad", "refused", "no"}


def test_a_foreign_entry_is_an_event(consuming: Consuming) -> None:
    """Its fields are the data, its entry id the id; it is retried and dies like any other."""
    seen: list[tuple[str, object, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(2, 0, 0))
    def handle(event: Event, delivery: Delivery) -> None:
        seen.append((event.id, event.data, delivery.attempt))
        raise ValueError("no")

    entry_id = consuming.send_raw(["level", "info", "raw", b"\xff\x00"])
    consuming.run_until_drained()
    assert seen == [(entry_id, {"level": "info", "raw": b"\xff\x00"}, attempt) for attempt in (1, 2)]
    ((letter, fields),) = consuming.dead()
    assert (letter.entry_id, fields) == (entry_id, [b"level", b"info", b"raw", b"\xff\x00"])


def test_a_foreign_entry_of_thousands_of_fields_stops_nobody(consuming: Consuming) -> None:
    """It fails, runs again and dies; what is settled with it is settled."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=AT_ONCE)
    def handle(event: Event) -> None:
        if not isinstance(event.data, int):
            raise ValueError("too wide for me")
        seen.append(event.data)

    wide = [b"%d" % number for number in range(20_000)]
    consuming.send(1)
    consuming.send_raw(wide)
    consuming.send(2)
    consuming.run_until_drained()
    assert sorted(seen) == [1, 2]
    ((letter, fields),) = consuming.dead()
    assert letter.attempts == 3
    assert fields == wide


def corrupt_entries() -> dict[str, list[bytes]]:
    """Entries of ours with something wrong in them, by what is wrong."""
    good = encode_entry(Event({"n": 1}), producer=PRODUCER, number=99)
    return {
        "header cut off": [*good[:1], good[1][:3], *good[2:]],
        "header of rubbish": [b"h", good[1][:1] + b"\xff" * 20, b"b", b""],
        "no body": good[:2],
        "body cut off": [*good[:3], good[3][:-1]],
        "body of rubbish": [*good[:3], b"\xc1\xc1"],
    }


@pytest.mark.parametrize("what", corrupt_entries())
def test_a_corrupt_entry_is_a_dead_letter_and_stops_nobody(consuming: Consuming, what: str) -> None:
    """Once its data is asked for; its bytes are kept as they are."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1)
    def handle(event: Event) -> None:
        seen.append(event.data)

    fields = corrupt_entries()[what]
    consuming.send(1)
    entry_id = consuming.send_raw(fields)
    consuming.send(2)
    consuming.run_until_drained()
    assert seen == [1, 2]
    ((letter, kept),) = consuming.dead()
    assert (letter.error, letter.entry_id, letter.attempts) == ("DecodeError", entry_id, 1)
    assert letter.reason.startswith("cannot be decoded: ")
    body = kept[kept.index(b"b") + 1] if b"b" in kept else None
    assert body == (fields[3] if len(fields) > 3 else None)


def test_a_corrupt_event_costs_its_batch_nothing(consuming: Consuming) -> None:
    """The exception that one event's data raises in a batch handler does not convict the others."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", batch=10, retry=AT_ONCE)
    def handle(events: list[Event]) -> None:
        seen.extend([event.data for event in events])

    consuming.send(*range(4))
    consuming.send_raw(corrupt_entries()["body of rubbish"])
    consuming.send(*range(4, 9))
    consuming.run_until_drained()
    assert sorted(seen) == list(range(9))
    assert [letter.error for letter, _ in consuming.dead()] == ["DecodeError"]


def test_an_entry_of_an_unknown_format_is_released_not_dead(consuming: Consuming) -> None:
    """It stays pending, its attempt unspent, for a member that knows it; the others are handled."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s")
    def handle(event: Event) -> None:
        seen.append(event.data)

    header = encode_entry(Event(1), producer=PRODUCER, number=1)[1]
    newer = consuming.send_raw([b"h", header[:2] + b"\x63" + header[3:], b"b", b"\x01"])
    consuming.send(1)
    with consuming.running() as running:
        until(lambda: seen == [1] and list(consuming.pending()) == [newer], what="the newer one is left")
        until(lambda: consuming.pending()[newer][1] == 0, what="it is released")
        until(lambda: not running.members[0].state.window, what="the member has heard that")
    assert consuming.dead() == []
    assert consuming.pending()[newer][1] == 0


def test_a_released_entry_is_taken_by_a_member_that_knows_it(consuming: Consuming) -> None:
    """After claim_after, as its first run. (The newer member is played by one that reads the mended bytes.)"""
    attempts: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s")
    def handle(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)

    (entry_id,) = consuming.send(1)
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    consuming.link.call("XREADGROUP", "GROUP", "g", "older", "STREAMS", consuming.stream, ">")
    consuming.link.call(
        "XCLAIM", consuming.stream, "g", "older", 0, entry_id, "IDLE", 0, "RETRYCOUNT", 0, "JUSTID"
    )
    consuming.run_until_drained()
    assert attempts == [1]


@pytest.mark.parametrize("codec", [Codec.JSON, Codec.FIELDS])
def test_other_codecs_are_handled_and_retried(consuming: Consuming, codec: Codec) -> None:
    """Readers need not be told how an event was written."""
    seen: list[object] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=AT_ONCE)
    def handle(event: Event, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError
        seen.append((event.id, event.data))

    consuming.send_raw(encode_entry(Event({"n": "x"}), producer=PRODUCER, number=5, codec=codec))
    consuming.run_until_drained()
    assert seen == [(f"{PRODUCER}-5", {"n": "x"})]


def test_retries_are_counted_apart_from_what_is_done(consuming: Consuming) -> None:
    """The member's counts say what became of what it read."""

    @consuming.app.consumer(consuming.stream, group="g", retry=AT_ONCE)
    def handle(event: Event) -> None:
        if event.data == 0:
            raise ValueError

    consuming.send(*range(10))
    running = consuming.run_until_drained()
    counts = total(running.members)
    assert (counts["retried"], counts["dead"], counts["taken_over_from_us"]) == (2, 1, 0)


def test_retries_go_on_while_slots_are_busy(consuming: Consuming) -> None:
    """A retry that is due is read before what is new: a full stream does not starve it."""
    go_on = threading.Event()
    order: list[tuple[int, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1, retry=AT_ONCE, window_events=2)
    def handle(event: Event, delivery: Delivery) -> None:
        order.append((event.data, delivery.attempt))
        if event.data == 0 and delivery.attempt == 1:
            raise ValueError
        if delivery.attempt == 1:
            go_on.wait(0.002)

    consuming.send(*range(300))
    consuming.run_until_drained()
    assert order.index((0, 2)) < 290


@pytest.mark.parametrize("taken", ["events", "due times"])
def test_half_of_a_retry_is_taken_away(
    consuming: Consuming, caplog: pytest.LogCaptureFixture, taken: str
) -> None:
    """Without its event a retry is lost, which is said and counted; without its due time it runs at once."""
    runs: Counter[int] = Counter()

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(3, initial="1h", longest="1h"))
    def handle(event: Event) -> None:
        runs[event.data] += 1
        if runs[event.data] == 1:
            raise ValueError("the first time")

    keys = consuming.keys
    with consuming.running() as running:
        ids = consuming.send(1, 2)
        until(lambda: consuming.waiting() == 2 and not consuming.pending(), what="both wait for their time")
        consuming.link.call("DEL", keys.retry_bodies("g") if taken == "events" else keys.retry("g"))
        if taken == "events":
            waiting = consuming.link.call("ZRANGE", keys.retry("g"), 0, -1)
            consuming.link.call(
                "ZADD", keys.retry("g"), "XX", *(word for name in waiting for word in (1, name))
            )
        until(
            lambda: any("retries" in r.getMessage() and "evicted" in r.getMessage() for r in caplog.records),
            what="it is said",
        )
        consuming.until_drained()
        assert total(running.members)["lost_retries"] == (2 if taken == "events" else 0)
    said = [r.getMessage() for r in caplog.records if "evicted" in r.getMessage()]
    if taken == "events":
        assert len(said) == 1, "both were due at once"
        assert consuming.stream in said[0]
        assert "events=2" in said[0]
        assert any(f"entry_id={entry_id!r}" in said[0] for entry_id in ids)
    assert runs == ({1: 1, 2: 1} if taken == "events" else {1: 2, 2: 2})
    assert consuming.dead() == []
    assert not consuming.link.call("EXISTS", keys.retry("g"), keys.retry_bodies("g"))
