"""What dead old workers left, with a record or without, is put back beside old workers and old recoverers: each crash
point of theirs and of ours."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.errors import (
    AccessDeniedError,
    NotConnectedError,
    ServerRefusedError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.list_options import ListOptions
from pipeline.server.connect import Connector, Link
from pipeline.server.list_due import held_key
from pipeline.server.list_old import OldTasks, Recovered, recover_old
from pipeline.server.list_old_steps import DEPTH
from pipeline.server.list_push import MAX_PAYLOADS
from tests.clustered import one_node_cluster
from tests.conftest import Server, started
from tests.lists.classic import PROCESSING, TIMEOUT_S, ClassicQueue, finish, record_key, stop_after
from tests.proxy import Proxy
from tests.until import until

NAME = "emails"
TASK = b'{"function": "send_email", "args": ["ann@example.com"]}'
OPTIONS = ListOptions(name=NAME, old_processing=PROCESSING)
TIMEOUT_MS = OPTIONS.old_timeout_ms


@pytest.fixture(scope="module")
def whole_server() -> Iterator[Server]:
    """A server of these tests alone: records are looked for among all of its keys."""
    with started() as running:
        yield running


@pytest.fixture
def old_link(whole_server: Server) -> Iterator[Link]:
    """A link to the server, which is empty."""
    connector = whole_server.connector()
    link = connector.link("test")
    link.call("FLUSHALL")
    link.call("CONFIG", "RESETSTAT")
    yield link
    link.close()
    connector.close()


@pytest.fixture
def old(whole_server: Server, old_link: Link) -> Iterator[ClassicQueue]:
    """The queue as old processes use it."""
    with redis.Redis(unix_socket_path=whole_server.address.path) as client:
        yield ClassicQueue(client, NAME)


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that refuses scripts across slots."""
    with one_node_cluster(Path(tmp_path_factory.mktemp("cluster"))) as server:
        yield server.url


@pytest.fixture
def cluster_link(cluster_url: str) -> Iterator[Link]:
    """A link to it; it is empty."""
    connector = Connector(cluster_url)
    link = connector.link("test")
    link.call("FLUSHALL")
    yield link
    link.close()
    connector.close()


class Ours:
    """Our recoverer, and what can be seen of what it does."""

    def __init__(self, link: Link, options: ListOptions = OPTIONS, *, cluster: bool = False) -> None:
        self.link = link
        self.options = options
        self.cluster = cluster

    def recover(self) -> Recovered:
        """A look at everything."""
        return recover_old(self.link, self.options, cluster=self.cluster)

    def leave(self, *tasks: bytes, record: int | None = None) -> None:
        """Tasks of an old worker that was killed; with a record, dated so many s since 1970."""
        for task in tasks:
            self.link.call("LPUSH", PROCESSING, task)
            if record is not None:
                self.link.call(
                    *("HSET", record_key(task), "task", task, "timestamp", record, "timeout", TIMEOUT_S)
                )

    def waiting(self) -> list[bytes]:
        """What stands in the list."""
        return list(self.link.call("LRANGE", self.options.name, 0, -1))

    def processing(self) -> list[bytes]:
        """What stands in the processing list, the newest first."""
        return list(self.link.call("LRANGE", self.options.old_processing, 0, -1))

    def records(self) -> int:
        """How many records there are."""
        return len(self.link.call("KEYS", f"{self.options.old_records}*"))

    def seen(self) -> dict[bytes, bytes]:
        """What is known of tasks without a record."""
        flat = self.link.call("HGETALL", self.options.keys.seen)
        return {flat[i]: flat[i + 1] for i in range(0, len(flat), 2) if flat[i] != b"@"}

    def later(self, ms: int) -> None:
        """So much more time has passed in which somebody looked."""
        observed, at = self.link.call("HGET", self.options.keys.seen, "@").split()
        self.link.call("HSET", self.options.keys.seen, "@", b"%d %b" % (int(observed) + ms, at))


@pytest.fixture
def ours(old_link: Link) -> Ours:
    """Our recoverer."""
    return Ours(old_link)


def expire(old: ClassicQueue, task: bytes = TASK) -> None:
    """Its worker has had its time."""
    old.redis.hset(record_key(task), "timestamp", str(time.time() - TIMEOUT_S - 1))


def left_at(old: ClassicQueue, step: str, task: bytes = TASK) -> None:
    """An old worker is killed behind this step."""
    old.push(task)
    if step in ("moved", "recorded"):
        stop_after(old.dequeue(), step)
        return
    finish(old.dequeue())
    stop_after(old.acknowledge(task), step)


@pytest.mark.parametrize(
    ("step", "at_once", "in_the_end"),
    [
        ("moved", Recovered(complete=True), 1),
        ("recorded", Recovered(tasks=1, complete=True), 1),
        ("removed", Recovered(forgotten=1, complete=True), 0),
        ("forgotten", Recovered(complete=True), 0),
    ],
)
def test_an_old_worker_killed_behind_any_step_leaves_nothing_lost_and_nothing_twice(
    old: ClassicQueue, ours: Ours, step: str, at_once: Recovered, in_the_end: int
) -> None:
    """A task that was not acknowledged runs once more, one that was does not."""
    left_at(old, step)
    if step in ("recorded", "removed"):
        assert ours.recover() == Recovered(complete=True)  # its time is not up
        expire(old)
    assert ours.recover() == at_once
    if step == "moved":
        ours.later(TIMEOUT_MS)
        assert ours.recover().bare == 1
    assert ours.waiting() == [TASK] * in_the_end
    assert (ours.processing(), ours.records()) == ([], 0)
    assert ours.recover() == Recovered(complete=True)
    assert ours.waiting() == [TASK] * in_the_end


@pytest.mark.parametrize(
    ("step", "in_the_end", "why"),
    [
        ("listed", 1, "it had only looked"),
        ("found", 1, "it had decided, and done nothing"),
        (
            "pushed",
            2,
            "it pushed, and nothing tells that from a task that was not: any old recoverer pushes it again",
        ),
        ("removed", 1, "the copy is gone: ours forgets the record, where an old one pushes once more"),
        ("forgotten", 1, "it was done"),
    ],
)
def test_an_old_recoverer_killed_behind_any_step(
    old: ClassicQueue, ours: Ours, step: str, in_the_end: int, why: str
) -> None:
    """Nothing is lost; twice is only what the old one pushed before it removed it."""
    left_at(old, "recorded")
    expire(old)
    stop_after(old.recover(), step)
    ours.recover()
    assert ours.waiting() == [TASK] * in_the_end, why
    assert (ours.processing(), ours.records()) == ([], 0)


@pytest.mark.parametrize(("step", "in_the_end"), [("listed", 1), ("found", 2), ("pushed", 2), ("removed", 1)])
def test_an_old_recoverer_that_goes_on_after_ours(
    old: ClassicQueue, ours: Ours, step: str, in_the_end: int
) -> None:
    """It acts on what it read before: two old ones do the same to each other. Nothing is lost."""
    left_at(old, "recorded")
    expire(old)
    steps = old.recover()
    for done in steps:
        if done == step:
            break
    ours.recover()
    finish(steps)
    assert ours.waiting() == [TASK] * in_the_end
    assert (ours.processing(), ours.records()) == ([], 0)


def test_an_old_worker_that_acknowledges_in_between_is_not_overrun(old: ClassicQueue, ours: Ours) -> None:
    """Between our look and our step it removed its copy: the step looks again."""
    left_at(old, "recorded")
    expire(old)
    assert old.redis.lrange(PROCESSING, 0, -1) == [TASK]
    stop_after(old.acknowledge(TASK), "removed")
    assert ours.recover() == Recovered(forgotten=1, complete=True)
    assert ours.waiting() == []


def test_a_record_that_was_renewed_protects_its_task(old: ClassicQueue, ours: Ours) -> None:
    """An equal task was taken meanwhile: there is one record for both."""
    left_at(old, "recorded")
    expire(old)
    left_at(old, "recorded")
    assert ours.recover() == Recovered(complete=True)
    assert len(ours.processing()) == 2


def test_a_worker_that_is_too_late_does_no_harm(old: ClassicQueue, ours: Ours) -> None:
    """It ran beyond its timeout, and acknowledges what has been put back: the task runs again, and is not lost."""
    left_at(old, "recorded")
    expire(old)
    assert ours.recover().tasks == 1
    finish(old.acknowledge(TASK))
    assert ours.waiting() == [TASK]


def test_a_task_goes_to_the_end_that_tasks_are_pushed_to(old: ClassicQueue, ours: Ours) -> None:
    """As old recoverers have it: one that kills its workers does not stand in front of all others."""
    left_at(old, "recorded")
    expire(old)
    old.push(b"waiting")
    ours.recover()
    assert ours.waiting() == [TASK, b"waiting"]


def test_without_a_record_only_what_is_more_than_records_for_a_full_timeout(
    old: ClassicQueue, ours: Ours
) -> None:
    """Three copies and one record, later a fourth copy: two go back, then one, and the one with a record stays."""
    for _ in range(2):
        left_at(old, "moved")
    left_at(old, "recorded")
    assert ours.recover() == Recovered(complete=True)
    ours.later(TIMEOUT_MS // 2)
    left_at(old, "moved")
    assert ours.recover() == Recovered(complete=True)
    ours.later(TIMEOUT_MS // 2 - 5_000)
    assert ours.recover() == Recovered(complete=True)
    ours.later(5_000)
    assert ours.recover() == Recovered(bare=2, complete=True)
    assert len(ours.processing()) == 2
    ours.later(TIMEOUT_MS // 2)
    assert ours.recover() == Recovered(bare=1, complete=True)
    assert (ours.waiting(), ours.processing()) == ([TASK] * 3, [TASK])
    ours.later(10 * TIMEOUT_MS)
    assert ours.recover() == Recovered(complete=True)
    assert ours.seen() == {}


def test_what_was_acknowledged_in_between_counts_anew(old: ClassicQueue, ours: Ours) -> None:
    """No more copies than records once, and the time before that is forgotten."""
    left_at(old, "moved")
    ours.recover()
    ours.later(TIMEOUT_MS - 1_000)
    finish(old.acknowledge(TASK))
    ours.recover()
    left_at(old, "moved")
    ours.recover()
    ours.later(2_000)
    assert ours.recover() == Recovered(complete=True)
    assert ours.processing() == [TASK]
    ours.later(TIMEOUT_MS)
    assert ours.recover().bare == 1


def test_the_wrong_twin_that_an_old_worker_removes_is_put_back_in_the_end(
    old: ClassicQueue, ours: Ours
) -> None:
    """Two equal tasks, one record: the first acknowledgement deletes the record of both, then the other worker dies."""
    for _ in range(2):
        left_at(old, "recorded")
    finish(old.acknowledge(TASK))
    ours.recover()
    ours.later(TIMEOUT_MS)
    assert ours.recover() == Recovered(bare=1, complete=True)
    assert (ours.waiting(), ours.processing()) == ([TASK], [])


def test_two_who_look_at_once_put_nothing_back_twice(old: ClassicQueue, ours: Ours) -> None:
    """Both know of the same tasks; the step decides."""
    for _ in range(3):
        left_at(old, "moved")
    left_at(old, "recorded", b"other")
    first, second = OldTasks(OPTIONS), OldTasks(OPTIONS)
    first.run_once(ours.link), second.run_once(ours.link)
    expire(old, b"other")
    ours.later(TIMEOUT_MS)
    found = [one.run_once(ours.link) for one in (first, second, first, second)]
    assert sum(one.bare for one in found) == 3
    assert sum(one.tasks for one in found) == 1
    assert sorted(ours.waiting()) == sorted([TASK] * 3 + [b"other"])


def test_what_was_seen_survives_a_restart_of_who_looks_and_of_the_server(own_server: Any) -> None:
    """It is kept on the server, in time that somebody looked."""
    server = own_server(fsync="always")
    link = server.connector().link("test")
    link.call("LPUSH", PROCESSING, TASK)
    ours = Ours(link)
    ours.recover()
    ours.later(TIMEOUT_MS - 1)
    server.kill()
    server.restart()
    connector = server.connector()
    ours = Ours(connector.wait_until_up(10_000))
    until(lambda: ours.recover().bare, what="the bare task to be put back")
    assert ours.waiting() == [TASK]
    connector.close()


def test_a_pause_in_which_nobody_looked_counts_for_little(old: ClassicQueue, ours: Ours) -> None:
    """An hour between two looks, or a clock that was set on, is a quarter of the old timeout: anything may have come
    and gone."""
    left_at(old, "moved")
    ours.recover()
    observed, at = ours.link.call("HGET", OPTIONS.keys.seen, "@").split()
    for looks in range(1, 5):
        assert ours.recover() == Recovered(complete=True)
        now = int(ours.link.call("HGET", OPTIONS.keys.seen, "@").split()[0])
        assert now - int(observed) < looks * TIMEOUT_MS // 4 + 1_000
        ours.link.call("HSET", OPTIONS.keys.seen, "@", b"%d %d" % (now, int(at) - 3_600_000))
    assert ours.recover() == Recovered(bare=1, complete=True)


def test_a_clock_that_is_set_back_counts_for_nothing(old: ClassicQueue, ours: Ours) -> None:
    """The last look lies ahead."""
    left_at(old, "moved")
    ours.recover()
    ours.link.call("HSET", OPTIONS.keys.seen, "@", b"5 %d" % ((time.time() + 3_600) * 1_000))
    ours.recover()
    assert ours.link.call("HGET", OPTIONS.keys.seen, "@").split()[0] == b"5"


def test_in_real_time(old: ClassicQueue, old_link: Link) -> None:
    """Without a record, after a timeout of a second, by looks every now and then, and not before."""
    ours = Ours(old_link, ListOptions(name=NAME, old_processing=PROCESSING, old_timeout_ms=1_000))
    left_at(old, "moved")
    ours.recover()
    begun_s = time.monotonic()
    until(lambda: ours.recover().bare, what="the task to be put back")
    assert 0.95 < time.monotonic() - begun_s < 3
    assert ours.waiting() == [TASK]


def test_records_of_other_names_count_too(old: ClassicQueue, ours: Ours) -> None:
    """Whoever named records otherwise than by the task's MD5: one that timed out has its task put back, one that has
    not keeps it from being taken for bare."""
    now_s = time.time()
    old.redis.lpush(PROCESSING, "late", "live", "live")
    old.redis.hset("processing:7f3a", mapping={"task": "late", "timestamp": now_s - 301, "timeout": 300})
    old.redis.hset("processing:7f3b", mapping={"task": "live", "timestamp": now_s, "timeout": 86_000})
    assert ours.recover() == Recovered(tasks=1, complete=True)
    ours.recover()
    ours.later(TIMEOUT_MS)
    assert ours.recover() == Recovered(bare=1, complete=True)
    assert (sorted(ours.waiting()), ours.processing()) == ([b"late", b"live"], [b"live"])


MALFORMED: dict[str, dict[str, Any]] = {
    "no task": {"task_id": "x", "timestamp": 1, "timeout": 300},
    "no timestamp": {"task": TASK, "timeout": 300},
    "a date": {"task": TASK, "timestamp": "2025-11-26T06:00:00", "timeout": 300},
    "nan": {"task": TASK, "timestamp": "nan", "timeout": 300},
    "far ahead": {"task": TASK, "timestamp": time.time() * 1_000, "timeout": 300},
    "odd timeout": {"task": TASK, "timestamp": 1, "timeout": "soon"},
    "negative timeout": {"task": TASK, "timestamp": 1, "timeout": -5},
}


@pytest.mark.parametrize("record", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_record_of_no_use_is_reported_and_left_alone(
    old: ClassicQueue, ours: Ours, record: dict[str, Any]
) -> None:
    """And it protects nothing: its task counts as one without a record."""
    key = record_key(TASK)
    old.redis.lpush(PROCESSING, TASK)
    old.redis.hset(key, mapping=record)
    found = ours.recover()
    assert (found.tasks, found.bare, found.forgotten) == (0, 0, 0)
    assert list(found.malformed) == [key]
    assert old.redis.exists(key) == 1
    ours.later(TIMEOUT_MS)
    assert ours.recover().bare == 1
    assert ours.waiting() == [TASK]
    assert old.redis.exists(key) == 1


def test_a_record_without_a_timeout_has_the_lists(old: ClassicQueue, ours: Ours) -> None:
    """old_timeout_ms."""
    old.redis.lpush(PROCESSING, TASK)
    old.redis.hset(record_key(TASK), mapping={"task": TASK, "timestamp": time.time() - 299})
    assert ours.recover().tasks == 0
    old.redis.hset(record_key(TASK), "timestamp", time.time() - 301)
    assert ours.recover().tasks == 1


def test_what_only_looks_like_a_record_is_left_alone(old: ClassicQueue, ours: Ours) -> None:
    """Keys of other types under the old prefix, and records of other lists under another."""
    old.redis.set("processing:total", 5)
    old.redis.set(record_key(TASK), "mine")
    old.redis.lpush(PROCESSING, TASK)
    old.redis.hset("processing[1]", "task", "x")
    found = ours.recover()
    assert found.malformed == {record_key(TASK): "it holds something else than a hash"}
    assert ours.records() == 2


def test_records_are_found_by_scan_in_bounded_steps(old: ClassicQueue, ours: Ours) -> None:
    """KEYS is never called, and other keys are passed by."""
    with old.redis.pipeline(transaction=False) as pipeline:
        for number in range(5_000):
            pipeline.set(f"other:{number}", 1)
        pipeline.execute()
    for number in range(40):
        left_at(old, "removed", b"%d" % number)
        expire(old, b"%d" % number)
    steps = OldTasks(OPTIONS)
    found, calls = Recovered(), 0
    while not found.complete:
        found.add(steps.run_once(ours.link))
        calls += 1
    assert found.forgotten == 40
    assert calls > 1
    assert ours.waiting() == []
    assert "cmdstat_keys" not in old.redis.info("commandstats")


def test_a_long_processing_list_is_looked_through_in_bounded_steps(old: ClassicQueue, ours: Ours) -> None:
    """The oldest 10,000 are looked at, others when those have gone."""
    tasks = [b"%d" % number for number in range(DEPTH + 500)]
    for start in range(0, len(tasks), MAX_PAYLOADS):
        old.redis.lpush(PROCESSING, *tasks[start : start + MAX_PAYLOADS])
    ours.recover()
    assert len(ours.seen()) == DEPTH
    ours.later(TIMEOUT_MS)
    assert ours.recover().bare == DEPTH
    assert ours.processing() == tasks[:-501:-1]
    ours.recover()
    ours.later(TIMEOUT_MS)
    assert ours.recover().bare == 500
    assert ours.waiting() == tasks[::-1]
    sizes = old.redis.info("commandstats")["cmdstat_lrange"]
    assert sizes["calls"] > 2 * DEPTH / 500


def test_large_tasks_are_asked_for_a_few_at_a_time(old: ClassicQueue, ours: Ours) -> None:
    """About a megabyte."""
    for number in range(40):
        old.redis.lpush(PROCESSING, b"%02d" % number + b"x" * 300_000)
    ours.recover()
    assert old.redis.info("commandstats")["cmdstat_lrange"]["calls"] > 8
    ours.later(TIMEOUT_MS)
    assert ours.recover().bare == 40


def test_many_copies_of_one_task(old: ClassicQueue, ours: Ours) -> None:
    """A hundred by each script."""
    old.redis.lpush(PROCESSING, *[TASK] * 250)
    ours.recover()
    ours.later(TIMEOUT_MS)
    assert ours.recover().bare == 250
    assert (ours.waiting(), ours.processing(), ours.seen()) == ([TASK] * 250, [], {})


def test_a_recovery_whose_answer_is_lost_puts_nothing_back_twice(
    whole_server: Server, old: ClassicQueue, ours: Ours
) -> None:
    """Cut behind every answer in turn, and begun anew by somebody else: all are back, each once."""
    tasks = [b"%d" % number for number in range(6)]
    for task in tasks[3:]:
        left_at(old, "moved", task)
    ours.recover()
    for task in tasks[:3]:
        left_at(old, "recorded", task)
        expire(old, task)
    ours.later(TIMEOUT_MS)
    with Proxy(whole_server.address) as proxy:
        connector = whole_server.connector()
        for cut in range(1, 40):
            link = type(connector)(proxy.url).link("test")
            seen = proxy.replies
            proxy.swallow = lambda number, _reply, last=seen + cut: number == last
            try:
                recover_old(link, OPTIONS)
                proxy.swallow = None
                link.close()
                break
            except NotConnectedError:
                proxy.swallow = None
        else:
            raise AssertionError("it was cut each time")
        connector.close()
    assert cut > 6
    assert sorted(ours.waiting()) == tasks
    assert (ours.processing(), ours.records()) == ([], 0)


def test_when_memory_is_out_old_tasks_are_put_back_all_the_same(old: ClassicQueue, ours: Ours) -> None:
    """They are on the server already."""
    left_at(old, "recorded", b"with")
    expire(old, b"with")
    left_at(old, "moved", b"without")
    ours.link.call("CONFIG", "SET", "maxmemory", 1)
    try:
        ours.recover()
        assert ours.waiting() == [b"with"]
        ours.link.call("CONFIG", "SET", "maxmemory", 0)
        ours.later(TIMEOUT_MS)
        ours.link.call("CONFIG", "SET", "maxmemory", 1)
        assert ours.recover().bare == 1
    finally:
        ours.link.call("CONFIG", "SET", "maxmemory", 0)
    assert ours.waiting() == [b"without", b"with"]


@pytest.mark.parametrize("key", [NAME, PROCESSING, OPTIONS.keys.seen])
def test_a_key_of_another_type_is_named_and_nothing_is_lost(old: ClassicQueue, ours: Ours, key: str) -> None:
    """What stands stays until it is mended."""
    if key != PROCESSING:
        left_at(old, "recorded")
        expire(old)
    old.redis.delete(key)
    old.redis.set(key, "something else")
    with pytest.raises(WrongKeyTypeError, match=f"key '{key}' holds a string"):
        ours.recover()
    if key != PROCESSING:
        old.redis.delete(key)
        ours.recover()
        assert (ours.waiting(), ours.processing()) == ([TASK], [])


def test_a_right_that_is_missing_loses_nothing(whole_server: Server, old: ClassicQueue, ours: Ours) -> None:
    """A user who may push and not remove: what was half done is undone."""
    left_at(old, "recorded")
    expire(old)
    old.push(b"waiting")
    ours.link.call("ACL", "SETUSER", "half", "reset", "on", "nopass", "~*", "+@all", "-lrem")
    link = whole_server.connector().link("test")
    link.call("AUTH", "half", "any")
    with pytest.raises(AccessDeniedError):
        recover_old(link, OPTIONS)
    link.close()
    ours.link.call("ACL", "DELUSER", "half")
    assert (ours.waiting(), ours.processing(), ours.records()) == ([b"waiting"], [TASK], 1)


def test_nothing_is_looked_at_unless_the_processing_list_is_named(old: ClassicQueue, ours: Ours) -> None:
    """Nothing in it says which queue a task came from: it may be another's."""
    left_at(old, "recorded")
    expire(old)
    assert recover_old(ours.link, ListOptions(name=NAME)) == Recovered(complete=True)
    assert ours.processing() == [TASK]


def test_a_processing_list_is_that_of_one_list_only(old: ClassicQueue, ours: Ours) -> None:
    """The second that names it is told which the first is, and takes nothing from it."""
    ours.recover()
    left_at(old, "recorded")
    expire(old)
    other = ListOptions(name="sms", old_processing=PROCESSING)
    with pytest.raises(UsageError, match="old_processing='processing' is what list 'emails' has declared"):
        recover_old(ours.link, other)
    assert ours.processing() == [TASK]
    assert ours.recover().tasks == 1


def test_old_recoverers_see_nothing_of_ours(old: ClassicQueue, ours: Ours) -> None:
    """No key of ours matches their pattern."""
    left_at(old, "moved")
    ours.recover()
    assert old.redis.keys("processing*") == [b"processing"]
    assert len(old.redis.keys("*")) == 3


def test_a_priority_queue_has_nothing_to_recover(old: ClassicQueue, ours: Ours) -> None:
    """Old workers pop its tasks: there is no processing list of theirs."""
    options = ListOptions(name="ranked", order="priority", old_processing=PROCESSING)
    assert recover_old(ours.link, options) == Recovered(complete=True)


@pytest.fixture
def apart(cluster_link: Link) -> Ours:
    """Where list, processing list and each record are in slots of their own."""
    return Ours(cluster_link, cluster=True)


def test_across_slots_tasks_come_back_in_steps(apart: Ours) -> None:
    """With a record that timed out, with one that did not, without one, and a record alone; equal ones among them."""
    now_s = int(time.time())
    apart.leave(b"late", b"late", record=1)
    apart.leave(b"live", record=now_s)
    apart.leave(b"live", b"bare", b"bare")
    apart.link.call("HSET", record_key(b"done"), "task", "done", "timestamp", 1, "timeout", 300)
    apart.link.call("HSET", "processing:odd", "task", "odd")
    found = apart.recover()
    assert (found.tasks, found.bare, found.forgotten) == (1, 0, 1)
    assert list(found.malformed) == ["processing:odd"]
    apart.recover()
    apart.later(TIMEOUT_MS)
    assert apart.recover().bare == 4
    assert sorted(apart.waiting()) == [b"bare", b"bare", b"late", b"late", b"live"]
    assert apart.processing() == [b"live"]
    apart.later(TIMEOUT_MS)
    assert (apart.recover().tasks, apart.recover().bare) == (0, 0)
    assert len(apart.link.call("LRANGE", held_key(PROCESSING, NAME), 0, -1)) == 1


def test_one_script_would_be_refused_there(apart: Ours) -> None:
    """The server does keep slots apart."""
    apart.leave(TASK, record=1)
    with pytest.raises(ServerRefusedError, match="CROSSSLOT"):
        recover_old(apart.link, OPTIONS)
    assert apart.recover().tasks == 1


def test_names_with_one_tag_need_one_step_there(apart: Ours) -> None:
    """`{mail}:emails`, `{mail}:processing`, `{mail}:processing:`."""
    options = ListOptions(
        name="{mail}:emails", old_processing="{mail}:processing", old_records="{mail}:processing:"
    )
    apart.link.call("LPUSH", options.old_processing, TASK)
    apart.link.call("HSET", "{mail}:processing:x", "task", TASK, "timestamp", 1, "timeout", 1)
    assert recover_old(apart.link, options).tasks == 1
    assert recover_old(apart.link, options, cluster=True) == Recovered(complete=True)
    assert apart.link.call("LRANGE", options.name, 0, -1) == [TASK]


@pytest.mark.campaign
def test_across_slots_whoever_is_cut_off_leaves_the_rest_to_the_next(cluster_url: str, apart: Ours) -> None:
    """Behind each answer in turn: nothing is lost, nothing twice; what lost its record comes back a timeout later."""
    tasks = [b"recorded", b"bare"]
    cut, whole = 0, False
    connector = Connector(cluster_url)
    with Proxy(connector.address, tcp=True) as proxy:
        for cut in range(1, 60):
            apart.link.call("FLUSHALL")
            apart.leave(b"bare")
            apart.recover()
            apart.later(TIMEOUT_MS)
            apart.leave(b"recorded", record=1)
            link = Connector(proxy.url).link("test")
            seen = proxy.replies
            proxy.swallow = lambda number, _reply, last=seen + cut: number == last
            try:
                recover_old(link, OPTIONS, cluster=True)
                whole = True
            except NotConnectedError:
                whole = False
            proxy.swallow = None
            link.close()
            for _ in range(2):
                apart.recover()
                apart.later(TIMEOUT_MS)
            apart.recover()
            assert sorted(apart.waiting()) == sorted(tasks), f"cut behind answer {cut}"
            assert apart.processing() == []
            if whole:
                break
    connector.close()
    assert whole
    assert cut > 15


def test_across_slots_two_who_look_at_once_put_nothing_back_twice(apart: Ours) -> None:
    """Equal tasks, of which one has a record that timed out: one comes back at once, by whoever is first."""
    apart.leave(TASK, record=1)
    apart.leave(TASK, TASK)
    first, second = (OldTasks(OPTIONS, cluster=True) for _ in range(2))
    found = [one.run_once(apart.link) for one in (first, second)]
    assert sum(one.tasks for one in found) == 1
    apart.later(TIMEOUT_MS)
    found = [one.run_once(apart.link) for one in (first, second, first, second)]
    assert sum(one.bare for one in found) == 2
    assert (apart.waiting(), apart.processing()) == ([TASK] * 3, [])


def test_across_slots_a_list_of_another_type_leaves_tasks_held(apart: Ours) -> None:
    """They are placed once the key is what it should be."""
    apart.leave(TASK, record=1)
    apart.link.call("SET", NAME, "something else")
    for _ in range(2):
        with pytest.raises(WrongKeyTypeError, match=f"key '{NAME}' holds a string"):
            apart.recover()
    apart.link.call("DEL", NAME)
    assert apart.recover().tasks == 1
    assert apart.waiting() == [TASK]


@pytest.mark.campaign
def test_equal_tasks_that_old_workers_run_all_the_time_are_left_alone(
    whole_server: Server, old: ClassicQueue, ours: Ours
) -> None:
    """There is one record for all of them, so there are more copies than records at every look, for longer than an old
    timeout; and each is some worker's. A copy that a dead one left comes back once they have been quiet for long."""
    options = ListOptions(name=NAME, old_processing=PROCESSING, old_timeout_ms=1_000)
    stop = threading.Event()
    done = Counter[str]()

    def work(which: str) -> None:
        with redis.Redis(unix_socket_path=whole_server.address.path) as client:
            mine = ClassicQueue(client, NAME)
            while not stop.is_set():
                mine.push(TASK)
                finish(mine.dequeue())
                stop.wait(0.01)  # it runs
                finish(mine.acknowledge(TASK))
                done[which] += 1

    stop_after(old_dead(old), "moved")
    workers = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for worker in workers:
        worker.start()
    steps, looks = OldTasks(options), 0
    until_s = time.monotonic() + 3
    try:
        while time.monotonic() < until_s:
            looks += 1
            assert steps.run_once(ours.link).bare == 0
            stop.wait(0.03)
    finally:
        stop.set()
        for worker in workers:
            worker.join(10)
    assert looks > 30
    assert min(done.values()) > 50
    until(lambda: steps.run_once(ours.link).bare == 1, what="the dead worker's copy to be put back")
    assert (ours.waiting(), ours.processing()) == ([TASK], [])


def test_a_task_that_runs_every_now_and_then_keeps_nobody_from_a_copy_left_behind(
    old: ClassicQueue, ours: Ours
) -> None:
    """Each start that is seen costs half of the timeout, and no more."""
    left_at(old, "moved")
    ours.recover()
    looks = 0
    while not ours.recover().bare:
        looks += 1
        left_at(old, "recorded")
        assert ours.recover().bare == 0
        finish(old.acknowledge(TASK))
        ours.later(TIMEOUT_MS * 3 // 4)
    assert 2 <= looks <= 5
    assert (ours.waiting(), ours.processing()) == ([TASK], [])


def old_dead(old: ClassicQueue) -> Any:
    """A worker that is about to take a task."""
    old.push(TASK)
    return old.dequeue()
