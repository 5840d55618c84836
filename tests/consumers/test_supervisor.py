"""Supervisor: worker processes are kept running, stopped together, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumers.supervisor import PARENT_FD, Supervisor, Worker
from tests.until import until

STEADY = """
import os, signal, sys, time
from consumers.supervisor import stop_with_parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
stop_with_parent()
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    time.sleep(60)
"""
DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    time.sleep(60)
"""
ENDING = """
import os, sys
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
sys.exit(3)
"""
SUPERVISING = """
import signal, sys
from consumers.supervisor import Supervisor
supervisor = Supervisor(command=[sys.executable, "-c", sys.argv[1], sys.argv[2]], processes=3, grace_s=5)
signal.signal(signal.SIGTERM, lambda number, _: supervisor.stop(number))
sys.exit(supervisor.run())
"""


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(path: Path) -> list[int]:
    """The processes that wrote themselves down so far."""
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def supervising(program: str, path: Path, *, processes: int = 2, grace_s: float = 5) -> Iterator[Supervisor]:
    """A supervisor that runs in a thread; its code is left in `code`."""
    supervisor = Supervisor(
        command=[sys.executable, "-c", program, str(path)], processes=processes, grace_s=grace_s
    )
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    try:
        yield supervisor
    finally:
        if not codes:
            supervisor.stop()
        thread.join(30)
        assert not thread.is_alive()
        assert not any(alive(pid) for pid in pids(path))


def test_workers_are_started_and_stopped_together(tmp_path: Path) -> None:
    """All get the signal; the code is 0 if all ended cleanly."""
    path = tmp_path / "pids"
    supervisor = Supervisor(command=[sys.executable, "-c", STEADY, str(path)], processes=3, grace_s=10)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    until(lambda: len(pids(path)) == 3, what="three workers run")
    assert all(alive(pid) for pid in pids(path))
    supervisor.stop(signal.SIGINT)
    thread.join(10)
    assert codes == [0]
    assert not any(alive(pid) for pid in pids(path))


def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    """And the other is left alone."""
    path = tmp_path / "pids"
    changes: list[tuple[str, int]] = []
    with supervising(STEADY, path) as supervisor:
        supervisor.on_change = lambda what, worker: changes.append((what, worker.number))
        until(lambda: len(pids(path)) == 2, what="both run")
        first, second = pids(path)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(pids(path)) == 3, what="another was started")
        assert alive(second)
        assert not alive(first)
    number = next(number for what, number in changes if what == "exited")
    assert changes[-2:] == [("exited", number), ("started", number)]


def test_a_worker_that_keeps_ending_is_started_less_and_less_often(tmp_path: Path) -> None:
    """A bad deploy does not keep the machine busy."""
    path = tmp_path / "pids"
    waits: list[float] = []

    def note(what: str, worker: Worker) -> None:
        if what == "exited":
            waits.append(worker.restart_s - worker.started_s)

    with supervising(ENDING, path, processes=1) as supervisor:
        supervisor.on_change = note
        until(lambda: len(waits) >= 4, 20, what="four ends")
    assert waits[3] > 0.8
    assert waits[3] > waits[0]


def test_a_worker_that_does_not_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    """The supervisor ends in any case, with another code, and leaves nobody behind."""
    path = tmp_path / "pids"
    supervisor = Supervisor(
        command=[sys.executable, "-c", DEAF, str(path)], processes=1, grace_s=0.2 - 5
    )  # 5 s are slack
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    until(lambda: pids(path), what="it runs")
    supervisor.stop()
    thread.join(10)
    assert codes == [1]
    assert not alive(pids(path)[0])


def test_a_second_stop_kills(tmp_path: Path) -> None:
    """Whoever asks twice does not want to wait."""
    path = tmp_path / "pids"
    supervisor = Supervisor(command=[sys.executable, "-c", DEAF, str(path)], processes=2, grace_s=60)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    until(lambda: len(pids(path)) == 2, what="both run")
    supervisor.stop()
    supervisor.stop()
    thread.join(10)
    assert codes == [1]
    assert not any(alive(pid) for pid in pids(path))


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    """SIGKILL lets it pass nothing on: the pipe that closes with it does."""
    path = tmp_path / "pids"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISING, STEADY, str(path)])
    try:
        until(lambda: len(pids(path)) == 3, what="three workers run")
        os.kill(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
        until(lambda: not any(alive(pid) for pid in pids(path)), 5, what="no worker is left")
    finally:
        supervisor.kill()
        for pid in pids(path):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_supervisor_passes_sigterm_on(tmp_path: Path) -> None:
    """As a process of its own, as the command line runs it."""
    path = tmp_path / "pids"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISING, STEADY, str(path)])
    try:
        until(lambda: len(pids(path)) == 3, what="three workers run")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(10) == 0
        assert not any(alive(pid) for pid in pids(path))
    finally:
        supervisor.kill()
        supervisor.wait()


def test_stopping_at_once_is_a_clean_stop(tmp_path: Path) -> None:
    """A worker that had not begun to listen dies of the signal: it held nothing."""
    path = tmp_path / "pids"
    supervisor = Supervisor(command=[sys.executable, "-c", STEADY, str(path)], processes=2, grace_s=10)
    supervisor.on_change = lambda what, worker: supervisor.stop() if worker.number == 1 else None
    assert supervisor.run() == 0


@pytest.mark.parametrize("environment", [{}, {PARENT_FD: "987"}])
def test_a_process_without_a_supervisor_runs_on(tmp_path: Path, environment: dict[str, str]) -> None:
    """Also if it inherited the variable, but not the pipe."""
    path = tmp_path / "pids"
    process = subprocess.Popen(
        [sys.executable, "-c", STEADY, str(path)], env={**os.environ, **environment}, stderr=subprocess.PIPE
    )
    try:
        until(lambda: pids(path), what="it runs")
        assert process.poll() is None
    finally:
        process.terminate()
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said == b""
