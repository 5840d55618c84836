"""Workers of a list among others: what they take and leave, how they stop, and what is lost around them."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.consumer import Consumer
from consumers.delivery import Delivery
from pipeline.errors import UsageError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.list_options import WORKERS
from pipeline.options import Retry
from pipeline.outcome import Later, Reject
from pipeline.server.connect import Connector
from pipeline.server.groups import pause, resume
from tests.conftest import OwnServer, Server
from tests.console.command import end_all, started
from tests.lists.conftest import Listing, listing_on, worker_of
from tests.until import until


class Old:
    """An old worker: BRPOP in a loop, with a connection of its own."""

    def __init__(self, listing: Listing) -> None:
        self.got: list[bytes] = []
        self._link = Connector(listing.url).link("old")
        self._list = listing.list
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let it end."""
        self._over.set()
        self._thread.join()
        self._link.close()

    def _work(self) -> None:
        while not self._over.is_set():
            popped = self._link.call("BRPOP", self._list, 0.05)
            if popped:
                self.got.append(popped[1])


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    """A test that fails leaves nothing running."""
    yield
    end_all()


def test_a_worker_takes_no_more_than_its_window(listing: Listing) -> None:
    """The rest is there for old workers, which take it from the same end."""
    running = listing.block_list(concurrency=1)
    with listing.running() as workers:
        until(lambda: workers.members[0].state.watching)
        listing.push(*(str(n) for n in range(100)))
        assert running.wait(10)
        until(lambda: workers.members[0].counts.read == 2)
        old = Old(listing)
        until(
            lambda: len(old.got) == 98, 3, what=lambda: f"{len(old.got)} {listing.taken()} {listing.left()}"
        )
        old.stop()
        assert listing.taken() == 2
        assert listing.link.call("EXISTS", listing.list_keys.hand) == 0
    assert old.got == [str(n).encode() for n in range(2, 100)]


def test_old_workers_and_ours_share_a_list(listing: Listing) -> None:
    """Each task runs once, equal ones each for themselves."""
    ours: list[bytes] = []

    @listing.app.consumer(list=listing.list, concurrency=2)
    def handle(event: Event) -> None:
        ours.append(event.data.encode())

    old = Old(listing)
    with listing.running():
        for n in range(2_000):
            listing.push(str(n % 700))
        listing.until_gone()
    old.stop()
    assert sorted(ours + old.got) == sorted(str(n % 700).encode() for n in range(2_000))
    assert ours


def test_a_worker_that_waits_stops_at_once(listing: Listing) -> None:
    """Its wait at the list is ended, as that at the stream is."""
    listing.app.consumer(list=listing.list)(print)
    with listing.running() as running:
        until(lambda: running.members[0].state.watching)
        began_s = time.monotonic()
        assert running.stop()
        assert time.monotonic() - began_s < 0.8
    blocked = [line for line in clients(listing) if b"cmd=blmove" in line and b"flags=b" in line]
    assert not [line for line in blocked if listing.list.encode() in line]


def clients(listing: Listing) -> list[bytes]:
    """CLIENT LIST, by line."""
    found: bytes = listing.link.call("CLIENT", "LIST")
    return found.splitlines()


def test_a_paused_group_takes_nothing(listing: Listing) -> None:
    """What comes stays in the list for old workers; afterwards it goes on."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list)
    def handle(event: Event) -> None:
        seen.append(event.data)

    with listing.running() as running:
        state = running.members[0].state
        until(lambda: state.watching)
        pause(listing.link, listing.keys, WORKERS, by="test", reason="because")
        until(lambda: state.pause is not None and not state.watching and not state.reader_blocked)
        listing.push("a", "b")
        until(lambda: state.clock.now_ms(0) is not None and len(listing.left()) == 2)
        old = Old(listing)
        until(lambda: len(old.got) == 2)
        old.stop()
        listing.push("c")
        resume(listing.link, listing.keys, WORKERS)
        until(lambda: seen)
        listing.until_gone()
    assert seen == ["c"]


def test_what_lies_in_the_hand_is_moved_on_by_the_member_on_duty(listing: Listing) -> None:
    """A watcher died between the two steps, or its connection did."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list)
    def handle(event: Event) -> None:
        seen.append(event.data)

    with listing.running():
        listing.link.call("LPUSH", listing.list_keys.hand, "left behind")
        until(lambda: seen, 3)
        listing.until_gone()


@pytest.mark.parametrize("lost", ["group", "stream", "everything"])
def test_a_lost_group_comes_back_and_reads_all_that_is_not_settled(own_server: OwnServer, lost: str) -> None:
    """Its stream holds nothing else; without the stream, what comes next is worked off."""
    server = own_server()
    with listing_on(server.address, "emails") as listing:
        seen: list[object] = []
        first, go_on = threading.Event(), threading.Event()

        @listing.app.consumer(list="emails", concurrency=1)
        def handle(event: Event) -> None:
            seen.append(event.data)
            first.set()
            go_on.wait(20)

        listing.push("one", "two", "three")
        with listing.running():
            assert first.wait(10)
            until(lambda: listing.taken() == 2)
            if lost == "group":
                listing.link.call("XGROUP", "DESTROY", listing.stream, WORKERS)
            elif lost == "stream":
                listing.link.call("DEL", listing.stream)
            else:
                listing.link.call("FLUSHALL")
            go_on.set()
            until(lambda: listing.exists(WORKERS))
            listing.push("last")
            until(lambda: "last" in seen)
            listing.until_gone()
        expected = {
            "group": {"one", "two", "three", "last"},
            "stream": {"one", "two", "three", "last"},
            "everything": {"one", "two", "last"},
        }[lost]
        assert set(map(str, seen)) - {"two"} == expected - {"two"}
        if lost == "group":
            assert "two" in seen


@pytest.mark.parametrize("when", ["before", "while it waits"])
@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_a_key_of_another_type_ends_the_worker_in_one_line(listing: Listing, order: str, when: str) -> None:
    """Which names the key, and what it holds."""
    options = listing.options(order=order)
    listing.app.consumer(list=options)(print)
    if when == "before":
        listing.link.call("SET", listing.list, "text")
    with listing.running(well=False) as running:
        if when != "before":
            until(lambda: running.members[0].state.reader_waits.is_set())
            listing.link.call("SET", listing.list, "text")
        until(lambda: running.failure)
        assert isinstance(running.failure, WrongKeyTypeError)
        kind = "list" if order == "fifo" else "zset"
        assert str(running.failure) == (
            f"list '{listing.list}', group 'workers': {listing.list} holds a string, not a {kind}"
        )
    assert listing.link.call("GET", listing.list) == b"text"


def test_a_list_has_one_group_also_where_another_app_has_it(listing: Listing) -> None:
    """A second one would see a part of the tasks: its first member is refused."""
    listing.app.consumer(list=listing.list)(print)
    with listing.running(), pytest.raises(UsageError, match="has the group 'workers' already"):
        Consumer(list=listing.list, group="others", url=listing.url).start()
    with pytest.raises(UsageError, match="consume the list"):
        Consumer(listing.stream, group="others", url=listing.url).start()
    with pytest.raises(UsageError, match="rename one of the two"):
        Consumer(list=f"{{{listing.list}}}", url=listing.url).start()


def test_failures_retries_and_rejections_leave_nothing_behind(listing: Listing) -> None:
    """In the stream nothing stands that is settled, however it was."""
    runs: dict[str, int] = {}

    @listing.app.consumer(list=listing.list, retry=Retry(attempts=3, initial="1ms"))
    def handle(event: Event, delivery: Delivery) -> None:
        runs[event.data] = runs.get(event.data, 0) + 1
        if event.data == "reject":
            raise Reject("no")
        if event.data == "later" and runs["later"] < 3:
            raise Later("1ms")
        if event.data == "fails" or (event.data == "once" and delivery.attempt == 1):
            raise ValueError("no")

    listing.push("good", "reject", "later", "fails", "once")
    with listing.running():
        until(lambda: len(listing.dead_of()) == 2)
        listing.until_gone()
    assert runs == {"good": 1, "reject": 1, "later": 3, "fails": 3, "once": 2}
    assert {letter.error for letter, _ in listing.dead_of()} == {"Reject", "ValueError"}
    assert listing.link.call("HLEN", listing.keys.retry_bodies(WORKERS)) == 0


def test_async_and_batch_handlers_take_tasks_of_lists(listing: Listing) -> None:
    """As they take events."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list)
    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.data)

    listing.push(*(str(n) for n in range(50)))
    with listing.running():
        listing.until_gone()
    assert len(seen) == 50
    batches: list[int] = []
    app = type(listing.app)(listing.url)

    @app.consumer(list=listing.list, batch=20)
    def handle_many(events: list[Event]) -> None:
        batches.append(len(events))

    listing.push(*(str(n) for n in range(50)))
    with listing.running(app):
        listing.until_gone()
    assert sum(batches) == 50
    assert max(batches) > 1


def test_what_a_handler_emits_and_wants_done_happens_once(listing: Listing) -> None:
    """In the step that settles the task."""
    out = f"{listing.list}-out"

    @listing.app.consumer(list=listing.list, once=True)
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(out, {"of": event.data}, type="sent")
        delivery.effect("INCRBY", f"{listing.list}-count", 2)

    listing.push("a", "a")
    with listing.running():
        listing.until_gone()
    assert listing.link.call("XLEN", out) == 2
    assert listing.link.call("GET", f"{listing.list}-count") == b"4"


def test_tasks_by_priority_run_lowest_first(listing: Listing) -> None:
    """Also while the worker waits: it looks at the sorted set again and again."""
    seen: list[str] = []
    options = listing.options(order="priority", format="classic")

    @listing.app.consumer(list=options, concurrency=1)
    def handle(event: Event) -> None:
        seen.append(event.data)

    listing.link.call("ZADD", listing.list, 3, "c", 1, "a", 2, "b")
    with listing.running():
        until(lambda: len(seen) == 3)
        listing.link.call("ZADD", listing.list, 5, "d")
        until(lambda: len(seen) == 4, 3)
        listing.until_gone()
    assert seen == ["a", "b", "c", "d"]


APP = """
import os, time
from millstream import Pipeline
app = Pipeline()
@app.consumer(list={name!r}, claim_after="1s", concurrency=4)
def handle(event, delivery):
    with open("began.txt", "a") as file:
        file.write(f"{{os.getpid()}} {{delivery.attempt}} {{event.data}}\\n")
    if os.environ.get("HANGS"):
        time.sleep(60)
"""


def lines(path: Path) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_what_a_killed_worker_held_runs_with_another(
    listing: Listing, server: Server, tmp_path: Path
) -> None:
    """kill -9: what it ran is taken over as its second run; what it had not begun runs too; nothing is left."""
    url = f"unix://{server.address.path}"
    (tmp_path / "shop.py").write_text(APP.format(name=listing.list))
    listing.push(*(str(n) for n in range(20)))
    began = tmp_path / "began.txt"
    hangs = started("run", "shop:app", url=url, cwd=tmp_path, environment={"HANGS": "1"})
    until(lambda: len(lines(began)) == 4)
    other = started("run", "shop:app", url=url, cwd=tmp_path)
    until(lambda: len({words[2] for words in lines(began)}) > 4)
    os.kill(hangs.pid, signal.SIGKILL)
    listing.until_gone(15)
    other.send_signal(signal.SIGTERM)
    assert other.wait(20) == 0
    ran = [words for words in lines(began) if words[0] != str(hangs.pid)]
    assert sorted(int(words[2]) for words in ran) == list(range(20))
    again = {words[2] for words in lines(began) if words[0] == str(hangs.pid)}
    assert {words[2] for words in ran if words[1] == "2"} >= again


def test_workers_are_restarted_one_after_the_other(listing: Listing) -> None:
    """A rolling restart under load: each task runs once."""
    seen: list[str] = []

    @listing.app.consumer(list=listing.list, concurrency=2)
    def handle(event: Event) -> None:
        seen.append(event.data)

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker_of(listing.app)) for _ in range(2)]
        for n in range(600):
            listing.push(str(n))
            if n % 150 == 100:
                assert workers.pop(0).stop()
                workers.append(stack.enter_context(worker_of(listing.app)))
        listing.until_gone()
    assert sorted(map(int, seen)) == list(range(600))


def test_a_servers_death_loses_and_doubles_nothing_that_is_durable(own_server: OwnServer) -> None:
    """kill -9 with appendfsync always: what was taken is there again, and runs."""
    server = own_server(fsync="always")
    with listing_on(server.address, "emails") as listing:
        seen: list[str] = []

        @listing.app.consumer(list="emails", concurrency=2)
        def handle(event: Event) -> None:
            seen.append(event.data)

        listing.push(*(str(n) for n in range(3_000)))
        with listing.running():
            until(lambda: len(seen) > 200)
            server.kill()
            server.restart()
            until(lambda: len(set(seen)) == 3_000, 20, what=lambda: f"{len(set(seen))} seen")
    assert len(seen) - len(set(seen)) <= 1_000, "no more than a window may run twice"


@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_a_worker_works_a_list_off_while_the_server_is_out_of_memory(
    own_server: OwnServer, order: str
) -> None:
    """It joins, takes, retries and leaves; what comes with the memory is seen as before."""
    server = own_server()
    with listing_on(server.address, "emails") as listing:
        runs: dict[str, int] = {}

        @listing.app.consumer(
            list=listing.options(order=order), concurrency=2, retry=Retry(attempts=2, initial="1ms")
        )
        def handle(event: Event) -> None:
            runs[event.data] = runs.get(event.data, 0) + 1
            if event.data == "7" and runs["7"] == 1:
                raise ValueError("no")

        def push(*names: str) -> None:
            if order == "fifo":
                listing.push(*names)
            else:
                listing.link.calls([("ZADD", "emails", 1, f"{int(name):016x}:{name}") for name in names])

        push(*(str(n) for n in range(500)))
        listing.link.call("CONFIG", "SET", "maxmemory", "1")
        with listing.running():
            # A retry is promoted by adding it: that waits for memory.
            until(lambda: len(runs) == 500 and not listing.taken(), 15)
            listing.link.call("CONFIG", "SET", "maxmemory", "0")
            push("1000")
            listing.until_gone()
    assert runs == {str(n): 1 for n in (*range(500), 1_000)} | {"7": 2}
