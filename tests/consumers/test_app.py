"""Pipeline: what may be declared, where a group begins, and how an app runs inside another."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from consumers.app import Pipeline
from consumers.testing import TestPipeline
from pipeline.errors import NotFoundError, UsageError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.options import Retry
from pipeline.outcome import Later
from tests.consuming import Consuming, total
from tests.until import until


def nothing(event: Event) -> None:
    """A handler."""


def test_two_handlers_for_the_same_events_conflict() -> None:
    """A group has one handler for a type: the error names both, and the remedy."""
    app = Pipeline()
    app.consumer("orders", group="billing")(nothing)
    for types in ((), "order.*"):
        with pytest.raises(UsageError, match=r"group 'billing' of stream 'orders'.*types="):
            app.consumer("orders", group="billing", types=types)(nothing)
    app.consumer("orders", group="audit")(nothing)
    app.consumer("payments", group="billing")(nothing)


def test_handlers_of_different_types_share_a_group() -> None:
    """As long as their types differ."""
    app = Pipeline()
    app.consumer("orders", group="g", types="a")(nothing)
    app.consumer("orders", group="g", types="b")(nothing)
    with pytest.raises(UsageError, match="types="):
        app.consumer("orders", group="g", types="a")(nothing)
    with pytest.raises(UsageError, match="types="):
        app.consumer("orders", group="g")(nothing)


def test_a_namespace_prefixes_stream_names() -> None:
    """And nothing else: groups and selections are named as in code."""
    app = Pipeline(namespace="prod")
    app.consumer("orders", group="g")(nothing)
    assert [spec.stream for spec in app.specs] == ["prod:orders"]
    assert [spec.stream for spec in app.select(streams=["orders"])] == ["prod:orders"]
    assert app.stream_name("x") == "prod:x"


def test_groups_and_streams_can_be_selected() -> None:
    """By name; a name that nothing is declared for is an error that says what there is."""
    app = Pipeline()
    for stream, group in (("a", "x"), ("a", "y"), ("b", "x")):
        app.consumer(stream, group=group)(nothing)

    def chosen(**names: list[str]) -> list[tuple[str, str]]:
        return [(spec.stream, spec.group) for spec in app.select(**names)]

    assert chosen() == [("a", "x"), ("a", "y"), ("b", "x")]
    assert chosen(groups=["x"]) == [("a", "x"), ("b", "x")]
    assert chosen(groups=["x"], streams=["b"]) == [("b", "x")]
    with pytest.raises(NotFoundError, match="'z'; there are: x, y"):
        app.select(groups=["z"])
    with pytest.raises(NotFoundError, match="'c'; there are: a, b"):
        app.select(streams=["c"])
    with pytest.raises(NotFoundError, match="no consumer"):
        app.select(groups=["y"], streams=["b"])
    with pytest.raises(NotFoundError, match="no consumer"):
        Pipeline().select()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"batch": 0}, "batch"),
        ({"claim_after": "10ms"}, "claim_after"),
        ({"retry": 0}, "attempts"),
        ({"start": "yesterday"}, "start"),
        ({"executor": "gpu"}, "executor"),
        ({"window_bytes": "0"}, "window_bytes"),
        ({"max_run": 0}, "max_run"),
    ],
)
def test_options_that_cannot_be_are_refused_where_they_are_written(
    options: dict[str, object], named: str
) -> None:
    """At declaration, by name: not when the app runs."""
    with pytest.raises(UsageError, match=named):
        Pipeline().consumer("s", group="g", **options)(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "seen"), [("start", [1, 2, 3]), ("end", [3])])
def test_a_new_group_begins_at_its_start(consuming: Consuming, start: str, seen: list[int]) -> None:
    """`start` is the default and misses nothing; `end` is for what comes from now on."""
    got: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", start=start)
    def handle(event: Event) -> None:
        got.append(event.data)

    consuming.send(1, 2)
    with consuming.running():
        consuming.send(3)
        consuming.until_drained()
    assert sorted(got) == seen


def test_a_new_group_begins_at_an_entry_id_or_some_time_ago(consuming: Consuming) -> None:
    """By the server's clock, and the ids it gives."""
    got: dict[str, list[int]] = {"after": [], "recent": []}
    for number, entry_id in enumerate(("1000-1", "1000-2", "2000-1")):
        consuming.link.call("XADD", consuming.stream, entry_id, "n", number)
    consuming.send_raw(["n", "3"])
    for group, start in (("after", "10000-0"), ("recent", "-1h")):

        def handle(event: Event, group: str = group) -> None:
            got[group].append(int(event.data["n"]))

        consuming.app.consumer(consuming.stream, group=group, start=start)(handle)
    with consuming.running():
        for group in got:
            consuming.until_drained(group)
    assert got == {"after": [3], "recent": [3]}


def test_a_group_goes_on_where_it_was(consuming: Consuming) -> None:
    """`start` is for new groups only."""
    got: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", start="end")
    def handle(event: Event) -> None:
        got.append(event.data)

    with consuming.running():
        consuming.send(1)
        consuming.until_drained()
    consuming.send(2)
    consuming.run_until_drained()
    assert got == [1, 2]


def test_a_stream_that_is_something_else_is_refused_at_start(consuming: Consuming) -> None:
    """One error, and nothing is left running."""
    consuming.link.call("SET", consuming.stream, "text")
    consuming.app.consumer(consuming.stream, group="g")(nothing)
    before = set(threading.enumerate())
    with pytest.raises(WrongKeyTypeError, match=consuming.stream), consuming.running():
        raise AssertionError("unreachable")
    until(
        lambda: (
            not [t for t in set(threading.enumerate()) - before if "reader" in t.name or "duty" in t.name]
        ),
        what="no thread of a member is left",
    )


def test_the_window_is_bounded_in_events(consuming: Consuming) -> None:
    """However much is in the stream: what is not handled yet stays on the server for others."""
    go_on = threading.Event()
    consuming.app.consumer(consuming.stream, group="g", concurrency=2, window_events=10)(
        lambda event: go_on.wait(30)
    )
    consuming.send(*range(500))
    with consuming.running() as running:
        window = running.members[0].state.window
        until(lambda: window.events >= 10, what="the window is full")
        consuming.send(*range(100))
        assert len(consuming.pending()) == window.events == 10
        go_on.set()
        consuming.until_drained()
    assert total(running.members)["settled"] == 600


def test_the_window_is_bounded_in_bytes(consuming: Consuming) -> None:
    """Large events fill it sooner; once their size is known, at most one reaches beyond."""
    go_on = threading.Event()

    def handle(event: Event) -> None:
        if event.key == "stay":
            go_on.wait(30)

    consuming.app.consumer(consuming.stream, group="g", concurrency=100, window_bytes="1MB")(handle)
    with consuming.running() as running:
        window = running.members[0].state.window
        consuming.send(*["x" * 100_000] * 20)
        consuming.until_drained()
        consuming.send(*["x" * 100_000] * 30, key="stay")
        until(lambda: window.bytes >= 900_000, what="the window is full")
        assert window.bytes <= 1_200_000
        go_on.set()
        consuming.until_drained()


def test_an_app_runs_inside_another_event_loop(consuming: Consuming) -> None:
    """async with app.running(): async handlers run on the caller's loop, with its resources."""
    seen: list[tuple[int, bool]] = []
    steps: list[str] = []

    @consuming.app.lifespan
    async def resources() -> AsyncIterator[None]:
        steps.append("up")
        yield
        steps.append("down")

    async def main() -> None:
        loop = asyncio.get_running_loop()

        @consuming.app.consumer(consuming.stream, group="g")
        async def handle(event: Event) -> None:
            seen.append((event.data, asyncio.get_running_loop() is loop))
            steps.append("handled")

        async with consuming.app.running() as running:
            await asyncio.to_thread(consuming.send, 1)
            await asyncio.to_thread(consuming.until_drained)
            assert running.failure is None

    asyncio.run(main())
    assert seen == [(1, True)]
    assert steps == ["up", "handled", "down"]
    assert consuming.consumers() == {}


def test_lifespans_are_left_in_the_opposite_order_after_the_handlers(consuming: Consuming) -> None:
    """What a handler uses is there until the last one has ended."""
    steps: list[str] = []

    async def first() -> AsyncIterator[None]:
        steps.append("first up")
        yield
        steps.append("first down")

    async def second() -> AsyncIterator[None]:
        steps.append("second up")
        yield
        steps.append("second down")

    consuming.app.lifespan(first)
    consuming.app.lifespan(second)

    async def main() -> None:
        started = asyncio.Event()

        @consuming.app.consumer(consuming.stream, group="g")
        async def handle(event: Event) -> None:
            started.set()
            await asyncio.sleep(0.1)
            steps.append("handled")

        async with consuming.app.running():
            await asyncio.to_thread(consuming.send, 1)
            await asyncio.wait_for(started.wait(), 10)

    asyncio.run(main())
    assert steps == ["first up", "second up", "handled", "second down", "first down"]


def test_a_test_pipeline_runs_an_app_until_it_is_idle() -> None:
    """Sends, handlers, dead letters: an application's tests need nothing else."""
    app = Pipeline("redis://nowhere.invalid", namespace="shop")
    seen: list[object] = []

    @app.consumer("orders", group="billing", types="order.*")
    async def bill(event: Event) -> None:
        if event.data["id"] == 13:
            raise Later("1h")
        if event.data["id"] < 0:
            raise ValueError("negative")
        seen.append((event.id, event.data["id"]))

    with TestPipeline(app) as test:
        sent = test.send("orders", {"id": 7}, type="order.placed")
        test.run_until_idle()
        assert seen == [(sent, 7)]
        assert test.dead("orders", "billing") == []

        test.send("orders", {"id": 13}, type="order.placed")
        test.run_until_idle()
        assert test.waiting("orders", "billing") == 1
        test.advance("59m")
        test.run_until_idle()
        assert test.waiting("orders", "billing") == 1

        test.send("orders", {"id": -1}, type="order.placed")
        for _ in range(5):
            test.run_until_idle()
            test.advance("1m")
        ((letter, event),) = test.dead("orders", "billing")
        assert (letter.reason, letter.attempts) == ("negative", 5)
        assert event is not None
        assert event.data == {"id": -1}


def test_a_test_pipeline_is_idle_only_when_retries_that_are_due_have_run() -> None:
    """What goes from hand to hand meanwhile is never missed."""
    app = Pipeline()
    runs = 0

    @app.consumer("s", group="g", retry=Retry(4, 0, 0))
    def handle(event: Event) -> None:
        nonlocal runs
        runs += 1
        raise ValueError

    with TestPipeline(app) as test:
        test.send("s", 1)
        test.run_until_idle()
        assert (runs, len(test.dead("s", "g"))) == (4, 1)


def test_a_test_pipeline_says_when_an_app_is_never_idle() -> None:
    """A handler that hangs is a TimeoutError, not a test that hangs."""
    app = Pipeline()
    go_on = threading.Event()
    app.consumer("s", group="g", grace=0)(lambda event: go_on.wait(30))
    with TestPipeline(app) as test:
        test.send("s", 1)
        with pytest.raises(TimeoutError):
            test.run_until_idle(timeout="200ms")
        go_on.set()


def test_keys_of_an_app_are_those_of_its_streams(consuming: Consuming) -> None:
    """Nothing is written beside them: no key outside the stream's own slot."""
    consuming.app.consumer(consuming.stream, group="g:{x}%")(nothing)
    consuming.send(1)
    with consuming.running():
        consuming.until_drained("g:{x}%")
        keys = {key.decode() for key in consuming.link.call("KEYS", f"*{consuming.stream}*")}
    prefix = StreamKeys(consuming.stream).prefix
    assert {consuming.stream} == {key for key in keys if not key.startswith(prefix)}
    assert f"{prefix}members:g%3A%7Bx%7D%25" in keys
