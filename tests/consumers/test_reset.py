"""Reset: a group reads from another position on, without copies; what it had pending runs all the same."""

import pytest

from consumers.delivery import Delivery
from consumers.reset import plan_reset, reset_group
from pipeline.envelope import read_again
from pipeline.errors import MillstreamError, NoSuchGroupError, NoSuchStreamError, UsageError
from pipeline.event import Event
from pipeline.reset_plan import ResetDone, ResetPlan
from pipeline.server.connect import Connector, Link
from pipeline.server.overview import groups
from pipeline.server.resetting import Moved, move_position
from tests.conftest import OwnServer, Server
from tests.consuming import PRODUCER, Consuming, consuming_on


@pytest.fixture
def connector(server: Server) -> Connector:
    """A connector to the run's server."""
    return server.connector()


def recorded(consuming: Consuming, *names: str) -> dict[str, list[int]]:
    """Groups whose handlers write down each event's data; none of it is replayed."""
    seen: dict[str, list[int]] = {}
    for name in names:
        seen[name] = []

        def handle(event: Event, delivery: Delivery, name: str = name) -> None:
            assert not delivery.replayed
            seen[name].append(event.data)

        consuming.app.consumer(consuming.stream, group=name)(handle)
    return seen


def reset(consuming: Consuming, connector: Connector, to: str) -> tuple[ResetPlan, ResetDone]:
    """Move group "g"."""
    plan = plan_reset(consuming.stream, "g", to, connector=connector)
    return plan, reset_group(plan, connector=connector)


def test_a_group_reads_again_what_comes_after_its_position(
    consuming: Consuming, connector: Connector
) -> None:
    """The entry that was named included; the other group notices nothing, and the lag is right at once."""
    seen = recorded(consuming, "g", "other")
    ids = consuming.send(*range(10))
    consuming.send_pack(range(10, 15))
    with consuming.running():
        consuming.until_drained("g")
        consuming.until_drained("other")
    plan, done = reset(consuming, connector, ids[4])
    assert (plan.read_again_entries, plan.read_again_events) == (7, 11)
    assert (plan.skipped_entries, plan.pending_again, plan.pending_before) == (0, 0, 0)
    assert (done.taken_out, done.moved) == (0, 0)
    assert groups(consuming.link, consuming.stream, only="g")[0].unread in (7, None)
    consuming.run_until_drained("g")
    assert sorted(seen["g"]) == sorted([*range(15), *range(4, 15)])
    assert sorted(seen["other"]) == list(range(15))


def test_what_was_pending_runs_once(consuming: Consuming, connector: Connector) -> None:
    """Behind the position it is read again; before it, it runs from the group's own stream, with its crashes."""
    runs: list[tuple[int, int]] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append((event.data, delivery.attempt))

    ids = [*consuming.send(0, 1), consuming.send_pack([2, 3]), *consuming.send(4, 5, 6)]
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "0")
    call("HSET", consuming.keys.groups, "g:since", 1)
    call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    call("XACK", consuming.stream, "g", ids[0], ids[5])
    plan, done = reset(consuming, connector, ids[4])
    assert (plan.read_again_events, plan.pending_again, plan.pending_before) == (2, 1, 3)
    assert (done.taken_out, done.moved) == (1, 3)
    assert consuming.pending() == {}
    assert call("HGET", consuming.keys.groups, "g:pos:main").decode() == plan.position
    consuming.run_until_drained()
    assert sorted(runs) == [(1, 2), (2, 2), (3, 2), (4, 2), (5, 1), (6, 1)]


def test_many_pending_entries_take_bounded_steps(consuming: Consuming, connector: Connector) -> None:
    """On both sides of the position; none is left, none is lost."""
    seen = recorded(consuming, "g")
    ids = consuming.send(*range(1_700))
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "0")
    call("HSET", consuming.keys.groups, "g:since", 1)
    call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    for start in range(0, 1_700, 100):  # as of a consumer that has been dead for a while
        part = ids[start : start + 100]
        call("XCLAIM", consuming.stream, "g", "dead", 0, *part, "IDLE", 90_000, "JUSTID")
    plan, done = reset(consuming, connector, ids[600])
    assert (plan.pending_again, plan.pending_before) == (1_100, 600)
    assert (done.taken_out, done.moved) == (1_100, 600)
    assert consuming.pending() == {}
    assert consuming.again_entries() == 600
    consuming.run_until_drained()
    assert sorted(seen["g"]) == list(range(1_700))


def test_what_is_skipped_is_counted_and_never_read(consuming: Consuming, connector: Connector) -> None:
    """Its first and last id are named; what comes afterwards is read."""
    seen = recorded(consuming, "g")
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "$", "MKSTREAM")
    ids = consuming.send(*range(5))
    consuming.send_pack(range(5, 8))
    plan, _ = reset(consuming, connector, ids[3])
    assert (plan.skipped_entries, plan.skipped_events, plan.read_again_entries) == (3, 3, 0)
    assert plan.skipped_last < ids[3]
    plan, _ = reset(consuming, connector, "end")
    assert (plan.skipped_entries, plan.skipped_events) == (3, 5)
    consuming.send(8)
    consuming.run_until_drained()
    assert seen["g"] == [8]


def test_beyond_the_end_is_the_end(consuming: Consuming, connector: Connector) -> None:
    """A position above the stream's last id would count as gone: then the group would come back at the start."""
    ids = consuming.send(1, 2)
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    plan, _ = reset(consuming, connector, "2999-01-01")
    assert plan.position == ids[1]
    assert plan_reset(consuming.stream, "g", "end", connector=connector).changes is False


def test_a_group_is_not_reset_while_a_member_lives(consuming: Consuming, connector: Connector) -> None:
    """Neither planned before nor after it came; nothing is done."""
    recorded(consuming, "g")
    ids = consuming.send(*range(3))
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    early = plan_reset(consuming.stream, "g", "end", connector=connector)
    with consuming.running():
        consuming.until_drained()
        for plan in (early, plan_reset(consuming.stream, "g", "start", connector=connector)):
            with pytest.raises(MillstreamError, match="member"):
                reset_group(plan, connector=connector)
        consuming.send(3)
        consuming.until_drained()
    with pytest.raises(UsageError, match="has read on"):
        reset_group(early, connector=connector)
    assert ids[0] in {entry.decode() for entry, _ in consuming.entries()}


def test_what_once_has_done_and_what_waits_is_said(consuming: Consuming, connector: Connector) -> None:
    """The one is skipped, the other runs all the same."""
    consuming.send(*range(5))
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "$")
    for number in (1, 2):
        call("SET", consuming.keys.done("g", f"{PRODUCER}-{number}"), "1")
    call("XADD", consuming.keys.again("g"), "*", "a", "b")
    call("ZADD", consuming.keys.retry("g"), 5, "m")
    plan = plan_reset(consuming.stream, "g", "start", connector=connector)
    assert (plan.read_again_events, plan.done, plan.waiting) == (5, 2, 2)


def test_what_is_gone_is_said(consuming: Consuming, connector: Connector) -> None:
    """Where the stream starts now; and what does not exist at all."""
    with pytest.raises(NoSuchStreamError):
        plan_reset(consuming.stream, "g", "start", connector=connector)
    ids = consuming.send(*range(5))
    with pytest.raises(NoSuchGroupError):
        plan_reset(consuming.stream, "g", "start", connector=connector)
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "$")
    consuming.link.call("XTRIM", consuming.stream, "MAXLEN", "=", 2)
    assert plan_reset(consuming.stream, "g", "start", connector=connector).starts_at == ids[3]
    with pytest.raises(UsageError, match="--to='soon' is not a position"):
        plan_reset(consuming.stream, "g", "soon", connector=connector, name="--to")


def test_a_strangers_group_keeps_what_is_pending_before(consuming: Consuming, connector: Connector) -> None:
    """Its consumers know nothing of a stream of their own."""
    ids = consuming.send(*range(4))
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    consuming.link.call("XREADGROUP", "GROUP", "g", "c", "STREAMS", consuming.stream, ">")
    _, done = reset(consuming, connector, ids[2])
    assert (done.taken_out, done.moved) == (2, 0)
    assert list(consuming.pending()) == ids[:2]


def test_a_reset_that_is_killed_in_its_midst_loses_nothing(
    consuming: Consuming, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first call the rest is pending still: taken over or read again, as after any crash."""
    seen = recorded(consuming, "g")
    ids = consuming.send(*range(1_400))
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "0")
    call("HSET", consuming.keys.groups, "g:since", 1)
    call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    for start in range(0, 1_400, 100):
        part = ids[start : start + 100]
        call("XCLAIM", consuming.stream, "g", "dead", 0, *part, "IDLE", 90_000, "JUSTID")
    plan = plan_reset(consuming.stream, "g", ids[500], connector=connector)

    def first_alone(link: Link, plan: ResetPlan, begun_ms: int | None = None) -> Moved:
        if begun_ms is not None:
            raise KeyboardInterrupt
        return move_position(link, plan)

    monkeypatch.setattr("consumers.reset.move_position", first_alone)
    with pytest.raises(KeyboardInterrupt):
        reset_group(plan, connector=connector)
    assert len(consuming.pending()) == 900
    consuming.run_until_drained(timeout_s=40)
    assert set(seen["g"]) == set(range(1_400))


def test_a_server_killed_after_a_reset_keeps_it(own_server: OwnServer, stream: str) -> None:
    """Also in the saved position: a group that is lost then comes back at the new one."""
    server = own_server(fsync="always")
    with consuming_on(server.address, stream) as consuming:
        seen = recorded(consuming, "g")
        ids = consuming.send(*range(6))
        consuming.run_until_drained()
        connector = server.connector()
        reset(consuming, connector, ids[3])
        server.kill()
        server.restart()
    with consuming_on(server.address, stream) as after:
        after.link.call("XGROUP", "DESTROY", stream, "g")
        after.app = consuming.app
        after.run_until_drained()
    assert sorted(seen["g"]) == [0, 1, 2, 3, 3, 4, 4, 5, 5]


def test_envelopes_of_what_lay_before_count_on(consuming: Consuming, connector: Connector) -> None:
    """Runs and crashes so far: an event that kills its workers is convicted all the same."""
    (entry_id,) = consuming.send(1)
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "0")
    call("HSET", consuming.keys.groups, "g:since", 1)
    call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    call("XCLAIM", consuming.stream, "g", "dead", 0, entry_id, "IDLE", 90_000, "RETRYCOUNT", 3)
    reset(consuming, connector, "end")
    ((_, fields),) = call("XRANGE", consuming.keys.again("g"), "-", "+")
    envelope, _ = read_again(fields)
    assert envelope is not None
    assert (envelope.entry_id, envelope.runs, envelope.crashes, envelope.why) == (entry_id, 3, 3, "split")
