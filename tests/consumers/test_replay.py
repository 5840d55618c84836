"""Replay: one group gets a selection of history again, and no other sees anything of it."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from consumers.delivery import Delivery
from consumers.replay import Replay
from pipeline.errors import (
    MillstreamError,
    NoSuchGroupError,
    NoSuchStreamError,
    NotFoundError,
    ServerRefusedError,
    UsageError,
)
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Reject
from pipeline.replay_plan import ReplayProgress
from pipeline.server.connect import Connector
from tests.conftest import OwnServer, Server
from tests.consuming import PRODUCER, Consuming, consuming_on
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def replay(server: Server, stream: str) -> Iterator[Replay]:
    """A replay to group "g" of this test's stream."""
    with Replay(stream, "g", connector=server.connector()) as replay:
        yield replay


def recorded(consuming: Consuming, *groups: str) -> dict[str, list[tuple[int, bool]]]:
    """Groups whose handlers write down each event's data, and whether it was replayed."""
    seen: dict[str, list[tuple[int, bool]]] = {}
    for group in groups:
        seen[group] = []

        def handle(event: Event, delivery: Delivery, group: str = group) -> None:
            seen[group].append((event.data, delivery.replayed))

        consuming.app.consumer(consuming.stream, group=group)(handle)
    return seen


def create(consuming: Consuming, start: str = "$", group: str = "g") -> None:
    """The group, without a member."""
    consuming.link.call("XGROUP", "CREATE", consuming.stream, group, start, "MKSTREAM")


def abandon(consuming: Consuming, count: int, idle_ms: int = 90_000) -> list[str]:
    """Have a dead consumer of "g" hold the next entries, left alone for so long."""
    call = consuming.link.call
    before = set(consuming.pending())
    call("XREADGROUP", "GROUP", "g", "dead", "COUNT", count, "STREAMS", consuming.stream, ">")
    ids = [one for one in consuming.pending() if one not in before]
    for start in range(0, len(ids), 50):
        part = ids[start : start + 50]
        call("XCLAIM", consuming.stream, "g", "dead", 0, *part, "IDLE", idle_ms, "JUSTID")
    return ids


def test_a_range_is_replayed_to_one_group_alone(consuming: Consuming, replay: Replay) -> None:
    """Both ends included; the other group gets what is new and nothing else."""
    seen = recorded(consuming, "g", "other")
    ids = consuming.send(*range(20))
    with consuming.running():
        consuming.until_drained("g")
        consuming.until_drained("other")
        plan = replay.plan_range(ids[5], ids[14])
        assert (plan.entries, plan.events, plan.selected, plan.unread, plan.running) == (10, 10, 10, 0, 0)
        assert plan.members == 1
        done = replay.run(plan)
        assert (done.id, done.handed_over, done.fewer) == (plan.id, 10, 0)
        consuming.until_drained("g")
        consuming.send(20)
        consuming.until_drained("g")
        consuming.until_drained("other")
    assert sorted(seen["g"]) == sorted([(n, False) for n in range(21)] + [(n, True) for n in range(5, 15)])
    assert sorted(seen["other"]) == [(n, False) for n in range(21)]
    assert consuming.again_entries() == 0


def test_a_replayed_event_is_the_one_that_was_sent_and_says_that_it_is_replayed(
    consuming: Consuming, replay: Replay
) -> None:
    """Id, time, type, entry id; its attempts begin anew; its retries say so too, and so does its dead letter."""
    seen: list[tuple[str, int, str, str, int, bool]] = []
    headers: list[dict[str, str]] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(2, 0, 0))
    def handle(event: Event, delivery: Delivery) -> None:
        replayed = delivery.replayed
        seen.append((event.id, event.time_ms, event.type, delivery.entry_id, delivery.attempt, replayed))
        headers.append(dict(event.headers))
        if replayed:
            event.headers["replay-id"] = "a handler's own"  # the next run does not see it
            raise ValueError

    (entry_id,) = consuming.send(1, type="t", headers={"traceparent": "x"})
    with consuming.running():
        consuming.until_drained()
        plan = replay.plan_range("start", entry_id, types=["t"])
        replay.run(plan)
        consuming.until_drained()
    event = (f"{PRODUCER}-1", int(entry_id.split("-")[0]), "t", entry_id)
    assert seen == [(*event, 1, False), (*event, 1, True), (*event, 2, True)]
    assert headers[0] == {"traceparent": "x"}
    assert headers[1] == headers[2]
    assert headers[1]["traceparent"] == "x"
    assert headers[1]["replay-id"] == plan.id
    assert headers[1]["replay-of"] == f"range 0-0 to {entry_id}, type t"
    assert headers[1]["replay-time"].endswith("Z")
    ((letter, _),) = consuming.dead()
    assert plan.id in letter.replay
    assert (letter.attempts, letter.entry_id) == (2, entry_id)


def test_the_events_of_packs_and_foreign_entries_are_replayed(consuming: Consuming, replay: Replay) -> None:
    """Each on its own, under its id and place in the pack; also what cannot be read, which dies again."""
    seen: list[tuple[str, str]] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        seen.append((event.id, delivery.entry_id))

    pack = consuming.send_pack(range(3))
    foreign = consuming.send_raw(["level", "info"])
    consuming.send_raw([b"h", b"\xc1\xff", b"b", b""])
    with consuming.running():
        consuming.until_drained()
        before = sorted(seen)
        seen.clear()
        plan = replay.plan_range("start")
        assert (plan.entries, plan.events) == (3, 5)
        assert replay.run(plan).handed_over == 5
        consuming.until_drained()
    assert before == sorted([*((f"{PRODUCER}-{n}", pack) for n in (1, 2, 3)), (foreign, foreign)])
    assert sorted(seen) == before
    assert len(consuming.dead()) == 2


def test_a_selection_takes_single_events_also_out_of_packs(consuming: Consuming, replay: Replay) -> None:
    """By type, key and text; the plan says how many of how many, before anything is done."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        if delivery.replayed:
            seen.append(event.data["n"])

    consuming.send_pack([{"n": n} for n in range(6)], types=["even", "odd"] * 3)
    consuming.send({"n": 6}, {"n": 7}, type="even", key="k")
    with consuming.running():
        consuming.until_drained()
        odd = replay.plan_range("start", types=["o*"])
        assert (odd.entries, odd.events, odd.selected) == (3, 8, 3)
        one = replay.plan_range("start", types=["even"], keys=["k"], match='"n": 7')
        assert one.selected == 1
        assert replay.plan_range("start", match="/nothing/").selected == 0
        assert consuming.again_entries() == 0
        replay.run(odd)
        replay.run(one)
        consuming.until_drained()
    assert sorted(seen) == [1, 3, 5, 7]


def test_a_plan_counts_what_is_unread_running_and_done(consuming: Consuming, replay: Replay) -> None:
    """Events of packs each; and the same counts whether all is selected or not."""
    create(consuming, "0")
    consuming.send(*range(3))
    consuming.send_pack(range(3, 13))
    read = consuming.send(13)[0]
    abandon(consuming, 5)
    consuming.send(*range(14, 20))
    consuming.link.call("XACK", consuming.stream, "g", *list(consuming.pending())[:2])
    plan = replay.plan_range("start")
    assert (plan.entries, plan.events, plan.selected) == (11, 20, 20)
    assert (plan.unread, plan.running, plan.done) == (6, 12, 0)
    picked = replay.plan_range("start", match="/./")
    assert (picked.selected, picked.unread, picked.running) == (20, 6, 12)
    for number in (2, 5, 14):
        consuming.link.call("SET", consuming.keys.done("g", f"{PRODUCER}-{number}"), "1")
    assert replay.plan_range("start").done == 3
    assert replay.plan_range(read).done == 1
    assert replay.plan_range("start", match="13").done == 1
    whole = replay.plan_range("start")
    assert not whole.starts_at or not whole.older_known


def test_a_long_range_is_counted_page_by_page(consuming: Consuming, replay: Replay) -> None:
    """Each entry once, with a count of what was looked at."""
    ids = consuming.send(*range(450))
    create(consuming, "0")
    counts: list[int] = []
    plan = replay.plan_range(ids[1], counting=counts.append)
    assert (plan.entries, plan.selected, plan.unread) == (449, 449, 449)
    assert counts == [200, 400, 449]
    assert (plan.first_id, plan.last_id) == (ids[1], ids[-1])


def test_a_plan_says_what_is_gone(consuming: Consuming, replay: Replay) -> None:
    """Where the stream starts, if older entries that are meant were trimmed."""
    ids = consuming.send(*range(10))
    create(consuming)
    consuming.link.call("XTRIM", consuming.stream, "MAXLEN", "=", 4)
    assert replay.plan_range("start").starts_at == ids[6]
    assert replay.plan_range(ids[0]).entries == 4
    assert replay.plan_range(ids[7]).starts_at == ""


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("end", "end", "holds no entry"),
        ("1", "2", "not a position"),
        ("10000-0", "10001-0", "holds no entry"),
        ("20000-0", "10000-0", "reversed"),
        ("-1m", "-2m", "reversed"),
        ("2999-01-01", "end", "holds no entry"),
        ("start", "start", "holds no entry"),
    ],
)
def test_a_range_that_is_empty_or_reversed_is_refused(
    start: str, end: str, said: str, consuming: Consuming, replay: Replay
) -> None:
    """By what was given, and what there is."""
    ids = consuming.send(1, 2)
    create(consuming)
    with pytest.raises(UsageError, match=said) as refused:
        replay.plan_range(start, end, names=("--from", "--to"))
    assert "--from=" in str(refused.value)
    if said == "holds no entry":
        assert f"{ids[0]} to {ids[1]}" in str(refused.value)


def test_an_empty_stream_holds_nothing_to_replay(consuming: Consuming, replay: Replay) -> None:
    """Said as that."""
    create(consuming)
    with pytest.raises(UsageError, match="is empty"):
        replay.plan_range("start")


def test_what_does_not_exist_is_said(consuming: Consuming, replay: Replay) -> None:
    """Stream, group, and replay."""
    with pytest.raises(NoSuchStreamError):
        replay.plan_range("start")
    consuming.send(1)
    plans: list[Callable[[], object]] = [replay.plan_pending, replay.plan_dead]
    plans.append(lambda: replay.plan_range("start"))
    for plan in plans:
        with pytest.raises(NoSuchGroupError):
            plan()
    create(consuming)
    with pytest.raises(NotFoundError, match="no replay '77'"):
        replay.resume("77")


def test_rates_that_cannot_be_are_refused(consuming: Consuming, replay: Replay) -> None:
    """Before anything is handed over."""
    consuming.send(1)
    create(consuming)
    plan = replay.plan_range("start")
    for rate in (0, "0/s", "fast"):
        with pytest.raises(UsageError, match="rate="):
            replay.run(plan, rate=rate)
    assert consuming.again_entries() == 0


def test_a_replay_stays_a_bounded_distance_ahead(
    consuming: Consuming, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the group, and says how many wait before it."""
    monkeypatch.setattr("consumers.replay_throttle.AHEAD_ENTRIES", 300)
    consuming.send(*range(1_000))
    go_on = threading.Event()
    handled: list[int] = []
    waited: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        if delivery.replayed:
            go_on.wait(30)
            handled.append(event.data)

    def progress(at: ReplayProgress) -> None:
        if at.held_up:
            waited.append(at.waiting)
            assert consuming.again_entries() < 600
            go_on.set()

    with consuming.running():
        consuming.until_drained()
        assert replay.run(replay.plan_range("start"), progress=progress).handed_over == 1_000
        consuming.until_drained()
    assert sorted(handled) == list(range(1_000))
    assert waited
    assert all(300 <= count < 600 for count in waited)


def test_large_events_are_bounded_in_bytes_too(
    consuming: Consuming, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few they are."""
    monkeypatch.setattr("consumers.replay_throttle.AHEAD_BYTES", 300_000)
    monkeypatch.setattr("consumers.replay_history.STEP_BYTES", 100_000)
    consuming.send(*("x" * 20_000 for _ in range(60)))
    create(consuming)
    most = 0

    def progress(at: ReplayProgress) -> None:
        nonlocal most
        most = max(most, at.waiting)
        if at.held_up:
            consuming.link.call("DEL", consuming.keys.again("g"))

    assert replay.run(replay.plan_range("start"), progress=progress).handed_over == 60
    assert 15 <= most <= 25


def test_a_rate_is_kept_evenly(consuming: Consuming, replay: Replay) -> None:
    """In small steps from the first event on, also out of packs."""
    create(consuming)
    consuming.send_pack(range(100))
    consuming.send(*range(100))
    at: list[tuple[float, int]] = []

    def progress(now: ReplayProgress) -> None:
        at.append((time.monotonic(), now.handed_over))

    replay.run(replay.plan_range("start"), rate="200/s", progress=progress)
    begun_s = at[0][0]
    assert at[-1][1] == 200
    assert max(later - before for (_, before), (_, later) in pairwise(at)) <= 20
    # Never ahead of the rate by more than a step, however busy the machine is.
    assert all(count <= 200 * (when_s - begun_s) + 45 for when_s, count in at)
    assert at[-1][0] - begun_s >= 0.8


def test_an_interrupted_replay_goes_on_where_it_stands(consuming: Consuming, replay: Replay) -> None:
    """In the midst of a pack; what was confirmed is not repeated, and the rest is what was asked for then."""
    create(consuming)
    consuming.send_pack([{"n": n} for n in range(100)], types=["a", "b"] * 50)
    consuming.send({"n": 100}, {"n": 101}, type="a")

    def interrupt(at: ReplayProgress) -> None:
        if at.handed_over >= 20:
            raise KeyboardInterrupt

    plan = replay.plan_range("start", types=["a"])
    with pytest.raises(KeyboardInterrupt):
        replay.run(plan, rate="100/s", progress=interrupt)
    consuming.send({"n": 102}, type="a")  # not a part of what was planned
    rest = replay.resume(plan.id)
    assert (rest.id, rest.selected, rest.handed_over) == (plan.id, 52, 20)
    assert (rest.first_id, rest.last_id, rest.selection) == (plan.first_id, plan.last_id, plan.selection)
    assert [one.id for one in replay.unfinished()] == [plan.id]
    assert replay.run(rest).handed_over == 52
    assert replay.unfinished() == []
    assert replay.run(replay.resume(plan.id)).handed_over == 52
    seen: list[int] = []
    ids: set[str] = set()

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        if delivery.replayed:
            seen.append(event.data["n"])
            ids.add(event.headers["replay-id"])

    consuming.run_until_drained()
    assert sorted(seen) == [n for n in range(102) if n % 2 == 0 or n > 99]
    assert ids == {plan.id}


def test_two_that_resume_the_same_replay_hand_over_nothing_twice(
    consuming: Consuming, replay: Replay, server: Server
) -> None:
    """Each step is that of one of them."""
    consuming.send(*range(3_000))
    create(consuming)
    plan = replay.plan_range("start")
    with pytest.raises(KeyboardInterrupt):
        replay.run(plan, progress=_interrupt)

    def run_too() -> None:
        with Replay(consuming.stream, "g", connector=server.connector()) as second:
            second.run(second.resume(plan.id), rate="20000/s")

    thread = threading.Thread(target=run_too)
    thread.start()
    done = replay.run(replay.resume(plan.id), rate="20000/s")
    thread.join(30)
    assert done.handed_over == 3_000
    assert consuming.again_entries() == 3_000
    seen = recorded(consuming, "g")
    consuming.run_until_drained()
    assert sorted(seen["g"]) == [(n, True) for n in range(3_000)]


def test_a_replay_is_resumed_for_its_own_group_only(
    consuming: Consuming, replay: Replay, server: Server
) -> None:
    """Another group's is refused, by name."""
    consuming.send(1, 2)
    create(consuming)
    create(consuming, group="other")
    plan = replay.plan_range("start")
    replay.run(plan)
    with (
        Replay(consuming.stream, "other", connector=server.connector()) as other,
        pytest.raises(UsageError, match="is one for group 'g', not 'other'"),
    ):
        other.resume(plan.id)


def test_lost_replies_neither_repeat_nor_miss_a_part(consuming: Consuming, server: Server) -> None:
    """The record stands beside what was added: each cut is found out."""
    consuming.send(*range(2_000))
    create(consuming)
    with Proxy(server.address) as proxy:
        connector = Connector(proxy.url)
        with Replay(consuming.stream, "g", connector=connector) as replay:
            plan = replay.plan_range("start")
            # A new connection is greeted, so fewer would be swallowed for ever.
            proxy.swallow_every(9)
            assert replay.run(plan, rate="1000/s").handed_over == 2_000
        assert proxy.swallowed > 3
        connector.close()
    seen = recorded(consuming, "g")
    consuming.run_until_drained()
    assert sorted(seen["g"]) == [(n, True) for n in range(2_000)]


def test_a_group_that_is_destroyed_in_the_midst_gets_all(
    consuming: Consuming, replay: Replay, server: Server
) -> None:
    """Its members bring it back where it was; what was handed over stands in a stream of its own."""
    seen = recorded(consuming, "g")
    consuming.send(*range(300))
    destroyed = False

    def destroy(at: ReplayProgress) -> None:
        nonlocal destroyed
        if at.handed_over >= 100 and not destroyed:
            destroyed = True
            consuming.link.call("XGROUP", "DESTROY", consuming.stream, "g")

    with consuming.running():
        consuming.until_drained()
        assert replay.run(replay.plan_range("start"), rate="1000/s", progress=destroy).handed_over == 300
        until(lambda: {n for n, replayed in seen["g"] if replayed} == set(range(300)), what="all ran again")
        consuming.until_drained()
    assert destroyed
    assert len([n for n, replayed in seen["g"] if replayed]) == 300


def test_a_group_that_is_removed_in_the_midst_ends_the_replay(consuming: Consuming, replay: Replay) -> None:
    """Nobody would ever read it."""
    consuming.send(*range(300))
    create(consuming)

    def remove(at: ReplayProgress) -> None:
        if at.handed_over >= 100:
            consuming.link.call("XGROUP", "DESTROY", consuming.stream, "g")
            consuming.link.call("DEL", consuming.keys.groups, consuming.keys.again("g"))

    with pytest.raises(NoSuchGroupError, match="was removed"):
        replay.run(replay.plan_range("start"), rate="1000/s", progress=remove)
    assert consuming.again_entries() == 0


def test_history_that_is_trimmed_in_the_midst_is_said(consuming: Consuming, replay: Replay) -> None:
    """So many fewer than planned, and no error: the rest was handed over."""
    create(consuming)
    ids = consuming.send(*range(1_000))

    def trim(at: ReplayProgress) -> None:
        if at.handed_over == 100:
            consuming.link.call("XTRIM", consuming.stream, "MINID", "=", ids[900])

    done = replay.run(replay.plan_range("start"), rate="1000/s", progress=trim)
    assert (done.handed_over, done.fewer) == (300, 700)  # a page had been read


def test_a_flushed_server_is_said(own_server: OwnServer, stream: str) -> None:
    """The record is gone, and with it what was handed over: nothing is made up."""
    server = own_server()
    with consuming_on(server.address, stream) as consuming:
        seen = recorded(consuming, "g")
        consuming.send(*range(500))
        with consuming.running():
            consuming.until_drained()

            def flush(at: ReplayProgress) -> None:
                if at.handed_over == 100:
                    consuming.link.call("FLUSHALL")

            with Replay(stream, "g", connector=server.connector()) as replay:
                plan = replay.plan_range("start")
                with pytest.raises(MillstreamError, match=f"lost the record of replay {plan.id}"):
                    replay.run(plan, rate="1000/s", progress=flush)
            until(lambda: consuming.exists(), what="the group is back")
            consuming.send(500)
            until(lambda: (500, False) in seen["g"], what="what is sent afterwards is handled")


def test_a_server_that_is_killed_and_comes_back_is_waited_for(own_server: OwnServer, stream: str) -> None:
    """With its data fsynced at each write, nothing is repeated and nothing is missing."""
    server = own_server(fsync="always")
    with consuming_on(server.address, stream) as consuming:
        consuming.send(*range(1_000))
        create(consuming)
        killed = False
        troubles: set[str] = set()
        restarting = threading.Thread(target=server.restart)

        def kill(at: ReplayProgress) -> None:
            nonlocal killed
            if at.trouble:
                troubles.add(at.trouble)
            if at.handed_over >= 300 and not killed:
                killed = True
                server.kill()
                restarting.start()

        with Replay(stream, "g", connector=server.connector()) as replay:
            done = replay.run(replay.plan_range("start"), rate="2000/s", progress=kill)
            restarting.join(30)
        assert (done.handed_over, done.fewer) == (1_000, 0)
        assert troubles
    with consuming_on(server.address, stream) as consuming:
        seen = recorded(consuming, "g")
        consuming.run_until_drained()
        assert sorted(seen["g"]) == [(n, True) for n in range(1_000)]


def test_a_server_out_of_memory_is_waited_for(own_server: OwnServer, stream: str) -> None:
    """Each step is refused as a whole and goes again; too long, and it is raised, with the record in place."""
    server = own_server()
    with consuming_on(server.address, stream) as consuming:
        consuming.send(*range(400))
        create(consuming)
        call = consuming.link.call
        full = False

        def fill(at: ReplayProgress) -> None:
            nonlocal full
            if at.handed_over == 100 and not full:
                full = True
                call("CONFIG", "SET", "maxmemory", 1)
            elif "memory" in at.trouble:
                call("CONFIG", "SET", "maxmemory", 0)

        with Replay(stream, "g", connector=server.connector()) as replay:
            plan = replay.plan_range("start")
            assert replay.run(plan, rate="1000/s", progress=fill).handed_over == 400
            assert full
            call("CONFIG", "SET", "maxmemory", 1)
            second = replay.plan_range("start")
            with pytest.raises(ServerRefusedError, match="memory"):
                replay.run(second, patience="0.2s")
            call("CONFIG", "SET", "maxmemory", 0)
            assert replay.run(second).handed_over == 400
        assert consuming.again_entries() == 800


def test_abandoned_entries_are_replayed_at_once(consuming: Consuming, replay: Replay) -> None:
    """What a dead consumer left runs now, and what a live one holds stays with it."""
    seen = recorded(consuming, "g")
    consuming.send(*range(150))
    consuming.send_pack(range(150, 160))
    create(consuming, "0")
    abandon(consuming, 151)
    consuming.send(*range(160, 165))
    consuming.link.call("XREADGROUP", "GROUP", "g", "alive", "COUNT", 5, "STREAMS", consuming.stream, ">")
    plan = replay.plan_pending()
    assert (plan.entries, plan.events, plan.selected, plan.running) == (151, 160, 160, 0)
    assert replay.run(plan).handed_over == 160
    assert replay.plan_pending().entries == 0
    assert {consumer for consumer, _ in consuming.pending().values()} == {"alive"}
    with consuming.running():
        until(lambda: len(seen["g"]) >= 160, what="they run")
        assert len(consuming.pending()) == 5
    assert sorted(seen["g"]) == [(n, True) for n in range(160)]


def test_of_pending_entries_some_are_selected(consuming: Consuming, replay: Replay) -> None:
    """By type, and by when they were sent; what is not selected of a pack runs again as after a crash."""
    seen: list[tuple[int, bool, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="5m")
    def handle(event: Event, delivery: Delivery) -> None:
        seen.append((event.data, delivery.replayed, delivery.attempt))

    create(consuming, "0")
    ids = [*consuming.send(0, type="a"), consuming.send_pack([1, 2], types=["a", "b"])]
    ids += [*consuming.send(3, type="b"), *consuming.send(4, type="a")]
    abandon(consuming, 4, idle_ms=1_000_000)
    plan = replay.plan_pending(types=["a"], end=ids[2])
    assert (plan.entries, plan.events, plan.selected) == (2, 3, 2)
    assert replay.run(plan).handed_over == 2
    assert sorted(consuming.pending()) == ids[2:]
    with consuming.running():
        until(lambda: len(seen) >= 3, what="they run")
    assert sorted(seen)[:3] == [(0, True, 1), (1, True, 1), (2, False, 2)]


def test_what_is_being_handled_is_replayed_by_force_only(consuming: Consuming, replay: Replay) -> None:
    """An idle time below what members may take to renew is refused, with the option's name and its least value."""
    create(consuming, "0")
    consuming.send(1, 2)
    consuming.link.call("XREADGROUP", "GROUP", "g", "alive", "STREAMS", consuming.stream, ">")
    assert replay.plan_pending().entries == 0
    with pytest.raises(UsageError, match=r"--idle=1\.0 s is below the 30 s"):
        replay.plan_pending(idle="1s", names=("--from", "--to", "--idle"))
    until(lambda: replay.plan_pending(force=True).entries == 2, what="they are older than a millisecond")
    plan = replay.plan_pending(force=True)
    assert plan.running == 2
    assert replay.run(plan).handed_over == 2
    assert consuming.pending() == {}


def test_what_runs_again_and_was_abandoned_is_replayed_too(consuming: Consuming, replay: Replay) -> None:
    """Entries of the group's own stream that a dead consumer holds; each is there once afterwards."""
    consuming.send(*range(5))
    create(consuming, "0")
    first = abandon(consuming, 5)[0]
    replay.run(replay.plan_pending())
    again, call = consuming.keys.again("g"), consuming.link.call
    call("XGROUP", "CREATE", again, "g", "0")
    call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", again, ">")
    held = [row[0] for row in call("XPENDING", again, "g", "-", "+", 10)]
    call("XCLAIM", again, "g", "dead", 0, *held, "IDLE", 90_000, "JUSTID")
    plan = replay.plan_pending()
    assert plan.selected == 5
    assert replay.plan_pending(end=first).selected == 1
    assert replay.run(plan).handed_over == 5
    assert consuming.again_entries() == 5
    seen = recorded(consuming, "g")
    consuming.run_until_drained()
    assert sorted(seen["g"]) == [(n, True) for n in range(5)]


def test_what_was_moved_is_not_moved_again(consuming: Consuming, replay: Replay) -> None:
    """Not even by force, where a member takes each at once, under a new id."""
    consuming.send(*range(250))
    create(consuming, "0")
    abandon(consuming, 250)
    replay.run(replay.plan_pending())
    again, call = consuming.keys.again("g"), consuming.link.call
    call("XGROUP", "CREATE", again, "g", "0")

    def take(at: ReplayProgress) -> None:
        call("XREADGROUP", "GROUP", "g", "alive", "STREAMS", again, ">")
        assert at.handed_over <= 250

    take(ReplayProgress(handed_over=0, planned=0, waiting=0))
    until(lambda: replay.plan_pending(force=True).entries == 250, what="they are older than a millisecond")
    assert replay.run(replay.plan_pending(force=True), progress=take).handed_over == 250
    assert consuming.again_entries() == 250


def test_a_replay_of_trimmed_pending_entries_settles_them(consuming: Consuming, replay: Replay) -> None:
    """There is nothing left to run: they are pending no more."""
    consuming.send(1, 2)
    create(consuming, "0")
    first, _ = abandon(consuming, 2)
    consuming.link.call("XDEL", consuming.stream, first)
    plan = replay.plan_pending()
    assert (plan.entries, plan.selected) == (2, 1)
    assert replay.run(plan).handed_over == 1
    assert consuming.pending() == {}
    assert consuming.again_entries() == 1


def test_a_holder_cannot_settle_what_was_replayed(consuming: Consuming, replay: Replay) -> None:
    """A slow handler that comes back finds its entry gone: nothing is settled for the copy."""
    runs: list[bool] = []
    go_on = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="5m")
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append(delivery.replayed)
        if not delivery.replayed:
            go_on.wait(30)

    (entry_id,) = consuming.send(1)
    with consuming.running() as running:
        until(lambda: runs, what="it runs")
        (holder,) = consuming.pending().values()

        def moved() -> bool:
            """Aged, and replayed; the member may look for what is abandoned in between, and renew it."""
            consuming.link.call(
                "XCLAIM", consuming.stream, "g", holder[0], 0, entry_id, "IDLE", 400_000, "JUSTID"
            )
            return replay.run(replay.plan_pending()).handed_over == 1

        until(moved, what="it is moved")
        until(lambda: len(runs) == 2, what="the copy runs")
        go_on.set()
        consuming.until_drained()
        until(lambda: running.members[0].idle(), what="all is settled")
    assert runs == [False, True]


def test_dead_letters_run_again(consuming: Consuming, replay: Replay) -> None:
    """Those selected, in this group alone, with all attempts before them; the others stay dead."""
    runs: list[tuple[int, bool, int]] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append((event.data, delivery.replayed, delivery.attempt))
        if not delivery.replayed:
            raise Reject("no") if event.data % 2 else ValueError("odd")

    consuming.send(*range(4), type="x")
    consuming.send(4, type="y")
    with consuming.running():
        until(lambda: len(consuming.dead()) == 2, what="the rejected die")
        assert replay.plan_dead().selected == 2
        plan = replay.plan_dead(errors=["Reject"], match="3")
        assert (plan.entries, plan.selected) == (2, 1)
        assert replay.plan_dead(types=["y"]).selected == 0
        done = replay.run(plan)
        assert done.handed_over == 1
        until(lambda: (3, True, 1) in runs, what="it runs again")
    assert [letter.index for letter, _ in consuming.dead()] == [0]
    assert replay.run(plan).handed_over == 0


def _interrupt(at: ReplayProgress) -> None:
    raise KeyboardInterrupt


def test_what_is_done_once_is_skipped_or_done_once_more(consuming: Consuming, replay: Replay) -> None:
    """As the plan says; a second replay with `again` does it a third time, and each of its runs only once."""
    runs: list[tuple[int, str]] = []

    @consuming.app.consumer(consuming.stream, group="g", once=True)
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append((event.data, event.headers.get("replay-id", "")))

    consuming.send(*range(3))
    consuming.send_pack([3, 4])
    with consuming.running():
        consuming.until_drained()
        plan = replay.plan_range("start")
        assert (plan.selected, plan.done) == (5, 5)
        assert replay.run(plan).handed_over == 5
        consuming.until_drained()
        assert sorted(runs) == [(n, "") for n in range(5)]
        anew = replay.plan_range("start", match="/[0-3]/", again=True)
        assert (anew.selected, anew.done, anew.again) == (4, 4, True)
        replay.run(anew)
        consuming.until_drained()
        third = replay.plan_range("start", again=True)
        assert third.done == 5
        replay.run(third)
        consuming.until_drained()
    expected = [(n, "") for n in range(5)] + [(n, anew.id) for n in range(4)]
    assert sorted(runs) == sorted(expected + [(n, third.id) for n in range(5)])
