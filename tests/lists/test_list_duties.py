"""What the member on duty does for its list: delayed tasks run at their time, and what old workers left runs too."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.due import Due
from pipeline.event import Event
from pipeline.list_options import ListOptions
from pipeline.server.groups import pause
from pipeline.server.list_push import push
from tests.conftest import Server
from tests.lists.beside import NAME
from tests.lists.classic import ClassicQueue, finish, stop_after
from tests.lists.conftest import Listing, listing_on
from tests.until import until

ON_TIME_S = 0.5
"""Tests share their processors with others: this is not what is promised, but far from a wait that was forgotten."""


def schedule(listing: Listing, options: ListOptions, number: int, *tasks: bytes, after_ms: int) -> None:
    """Delayed, as somebody else does it."""
    push(listing.link, options, "test", number, tasks, due=Due(after_ms=after_ms))


@pytest.mark.parametrize("members", ["unique", "classic"])
def test_a_delayed_task_runs_at_its_time(listing: Listing, members: str) -> None:
    """Scheduled by anybody while the worker idles; the earliest due runs first."""
    options = listing.options(format=members, scheduled=f"{listing.list}-scheduled")
    seen: list[tuple[Any, float]] = []

    @listing.app.consumer(list=options, concurrency=1)
    def handle(event: Event) -> None:
        seen.append((event.data, time.monotonic()))

    with listing.running():
        until(lambda: listing.link.call("EXISTS", listing.keys.duty("workers")))
        begun_s = time.monotonic()
        schedule(listing, options, 1, b"third", after_ms=600)
        schedule(listing, options, 2, b"second", after_ms=300)
        schedule(listing, options, 3, b"first", after_ms=0)
        until(lambda: len(seen) == 3)
    assert [data for data, _ in seen] == ["first", "second", "third"]
    for (_, ran_s), due_s in zip(seen, (0, 0.3, 0.6), strict=True):
        assert -0.005 < ran_s - begun_s - due_s < ON_TIME_S


def test_producers_may_go_over_to_unique_before_workers(listing: Listing) -> None:
    """A worker of the format classic promotes both: equal tasks that are delayed in the format unique run each."""
    old = listing.options(format="classic", scheduled=f"{listing.list}-scheduled")
    seen: list[Any] = []
    listing.app.consumer(list=old)(lambda event: seen.append(event.data))
    with listing.running():
        schedule(listing, old, 1, b"old", after_ms=100)
        schedule(listing, listing.options(), 2, b"new", after_ms=100)
        schedule(listing, listing.options(), 3, b"new", after_ms=100)
        until(lambda: sorted(seen) == ["new", "new", "old"], what=lambda: str(seen))


def test_delayed_tasks_are_promoted_while_the_group_is_paused(listing: Listing) -> None:
    """Old workers of the list wait for them as well."""
    options = listing.options()
    listing.app.consumer(list=options)(lambda event: None)
    with listing.running() as running:
        assert pause(listing.link, listing.keys, "workers", by="test", reason="")[0]
        until(lambda: all(member.state.pause is not None for member in running.members))
        schedule(listing, options, 1, b"due", after_ms=0)
        until(lambda: listing.left() == [b"due"])


@pytest.mark.parametrize("key", ["due", "scheduled", "processing", "seen"])
def test_a_key_of_another_type_is_said_and_tasks_run_on(
    listing: Listing, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    """Neither delayed tasks nor old leftovers are what a worker lives on."""
    options = listing.options(
        format="classic" if key == "scheduled" else "unique",
        scheduled=f"{listing.list}-scheduled",
        old_processing=f"{listing.list}-old",
        old_records=f"{listing.list}-old:",
    )
    wrong = {
        "due": options.keys.due,
        "scheduled": options.scheduled,
        "processing": options.old_processing,
        "seen": options.keys.seen,
    }[key]
    seen: list[Any] = []

    @listing.app.consumer(list=options)
    def handle(event: Event) -> None:
        seen.append(event.data)

    listing.link.call("SET", wrong, "something else")
    with listing.running():
        until(lambda: "cannot look after the list just now" in caplog.text, what=lambda: caplog.text)
        listing.push("a")
        until(lambda: seen == ["a"])
        listing.link.call("DEL", wrong)
        if key in ("due", "scheduled"):
            schedule(listing, options, 1, b"b", after_ms=0)
        else:
            listing.link.call("LPUSH", options.old_processing, "b")
            record = f"{options.old_records}x"
            listing.link.call("HSET", record, "task", "b", "timestamp", 1, "timeout", 1)
        until(lambda: seen == ["a", "b"])
    assert wrong in caplog.text


@pytest.fixture
def beside(old_server: Server) -> Iterator[Listing]:
    """The list that old workers of theirs work."""
    with listing_on(old_server.address, NAME) as one:
        yield one


def test_what_killed_old_workers_left_runs_here(beside: Listing, old: ClassicQueue) -> None:
    """With a record that times out after a second, without one, and none that was acknowledged."""
    options = ListOptions(name=NAME, old_processing="processing", old_timeout_ms=1_000)
    old.timeout_s = 1
    for task, step in ((b"recorded", "recorded"), (b"moved", "moved")):
        old.push(task)
        stop_after(old.dequeue(), step)
    old.push(b"done")
    finish(old.dequeue())
    stop_after(old.acknowledge(b"done"), "removed")
    seen: list[Any] = []

    @beside.app.consumer(list=options)
    def handle(event: Event) -> None:
        seen.append(event.data)

    with beside.running():
        until(lambda: len(seen) == 2)
        until(lambda: not old.redis.keys("processing*"), what="records and processing list are cleared")
        beside.until_gone()
    assert sorted(seen) == ["moved", "recorded"]


def test_a_live_old_worker_keeps_what_it_runs(beside: Listing, old: ClassicQueue) -> None:
    """Its record says how long it may take."""
    options = ListOptions(name=NAME, old_processing="processing", old_timeout_ms=1_000)
    old.push(b"long")
    finish(old.dequeue())
    seen: list[Any] = []

    @beside.app.consumer(list=options)
    def handle(event: Event) -> None:
        seen.append(event.data)

    old.push(b"dead")
    stop_after(old.dequeue(), "moved")
    with beside.running():
        until(lambda: seen == ["dead"])  # it had stood for a full timeout; the other has five minutes
    assert old.redis.lrange("processing", 0, -1) == [b"long"]


def test_delayed_tasks_of_another_list_are_left_to_it(
    listing: Listing, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own ones, in the format unique, run at their time all the same."""
    options = listing.options(format="classic", scheduled=f"{listing.list}-scheduled")
    listing.link.call("SET", f"{{{options.scheduled}}}:list:owner", "sms")
    listing.link.call("ZADD", options.scheduled, 1, "of sms")
    seen: list[Any] = []
    listing.app.consumer(list=options)(lambda event: seen.append(event.data))
    with listing.running():
        until(lambda: "is what list 'sms' has declared as its own" in caplog.text)
        schedule(listing, listing.options(), 1, b"ours", after_ms=300)
        until(lambda: seen == ["ours"])
    assert listing.link.call("ZRANGE", options.scheduled, 0, -1) == [b"of sms"]


def test_a_processing_list_that_another_list_has_declared_is_left_to_it(
    listing: Listing, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker says so once, and works its list."""
    options = listing.options(old_processing=f"{listing.list}-old", old_records=f"{listing.list}-old:")
    listing.link.call("SET", f"{{{options.old_processing}}}:list:owner", "sms")
    listing.link.call("LPUSH", options.old_processing, "of sms")
    listing.link.call("HSET", f"{options.old_records}x", "task", "of sms", "timestamp", 1, "timeout", 1)
    seen: list[Any] = []

    @listing.app.consumer(list=options)
    def handle(event: Event) -> None:
        seen.append(event.data)

    with listing.running():
        until(lambda: "is what list 'sms' has declared as its own" in caplog.text)
        schedule(listing, options, 1, b"later", after_ms=1_200)
        until(lambda: seen == ["later"])
    assert caplog.text.count("has declared as its own") == 1
    assert listing.link.call("LRANGE", options.old_processing, 0, -1) == [b"of sms"]
