"""Replay: one group gets a selection of history again, and no other sees anything of it."""

import threading

import pytest

from consumers.delivery import Delivery
from consumers.replay import abandoned, plan_range, replay_pending, replay_range
from pipeline.errors import NoSuchGroupError
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.server.connect import Connector
from tests.conftest import Server
from tests.consuming import PRODUCER, Consuming
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def connector(server: Server) -> Connector:
    """A connector to the run's server, as a replay uses it."""
    return server.connector()


def recorded(consuming: Consuming, *groups: str) -> dict[str, list[tuple[int, bool]]]:
    """Groups whose handlers write down each event's data, and whether it was replayed."""
    seen: dict[str, list[tuple[int, bool]]] = {}
    for group in groups:
        seen[group] = []

        def handle(event: Event, delivery: Delivery, group: str = group) -> None:
            seen[group].append((event.data, delivery.replayed))

        consuming.app.consumer(consuming.stream, group=group)(handle)
    return seen


def test_a_range_is_replayed_to_one_group_alone(consuming: Consuming, connector: Connector) -> None:
    """Both ends included; the other group gets what is new and nothing else."""
    seen = recorded(consuming, "again", "other")
    ids = consuming.send(*range(20))
    with consuming.running():
        consuming.until_drained("again")
        consuming.until_drained("other")
        assert replay_range(connector, consuming.keys, "again", ids[5], ids[14]) == 10
        consuming.until_drained("again")
        consuming.send(20)
        consuming.until_drained("again")
        consuming.until_drained("other")
    assert sorted(seen["again"]) == sorted(
        [(n, False) for n in range(21)] + [(n, True) for n in range(5, 15)]
    )
    assert sorted(seen["other"]) == [(n, False) for n in range(21)]
    assert consuming.again_entries("again") == 0


def test_a_replayed_event_is_the_one_that_was_sent(consuming: Consuming, connector: Connector) -> None:
    """Id, time, type, headers and entry id; its attempts begin anew, and its retries are replayed too."""
    seen: list[tuple[str, int, str, str, int, bool]] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(3, 0, 0))
    def handle(event: Event, delivery: Delivery) -> None:
        seen.append(
            (event.id, event.time_ms, event.type, delivery.entry_id, delivery.attempt, delivery.replayed)
        )
        if delivery.replayed and delivery.attempt == 1:
            raise ValueError

    (entry_id,) = consuming.send(1, type="t")
    with consuming.running():
        consuming.until_drained()
        replay_range(connector, consuming.keys, "g", "-", entry_id)
        consuming.until_drained()
    event = (f"{PRODUCER}-1", int(entry_id.split("-")[0]), "t", entry_id)
    assert seen == [(*event, 1, False), (*event, 1, True), (*event, 2, True)]


def test_the_events_of_packs_and_foreign_entries_are_replayed(
    consuming: Consuming, connector: Connector
) -> None:
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
        assert replay_range(connector, consuming.keys, "g", "-", "+") == 5
        consuming.until_drained()
    assert before == sorted([*((f"{PRODUCER}-{n}", pack) for n in (1, 2, 3)), (foreign, foreign)])
    assert sorted(seen) == before
    assert len(consuming.dead()) == 2


def test_a_plan_counts_what_a_replay_would_feed(consuming: Consuming, connector: Connector) -> None:
    """Entries, and the first and last id; a group that does not exist is said so."""
    ids = consuming.send(*range(450))
    link = connector.link("test")
    with pytest.raises(NoSuchGroupError):
        plan_range(link, consuming.keys, "g", "-", "+")
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    plan = plan_range(link, consuming.keys, "g", ids[1], "+")
    assert (plan.entries, plan.first_id, plan.last_id) == (449, ids[1], ids[-1])
    assert plan_range(link, consuming.keys, "g", "1", "2").entries == 0
    link.close()


def test_a_replay_stays_a_bounded_distance_ahead(
    consuming: Consuming, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the group, and says how many wait before it."""
    monkeypatch.setattr("consumers.replay.AHEAD_ENTRIES", 300)
    ids = consuming.send(*range(1_000))
    go_on = threading.Event()
    handled: list[int] = []
    waited: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        if delivery.replayed:
            go_on.wait(30)
            handled.append(event.data)

    def progress(fed: int, waiting: int) -> None:
        if waiting:
            waited.append(waiting)
            assert consuming.again_entries() <= 300 + 200
            go_on.set()

    with consuming.running():
        consuming.until_drained()
        fed = replay_range(connector, consuming.keys, "g", "-", ids[-1], progress=progress)
        consuming.until_drained()
    assert fed == 1_000
    assert sorted(handled) == list(range(1_000))
    assert waited
    assert all(300 <= count <= 500 for count in waited)


def test_lost_replies_neither_repeat_nor_miss_a_part(consuming: Consuming, server: Server) -> None:
    """The position stands beside what was added: each cut is found out."""
    ids = consuming.send(*range(2_000))
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "$")
    with Proxy(server.address) as proxy:
        connector = Connector(proxy.url)
        connector.capabilities()
        proxy.swallow_every(7)
        assert replay_range(connector, consuming.keys, "g", "-", ids[-1]) == 2_000
        assert proxy.swallowed > 3
    seen: list[int] = []
    consuming.app.consumer(consuming.stream, group="g")(lambda event: seen.append(event.data))
    consuming.run_until_drained()
    assert sorted(seen) == list(range(2_000))


def test_abandoned_entries_are_replayed_at_once(consuming: Consuming, connector: Connector) -> None:
    """replay pending: what a dead consumer left runs now, and what a live one holds stays with it."""
    seen = recorded(consuming, "g")
    consuming.send(*range(150))
    consuming.send_pack(range(150, 160))
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "0")
    call("XREADGROUP", "GROUP", "g", "dead", "COUNT", 151, "STREAMS", consuming.stream, ">")
    idle = list(consuming.pending())
    for start in range(0, len(idle), 50):
        call("XCLAIM", consuming.stream, "g", "dead", 0, *idle[start : start + 50], "IDLE", 90_000, "JUSTID")
    consuming.send(*range(160, 165))
    call("XREADGROUP", "GROUP", "g", "alive", "COUNT", 5, "STREAMS", consuming.stream, ">")
    link = connector.link("test")
    assert abandoned(link, consuming.keys, "g", 30_000) == 151
    assert replay_pending(link, consuming.keys, "g", min_idle_ms=30_000) == 151
    assert replay_pending(link, consuming.keys, "g", min_idle_ms=30_000) == 0
    link.close()
    assert {consumer for consumer, _ in consuming.pending().values()} == {"alive"}
    with consuming.running():
        until(lambda: len(seen["g"]) >= 160, what="they run")
        assert len(consuming.pending()) == 5
    assert sorted(seen["g"]) == [(n, True) for n in range(160)]


def test_a_replay_of_trimmed_pending_entries_settles_them(consuming: Consuming, connector: Connector) -> None:
    """There is nothing left to run: they are pending no more."""
    consuming.send(1, 2)
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "0")
    call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    first, second = consuming.pending()
    call("XCLAIM", consuming.stream, "g", "dead", 0, first, second, "IDLE", 90_000, "JUSTID")
    call("XDEL", consuming.stream, first)
    link = connector.link("test")
    assert replay_pending(link, consuming.keys, "g", min_idle_ms=1_000) == 2
    link.close()
    assert consuming.pending() == {}
    assert consuming.again_entries() == 1


def test_a_holder_cannot_settle_what_was_replayed(consuming: Consuming, connector: Connector) -> None:
    """A slow handler that comes back finds its entry gone: nothing is settled for the copy."""
    runs: list[bool] = []
    go_on = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="5m")
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append(delivery.replayed)
        if not delivery.replayed:
            go_on.wait(30)

    (entry_id,) = consuming.send(1)
    link = connector.link("test")
    with consuming.running() as running:
        until(lambda: runs, what="it runs")
        (holder,) = consuming.pending().values()
        consuming.link.call("XCLAIM", consuming.stream, "g", holder[0], 0, entry_id, "IDLE", 90_000, "JUSTID")
        assert replay_pending(link, consuming.keys, "g", min_idle_ms=60_000) == 1
        until(lambda: len(runs) == 2, what="the copy runs")
        go_on.set()
        consuming.until_drained()
        until(lambda: running.members[0].idle(), what="all is settled")
    link.close()
    assert runs == [False, True]
