"""Suspects that have to run alone: nothing runs beside them, and none is convicted for what another one did."""

import threading
import time
from collections.abc import Callable

import pytest

from consumers.app import Pipeline
from consumers.delivery import Delivery
from consumers.settler import Settlement, Settler
from consumers.window import Held
from pipeline.event import Event
from pipeline.ladder import MAX_CRASHES
from pipeline.options import Retry
from pipeline.server.connect import Link
from tests.consuming import Consuming
from tests.until import until


def leave_suspect(consuming: Consuming, *datas: str, crashes: int = MAX_CRASHES, noted: int = 0) -> list[str]:
    """A dead consumer of group "g" leaves events that it held for long, and so many before it; their entry ids.

    noted: the delivery in which they were noted to begin alone.
    """
    link, stream = consuming.link, consuming.stream
    link.call("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM")
    ids = consuming.send(*datas)
    link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", stream, ">")
    for entry_id in ids:
        link.call(
            *("XCLAIM", stream, "g", "dead", 0, entry_id, "IDLE", 60_000, "RETRYCOUNT", crashes, "JUSTID")
        )
        if noted:
            link.call("HSET", consuming.keys.groups, f"g:alone:{entry_id}", noted, "g:alone:", 1)
    return ids


@pytest.mark.parametrize("crashes", [MAX_CRASHES, MAX_CRASHES + 1, 100])
@pytest.mark.parametrize("is_async", [False, True])
def test_who_never_began_is_not_convicted(
    consuming: Consuming, link: Link, crashes: int, is_async: bool
) -> None:
    """However many workers died that held it: it runs, alone, and is noted to."""
    ids = dict(zip("abc", leave_suspect(consuming, *"abc", crashes=crashes), strict=True))
    seen: list[tuple[str, int, int]] = []
    running = threading.Lock()

    def handle(event: Event, delivery: Delivery) -> None:
        assert running.acquire(blocking=False), "another one runs"
        noted = link.call("HGET", consuming.keys.groups, f"g:alone:{ids[event.data]}")
        seen.append((event.data, delivery.attempt, int(noted or 0)))
        running.release()

    async def handle_async(event: Event, delivery: Delivery) -> None:
        handle(event, delivery)

    consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)(
        handle_async if is_async else handle
    )
    consuming.run_until_drained()
    assert consuming.dead() == []
    assert sorted(seen) == [(data, crashes + 1, crashes + 1) for data in "abc"]


@pytest.mark.parametrize("since", [1, 2])
def test_who_began_alone_and_is_left_behind_is_convicted(consuming: Consuming, since: int) -> None:
    """Also when a worker that died of another event had taken it over in between."""
    (entry_id,) = leave_suspect(consuming, "killer", crashes=MAX_CRASHES + since - 1, noted=MAX_CRASHES)
    seen: list[str] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s")
    def handle(event: Event) -> None:
        seen.append(event.data)

    consuming.run_until_drained()
    ((letter, _),) = consuming.dead()
    assert (letter.error, letter.entry_id, letter.crashes) == (
        "WorkerKilled",
        entry_id,
        MAX_CRASHES + since - 1,
    )
    assert seen == []


def test_nothing_starts_beside_who_runs_alone(consuming: Consuming) -> None:
    """A read that waited at the server when it was taken over brings what has to go elsewhere."""
    log: list[tuple[str, str]] = []
    runs, go_on = threading.Event(), threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    def handle(event: Event) -> None:
        log.append(("begun", event.data))
        if event.data == "suspect":
            runs.set()
            assert go_on.wait(20)
        log.append(("ended", event.data))

    leave_suspect(consuming, "suspect")
    with consuming.running():
        send_beside(consuming, runs)
        go_on.set()
        consuming.until_drained()
    assert log == [(what, data) for data in ("suspect", "new") for what in ("begun", "ended")]


def send_beside(consuming: Consuming, runs: threading.Event) -> None:
    """Once the suspect runs, send "new", and wait until that is held, or left."""
    assert runs.wait(20)
    consuming.send("new")
    until(held_or_unread(consuming), what="the new one is held, or left")


def held_or_unread(consuming: Consuming) -> Callable[[], bool]:
    """Whether what was sent has come to the member; or cannot, after a second, since it reads no more."""
    asked_s = time.monotonic()

    def look() -> bool:
        others = sum(count for name, count in consuming.consumers().items() if name != "dead")
        return others > 1 or time.monotonic() - asked_s > 1

    return look


def test_nothing_starts_before_it_is_settled(
    consuming: Consuming, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, it would be delivered again, and look as if it had killed."""
    prepare = Settler.prepare
    runs, go_on = threading.Event(), threading.Event()
    pending: list[int] = []

    def slow(settler: Settler) -> list[Settlement]:
        settlements = prepare(settler)
        if any(not settlement.begins for settlement in settlements):
            time.sleep(0.05)  # not to wait for something: it widens what is tested
        return settlements

    monkeypatch.setattr(Settler, "prepare", slow)
    (suspect,) = leave_suspect(consuming, "suspect")

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)
    def handle(event: Event) -> None:
        if event.data == "suspect":
            runs.set()
            assert go_on.wait(20)
        else:
            pending.append(len(link.call("XPENDING", consuming.stream, "g", suspect, suspect, 1)))

    with consuming.running():
        send_beside(consuming, runs)
        go_on.set()
        consuming.until_drained()
    assert pending == [0]


def test_others_do_what_may_not_run_beside_it(consuming: Consuming) -> None:
    """However long it runs; and their attempts are not spent."""
    runs, go_on = threading.Event(), threading.Event()
    done: list[tuple[str, int]] = []

    def handle(event: Event, delivery: Delivery) -> None:
        if event.data == "suspect":
            runs.set()
            assert go_on.wait(40)
        done.append((event.data, delivery.attempt))

    consuming.app.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)(handle)
    other = Pipeline(consuming.url)
    other.consumer(consuming.stream, group="g", claim_after="1s", concurrency=4)(handle)
    leave_suspect(consuming, "suspect")
    with consuming.running():
        send_beside(consuming, runs)
        with consuming.running(other):
            until(lambda: done == [("new", 1)], what="the other does it")
            go_on.set()
            consuming.until_drained()
    assert done == [("new", 1), ("suspect", MAX_CRASHES + 1)]


def test_a_pack_is_not_looked_into_before_it_is_noted(
    consuming: Consuming, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may be what kills."""
    check = Held.check
    noted: list[bytes | None] = []
    seen: list[int] = []

    def checked(held: Held) -> None:
        noted.append(link.call("HGET", consuming.keys.groups, f"g:alone:{pack}"))
        check(held)

    monkeypatch.setattr(Held, "check", checked)
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0", "MKSTREAM")
    pack = consuming.send_pack([1, 2, 3])
    consuming.link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    consuming.link.call(
        *("XCLAIM", consuming.stream, "g", "dead", 0, pack, "IDLE", 60_000, "RETRYCOUNT", 9, "JUSTID")
    )
    consuming.app.consumer(consuming.stream, group="g", claim_after="1s")(
        lambda event: seen.append(event.data)
    )
    consuming.run_until_drained()
    assert noted == [b"10"]
    assert sorted(seen) == [1, 2, 3]


def test_beside_one_that_never_returned_no_run_counts_as_alone(consuming: Consuming, link: Link) -> None:
    """What ran beyond max_run may be what kills: the suspect runs, and is not noted."""
    go_on = threading.Event()
    fields: list[list[bytes]] = []

    @consuming.app.consumer(
        consuming.stream, group="g", claim_after="1s", concurrency=4, max_run="1s", retry=Retry(9, "1h", "1h")
    )
    def handle(event: Event) -> None:
        if event.data == "suspect":
            fields.append([name for name in link.call("HKEYS", consuming.keys.groups) if b":alone:" in name])
        else:
            go_on.wait(40)

    (suspect,) = leave_suspect(consuming, "suspect")
    consuming.link.call("XCLAIM", consuming.stream, "g", "dead", 0, suspect, "IDLE", 0, "JUSTID")
    consuming.send("never returns")
    with consuming.running():
        until(lambda: len(fields) == 1, what="the suspect runs")
        go_on.set()
    assert fields == [[]]


def test_one_that_fails_alone_is_a_failure_like_others(consuming: Consuming, link: Link) -> None:
    """It is retried, with what it is suspected of, and alone again."""
    seen: list[tuple[int, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", retry=20)
    def handle(event: Event, delivery: Delivery) -> None:
        fields = link.call("HKEYS", consuming.keys.groups)
        seen.append((delivery.attempt, sum(field.startswith(b"g:alone-again:") for field in fields)))
        if len(seen) == 1:
            raise ValueError("no")

    leave_suspect(consuming, "suspect")
    with consuming.running():
        until(lambda: consuming.waiting() or len(seen) > 1, what="it waits for its next run")
        consuming.advance(60_000)
        consuming.until_drained()
    assert seen == [(MAX_CRASHES + 1, 0), (MAX_CRASHES + 2, 2)]
    assert consuming.dead() == []
