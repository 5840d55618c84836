"""Killers: a few events kill every worker that runs them; just these are dead letters, and all others are handled."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.event import Event
from pipeline.wire import encode_entry, encode_pack
from tests.consuming import PRODUCER, Consuming
from tests.faults.crew import ROOT
from tests.until import until

WORKER = """
import os, sys
from consumers.app import Pipeline
url, stream, path = sys.argv[1:]
account = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
app = Pipeline(url)

@app.consumer(stream, group="g", claim_after="1s", concurrency=8)
def handle(event, delivery):
    if event.data["kills"]:
        os.write(account, f"K {event.id}\\n".encode())
        os.kill(os.getpid(), 9)
    os.write(account, f"D {event.id}\\n".encode())

app.run()
"""
EVENTS, KILLERS, WORKERS = 20_000, 3, 3


def send(consuming: Consuming, count: int, killers: set[int], pack: int) -> None:
    """Events 1 to count, in packs of so many (0: none); those of `killers` kill."""
    numbers = range(1, count + 1)
    commands: list[tuple[Any, ...]] = []
    for start in range(0, count, pack or 1):
        few = numbers[start : start + (pack or 1)]
        events = [Event({"n": n, "kills": n in killers}) for n in few]
        fields = (
            encode_pack(events, producer=PRODUCER, first_number=few[0])
            if pack
            else encode_entry(events[0], producer=PRODUCER, number=few[0])
        )
        commands.append(("XADD", consuming.stream, "*", *fields))
    for at in range(0, len(commands), 500):
        consuming.link.calls(commands[at : at + 500])


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pack", [0, 100], ids=["single", "packs"])
def test_only_the_killers_die(
    consuming: Consuming, tmp_path: Path, rng: random.Random, scaled: Callable[[int], int], pack: int
) -> None:
    """Three among twenty thousand, alone or in packs: each cost five workers, and no other event died with them."""
    count = scaled(EVENTS)
    killers = set(rng.sample(range(1, count + 1), KILLERS))
    path = tmp_path / "account"
    workers: list[subprocess.Popen[bytes]] = []

    def keep_up() -> bool:
        """Start a worker for each that was killed, as a supervisor does; whether nothing is left to be done."""
        workers[:] = [worker for worker in workers if worker.poll() is None]
        while len(workers) < WORKERS:
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-c", WORKER, consuming.url, consuming.stream, str(path)],
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    stderr=subprocess.DEVNULL,
                )
            )
        return consuming.exists() and consuming.drained()

    send(consuming, count, killers, pack)
    try:
        until(keep_up, 240, what="all is handled or dead", every_s=0.05)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    lines = [line.split() for line in path.read_text().splitlines()]
    done = Counter(event_id for kind, event_id in lines if kind == "D")
    killed = Counter(event_id for kind, event_id in lines if kind == "K")
    guilty = {f"{PRODUCER}-{n}" for n in killers}
    assert set(done) == {f"{PRODUCER}-{n}" for n in range(1, count + 1)} - guilty
    # Beside another killer it may be taken over without having run; the last two runs of its five are its own.
    assert set(killed) == guilty
    assert all(2 <= count <= 5 for count in killed.values()), killed
    letters = [letter for letter, _ in consuming.dead()]
    assert sorted(letter.event_id for letter in letters) == sorted(guilty)
    for letter in letters:
        assert (letter.error, letter.crashes) == ("WorkerKilled", 5)
        assert letter.reason.startswith("killed its worker: 5 runs ended without an outcome")
        assert letter.index == ((int(letter.event_id.split("-")[1]) - 1) % pack if pack else 0)
