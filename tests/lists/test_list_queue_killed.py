"""Processes that push, pop and take are killed at random: what is lost, and what is done twice, counted one by one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.server.list_pop import GivenBack, return_tasks
from tests.conftest import Server
from tests.lists.conftest import Listing
from tests.until import until

RNG = random.Random("killed")
ROOT = Path(__file__).parents[2]
BEGIN = """
import os, sys
from consumers.list_queue import ListQueue
name, url, path = sys.argv[1:4]
file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
queue = ListQueue(name, url, claim_after="1s")
"""
POP = """
while True:
    os.write(file, queue.pop().encode() + b"\\n")
"""
TAKE = """
while True:
    task = queue.take()
    os.write(file, task.event.data.encode() + b"\\n")
    task.ack()
"""
PUSH = """
n = 0
while True:
    n += 1
    queue.push(f"{os.getpid()}-{n}")
    os.write(file, f"{os.getpid()}-{n}\\n".encode())
"""


class Crew:
    """Processes of one kind, started anew when they are killed."""

    def __init__(self, code: str, listing: Listing, url: str, folder: Path) -> None:
        self._code = BEGIN + code
        self._args = (listing.list, url)
        self._folder = folder
        self._alive: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    def start(self) -> None:
        """One more."""
        path = self._folder / f"{len(list(self._folder.iterdir()))}"
        path.touch()
        command = [sys.executable, "-c", self._code, *self._args, str(path)]
        self._alive.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}))

    def kill(self, which: subprocess.Popen[bytes] | None = None) -> None:
        """kill -9 of one of them."""
        process = which or RNG.choice(self._alive)
        self._alive.remove(process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.kills += 1

    def kill_all(self) -> None:
        """kill -9."""
        for process in list(self._alive):
            self.kill(process)

    def done(self) -> list[str]:
        """What they wrote down: a line that was torn by a kill is none."""
        return [
            line.decode().rstrip()
            for path in self._folder.iterdir()
            for line in path.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]  # fmt: skip


@pytest.fixture
def crew(server: Server, listing: Listing, tmp_path: Path) -> Iterator[Callable[[str], Crew]]:
    """Makes crews, which are gone at the end."""
    made: list[Crew] = []

    def one(code: str) -> Crew:
        made.append(Crew(code, listing, server.url, tmp_path))
        return made[-1]

    yield one
    for each in made:
        each.kill_all()


def worked_off(crew: Crew, listing: Listing, kills: int, tasks: int) -> None:
    """Three at work, killed one after the other, each after some tasks; then those that live do the rest."""
    for _ in range(3):
        crew.start()
    for number in range(kills):
        listing.push(*(f"{number}-{n}" for n in range(tasks // kills)))
        until(lambda least=number * tasks // kills: len(crew.done()) >= least, 30)  # type: ignore[misc]
        time.sleep(RNG.random() / 50)  # not to wait for something: at any moment of their work
        crew.kill()
        crew.start()


@pytest.mark.campaign
def test_popping_processes_are_killed(
    crew: Callable[[str], Crew], listing: Listing, scaled: Callable[[int], int]
) -> None:
    """Nothing is doubled, and no more is gone than what a killed process had popped: one task each at most."""
    kills, tasks = scaled(80), scaled(20_000)
    popping = crew(POP)
    worked_off(popping, listing, kills, tasks)
    until(lambda: not listing.left(), 30)
    popping.kill_all()
    while return_tasks(listing.link, listing.options(), older_ms=0) != GivenBack(0, 0):
        pass
    done = Counter(popping.done())
    left = [one.decode() for one in listing.left()]
    everything = {f"{number}-{n}" for number in range(kills) for n in range(tasks // kills)}
    assert [one for one, count in done.items() if count > 1 or one in left] == []
    assert len(everything - set(done) - set(left)) <= popping.kills
    assert set(done) | set(left) <= everything


@pytest.mark.campaign
def test_taking_processes_are_killed(
    crew: Callable[[str], Crew], listing: Listing, scaled: Callable[[int], int]
) -> None:
    """Nothing is lost, and no more is done twice than what a killed process held: one task each at most."""
    kills, tasks = scaled(80), scaled(20_000)
    taking = crew(TAKE)
    worked_off(taking, listing, kills, tasks)
    until(listing.gone, 30)
    taking.kill_all()
    done = Counter(taking.done())
    everything = {f"{number}-{n}" for number in range(kills) for n in range(tasks // kills)}
    assert set(done) == everything
    assert sum(count - 1 for count in done.values()) <= taking.kills


@pytest.mark.campaign
def test_pushing_processes_are_killed(
    crew: Callable[[str], Crew], listing: Listing, scaled: Callable[[int], int]
) -> None:
    """What was confirmed is there, and all that is there is there once."""
    pushing = crew(PUSH)
    for _ in range(scaled(60)):
        pushing.start()
        before = len(pushing.done())
        until(lambda before=before: len(pushing.done()) > before + 20, 20)  # type: ignore[misc]
        time.sleep(RNG.random() / 50)
        pushing.kill()
    found = Counter(one.decode() for one in listing.left())
    assert max(found.values()) == 1
    assert set(pushing.done()) <= set(found)
    assert len(found) - len(pushing.done()) <= pushing.kills
