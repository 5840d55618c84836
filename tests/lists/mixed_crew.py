"""MixedCrew: worker processes of the classic queue and of ours on one list, to be killed at any instruction."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from pipeline.keys import ListKeys
from pipeline.list_options import WORKERS
from tests.conftest import Server
from tests.lists import classic
from tests.lists.classic import lines_of
from tests.lists.judge import Line, Tasks
from tests.until import until

ROOT = Path(__file__).parents[2]
OLD, OURS = ("brpop", "lmove", "recover"), ("consumer", "take")


@dataclass(frozen=True)
class Job:
    """One process, and what it does."""

    kind: str
    process: "subprocess.Popen[bytes]"


class MixedCrew:
    """Starts and kills them, and reads their accounts."""

    def __init__(self, folder: Path, server: Server, name: str, *, timeout_s: float, work_ms: float) -> None:
        self._folder = folder
        self._url = f"unix://{server.address.path}"
        self._keys = ListKeys(name)
        self._timeout_s = timeout_s
        self._work_ms = work_ms
        self._redis: Any = redis.Redis(unix_socket_path=server.address.path)
        self.jobs: list[Job] = []
        self.killed: list[int] = []
        """Pids of old workers."""
        self.killed_ours: list[int] = []
        self.held_by_killed: Tasks = Counter()
        """What workers of ours held when they were killed."""

    def __enter__(self) -> "MixedCrew":
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.jobs:
            if job.process.poll() is None:
                job.process.send_signal(signal.SIGCONT)
                job.process.kill()
            job.process.wait()
        self._redis.close()

    def start(self, kind: str, count: int = 1) -> None:
        """Start so many of a kind."""
        old = kind in OLD
        program = classic.__file__ if old else Path(__file__).with_name("worker.py")
        # A consumer reads ahead what it does in a second: quick ones would leave the others little to be killed with.
        work_ms = self._work_ms * (10 if kind == "consumer" else 1)
        arguments = [kind, self._url, self._keys.list, self.account(kind), self._timeout_s, work_ms]
        arguments += [0.05] if old else []
        for _ in range(count):
            with (self._folder / f"log-{kind}").open("ab") as log:
                self.jobs.append(
                    Job(
                        kind,
                        subprocess.Popen(
                            [sys.executable, str(program), *map(str, arguments)],
                            env=os.environ | {"PYTHONPATH": str(ROOT)},
                            stdout=log,
                            stderr=log,
                        ),
                    )
                )

    def until_started(self) -> None:
        """Wait until each has begun to work."""
        until(
            lambda: len({line[1] for line in self.lines((*OLD, *OURS))}) >= len(self.jobs), 20, what=self.said
        )

    def account(self, kind: str) -> Path:
        """Where workers of a kind write what they do."""
        return self._folder / f"account-{kind}"

    def lines(self, kinds: tuple[str, ...]) -> list[Line]:
        """What these kinds wrote so far."""
        return [
            line for kind in kinds if self.account(kind).exists() for line in lines_of(self.account(kind))
        ]

    def kill(self, rng: random.Random, kind: str) -> Job:
        """kill -9 one of a kind, as it is, and start another in its place."""
        job = rng.choice([job for job in self.jobs if job.kind == kind])
        self.end(job)
        self.start(job.kind)
        return job

    def end(self, job: Job) -> None:
        """kill -9 this one."""
        job.process.send_signal(signal.SIGSTOP)  # what it holds stands still while it is counted
        if job.kind in OURS:
            self.killed_ours.append(job.process.pid)
            self.held_by_killed += self._held_by(job.process.pid)
        else:
            self.killed.append(job.process.pid)
        job.process.kill()
        job.process.wait()
        self.jobs.remove(job)

    def said(self) -> str:
        """What the workers said, for a failing test."""
        logs = sorted(self._folder.glob("log-*"))
        return "\n".join(f"{log.name}: {log.read_text(encoding='utf-8')[-2_000:]}" for log in logs)

    def _held_by(self, pid: int) -> Tasks:
        """What is pending with a worker of ours."""
        stream, held = self._keys.stream, Tasks()
        for member in self._redis.hkeys(self._keys.tasks.members(WORKERS)):
            if f"-{pid}-" not in member.decode():
                continue
            for row in self._redis.xpending_range(stream, WORKERS, "-", "+", 10_000, member):
                for _, fields in self._redis.xrange(stream, row["message_id"], row["message_id"]):
                    held[fields[b"b"]] += 1
        return held
