"""The demo on a terminal: its screen, its keys, and the terminal afterwards, through a pseudo-terminal."""

import contextlib
import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.until import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
SCREEN_OFF = "\x1b[?1049l"
ROWS, COLUMNS = 24, 80


class Terminal:
    """A demo on a terminal of 80x24, what it wrote so far, and its keyboard."""

    def __init__(self, folder: Path) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        log = folder.parent / "app.log"
        log.write_text("one line\n")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "millstream", "demo", "--dir", str(folder), str(log)],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """What was written, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._written.decode("utf-8", "replace"))

    def press(self, key: str) -> None:
        """Type a key."""
        os.write(self._master, key.encode())

    def sees(self, words: str) -> None:
        """Wait until the words were on the screen; lines are broken where the screen ends."""
        pattern = re.compile(r"\s+".join(map(re.escape, words.split())))
        until(lambda: pattern.search(self.text), timeout_s=30, what=f"{words!r} on the screen")

    def flows(self) -> None:
        """Wait until events went all the way: a worker that is killed before holds nothing."""
        pattern = re.compile(r"handled by every group (?:\x1b\[[0-9;]*m)*[1-9]")
        until(lambda: pattern.search(self.text), timeout_s=30, what="events that every group has handled")

    def kills_a_worker(self) -> None:
        """Kill workers until one held something that others had to take over, which each most often does."""
        over = re.compile(r"took\s+over\s+after|held\s+nothing\s+just\s+then|settled\s+as\s+it\s+went")
        ends: list[str] = []
        while not any(end.startswith("took") for end in ends):
            assert len(ends) < 8, f"nobody held anything: {ends}"
            self.press("k")
            before = len(ends)
            until(lambda before=before: len(over.findall(self.text)) > before, 30, what="it is over")  # type: ignore[misc]
            ends = over.findall(self.text)

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(60)

    def settings(self) -> list[object]:
        """How the terminal is set."""
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        """Hang up."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        self._reader.join(5)
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # everybody on the other side has hung up
                return
            if not piece:
                return
            self._written += piece


@contextmanager
def on_terminal(folder: Path) -> Iterator[Terminal]:
    """A demo on a terminal, closed afterwards."""
    terminal = Terminal(folder)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.campaign
def test_every_key_does_what_it_says_and_nothing_is_lost(tmp_path: Path) -> None:
    """A worker and the server killed, a bad event, a rewind: the counts at the end say lost 0."""
    with on_terminal(tmp_path / "data") as terminal:
        terminal.sees("k kill worker")
        terminal.flows()
        terminal.kills_a_worker()
        terminal.press("b")
        terminal.sees("dead letter in archive")
        terminal.sees("dead letter in alerts")
        terminal.press("s")
        terminal.sees("on the same data after")
        terminal.press("r")
        terminal.sees("archive notices nothing")
        terminal.press("\x1b[A")  # an arrow is no key of the demo's
        terminal.press("q")
        assert terminal.ended() == 0
        report = terminal.text.rpartition(SCREEN_OFF)[2]
        assert "lost 0 (compared id by id" in report
        rows = {words[0]: words[1:] for line in report.splitlines() if (words := line.split())}
        sent = rows["sent"][0]
        for group in ("archive", "alerts"):
            handled, _, dead, lost = rows[group][:4]
            assert (dead, lost) == ("1", "0")
            assert int(handled.replace(",", "")) == int(sent.replace(",", "")) - 1
        assert terminal.settings() == terminal.before
    commands = [line.strip() for line in report.splitlines() if " --url " in line]
    assert len(commands) == 3
    for command in commands:
        consent = ["--execute"] if " replay " in command else []
        done = subprocess.run([*shlex.split(command), *consent], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, done.stderr


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    """The terminal is as it was, and the exit code says interrupted."""
    with on_terminal(tmp_path / "data") as terminal:
        terminal.sees("k kill worker")
        worker = int(re.findall(r"(\d+) running \(holds", terminal.text)[-1])
        os.kill(worker, signal.SIGSTOP)  # else all might be done before the second one comes
        try:
            terminal.process.send_signal(signal.SIGINT)
            terminal.sees("Ctrl-C or q again ends at once")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.ended() == 130
        finally:
            with contextlib.suppress(ProcessLookupError):  # as it should be
                os.kill(worker, signal.SIGCONT)
                pytest.fail("the stopped worker was left behind")
        assert terminal.settings() == terminal.before
