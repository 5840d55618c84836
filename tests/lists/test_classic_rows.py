"""The classic list queue row by row: what it does wrong, shown step by step on a server; and that ours does not."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry as ClientRetry

from consumers.app import Pipeline
from consumers.consumer import Consumer
from consumers.delivery import Delivery
from consumers.list_queue import ListQueue
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.list_options import WORKERS, ListOptions
from pipeline.options import Retry
from pipeline.server.connect import Link
from pipeline.server.list_old import OldTasks, recover_old
from tests.conftest import Server
from tests.lists import classic
from tests.lists.beside import NAME, TASK, TASK_DATA, calls, keeping, tasks
from tests.lists.classic import ClassicQueue, finish, record_key, stop_after
from tests.lists.conftest import Listing, worker_of
from tests.lists.mixed_crew import MixedCrew
from tests.proxy import Proxy
from tests.until import until

ROOT = Path(__file__).parents[2]


def expire(client: Any, task: bytes) -> None:
    """Make the record of a task one that timed out: by its own words, no sleeping."""
    client.hset(record_key(task), "timestamp", time.time() - classic.TIMEOUT_S - 1)


def microseconds(client: Any, command: str) -> float:
    """What a call of a command has taken on average, in us, as the server measured it."""
    return float(client.info("commandstats")[f"cmdstat_{command}"]["usec_per_call"])


# Push.


def test_classic_push_whose_answer_is_lost_is_pushed_twice(old_server: Server, client: Any) -> None:
    """The client library repeats a command whose answer it did not get: LPUSH is no command to repeat."""
    with (
        Proxy(old_server.address) as proxy,
        redis.Redis(unix_socket_path=proxy.url.removeprefix("unix://"), protocol=2) as through,
    ):
        through.ping()
        first = proxy.replies + 1
        proxy.swallow = lambda number, _: number == first
        ClassicQueue(through, NAME).push(TASK)
    assert tasks(client) == [TASK, TASK]


# Blocking pop.


def test_classic_pop_loses_the_task_of_a_worker_that_dies(
    old_server: Server, client: Any, old: ClassicQueue, tmp_path: Path
) -> None:
    """kill -9 after BRPOP was answered: the task is nowhere on the server, and nobody ran it."""
    with old_process(old_server, "brpop", tmp_path / "account") as worker:
        until(lambda: client.info("clients")["blocked_clients"])
        worker.send_signal(signal.SIGSTOP)
        old.push(TASK)
        assert client.dbsize() == 0, "the server has handed the task over"
        worker.kill()
        worker.wait()
    assert [step for step, *_ in classic.lines_of(tmp_path / "account")] == ["started", "waiting"]
    assert finish(old.recover()) == []
    assert client.dbsize() == 0


def test_classic_pop_loses_the_task_whose_answer_is_lost(
    old_server: Server, client: Any, old: ClassicQueue
) -> None:
    """The connection breaks under the answer of BRPOP: the client library pops again, another task, and is silent."""
    old.push("first")
    old.push("second")
    with (
        Proxy(old_server.address) as proxy,
        redis.Redis(unix_socket_path=proxy.url.removeprefix("unix://"), protocol=2) as through,
    ):
        proxy.swallow = lambda _, reply: b"first" in reply
        assert ClassicQueue(through, NAME).pop(1) == (NAME.encode(), b"second")
    assert client.dbsize() == 0


def test_classic_pop_waits_no_longer_than_its_socket(client: Any, old_server: Server) -> None:
    """BRPOP 0 says to wait for ever, and the client library's socket timeout (5 s, unless told) ends it."""
    with redis.Redis(unix_socket_path=old_server.address.path) as unchanged:
        assert unchanged.connection_pool.make_connection().socket_timeout == 5
    with (
        redis.Redis(
            unix_socket_path=old_server.address.path, socket_timeout=0.1, retry=ClientRetry(NoBackoff(), 0)
        ) as short,
        pytest.raises(redis.TimeoutError),
    ):
        ClassicQueue(short, NAME).pop(0)


def test_ours_runs_the_task_of_a_worker_that_dies(
    old_server: Server, ours: Listing, tmp_path: Path, ran: list[Any]
) -> None:
    """kill -9 after the server has handed a task over: it stands on the server, and another worker runs it."""
    with MixedCrew(tmp_path, old_server, NAME, timeout_s=300, work_ms=1) as crew:
        crew.start("consumer")
        until(lambda: ours.link.call("INFO", "clients").count(b"blocked_clients:2"), what=crew.said)
        crew.jobs[0].process.send_signal(signal.SIGSTOP)
        ours.push(TASK)
        assert ours.left() == []
        assert ours.taken() == 1
        crew.end(crew.jobs[0])
        assert crew.held_by_killed == {TASK: 1}
        assert crew.lines(("consumer",))[-1][0] == "started"
    ours.app.consumer(list=NAME, claim_after="1s")(keeping(ran))
    with ours.running():
        ours.until_gone()
    assert ran == [TASK_DATA]


def test_ours_runs_the_task_whose_answer_is_lost(old_server: Server, ours: Listing, ran: list[Any]) -> None:
    """The connection breaks under the answer that brings a task: it is asked for again, and runs once."""
    with Proxy(old_server.address) as proxy:
        app = Pipeline(proxy.url)
        app.consumer(list=NAME)(keeping(ran))
        proxy.swallow = lambda _, reply: b"mail 1" in reply and not proxy.swallowed
        ours.push("mail 1", "mail 2")
        with worker_of(app):
            ours.until_gone()
        assert proxy.swallowed == 1
    assert sorted(ran) == ["mail 1", "mail 2"]


def test_ours_pops_the_task_whose_answer_is_lost(old_server: Server, ours: Listing) -> None:
    """The connection breaks under the answer of a plain pop: the same task is popped then, and no other is lost."""
    ours.push("mail 1", "mail 2")
    with Proxy(old_server.address) as proxy, ListQueue(NAME, proxy.url) as queue:
        proxy.swallow = lambda _, reply: b"mail 1" in reply and not proxy.swallowed
        assert queue.pop("1s") == "mail 1"
        assert proxy.swallowed == 1
        assert queue.pop("1s") == "mail 2"
        assert queue.pop(0) is None


def test_ours_pops_after_any_wait(old_server: Server, ours: Listing) -> None:
    """A pop waits for longer than its connections wait for other answers: as long as it was told to."""
    with (
        contextlib.closing(old_server.connector(timeout_ms=100)) as connector,
        ListQueue(NAME, connector=connector) as queue,
        ThreadPoolExecutor() as threads,
    ):
        popped = threads.submit(queue.pop, None)
        begun_s = time.monotonic()
        until(lambda: time.monotonic() - begun_s > 0.5)
        assert not popped.done()
        ours.push(TASK)
        assert popped.result(5) == TASK_DATA


# Reliable dequeue.


def test_classic_dequeue_cut_in_half_leaves_a_task_that_nobody_recovers(
    client: Any, old: ClassicQueue
) -> None:
    """Killed between LMOVE and HSET: the task stands in the processing list, and recovery knows only records."""
    old.push(TASK)
    stop_after(old.dequeue(), "moved")
    assert finish(old.recover()) == []
    assert tasks(client, classic.PROCESSING) == [TASK]
    assert tasks(client) == []


def test_classic_records_of_equal_payloads_are_one(client: Any, old: ClassicQueue) -> None:
    """Two workers hold equal tasks under one record: both die, and one of the two tasks comes back."""
    old.push(TASK)
    old.push(TASK)
    finish(old.dequeue())
    finish(old.dequeue())
    assert client.keys("processing:*") == [record_key(TASK).encode()]
    expire(client, TASK)
    assert finish(old.recover()) == [TASK]
    assert finish(old.recover()) == []
    assert tasks(client) == [TASK]
    assert tasks(client, classic.PROCESSING) == [TASK], "its twin stays for good"


def test_ours_finishes_what_is_moved_by_halves(
    ours: Listing, client: Any, old: ClassicQueue, ran: list[Any]
) -> None:
    """Killed between the two steps of a wait, the server's and the script's: whoever comes next carries the task on."""
    ours.push(TASK)
    client.lmove(NAME, ours.list_keys.hand, "RIGHT", "LEFT")
    ours.app.consumer(list=NAME)(keeping(ran))
    with ours.running():
        ours.until_gone()
    assert ran == [TASK_DATA]


def test_ours_takes_equal_payloads_as_two(ours: Listing) -> None:
    """Equal tasks have ids of their own: each is run, retried and counted for itself."""
    runs: list[tuple[str, int]] = []

    @ours.app.consumer(list=NAME, retry=Retry.fixed("10ms", attempts=3))
    def fail_once(event: Event, delivery: Delivery) -> None:
        runs.append((event.id, delivery.attempt))
        if delivery.attempt == 1:
            raise RuntimeError("the mail server is busy")

    ours.push(TASK, TASK)
    with ours.running():
        ours.until_gone()
    assert sorted(Counter(event_id for event_id, _ in runs).values()) == [2, 2]
    assert Counter(attempt for _, attempt in runs) == {1: 2, 2: 2}


# Acknowledge.


def test_classic_acknowledge_takes_the_record_of_the_twin(client: Any, old: ClassicQueue) -> None:
    """Of two workers with equal tasks one ends and the other dies: the record is gone, and with it the recovery."""
    old.push(TASK)
    old.push(TASK)
    task = finish(old.dequeue())
    assert task == finish(old.dequeue()) == TASK
    finish(old.acknowledge(task))
    assert tasks(client, classic.PROCESSING) == [TASK]
    assert client.keys("processing:*") == []
    assert finish(old.recover()) == []


def test_classic_acknowledge_is_linear(client: Any, old: ClassicQueue) -> None:
    """LREM goes through the processing list from its head, where the youngest stand: the oldest costs most."""
    held = [b"task %d" % number for number in range(50_000)]
    client.lpush(classic.PROCESSING, *held)
    for task in held[-20:]:
        finish(old.acknowledge(task))
    youngest_us = microseconds(client, "lrem")
    client.config_resetstat()
    for task in held[:20]:
        finish(old.acknowledge(task))
    assert microseconds(client, "lrem") > 20 * youngest_us


def test_ours_acknowledges_its_own_of_equal_tasks(old_server: Server, ours: Listing) -> None:
    """Of two workers with equal tasks one ends: the other's stays its own."""
    with (
        Consumer(list=NAME, url=ours.url, ack="manual", window_events=1) as one,
        Consumer(list=NAME, url=ours.url, ack="manual", window_events=1) as other,
    ):
        ours.push(TASK, TASK)
        held, kept = next(one), next(other)
        assert held.event.data == kept.event.data == TASK_DATA
        held.ack()
        until(lambda: list(ours.pending(WORKERS)) == [kept.entry_id])
        kept.ack()
        until(lambda: not ours.pending(WORKERS))
    assert ours.gone()


def test_ours_acknowledges_quickly_among_many(
    ours: Listing, client: Any, old: ClassicQueue, ran: list[Any]
) -> None:
    """With 50,000 tasks in hand an acknowledgement is by the entry's id, where LREM goes through them all."""
    client.xgroup_create(ours.stream, WORKERS, "0", mkstream=True)
    script = "for i = 1, 50000 do redis.call('XADD', KEYS[1], '*', 'b', i) end"
    client.eval(script, 1, ours.stream)
    client.xreadgroup(WORKERS, "somebody", {ours.stream: ">"}, count=50_000)
    ours.app.consumer(list=NAME, claim_after="1h")(keeping(ran))
    client.config_resetstat()
    ours.push(*(f"task {number}" for number in range(20)))
    with ours.running():
        until(lambda: len(ran) == 20)
        until(lambda: ours.taken() == 50_000)
    ours_us = microseconds(client, "xack") + microseconds(client, "xdel")
    client.lpush(classic.PROCESSING, *(f"task {number}" for number in range(50_000)))
    for number in range(5):
        finish(old.acknowledge(b"task %d" % number))
    assert ours_us < microseconds(client, "lrem") / 4


# Recover.


def test_classic_recovery_mixes_queues(client: Any, old: ClassicQueue) -> None:
    """KEYS processing:* finds records of every queue: the recoverer of `emails` pushes a payment to `emails`."""
    payments = ClassicQueue(client, "payments")
    payments.push("a payment")
    finish(payments.dequeue())
    expire(client, b"a payment")
    assert finish(old.recover()) == [b"a payment"]
    assert tasks(client, "payments") == []
    assert tasks(client) == [b"a payment"]


def test_classic_recoverers_push_twice(client: Any, old: ClassicQueue) -> None:
    """Two recoverers find the same record: each pushes the task."""
    old.push(TASK)
    finish(old.dequeue())
    expire(client, TASK)
    one, other = old.recover(), ClassicQueue(client, NAME).recover()
    for recovering in (one, other):
        assert [next(recovering), next(recovering)] == ["listed", "found"]
    assert [finish(one), finish(other)] == [[TASK], [TASK]]
    assert tasks(client) == [TASK, TASK]


def test_classic_recovery_overruns_an_acknowledgement(client: Any, old: ClassicQueue) -> None:
    """A worker acknowledges between the look at its record and the push: what is done is to be done again."""
    old.push(TASK)
    finish(old.dequeue())
    expire(client, TASK)
    recovering = old.recover()
    assert [next(recovering), next(recovering)] == ["listed", "found"]
    finish(old.acknowledge(TASK))
    finish(recovering)
    assert tasks(client) == [TASK]


def test_classic_recovery_killed_after_the_push_pushes_again(client: Any, old: ClassicQueue) -> None:
    """A recoverer dies between LPUSH and DEL: the next one finds the record as it was."""
    old.push(TASK)
    finish(old.dequeue())
    expire(client, TASK)
    stop_after(old.recover(), "pushed")
    finish(old.recover())
    assert tasks(client) == [TASK, TASK]


def test_classic_recovery_stops_at_a_key_of_another_type(client: Any, old: ClassicQueue) -> None:
    """A key named processing:… that is no record ends every recoverer: whoever lives beside them has other names."""
    client.rpush("processing:emails", TASK)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        finish(old.recover())


def test_classic_recovery_blocks_the_server(client: Any, old: ClassicQueue) -> None:
    """KEYS looks at every key of the database in one go, whoever's they are."""
    client.eval("for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'page:' .. i, '') end", 0, 100_000)
    client.config_resetstat()
    finish(old.recover())
    assert microseconds(client, "keys") > 1_000


RECOVERING = ListOptions(name=NAME, old_processing=classic.PROCESSING)


def later(client: Any, timeouts: float = 1) -> None:
    """Old timeouts pass, in which somebody of ours looked now and then: by our own words, no sleeping."""
    observed, at_ms = client.hget(RECOVERING.keys.seen, "@").split()
    passed_ms = int(timeouts * RECOVERING.old_timeout_ms)
    client.hset(RECOVERING.keys.seen, "@", b"%d %b" % (int(observed) + passed_ms, at_ms))


def test_ours_recovers_a_task_without_record(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """An old worker was killed between LMOVE and HSET: the task is back once it stood alone for an old timeout."""
    old.push(TASK)
    stop_after(old.dequeue(), "moved")
    assert recover_old(ours.link, RECOVERING).bare == 0
    later(client)
    assert recover_old(ours.link, RECOVERING).bare == 1
    assert tasks(client) == [TASK]
    assert tasks(client, classic.PROCESSING) == []


def test_ours_recovers_both_of_equal_tasks(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """Two old workers died over equal tasks, which have one record: one comes back by it, the other for want of one."""
    old.push(TASK)
    old.push(TASK)
    finish(old.dequeue())
    finish(old.dequeue())
    recover_old(ours.link, RECOVERING)
    later(client)
    expire(client, TASK)
    found = recover_old(ours.link, RECOVERING)
    found.add(recover_old(ours.link, RECOVERING))
    assert found.tasks + found.bare == 2
    assert tasks(client) == [TASK, TASK]
    assert not client.exists(classic.PROCESSING, record_key(TASK))


def test_ours_recovers_the_twin_whose_record_was_taken(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """One old worker acknowledged and took the record of the other, which died: its task is back."""
    old.push(TASK)
    old.push(TASK)
    finish(old.dequeue())
    finish(old.acknowledge(finish(old.dequeue()) or b""))
    recover_old(ours.link, RECOVERING)
    later(client)
    assert recover_old(ours.link, RECOVERING).bare == 1
    assert tasks(client) == [TASK]


def test_ours_leaves_equal_tasks_to_workers_that_go_on(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """Two old workers run equal tasks all the time, under one record: none of these is put back while they do."""
    recoverer, other = OldTasks(RECOVERING), ClassicQueue(client, NAME)

    def look() -> int:
        found = recoverer.run_once(ours.link)
        while not found.complete:
            found.add(recoverer.run_once(ours.link))
        return found.bare

    for _ in range(62):
        old.push(TASK)
    finish(old.dequeue())
    finish(other.dequeue())
    look()
    for worker in (old, other) * 30:  # for three timeouts
        later(client, 0.05)
        assert look() == 0, "two copies and one record, and both are held"
        finish(worker.acknowledge(TASK))
        finish(worker.dequeue())
    assert len(tasks(client, classic.PROCESSING)) == 2
    # Both die. One is back by the record; the other once none was taken for a full timeout.
    look()
    later(client, 1.1)
    assert look() == 1
    expire(client, TASK)
    assert recoverer.run_once(ours.link).tasks == 1
    assert tasks(client, classic.PROCESSING) == []


def test_ours_recovers_each_task_once(old_server: Server, client: Any, old: ClassicQueue) -> None:
    """Four recoverers at once: what timed out is put back in one step, by whichever comes to it."""
    every = [b"task %d" % number for number in range(300)]
    for task in every:
        old.push(task)
        finish(old.dequeue())
        expire(client, task)

    def recover(link: Link) -> int:
        return recover_old(link, RECOVERING).tasks

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        connector = stack.enter_context(contextlib.closing(old_server.connector()))
        links = [stack.enter_context(contextlib.closing(connector.link("test"))) for _ in range(4)]
        assert sum(threads.map(recover, links)) == len(every)
    assert sorted(tasks(client)) == sorted(every)
    assert not client.keys("processing*")


def test_ours_does_not_overrun_an_acknowledgement(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """What was acknowledged meanwhile is not run again, also if its worker was killed before it deleted the record."""
    old.push(TASK)
    task = finish(old.dequeue())
    assert task is not None
    expire(client, task)
    stop_after(old.acknowledge(task), "removed")
    found = recover_old(ours.link, RECOVERING)
    assert (found.tasks, found.forgotten) == (0, 1)
    assert not client.exists(NAME, record_key(TASK))


def test_ours_mixes_no_queues(ours: Listing, client: Any) -> None:
    """A processing list is looked after only where it is named, and by one queue only."""
    payments = ClassicQueue(client, "payments")
    payments.push("a payment")
    finish(payments.dequeue())
    expire(client, b"a payment")
    assert recover_old(ours.link, ListOptions(name=NAME)).tasks == 0
    assert recover_old(ours.link, ListOptions(name="payments", old_processing=classic.PROCESSING)).tasks == 1
    with pytest.raises(UsageError, match="payments"):
        recover_old(ours.link, RECOVERING)
    assert tasks(client) == []
    assert tasks(client, "payments") == [b"a payment"]


def test_ours_recovers_beside_keys_of_other_types(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """A key named processing:… that is no record is left alone, and the others are recovered."""
    client.rpush("processing:emails", "something else")
    old.push(TASK)
    finish(old.dequeue())
    expire(client, TASK)
    assert recover_old(ours.link, RECOVERING).tasks == 1
    assert tasks(client, "processing:emails") == [b"something else"]


def test_ours_recovers_in_small_steps(ours: Listing, client: Any, old: ClassicQueue) -> None:
    """No KEYS: the keys of a large database are looked through some at a time."""
    client.eval("for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'page:' .. i, '') end", 0, 100_000)
    old.push(TASK)
    finish(old.dequeue())
    expire(client, TASK)
    client.config_resetstat()
    assert recover_old(ours.link, RECOVERING).tasks == 1
    assert "keys" not in calls(client)
    assert calls(client)["scan"] >= 100
    assert microseconds(client, "scan") < 1_000


# The worker loop.


def test_classic_failed_task_waits_for_its_timeout(client: Any, old: ClassicQueue) -> None:
    """A handler that raises: the task stands in the processing list until its timeout, 300 s, has passed."""
    old.push(TASK)

    def fail(task: bytes) -> None:
        raise RuntimeError("no connection to the mail server")

    assert list(old.work(fail)) == ["listed", "moved", "recorded", "failed"]
    assert list(old.work(fail, pause_s=0)) == ["listed"], "nothing to do, as if nothing were wrong"
    assert tasks(client, classic.PROCESSING) == [TASK]


def test_classic_worker_polls(client: Any, old: ClassicQueue) -> None:
    """A worker without work asks for it all the same, and what comes meanwhile waits for the end of its sleep."""
    for _ in range(10):
        finish(old.work(lambda task: None, pause_s=0))
    asked = calls(client)
    assert (asked["keys"], asked["lmove"]) == (10, 10)


def test_ours_retries_what_failed_at_once(ours: Listing, client: Any) -> None:
    """A handler that raises: the task is due again when the retry says, whatever the timeout of old workers."""
    ran: list[int] = []

    @ours.app.consumer(list=NAME, retry=Retry.fixed("10ms", attempts=2))
    def fail_once(event: Event, delivery: Delivery) -> None:
        ran.append(delivery.attempt)
        if delivery.attempt == 1:
            raise RuntimeError("no connection to the mail server")

    ours.push(TASK)
    with ours.running():
        ours.until_gone(2)
    assert ran == [1, 2]
    assert client.keys("processing*") == []


def test_ours_waits_at_the_server(ours: Listing, client: Any, ran: list[Any]) -> None:
    """A worker without work waits at the server: a task runs as soon as it is pushed; nothing is asked before."""
    ours.app.consumer(list=NAME)(keeping(ran))
    with ours.running():
        until(lambda: client.info("clients")["blocked_clients"] == 2)
        client.config_resetstat()
        until(lambda: calls(client).get("evalsha", 0) >= 4)  # heartbeats: one each half second
        asked = calls(client)
        pushed_s = time.monotonic()
        ours.push(TASK)
        until(lambda: ran)
        assert time.monotonic() - pushed_s < 0.5
    assert not {"keys", "lmove", "brpop"} & asked.keys()
    assert asked.get("blmove", 0) + asked.get("xreadgroup", 0) <= 4, "waits that had just begun, no polling"


def old_process(server: Server, kind: str, account: Path, **options: float) -> "subprocess.Popen[bytes]":
    """An old worker as a process of its own; ended by the `with` it is used in."""
    arguments = {"timeout_s": 300, "work_ms": 1, "pause_s": 1} | options
    return subprocess.Popen(
        [
            sys.executable,
            classic.__file__,
            kind,
            f"unix://{server.address.path}",
            NAME,
            str(account),
            *(str(arguments[name]) for name in ("timeout_s", "work_ms", "pause_s")),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
