"""docs/from-lists.md as a test: a running list system moves to a stream one process at a time, and back, under load.

Real processes (moving.py): old producers, workers and scheduler as in classic.py, ours at the list, ours at the stream,
and the bridge from the command line. Each writes down what it pushed, began and did.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from millstream import ListQueue
from pipeline.keys import ListKeys, StreamKeys
from pipeline.list_options import WORKERS
from tests.conftest import OwnServer, Server
from tests.lists.moving import QUEUE, STREAM
from tests.until import until

ROOT = Path(__file__).parents[2]
WORK_S = 0.002
PACE_S = 0.01
PATIENCE_S = 40
HELD_S = 2.0
"""What a worker did so long before it was killed is acknowledged; here it takes milliseconds."""
KEYS = ListKeys(QUEUE)
NUMBERS = count(1)


class Kind(NamedTuple):
    """A process: its role, and what it is told."""

    role: str
    arguments: dict[str, Any]

    def told(self, **arguments: Any) -> "Kind":
        """The same, told something else or more."""
        return Kind(self.role, self.arguments | arguments)


OLD_PRODUCER = Kind("produce_old", {"pace_s": PACE_S})
LIST_PRODUCER = Kind("produce_list", {"pace_s": PACE_S, "layout": "classic"})
STREAM_PRODUCER = Kind("produce_stream", {"pace_s": PACE_S})
OLD_SCHEDULER = Kind("schedule_old", {})
LIST_WORKER = Kind("work_list", {"work_s": WORK_S, "layout": "classic"})
STREAM_WORKER = Kind("work_stream", {"work_s": WORK_S})


def old_worker(timeout_s: float) -> Kind:
    """An old worker whose tasks count as left behind after so long."""
    return Kind("work_old", {"work_s": WORK_S, "timeout_s": timeout_s})


class System:
    """The processes that run just now, and the account of all that ever did."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.url = f"unix://{server.address.path}"
        self.redis: Any = redis.Redis.from_url(self.url)
        self.account, self.log = folder / "account", folder / "log"
        self.account.touch()
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "MILLSTREAM_URL": self.url}
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.lists.moving", self.url, str(self.account), str(self.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            text=True,
        )
        self._bridges: list[subprocess.Popen[bytes]] = []
        self._at = 0
        self._tail = b""
        self.counts = {step: Counter[str]() for step in ("pushed", "due", "begun", "done")}
        self.by_pid: dict[int, list[tuple[float, str]]] = {}
        """What each process did last: when, and which task."""
        self.killed: dict[int, float] = {}
        """Which were killed, and when."""

    def close(self) -> None:
        """End what still runs."""
        for bridge in self._bridges:
            bridge.kill()
            bridge.wait()
        self._nursery.communicate(timeout=20)

    def _ask(self, **asked: Any) -> dict[str, Any]:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(asked) + "\n")
        self._nursery.stdin.flush()
        answer: dict[str, Any] = json.loads(self._nursery.stdout.readline())
        return answer

    def start(self, kind: Kind) -> int:
        """A process more, once it has done something; its pid."""
        who = {"who": f"p{next(NUMBERS)}"} if kind.role.startswith("produce") else {}
        pid = int(self._ask(start=kind.role, **kind.arguments, **who)["pid"])
        until(lambda: pid in self.read(), PATIENCE_S, what=lambda: f"{kind.role} works: {self.said()}")
        return pid

    def start_idle(self, kind: Kind) -> int:
        """A process more, which has nothing to do yet; its pid."""
        return int(self._ask(start=kind.role, **kind.arguments)["pid"])

    def stop(self, pid: int) -> None:
        """A process less: SIGTERM, on which it finishes what it does."""
        assert self._ask(stop=pid, signal=signal.SIGTERM)["code"] == 0, self.said()

    def kill(self, pid: int) -> None:
        """A process less: SIGKILL."""
        assert self._ask(stop=pid, signal=signal.SIGKILL)["code"] == -signal.SIGKILL
        self.killed[pid] = time.time()

    def bridge(self, *words: str) -> subprocess.Popen[bytes]:
        """`millstream queue bridge …` in the background."""
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "millstream", "queue", "bridge", *words],
                env=self.environment,
                stdout=out,
                stderr=out,
            )
        self._bridges.append(process)
        return process

    def end(self, bridge: "subprocess.Popen[bytes]") -> None:
        """A bridge less."""
        bridge.send_signal(signal.SIGTERM)
        assert bridge.wait(20) == 0, self.said()

    def cli(self, *words: str) -> Any:
        """What a verb answers, as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "millstream", *words, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def said(self) -> str:
        """What processes said."""
        return self.log.read_text() if self.log.exists() else ""

    def read(self) -> dict[int, list[tuple[float, str]]]:
        """Take in the account's new lines; what each process did."""
        with self.account.open("rb") as file:
            file.seek(self._at)
            *lines, _ = file.read().split(b"\n")
        self._at += sum(len(line) + 1 for line in lines)
        for line in lines:
            step, pid, at_s, task = line.decode().split(" ", 3)
            self.counts.setdefault(step, Counter())[task] += 1
            self.by_pid.setdefault(int(pid), []).append((float(at_s), task))
        return self.by_pid

    def done(self) -> int:
        """How many runs of tasks ended."""
        self.read()
        return self.counts["done"].total()

    def flow(self, tasks: int) -> None:
        """Let so many more tasks be done."""
        goal = self.done() + tasks
        until(lambda: self.done() >= goal, PATIENCE_S, what=lambda: f"{self.done()} of {goal}: {self.said()}")

    def missing(self) -> Counter[str]:
        """What was pushed and is not done yet."""
        self.read()
        return self.counts["pushed"] - self.counts["done"]

    def finish(self) -> None:
        """Wait until all that was pushed is done."""
        until(lambda: not self.missing(), PATIENCE_S, what=lambda: f"{self.missing()} {self.said()}")

    def repeated(self) -> Counter[str]:
        """What was done more often than it was pushed."""
        return self.counts["done"] - self.counts["pushed"]

    def held_by_killed(self, task: str) -> bool:
        """Whether a worker that was killed had the task in hand not long before."""
        return any(
            name == task and killed_s - at_s < HELD_S
            for pid, killed_s in self.killed.items()
            for at_s, name in self.by_pid.get(pid, ())
        )

    def nothing_taken(self) -> bool:
        """Whether workers of the list hold nothing and have put off nothing."""
        keys = KEYS.tasks
        left = self.redis.xlen(keys.stream), self.redis.xlen(keys.again(WORKERS))
        return not any((*left, self.redis.exists(KEYS.hand, keys.retry(WORKERS))))

    def give_back(self) -> None:
        """What workers of the list left behind goes back to it, once the last of them is gone."""
        with ListQueue(QUEUE, self.url) as queue:
            until(
                lambda: queue.give_back(everything=True) == 0 and self.nothing_taken(),
                PATIENCE_S,
                what=self.said,
            )

    def empty(self, *keys: str) -> None:
        """Wait until the server has none of these keys."""
        until(lambda: not self.redis.exists(*keys), PATIENCE_S, what=lambda: f"{keys} {self.said()}")

    def drained(self, stream: str, group: str) -> bool:
        """Whether a group has read and settled all there is in its stream."""
        found = {one["name"].decode(): one for one in self.redis.xinfo_groups(stream)}[group]
        waiting = self.redis.zcard(StreamKeys(stream).retry(group))
        last = self.redis.xinfo_stream(stream)["last-generated-id"]
        return bool(found["last-delivered-id"] == last and found["pending"] == waiting == 0)


@pytest.fixture
def system(own_server: OwnServer, tmp_path: Path) -> Iterator[System]:
    """No process yet."""
    system = System(own_server(), tmp_path)
    try:
        yield system
    finally:
        system.close()


def exchange(running: list[int], end: Callable[[int], None], system: System, kind: Kind, tasks: int) -> None:
    """One by one, each process by one of another kind, which works before the old one ends.

    Not an old worker: it polls, and what waits at the server takes nearly all before it comes.
    """
    for place, old in enumerate(running):
        running[place] = system.start_idle(kind) if kind.role == "work_old" else system.start(kind)
        system.flow(tasks)
        end(old)
        system.flow(tasks)


def there_and_back(
    system: System,
    end: Callable[[int], None],
    *,
    tasks: int,
    timeout_s: float,
    work_s: float = WORK_S,
    unique: bool = False,
) -> None:
    """The steps of docs/from-lists.md, with at least so many tasks done between one and the next.

    Args:
        end: how a worker ends. timeout_s: that of old workers. work_s: what a task takes.
        unique: leave `scheduled` as soon as nothing old is left.
    """
    old, listed = (
        old_worker(timeout_s).told(work_s=work_s),
        LIST_WORKER.told(timeout_s=timeout_s, work_s=work_s),
    )
    at_stream_worker = STREAM_WORKER.told(work_s=work_s)
    listed_unique, pushing = listed.told(layout="unique"), LIST_PRODUCER

    # 0: as it was.
    producers = [system.start(OLD_PRODUCER) for _ in range(2)]
    workers = [system.start(old) for _ in range(2)]
    scheduler = system.start(OLD_SCHEDULER)
    system.flow(tasks)
    # 1: ours beside the old ones. 2: old ones off.
    system.stop(scheduler)
    exchange(workers, end, system, listed, tasks)
    # 3: producers.
    exchange(producers, system.stop, system, LIST_PRODUCER, tasks)
    if unique:
        pushing = LIST_PRODUCER.told(layout="unique")
        exchange(producers, system.stop, system, pushing, tasks)
        system.empty("scheduled")
        exchange(workers, end, system, listed_unique, tasks)
    # 4: workers at the stream, the bridge, and a worker left at the list for what is delayed, with little room.
    at_stream = [system.start_idle(at_stream_worker) for _ in range(2)]
    bridge = system.bridge(QUEUE, "--to", STREAM)
    last = system.start((listed_unique if unique else listed).told(concurrency=1, work_s=10 * work_s))
    for worker in workers:
        end(worker)
        system.flow(tasks)
    until(lambda: all(pid in system.read() for pid in at_stream), PATIENCE_S, what=system.said)
    exchange(at_stream, end, system, at_stream_worker, tasks)
    # 5: producers at the stream.
    exchange(producers, system.stop, system, STREAM_PRODUCER, tasks)
    # 6: nothing is left of the list.
    system.empty("scheduled", KEYS.due, KEYS.list)
    until(system.nothing_taken, PATIENCE_S, what=system.said)
    system.stop(last)
    system.empty(KEYS.list)
    assert system.nothing_taken()
    system.end(bridge)
    system.flow(tasks)

    # Back: 6, 5.
    bridge = system.bridge(QUEUE, "--to", STREAM)
    exchange(producers, system.stop, system, pushing, tasks)
    # 4: workers at the list; those of the stream finish what is there.
    workers = [system.start(listed) for _ in range(2)]
    system.end(bridge)
    until(lambda: system.drained(STREAM, "mail"), PATIENCE_S, what=system.said)
    for pid in at_stream:
        end(pid)
    system.flow(tasks)
    # 3, 2, 1.
    exchange(producers, system.stop, system, OLD_PRODUCER, tasks)
    exchange(workers, end, system, old, tasks)
    system.give_back()
    scheduler = system.start(OLD_SCHEDULER)
    system.flow(tasks)
    # 0: as it was. What is under way ends.
    for pid in producers:
        system.stop(pid)
    system.finish()
    for pid in [scheduler, *workers]:
        system.stop(pid)


@pytest.mark.campaign
@pytest.mark.slow
def test_a_running_system_moves_to_a_stream_and_back(system: System) -> None:
    """Every task is done once, whoever pushed it and whoever did it."""
    there_and_back(system, system.stop, tasks=10, timeout_s=60)
    assert not system.repeated()


def test_producers_may_go_while_workers_stay(system: System) -> None:
    """A bridge from the stream to the list: old workers do what is sent to the stream, each once; and back."""
    producers = [system.start(OLD_PRODUCER) for _ in range(2)]
    workers = [system.start(old_worker(60)) for _ in range(2)]
    scheduler = system.start(OLD_SCHEDULER)
    bridge = system.bridge(QUEUE, "--from", STREAM)
    exchange(producers, system.stop, system, STREAM_PRODUCER, 20)
    exchange(producers, system.stop, system, OLD_PRODUCER, 20)
    for pid in producers:
        system.stop(pid)
    system.finish()
    system.end(bridge)
    for pid in [scheduler, *workers]:
        system.stop(pid)
    assert not system.repeated()


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_every_task_is_done_once_while_much_flows(system: System, scaled: Callable[[int], int]) -> None:
    """The same, for longer between one step and the next."""
    there_and_back(system, system.stop, tasks=scaled(500), timeout_s=60, unique=True)
    assert not system.repeated()


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_workers_are_killed_at_each_step(system: System, scaled: Callable[[int], int]) -> None:
    """Nothing is lost, and only what a killed worker had in hand is done again."""
    there_and_back(system, system.kill, tasks=scaled(500), timeout_s=2, work_s=4 * WORK_S, unique=True)
    assert len(system.killed) == 12
    assert system.counts["begun"].total() > system.counts["done"].total(), (
        "some were killed in the midst of a task"
    )
    odd = {task: count for task, count in system.repeated().items() if not system.held_by_killed(task)}
    assert not odd
