"""The processes of a system that moves from a list to a stream: old ones, ours at the list, ours at the stream.

As a program it is a nursery: it has imported everything, and forks the processes it is asked for, so that one more
costs little. A line to it is JSON, and so is each answer:

    {"start": ROLE, …arguments}     {"pid": 123}
    {"stop": 123, "signal": 15}     {"code": 0}

Each process ends on SIGTERM once it has finished what it does just now, as well-behaved old programs do too. What it
did stands in the account (`classic.Account`): `pushed`, `due`, `begun` and `done`, each with the task.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

from millstream import ListOptions, ListQueue, Pipeline, Producer
from tests.lists.classic import Account, ClassicQueue, finish

QUEUE = "emails"
STREAM = "emails-stream"


class Ending:
    """Whether SIGTERM came."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self.asked = True


def task_of(name: str) -> dict[str, Any]:
    """A task, as all producers agree on it."""
    return {"function": "send_email", "args": [name]}


def produce(
    account: Account, who: str, pace_s: float, push: Callable[[dict[str, Any], bool], object]
) -> None:
    """Push until told to stop; every tenth task is the same as others, every twentieth is delayed."""
    ending, number = Ending(), 0
    while not ending.asked:
        number += 1
        name = f"same-{number % 3}" if number % 10 == 0 else f"{who}-{number}"
        push(task_of(name), number % 20 == 7)
        account.write("pushed", name.encode())
        time.sleep(pace_s)


def produce_old(url: str, account: Account, who: str, pace_s: float) -> None:
    """LPUSH, and ZADD of what is delayed."""
    queue = ClassicQueue(redis.Redis.from_url(url), QUEUE)

    def push(task: dict[str, Any], delayed: bool) -> None:
        payload = json.dumps(task)
        if delayed:
            queue.schedule(payload, 0.2)
        else:
            queue.push(payload)

    produce(account, who, pace_s, push)


def produce_list(url: str, account: Account, who: str, pace_s: float, layout: str) -> None:
    """ListQueue.push, in the layout that its workers have."""
    with ListQueue(ListOptions(name=QUEUE, format=layout), url) as queue:
        produce(
            account, who, pace_s, lambda task, delayed: queue.push(task, after="200ms" if delayed else None)
        )


def produce_stream(url: str, account: Account, who: str, pace_s: float) -> None:
    """Producer.send to the stream."""
    with Producer(url) as producer:

        def push(task: dict[str, Any], _: bool) -> None:
            producer.send(STREAM, task, type="send_email").result(20)

        produce(account, who, pace_s, push)


def work_old(url: str, account: Account, work_s: float, timeout_s: float) -> None:
    """The classic LMOVE worker with its recoverer; stops between two tasks."""
    queue = ClassicQueue(redis.Redis.from_url(url), QUEUE, timeout_s=timeout_s)
    ending = Ending()
    while not ending.asked:
        finish(queue.work(lambda payload: run(account, work_s, json.loads(payload)["args"][0]), pause_s=0.02))


def schedule_old(url: str, account: Account) -> None:
    """The classic scheduler: pushes what is due."""
    queue = ClassicQueue(redis.Redis.from_url(url), QUEUE)
    ending = Ending()
    while not ending.asked:
        for payload in finish(queue.process_due()):
            account.write("due", json.loads(payload)["args"][0].encode())
        time.sleep(0.02)


def work_list(
    url: str, account: Account, work_s: float, layout: str, timeout_s: float, concurrency: int = 2
) -> None:
    """Ours, at the list that old ones share."""
    app = Pipeline(url)
    options = ListOptions(
        name=QUEUE, format=layout, old_processing="processing", old_timeout_ms=int(timeout_s * 1_000)
    )

    @app.consumer(list=options, function=True, concurrency=concurrency, claim_after="3s")
    def send_email(name: str) -> None:
        run(account, work_s, name)

    app.run()


def work_stream(url: str, account: Account, work_s: float) -> None:
    """Ours, at the stream: the same function; what the bridge brings and what is sent there look the same."""
    app = Pipeline(url)

    @app.consumer(STREAM, group="mail", function=True, concurrency=2, claim_after="3s")
    def send_email(name: str) -> None:
        run(account, work_s, name)

    app.run()


def run(account: Account, work_s: float, name: str) -> None:
    """What a task does."""
    account.write("begun", name.encode())
    time.sleep(work_s)
    account.write("done", name.encode())


ROLES: dict[str, Callable[..., None]] = {
    role.__name__: role
    for role in (produce_old, produce_list, produce_stream, work_old, work_list, work_stream, schedule_old)
}


def child(url: str, account: str, log: str, role: str, arguments: dict[str, Any]) -> None:
    """The process of a role; never returns."""
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        ROLES[role](url, Account(account), **arguments)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:  # noqa: BLE001 - a child must never run on as its parent
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(url: str, account: str, log: str) -> None:
    """The nursery: until its input ends; then everything it started is killed."""
    living: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "stop" in asked:
            os.kill(asked["stop"], asked["signal"])
            _, status = os.waitpid(asked["stop"], 0)
            living.discard(asked["stop"])
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            role = asked.pop("start")
            pid = os.fork()
            if pid == 0:
                child(url, account, log, role, asked)
            living.add(pid)
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
