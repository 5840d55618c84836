"""The demo by itself: its exit code, its JSON, and what it leaves behind, from a process of its own."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.until import until

# It kills and restarts the embedded server; that is no other on the other servers.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

DEMO = [sys.executable, "-m", "millstream", "demo"]
ROOT = Path(__file__).parents[2]


def demo(*args: str) -> "subprocess.Popen[str]":
    """A demo without a terminal."""
    return subprocess.Popen(
        [*DEMO, *args],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(folder: Path) -> Sequence[int]:
    """Processes that name the folder in their command line or work in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            named = os.fsencode(str(folder)) in (entry / "cmdline").read_bytes()
            inside = (entry / "cwd").readlink() == folder
        except OSError:  # gone meanwhile, or not ours to look at
            continue
        if named or inside:
            found.append(int(entry.name))
    return found


def test_the_demo_ends_with_nothing_lost(tmp_path: Path) -> None:
    """Two workers and the server are killed; the counts add up; no process stays."""
    log = tmp_path / "app.log"
    log.write_bytes(b"".join(b"line %d \xff: all is well\n" % number for number in range(1_500)))
    running = demo("--once", "--json", "--events", "300", "--dir", str(tmp_path / "data"), str(log))
    out, err = running.communicate(timeout=100)
    assert running.returncode == 0, err
    counts = json.loads(out)
    assert set(counts) == {"sent", "groups", "lost"}
    assert counts["sent"] == 300 + 1_000 and counts["lost"] == 0  # of the file the last 1,000 lines
    assert set(counts["groups"]) == {"archive", "alerts"}
    for group in counts["groups"].values():
        assert set(group) == {"handled", "redelivered", "dead", "lost"}
        assert group["handled"] == counts["sent"] and group["dead"] == group["lost"] == 0
    assert err.count("killed") >= 3 and "took over after" in err
    assert not processes_of(tmp_path / "data")
    archived = (tmp_path / "data" / "archive.jsonl").read_text("utf-8").splitlines()
    assert len({json.loads(line)["id"] for line in archived}) == counts["sent"]


def test_a_missing_log_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    """One line, the exit code of what is not found, and no data folder."""
    running = demo("--once", "--dir", str(tmp_path / "data"), str(tmp_path / "missing.log"))
    out, err = running.communicate(timeout=30)
    assert running.returncode == 3 and not out
    assert err == f"error: no such file: {tmp_path}/missing.log\n"
    assert not (tmp_path / "data").exists()


def test_a_second_demo_is_refused_the_folder(tmp_path: Path) -> None:
    """In one line; the first one does not notice."""
    (tmp_path / "demo").mkdir()
    with (tmp_path / "demo" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = demo("--once", "--dir", str(tmp_path))
        out, err = running.communicate(timeout=30)
    assert running.returncode == 1 and not out
    assert err.startswith("error:") and "in use by another demo" in err and err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes in /proc")
def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """Also after kill -9: the workers, the service and the server end by themselves."""
    folder = tmp_path / "data"
    running = demo("--once", "--dir", str(folder))
    assert running.stderr is not None
    until(lambda: "sent" in running.stderr.readline(), timeout_s=60, what="the demo sends")  # type: ignore[union-attr]
    assert len(processes_of(folder)) >= 6
    running.kill()
    running.communicate(timeout=30)
    until(lambda: not processes_of(folder), timeout_s=30, what="all processes end")
