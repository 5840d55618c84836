"""Crew: worker processes of one group, what they handled, and what became of what was sent."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.server.connect import Link
from pipeline.server.replies import pairs, text
from tests.until import until

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Handled:
    """One line of the account: an event that a handler has finished."""

    event_id: str
    entry_id: str
    pid: int
    attempt: int
    begun_s: float
    ended_s: float


@dataclass(frozen=True)
class Killed:
    """A worker that was killed, when, and the entries that were pending with it."""

    pid: int
    at_s: float
    held: frozenset[str]


class Crew:
    """Starts, kills and stops workers of a group, and reads their account."""

    def __init__(
        self,
        folder: Path,
        url: str,
        stream: str,
        *,
        group: str = "g",
        work_ms: float = 0,
        claim_after: str = "1s",
        concurrency: int = 8,
    ) -> None:
        self.group = group
        self.stream = stream
        self.account = folder / f"account-{group}"
        self.log = folder / f"log-{group}"
        self._arguments = [
            url, stream, group, str(self.account), str(work_ms), claim_after, str(concurrency),
        ]  # fmt: skip
        self.workers: list[subprocess.Popen[bytes]] = []
        self.killed: list[Killed] = []

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()

    def start(self, count: int = 1) -> "Crew":
        """Start so many more workers."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        for _ in range(count):
            with self.log.open("ab") as log:
                self.workers.append(
                    subprocess.Popen(
                        [sys.executable, str(WORKER), *self._arguments],
                        env=environment,
                        stdout=log,
                        stderr=log,
                    )
                )
        return self

    def until_joined(self, link: Link) -> "Crew":
        """Wait until every running worker has a consumer in the group."""
        try:
            until(lambda: all(self.name_of(link, w.pid) for w in self.workers), 20, what=self.said)
        except BaseException:
            self.__exit__()  # a `with` that begins with this has not begun: nobody else would end them
            raise
        return self

    def name_of(self, link: Link, pid: int) -> str:
        """The consumer name of a worker; empty while it has none."""
        members = link.call("HKEYS", f"{{{self.stream}}}:members:{self.group}")
        return next((text(name) for name in members if f"-{pid}-" in text(name)), "")

    def held_by(self, link: Link, pid: int) -> frozenset[str]:
        """Entries of the stream that are pending with a worker."""
        name = self.name_of(link, pid)
        rows = link.call("XPENDING", self.stream, self.group, "-", "+", 10_000, name) if name else []
        return frozenset(text(row[0]) for row in rows)

    def kill(self, link: Link, rng: random.Random) -> Killed:
        """kill -9 one worker, as it is, and start another in its place."""
        victim = rng.choice(self.workers)
        victim.send_signal(signal.SIGSTOP)  # what it holds stands still while it is counted
        at_s = time.time()
        killed = Killed(victim.pid, at_s, self.held_by(link, victim.pid))
        victim.kill()
        victim.wait()
        self.workers.remove(victim)
        self.killed.append(killed)
        self.start()
        return killed

    def stop(self, timeout_s: float = 20) -> list[int]:
        """SIGTERM to all; their exit codes."""
        for worker in self.workers:
            worker.terminate()
        codes = [worker.wait(timeout_s) for worker in self.workers]
        self.workers.clear()
        return codes

    def handled(self) -> list[Handled]:
        """The account so far."""
        if not self.account.exists():
            return []
        lines = self.account.read_text(encoding="utf-8").split("\n")[:-1]
        split = (line.split() for line in lines)
        return [
            Handled(e, i, int(pid), int(n), float(begun), float(ended))
            for e, i, pid, n, begun, ended in split
        ]

    def times(self) -> Counter[str]:
        """How often each event was handled."""
        return Counter(one.event_id for one in self.handled())

    def missing(self, sent: Iterable[str]) -> set[str]:
        """Events that were sent and not handled yet."""
        return set(sent) - self.times().keys()

    def until_all(self, sent: Iterable[str], timeout_s: float) -> None:
        """Wait until every event sent was handled."""
        wanted = set(sent)
        until(
            lambda: not self.missing(wanted), timeout_s, what=f"{len(wanted)} events are handled", every_s=0.1
        )

    def until_entries(self, entry_ids: Iterable[str], timeout_s: float) -> None:
        """Wait until the events of these entries were handled."""
        wanted = set(entry_ids)
        until(lambda: wanted <= {one.entry_id for one in self.handled()}, timeout_s, what=self.said)

    def until_half(self, sent: Iterable[str]) -> None:
        """Wait until half of the events were handled."""
        wanted = set(sent)
        until(lambda: 2 * len(self.missing(wanted)) <= len(wanted), 30, what=self.said)

    def said(self) -> str:
        """What the workers said, for a failing test."""
        return self.log.read_text(encoding="utf-8")[-4_000:] if self.log.exists() else "nothing"

    def unsettled(self, link: Link) -> int:
        """Entries of the stream that are pending with anybody."""
        return int(link.call("XPENDING", self.stream, self.group)[0])

    def group_facts(self, link: Link) -> dict[str, object]:
        """XINFO GROUPS of this group."""
        groups = [pairs(one) for one in link.call("XINFO", "GROUPS", self.stream)]
        return next(one for one in groups if text(one["name"]) == self.group)


def say_took_over(crew: Crew, killed: Killed) -> list[float]:
    """For each entry the killed worker held and had not accounted for: how long until another had begun it, in s."""
    handled = crew.handled()
    finished = {one.entry_id for one in handled if one.pid == killed.pid}
    waits = []
    for entry_id in killed.held - finished:
        begun = [one.begun_s for one in handled if one.entry_id == entry_id and one.pid != killed.pid]
        waits.append(min(begun) - killed.at_s)
    return waits
