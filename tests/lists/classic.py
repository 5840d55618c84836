"""The classic list queue as old code has it: the plain client, one command after another, and nothing else.

Whatever takes several commands is a generator that names each step it has done. `finish()` runs it to its end;
`stop_after()` leaves it behind a step, as a kill would; between two `next()` others may come first.

As a program it is an old worker that keeps an account, to be killed at any instruction:

    python classic.py brpop|lmove|recover URL LIST ACCOUNT TIMEOUT_S WORK_MS PAUSE_S

A line of the account: step, pid, time in s since 1970, task. Each is one write to a file opened for appending.
"""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import redis

T = TypeVar("T")
Steps = Generator[str, None, T]
"""Yields the name of each step it has done; returns what the operation is for."""

PROCESSING = "processing"
SCHEDULED = "scheduled"
TIMEOUT_S = 300.0
PAUSE_S = 1.0
"""An old worker that finds nothing looks again after so long, in s."""


def finish(steps: Steps[T]) -> T:
    """Run an operation to its end; what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def stop_after(steps: Steps[Any], step: str) -> None:
    """Run an operation until this step is done, and no further: its process is killed there."""
    for done in steps:
        if done == step:
            return
    raise AssertionError(f"the operation never came to the step {step!r}")


def record_key(task: bytes) -> str:
    """Where the classic queue keeps what it knows of a task: the same for equal payloads."""
    return f"{PROCESSING}:{hashlib.md5(task).hexdigest()}"


class ClassicQueue:
    """One queue, as an old process uses it."""

    def __init__(self, client: redis.Redis, name: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.redis: Any = client  # its replies are typed for both of its twins, which helps nobody here
        self.name = name
        self.timeout_s = timeout_s

    def push(self, task: bytes | str) -> None:
        """LPUSH: the classic producer."""
        self.redis.lpush(self.name, task)

    def push_right(self, task: bytes | str) -> None:
        """RPUSH: taken next from the right, or last from the left."""
        self.redis.rpush(self.name, task)

    def pop(self, timeout_s: float = 0, *others: str) -> tuple[bytes, bytes] | None:
        """BRPOP of this queue, then of others: (key, task), or None after timeout_s; 0 waits for ever."""
        reply = self.redis.brpop([self.name, *others], timeout_s)
        return None if reply is None else (reply[0], reply[1])

    def pop_left(self, timeout_s: float = 0, *others: str) -> tuple[bytes, bytes] | None:
        """BLPOP: with LPUSH a stack, with RPUSH a queue."""
        reply = self.redis.blpop([self.name, *others], timeout_s)
        return None if reply is None else (reply[0], reply[1])

    def work_popped(self, run: Callable[[bytes], None], timeout_s: float = 0) -> Steps[bytes | None]:
        """BRPOP and run: one round of the simplest worker. Steps: popped, run."""
        reply = self.pop(timeout_s)
        if reply is None:
            return None
        yield "popped"
        run(reply[1])
        yield "run"
        return reply[1]

    def dequeue(self) -> Steps[bytes | None]:
        """Reliable dequeue: the oldest task, moved and recorded in two commands. Steps: moved, recorded."""
        task: bytes | None = self.redis.lmove(self.name, PROCESSING, "RIGHT", "LEFT")
        if task is None:
            return None
        yield "moved"
        self.redis.hset(
            record_key(task),
            mapping={
                "task": task,
                "task_id": hashlib.md5(task).hexdigest(),
                "timestamp": str(time.time()),
                "timeout": str(self.timeout_s),
            },
        )
        yield "recorded"
        return task

    def acknowledge(self, task: bytes) -> Steps[None]:
        """The task is done. Steps: removed, forgotten."""
        self.redis.lrem(PROCESSING, 1, task)
        yield "removed"
        self.redis.delete(record_key(task))
        yield "forgotten"

    def recover(self) -> Steps[list[bytes]]:
        """Push what timed out, of whichever queue it was, to this one. Steps: listed, then for each found,
        pushed, removed, forgotten."""
        keys = self.redis.keys(f"{PROCESSING}:*")
        yield "listed"
        recovered = []
        for key in keys:
            record = self.redis.hgetall(key)
            if not record:
                continue
            if time.time() - float(record[b"timestamp"]) <= float(record[b"timeout"]):
                continue
            task = record[b"task"]
            yield "found"
            self.redis.lpush(self.name, task)
            recovered.append(task)
            yield "pushed"
            self.redis.lrem(PROCESSING, 1, task)
            yield "removed"
            self.redis.delete(key)
            yield "forgotten"
        return recovered

    def work(self, run: Callable[[bytes], None], pause_s: float = PAUSE_S) -> Steps[bytes | None]:
        """One round of the classic worker: recover, dequeue, run, acknowledge, else sleep.

        Steps: those of all it does, and run or failed. A task that fails stays as it is, until it times out.
        """
        yield from self.recover()
        task = yield from self.dequeue()
        if task is None:
            time.sleep(pause_s)
            return None
        try:
            run(task)
        except Exception:  # noqa: BLE001 - as the classic worker does
            yield "failed"
            return task
        yield "run"
        yield from self.acknowledge(task)
        return task

    def schedule(self, task: bytes | str, delay_s: float) -> None:
        """ZADD with the task as the member, due at a time in s."""
        self.redis.zadd(SCHEDULED, {task: time.time() + delay_s})

    def process_due(self) -> Steps[list[bytes]]:
        """Push what is due to the end that is taken from. Steps: listed, then for each pushed, removed."""
        tasks: list[bytes] = self.redis.zrangebyscore(SCHEDULED, 0, time.time())
        yield "listed"
        for task in tasks:
            self.redis.rpush(self.name, task)
            yield "pushed"
            self.redis.zrem(SCHEDULED, task)
            yield "removed"
        return tasks

    def push_priority(self, task: bytes | str, priority: float) -> None:
        """ZADD with the task as the member: the queue is a sorted set, the lowest score first."""
        self.redis.zadd(self.name, {task: priority})

    def pop_priority(self) -> list[tuple[bytes, float]]:
        """ZPOPMIN: a list of one (task, score), or an empty one."""
        return [(task, float(score)) for task, score in self.redis.zpopmin(self.name, 1)]

    def is_durable(self) -> bool:
        """CONFIG GET appendonly: all that the classic connection looks at."""
        return bool(self.redis.config_get("appendonly").get("appendonly") == "yes")


class Account:
    """What a worker writes of each step: whole lines, whenever it is killed."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, step: str, task: bytes = b"") -> None:
        """Add a line."""
        os.write(self._file, b"%s %d %.4f %s\n" % (step.encode(), os.getpid(), time.time(), task))


def brpop_worker(queue: ClassicQueue, account: Account, work: Callable[[bytes], None]) -> None:
    """Pop and run, for ever. Lines: waiting, popped, done."""

    def run(task: bytes) -> None:
        account.write("popped", task)
        work(task)
        account.write("done", task)

    while True:
        account.write("waiting")
        finish(queue.work_popped(run, timeout_s=1))


def lmove_worker(
    queue: ClassicQueue, account: Account, work: Callable[[bytes], None], pause_s: float
) -> None:
    """The classic worker loop, for ever. Lines: held, done, and recovered of what it pushed again."""

    def run(task: bytes) -> None:
        account.write("held", task)
        work(task)
        account.write("done", task)

    while True:
        finish(queue.work(run, pause_s))


def recoverer(queue: ClassicQueue, account: Account, pause_s: float) -> None:
    """The duty to recover as a process of its own. Lines: recovered."""
    while True:
        for task in finish(queue.recover()):
            account.write("recovered", task)
        time.sleep(pause_s)


def main(
    kind: str, url: str, name: str, account: str, timeout_s: str, work_ms: str = "1", pause_s: str = "1"
) -> int:
    """Work until SIGTERM, which ends it as SIGKILL does: old workers have no other end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    queue = ClassicQueue(redis.Redis.from_url(url), name, timeout_s=float(timeout_s))
    book = Account(account)
    book.write("started")

    def work(task: bytes) -> None:
        time.sleep(float(work_ms) / 1_000)

    if kind == "brpop":
        brpop_worker(queue, book, work)
    elif kind == "lmove":
        lmove_worker(queue, book, work, float(pause_s))
    elif kind == "recover":
        recoverer(queue, book, float(pause_s))
    else:
        raise SystemExit(f"{kind!r}: one of brpop, lmove, recover")
    return 0


def lines_of(path: str | os.PathLike[str]) -> Iterator[tuple[str, int, float, bytes]]:
    """The lines of an account: step, pid, time in s since 1970, task."""
    with open(path, "rb") as file:
        for line in file.read().split(b"\n")[:-1]:
            step, pid, at_s, task = line.split(b" ", 3)
            yield step.decode(), int(pid), float(at_s), task


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
