"""Callbacks: on_success, on_retry and on_dead tell what became of events, after the server has done it."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from consumers.app import Pipeline
from consumers.consumer import Consumer
from consumers.testing import TestPipeline
from pipeline.declare import ConsumerSpec
from pipeline.envelope import DeadLetter, read_dead
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.options import Retry, consumer_options
from pipeline.outcome import Later, Outcome, Outcomes, Reject
from pipeline.server.connect import Link
from tests.conftest import Server
from tests.consuming import Consuming
from tests.until import until

TWICE = Retry(2, 0, 0)


class Told:
    """What callbacks were told, and what the server held just then."""

    def __init__(self, consuming: Consuming, link: Link) -> None:
        self.key = consuming.keys.dead("g")
        self.link = link
        """Used by the callbacks' thread alone."""
        self.successes: list[tuple[Any, int]] = []
        self.retries: list[tuple[Any, int, str]] = []
        self.deaths: list[tuple[Any, str, int]] = []
        self.found: list[bool] = []
        """Whether it had been done when it was told."""

    def options(self) -> dict[str, Any]:
        """All three, for app.consumer()."""
        return {"on_success": self.on_success, "on_retry": self.on_retry, "on_dead": self.on_dead}

    def on_success(self, event: Event, delivery: Any) -> None:
        self.successes.append((event.data, delivery.attempt))

    def on_retry(self, event: Event, delivery: Any, outcome: Outcome) -> None:
        self.retries.append((event.data, delivery.attempt, outcome.reason))

    def on_dead(self, event: Event | None, letter: DeadLetter) -> None:
        self.deaths.append((event.data if event else None, letter.reason, letter.attempts))
        kept = [read_dead(fields)[0] for _, fields in self.link.call("XRANGE", self.key, "-", "+")]
        self.found.append(letter in kept)


@pytest.fixture
def told(consuming: Consuming, server: Server) -> Iterator[Told]:
    """For group g."""
    connector = server.connector()
    link = connector.link("told")
    yield Told(consuming, link)
    link.close()
    connector.close()


def until_told(consuming: Consuming, running: Any) -> None:
    """Until the group is drained, and all was told."""
    consuming.until_drained()
    until(lambda: running.members[0].idle() and running.members[0].told(), what="all is told")


@pytest.mark.parametrize("kind", ["plain", "async", "batch"])
def test_each_outcome_is_told_once_after_it_was_settled(consuming: Consuming, told: Told, kind: str) -> None:
    """Single events and those of packs: which succeeded, in which run; what is retried, and why; what died."""

    def plain(event: Event, attempt: int = 0) -> None:
        if event.data == "later" and not later.is_set():
            later.set()
            raise Later(0)
        if event.data in ("once", "never") and not (event.data == "once" and runs[event.id]):
            runs[event.id] += 1
            raise ValueError(event.data)
        if event.data == "reject":
            raise Reject("no")

    async def on_the_loop(event: Event) -> None:
        plain(event)

    def batch(events: list[Event]) -> Outcomes:
        outcomes = Outcomes()
        for index, event in enumerate(events):
            try:
                plain(event)
            except Exception as error:  # noqa: BLE001 - told apart by its class
                outcomes.fail(index, error)
        return outcomes

    runs: Counter[str] = Counter()
    later = threading.Event()
    handlers: dict[str, Any] = {"plain": plain, "async": on_the_loop, "batch": batch}
    options: dict[str, Any] = {"batch": 10} if kind == "batch" else {}
    consuming.app.consumer(consuming.stream, group="g", retry=TWICE, **told.options(), **options)(
        handlers[kind]
    )
    consuming.send("fine", "once", "never", "reject", "later")
    consuming.send_pack(["fine", "once", "never"])
    with consuming.running() as running:
        until_told(consuming, running)
        assert running.members[0].counts.callbacks_failed == 0
    assert Counter(told.successes) == Counter({("fine", 1): 2, ("once", 2): 2, ("later", 1): 1})
    assert Counter(told.retries) == Counter({("once", 1, "once"): 2, ("never", 1, "never"): 2})
    assert Counter(told.deaths) == Counter({("never", "never", 2): 2, ("reject", "no", 1): 1})
    assert all(told.found)


def test_a_callback_that_raises_changes_nothing(
    consuming: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and counted; the event is settled, and what comes after is told."""
    told: list[int] = []

    def on_success(event: Event, delivery: Any) -> None:
        told.append(event.data)
        if event.data % 2:
            raise SystemExit("the pager is down")

    consuming.app.consumer(consuming.stream, group="g", on_success=on_success)(lambda event: None)
    consuming.send(*range(10))
    with consuming.running() as running:
        until_told(consuming, running)
        assert running.members[0].counts.callbacks_failed == 5
        assert running.members[0].failure is None
    assert sorted(told) == list(range(10))
    assert any("on_success raised" in record.getMessage() for record in caplog.records)


def test_an_async_callback_runs_on_the_loop_of_its_handler(consuming: Consuming) -> None:
    """So that it may use what the handlers use there."""
    loops: set[int] = set()

    async def on_dead(event: Event | None, letter: DeadLetter) -> None:
        await asyncio.sleep(0)
        loops.add(id(asyncio.get_running_loop()))

    @consuming.app.consumer(consuming.stream, group="g", retry=1, on_dead=on_dead)
    async def handle(event: Event) -> None:
        loops.add(id(asyncio.get_running_loop()))
        raise ValueError

    consuming.send(1)
    with consuming.running() as running:
        until_told(consuming, running)
    assert len(loops) == 1


def test_slow_callbacks_bound_what_is_read(consuming: Consuming, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too much to tell the member reads no more; nothing is left out."""
    monkeypatch.setattr("consumers.callbacks.MOST_EVENTS", 50)
    go_on, told = threading.Event(), []

    def on_success(event: Event, delivery: Any) -> None:
        assert go_on.wait(20)
        told.append(event.data)

    consuming.app.consumer(consuming.stream, group="g", on_success=on_success, window_events=20)(
        lambda event: None
    )
    consuming.send(*range(500))
    with consuming.running() as running:
        counts = running.members[0].counts
        until(lambda: counts.settled > 50, what="as much is settled as may be")
        until(running.members[0].idle)
        assert counts.settled < 150
        go_on.set()
        until_told(consuming, running)
    assert sorted(told) == list(range(500))


def test_a_corrupt_event_dies_without_one(consuming: Consuming, told: Told) -> None:
    """The callback gets the letter, which says what was wrong."""
    consuming.app.consumer(consuming.stream, group="g", **told.options())(lambda event: event.data)
    (fields,) = consuming.encoded(1)
    consuming.send_raw([*fields[:3], b"\xc1\xc1"])
    with consuming.running() as running:
        until_told(consuming, running)
    ((data, reason, attempts),) = told.deaths
    assert (data, attempts, told.successes) == (None, 1, [])
    assert reason.startswith("cannot be decoded")


def test_handlers_of_a_group_have_callbacks_of_their_own(consuming: Consuming) -> None:
    """Each is told of its own types; nobody of what no handler takes."""
    told: list[str] = []

    def teller(name: str) -> Any:
        return lambda event, delivery: told.append(f"{name}:{event.data}")

    consuming.app.consumer(consuming.stream, group="g", types=["a"], on_success=teller("a"))(
        lambda event: None
    )
    consuming.app.consumer(consuming.stream, group="g", types=["b"], on_success=teller("b"))(
        lambda event: None
    )
    consuming.send(1, type="a")
    consuming.send(2, type="b")
    consuming.send(3, type="c")
    with consuming.running() as running:
        until_told(consuming, running)
    assert sorted(told) == ["a:1", "b:2"]


def test_what_once_passes_over_is_no_success_again(consuming: Consuming) -> None:
    """Its handler did not run."""
    told: list[int] = []
    consuming.app.consumer(
        consuming.stream, group="g", once=True, on_success=lambda event, delivery: told.append(event.data)
    )(lambda event, delivery: None)
    (fields,) = consuming.encoded(1)
    with consuming.running() as running:
        for _ in range(2):
            consuming.send_raw(fields)
            until_told(consuming, running)
    assert told == [1]


def test_a_consumer_in_a_loop_has_callbacks_too(consuming: Consuming, told: Told) -> None:
    """And what is left to tell when it closes is told."""
    consuming.send(1, 2)
    with Consumer(consuming.stream, group="g", url=consuming.url, **told.options()) as consumer:
        first = next(consumer)
        first.reject("no")
        consumer._last = None
        next(consumer)
    assert (told.deaths, told.successes) == ([(1, "no", 1)], [(2, 1)])


def test_a_test_pipeline_waits_until_all_is_told() -> None:
    """What a callback did can be looked at when run_until_idle() returns."""
    app = Pipeline()
    told: list[int] = []
    app.consumer("orders", group="g", on_success=lambda event, delivery: told.append(event.data))(
        lambda event: None
    )
    with TestPipeline(app) as test:
        for n in range(20):
            test.send("orders", n)
        test.run_until_idle()
        assert sorted(told) == list(range(20))


async def _async_callback(event: Event | None, letter: DeadLetter) -> None: ...


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"on_dead": "page"}, "on_dead .* is a str, not a function"),
        ({"on_dead": lambda event: None}, "on_dead .* takes 1 arguments; it is given 2: event, letter"),
        ({"on_retry": lambda event, delivery: None}, "on_retry .* given 3: event, delivery, outcome"),
        ({"on_dead": _async_callback}, "on_dead .* is async and the handler is not"),
    ],
)
def test_a_callback_that_cannot_be_called_is_refused(given: dict[str, Any], says: str) -> None:
    """Where it is declared, by its name."""
    with pytest.raises(UsageError, match=says):
        ConsumerSpec(stream="s", group="g", handler=lambda event: None, options=consumer_options(**given))
