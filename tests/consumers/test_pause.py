"""Pause: a paused group reads, takes over and retries nothing, in all members, until it is resumed; its breaker."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from consumers.app import Pipeline
from consumers.running import Running
from consumers.settler import Settlement, Settler
from consumers.state import MemberState
from consumers.testing import TestPipeline
from pipeline.breaker import Ended
from pipeline.errors import MillstreamError, UsageError
from pipeline.event import Event
from pipeline.options import ConsumerOptions, Retry
from pipeline.outcome import Reject
from pipeline.pause import Pause
from pipeline.server.groups import pause, resume
from pipeline.server.overview import groups
from pipeline.server.replies import Reply
from tests.conftest import OwnServer
from tests.consuming import Consuming, consuming_on
from tests.until import until

HEARTBEAT_S = 0.5


def hold(consuming: Consuming, reason: str = "by hand") -> None:
    """Pause group g from the outside."""
    assert pause(consuming.link, consuming.keys, "g", by="test", reason=reason)[0]


def let_go(consuming: Consuming) -> Pause | None:
    """Resume group g."""
    return resume(consuming.link, consuming.keys, "g")


@contextmanager
def members(consuming: Consuming, count: int) -> Iterator[list[Running]]:
    """So many members of the group, in this process."""
    with consuming.running() as first:
        if count == 1:
            yield [first]
        else:
            with members(consuming, count - 1) as others:
                yield [first, *others]


def until_heard(runnings: list[Running], *, paused: bool) -> None:
    """Until all members know whether the group is paused."""
    states = [running.members[0].state for running in runnings]
    until(lambda: all((state.pause is not None) is paused for state in states), what="they heard of it")


def test_a_paused_group_handles_nothing_new_until_it_is_resumed(consuming: Consuming) -> None:
    """In all its members, within a heartbeat; other groups do not notice; nothing is lost or run twice."""
    seen: Counter[int] = Counter()
    others: Counter[int] = Counter()
    consuming.app.consumer(consuming.stream, group="g")(lambda event: seen.update([event.data]))
    consuming.app.consumer(consuming.stream, group="other")(lambda event: others.update([event.data]))
    with members(consuming, 2) as runnings:
        consuming.send(*range(10))
        until(lambda: len(seen) == 10)
        hold(consuming)
        begun_s = time.monotonic()
        until_heard(runnings, paused=True)
        assert time.monotonic() - begun_s < 10 * HEARTBEAT_S  # that is one, and room for a busy machine
        consuming.send(*range(10, 30))
        until(lambda: len(others) == 30, what="the other group has them all")
        consuming.until_drained("other")
        assert len(seen) == 10
        # What a read brought that was still waiting at the server is handed back, its attempt unspent.
        until(lambda: not any(deliveries for _, deliveries in consuming.pending().values()))
        given = consuming.pending()
        assert groups(consuming.link, consuming.stream, only="g")[0].unread in (20 - len(given), None)
        ended = let_go(consuming)
        assert ended is not None
        assert (ended.by, ended.reason) == ("test", "by hand")
        consuming.until_drained()
    assert seen == Counter(range(30))


@pytest.mark.slow
def test_what_runs_ends_and_what_did_not_begin_is_handed_back(consuming: Consuming) -> None:
    """The attempt is not spent; while it runs, its entry stays ours, past claim_after."""
    running, go_on = threading.Event(), threading.Event()
    attempts: list[tuple[int, int]] = []

    @consuming.app.consumer(consuming.stream, group="g", concurrency=1, claim_after="1s", window_events=20)
    def handle(event: Event, delivery) -> None:  # type: ignore[no-untyped-def]
        attempts.append((event.data, delivery.attempt))
        if event.data == 0:
            running.set()
            assert go_on.wait(20)

    with consuming.running() as member:
        consuming.send(*range(15))
        assert running.wait(10)
        state = member.members[0].state
        until(lambda: len(state.window) == 15, what="all are held")
        hold(consuming)
        until(lambda: len(state.window) == 1, what="the rest is handed back")
        time.sleep(2.5)  # more than twice claim_after: nobody may take over what runs
        go_on.set()
        until(lambda: not len(state.window), what="it is settled")
        assert attempts == [(0, 1)]
        assert len(consuming.pending()) == 14
        let_go(consuming)
        consuming.until_drained()
    assert sorted(attempts) == [(n, 1) for n in range(15)]


def test_retries_and_what_died_with_a_worker_wait_too(consuming: Consuming) -> None:
    """Neither is promoted or claimed while the group is paused."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", retry=Retry.fixed("1s"))
    def handle(event: Event) -> None:
        seen.append(event.data)
        if seen == [1]:
            raise ValueError

    consuming.send(1)
    with consuming.running() as running:
        until(lambda: consuming.waiting() == 1, what="the retry waits")
        hold(consuming)
        until_heard([running], paused=True)
        consuming.send(2)
        consuming.link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
        consuming.advance(10_000)
        until(
            lambda: all(consuming.idle_ms(one) > 1_500 for one in consuming.pending()),
            what="claim_after is over",
        )
        assert (consuming.waiting(), consuming.again_entries(), seen) == (1, 0, [1])
        let_go(consuming)
        consuming.until_drained()
    assert sorted(seen) == [1, 1, 2]


def test_a_member_that_starts_in_a_pause_waits(consuming: Consuming) -> None:
    """The pause is a fact of the group: it outlives every worker."""
    seen: list[int] = []
    consuming.app.consumer(consuming.stream, group="g")(lambda event: seen.append(event.data))
    consuming.send(1)
    with consuming.running():
        until(lambda: seen == [1])
    hold(consuming)
    consuming.send(2)
    with consuming.running() as running:
        state = running.members[0].state
        assert state.pause is not None
        until(lambda: state.told is not None and consuming.exists(), what="it runs")
        time.sleep(2 * HEARTBEAT_S)
        assert seen == [1]
        let_go(consuming)
        until(lambda: seen == [1, 2])


def test_a_pause_outlives_the_server(own_server: OwnServer, stream: str) -> None:
    """As whatever is kept there; members that reconnect read nothing."""
    server = own_server(fsync="always")
    with consuming_on(server.address, stream) as consuming:
        seen: list[int] = []
        consuming.app.consumer(stream, group="g", claim_after="1s")(lambda event: seen.append(event.data))
        consuming.send(1)
        with consuming.running() as running:
            until(lambda: seen == [1])
            hold(consuming)
            until_heard([running], paused=True)
            server.kill()
            server.restart()
            consuming.link = server.connector().link("again")
            consuming.send(2)
            counts = running.members[0].state
            until(lambda: not counts.stopping and _beats(consuming), what="it is back")
            time.sleep(2 * HEARTBEAT_S)
            assert seen == [1]
            let_go(consuming)
            until(lambda: seen == [1, 2])


def _beats(consuming: Consuming) -> bool:
    """Whether a member was heard of within the last second."""
    now = int(consuming.link.call("TIME")[0]) * 1_000
    records = consuming.link.call("HVALS", consuming.keys.members("g"))
    return any(int(record.split(b":")[1]) > now - 1_000 for record in records)


def test_a_group_whose_events_mostly_die_pauses_itself(
    consuming: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad deploy leaves most of the stream unread, and one log line that says why and what to do."""
    consuming.app.consumer(consuming.stream, group="g", retry=Retry(1), window_events=20)(_fails)
    consuming.send(*range(3_000))
    with consuming.running() as running:
        until_heard([running], paused=True)
        name = running.members[0].name
        until(running.members[0].idle, what="it has ended what it held")
        dead = len(consuming.dead())
        assert 51 <= dead < 400
        facts = groups(consuming.link, consuming.stream, only="g")[0]
        assert facts.state == "paused"
        assert facts.paused_by == name
        assert "of the last" in facts.paused_reason
        assert "pause_above=0.5" in facts.paused_reason
    lines = [record for record in caplog.records if "is paused" in record.getMessage()]
    assert len(lines) == 1
    assert f"millstream group resume {consuming.stream} g" in lines[0].getMessage()


def test_after_it_is_resumed_a_group_is_judged_anew(consuming: Consuming) -> None:
    """What died before the pause does not pause it again: the mended handler gets the rest."""
    broken = True

    @consuming.app.consumer(consuming.stream, group="g", retry=1, window_events=20)
    def handle(event: Event) -> None:
        if broken:
            raise ValueError

    consuming.send(*range(500))
    with consuming.running() as running:
        until_heard([running], paused=True)
        until(running.members[0].idle)
    broken = False
    dead = len(consuming.dead())
    let_go(consuming)
    consuming.run_until_drained()
    assert len(consuming.dead()) == dead
    assert groups(consuming.link, consuming.stream, only="g")[0].state == "drained"


def test_the_deaths_of_all_members_count_together(consuming: Consuming) -> None:
    """No member sees fifty of them; the group sees a hundred."""
    lock = threading.Lock()
    by_member: Counter[str] = Counter()

    @consuming.app.consumer(
        consuming.stream, group="g", retry=1, concurrency=1, window_events=1, pause_above=0.9
    )
    def handle(event: Event, delivery) -> None:  # type: ignore[no-untyped-def]
        with lock:
            by_member[threading.current_thread().name] += 1
        time.sleep(0.005)
        raise ValueError

    with members(consuming, 4) as runnings:
        consuming.send(*range(2_000))
        until_heard(runnings, paused=True)
        died = {running.members[0].name: running.members[0].counts.dead for running in runnings}
    assert sum(died.values()) > 90
    assert len([count for count in died.values() if count]) > 1
    assert len(consuming.dead()) < 1_000


def test_what_is_done_rejected_or_retried_is_no_death(consuming: Consuming) -> None:
    """Of ten one dies, three are rejected and four run twice: one kind more among the deaths, and it would pause."""

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(2, 0, 0))
    def handle(event: Event, delivery) -> None:  # type: ignore[no-untyped-def]
        kind = event.data % 10
        if kind == 0 or (kind <= 4 and delivery.attempt == 1):
            raise ValueError
        if 5 <= kind <= 7:
            raise Reject("not for us")

    consuming.send(*range(2_000))
    with consuming.running() as running:
        consuming.until_drained()
        until(running.members[0].idle, what="it has heard of all")
        assert running.members[0].state.pause is None
        counts = running.members[0].counts
        assert (counts.dead, counts.rejected, counts.done) == (800, 600, 1_200)


def test_what_is_settled_together_is_counted_together(
    consuming: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters are in calls of their own: a heartbeat in between would tell of nothing but deaths."""
    take_in, count_ended = Settler._take_in, MemberState.count_ended
    seen: list[bool] = []
    counted: list[None] = []

    def watched(settler: Settler, settlement: Settlement, reply: Reply) -> MillstreamError | None:
        before = (settler._state.ended(), len(counted))  # two threads settle now and then
        failure = take_in(settler, settlement, reply)
        seen.append(settler._state.ended() == before[0] or len(counted) > before[1])
        return failure

    def counting(state: MemberState) -> None:
        counted.append(None)
        count_ended(state)

    monkeypatch.setattr(Settler, "_take_in", watched)
    monkeypatch.setattr(MemberState, "count_ended", counting)

    @consuming.app.consumer(consuming.stream, group="g", retry=1)
    def handle(event: Event) -> None:
        if event.data % 3 == 0:
            raise ValueError

    consuming.send(*range(900))
    with consuming.running() as running:
        consuming.until_drained()
        until(lambda: running.members[0].state.ended() == Ended(900, 300), what="all are counted")
    assert len(seen) > 1
    assert all(seen)


def test_a_group_that_is_never_to_pause_does_not(consuming: Consuming) -> None:
    """pause_above=1."""
    consuming.app.consumer(consuming.stream, group="g", retry=1, pause_above=1)(_fails)
    consuming.send(*range(500))
    consuming.run_until_drained()
    assert len(consuming.dead()) == 500


def test_packs_are_counted_by_their_events(consuming: Consuming) -> None:
    """A pack of which all but a few die is not one event that died."""

    @consuming.app.consumer(consuming.stream, group="g", retry=1, pause_above=0.5)
    def handle(event: Event) -> None:
        if event.data % 10:
            raise ValueError

    for _ in range(3):
        consuming.send_pack(list(range(100)))
    with consuming.running() as running:
        until_heard([running], paused=True)
        until(running.members[0].idle, what="what ran has ended, the rest is handed back")
        counts = running.members[0].counts
    assert counts.dead == len(consuming.dead())
    assert (counts.dead + counts.done + consuming.again_entries()) % 100 == 0
    assert counts.done in range(counts.dead // 9 - 10, counts.dead // 9 + 11)


def test_a_test_pipeline_says_that_its_group_is_paused() -> None:
    """Instead of waiting for it in vain."""
    app = Pipeline()
    app.consumer("orders", group="g", retry=1, pause_above=0.0)(_fails)
    with TestPipeline(app) as test:
        test.send("orders", 1)
        member = test._running.members[0]
        until(lambda: member.state.pause is not None, what="the first dead letter pauses it")
        test.send("orders", 2)
        with pytest.raises(MillstreamError, match="group 'g' of stream 'orders' is paused"):
            test.run_until_idle()


@pytest.mark.parametrize("above", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(above: float) -> None:
    """By its name and range."""
    with pytest.raises(UsageError, match=r"pause_above=.*0 .* to 1"):
        ConsumerOptions(pause_above=above)


def _fails(event: Event) -> None:
    raise ValueError(f"bad deploy {event.data}")
