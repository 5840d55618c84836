"""Applications that log while the server is away, and die: with `spill` no line written is missing, none is twice."""

import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from tests.conftest import Server
from tests.producers.reading import datas
from tests.proxy import Proxy
from tests.until import until

ROOT = Path(__file__).parent.parent.parent


def script(text: str, *args: str) -> "subprocess.Popen[str]":
    """Run Python code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(text), *args],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def files(folder: Path, ending: str = ".spill") -> list[Path]:
    """The files of a spill folder."""
    return sorted(path for path in folder.rglob("*") if path.name.endswith(ending))


WRITER = """
    import logging, os, sys, time
    from producers.logs import LogHandler
    log = logging.getLogger("app")
    log.setLevel("INFO")
    handler = LogHandler(sys.argv[2], url=sys.argv[1], spill=sys.argv[3])
    log.addHandler(handler)
    number = 0
    while True:
        for _ in range(50):
            log.info("%d %d", os.getpid(), number)
            number += 1
        # Lines are safe once they are in a file or the server has them; nobody knows of later ones.
        sys.stdout.write(f"{handler.shipper.spool.spilled}\\n")
        sys.stdout.flush()
        time.sleep(0.005)
"""


def by_writer(link: Link, stream: str) -> dict[int, list[int]]:
    """The numbers of each writer's lines, in the order of the stream."""
    found: dict[int, list[int]] = {}
    for data in datas(link, stream):
        assert isinstance(data, dict)
        writer, number = map(int, data["event"].split())
        found.setdefault(writer, []).append(number)
    return found


@pytest.mark.rows
@pytest.mark.timeout(300)
def test_killed_processes_lose_nothing_that_was_written(
    server: Server, link: Link, stream: str, tmp_path: Path, scaled: Callable[[int], int], rng: random.Random
) -> None:
    """Several of one folder at a time, killed at any instant, the server away or taking what waits."""
    folder = tmp_path / "spill"
    safe: dict[int, int] = {}
    with Proxy(server.address) as proxy:
        for turn in range(max(scaled(60), 6)):
            proxy.refuse = turn % 3 != 2
            if proxy.refuse:
                proxy.cut()
            writers = [script(WRITER, proxy.url, stream, str(folder)) for _ in range(2)]
            for writer in writers:
                said = writer.stdout
                assert said is not None
                assert said.readline()  # it is under way
            time.sleep(rng.random() * 2)
            for writer in writers:
                writer.kill()
                lines = writer.communicate()[0].split()
                safe[writer.pid] = int(lines[-1]) if lines else 0
        proxy.refuse = False
        process = script(WRITER, proxy.url, stream, str(folder))
        until(lambda: len(files(folder)) == 0, 30, what="all that was left is sent")
        process.terminate()
        process.communicate(timeout=20)
    found = by_writer(link, stream)
    assert len(safe) > 5
    assert sum(safe.values()) > 500
    for pid, count in safe.items():
        there = found.get(pid, [])
        assert there == list(range(len(there)))  # each once, in order, none missing in between
        assert len(there) >= count
    assert files(folder, ".lock") == []
