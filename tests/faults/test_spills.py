"""Applications that log while the server is away, and die: with `spill` no line written is missing, none is twice."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from tests.conftest import OwnServer, Server
from tests.faults.outage_app import ERROR_EVERY
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
            writers = []
            for _ in range(2):
                writer = script(WRITER, proxy.url, stream, str(folder))
                writers.append(writer)
                assert writer.stdout is not None
                assert writer.stdout.readline()  # it is under way
                if proxy.refuse:  # the other one finds the files of one that lives
                    until(lambda: bool(files(folder)), 20)
            time.sleep(rng.random() * 2)
            for writer in writers:
                writer.kill()
                lines = writer.communicate()[0].split()
                safe[writer.pid] = int(lines[-1]) if lines else 0
        proxy.refuse = False
        process = script(WRITER, proxy.url, stream, str(folder))
        until(lambda: not files(folder) + files(folder, ".lock"), 30, what="all that was left is sent")
        process.terminate()
        process.communicate(timeout=20)
    found = by_writer(link, stream)
    assert len(safe) > 5
    assert sum(safe.values()) > 500
    for pid, count in safe.items():
        there = found.get(pid, [])
        assert there == list(range(len(there)))  # each once, in order, none missing in between
        assert len(there) >= count


def p99_ms(result: dict[str, list[float]], from_s: float, to_s: float) -> float:
    """The request latency that one in a hundred exceeds: of each second between these times, and of those the median.

    What else the machine does meets some of the seconds.
    """
    seconds: dict[int, list[float]] = {}
    for due, took in zip(result["due_s"], result["took_s"], strict=True):
        if from_s <= due < to_s:
            seconds.setdefault(int(due - from_s), []).append(took)
    assert len(seconds) >= int(to_s - from_s)
    return statistics.median(sorted(took)[len(took) * 99 // 100] for took in seconds.values()) * 1_000


@pytest.mark.rows
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("mode", ["spill", "drop_oldest"])
def test_an_application_notices_nothing_of_an_outage(
    how: str, mode: str, own_server: OwnServer, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """20,000 lines/s, 20 s without a server: requests as quick as before, and each line accounted for.

    With `spill` all lines are there, once, in order; with `drop_oldest` those that are missing are those counted, and
    none of them is an ERROR.
    """
    server = own_server()
    away_s, rate, calm_s = scaled(20), max(scaled(20_000), 10_000), max(scaled(10), 2)
    results = tmp_path / "results.json"
    app = subprocess.Popen(
        [
            sys.executable, "-m", "tests.faults.outage_app", server.address.shown, "logs",
            str(tmp_path / "spill") if mode == "spill" else "", str(rate), str(away_s + 2 * calm_s), str(results),
        ],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert app.stdout is not None
        began_s = float(app.stdout.readline())
        time.sleep(max(began_s + calm_s - time.monotonic(), 0))  # what happens when is what is tested
        left_s = time.monotonic()
        os.kill(server.pid, signal.SIGSTOP if how == "stopped" else signal.SIGKILL)
        time.sleep(away_s)
        if how == "stopped":
            os.kill(server.pid, signal.SIGCONT)
        else:
            server.restart()
        back_s = time.monotonic()
        _, said = app.communicate(timeout=120)
    finally:
        app.kill()
    assert app.returncode == 0, said
    result = json.loads(results.read_text())
    before, during = p99_ms(result, began_s + calm_s / 4, left_s), p99_ms(result, left_s, back_s)
    after = p99_ms(result, back_s, back_s + calm_s)
    connector = server.connector()
    link = connector.link("test")
    found = [data["event"] for data in datas(link, "logs") if isinstance(data, dict)]
    link.close()
    connector.close()
    lines = [number for number in found if isinstance(number, int)]
    sys.stdout.write(
        f"{how}, {mode}: {result['rate']:,.0f} lines/s, {away_s} s away; p99 {before:.2f} ms before, {during:.2f} ms "
        f"meanwhile ({during / before:.2f}), {after:.2f} ms after ({after / before:.2f}); {result['lines']:,} lines, "
        f"{len(lines):,} there, {result['dropped']:,} dropped, {result['spilled']:,} spilled; "
        f"all sent {result['drained_s']:.1f} s after the last\n"
    )  # fmt: skip
    assert result["flushed"], said
    assert result["rate"] > rate * 0.9
    assert lines == sorted(set(lines))  # none twice, in order
    missing = set(range(result["lines"])).difference(lines)
    assert len(missing) == result["dropped"]
    assert not [number for number in missing if number % ERROR_EVERY == 0]
    if mode == "spill":
        assert not missing
        assert result["spilled"] > rate * away_s / 2
    else:
        assert missing
    # Far above what a busy machine does to it by itself, far below what waiting for anything would.
    assert during < 3 * before + 500
