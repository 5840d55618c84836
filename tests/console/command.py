"""The command line, called as a person calls it: in this process, or as `python -m millstream` in one of its own."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.cli.main import main

ROOT = Path(__file__).parent.parent.parent
QUIET = {"NO_COLOR": "1"}
RUNNING: "list[subprocess.Popen[bytes]]" = []
"""Started by the test that runs now."""


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout, parsed."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its stdout as lines of JSON, parsed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The one error line; asserts that there is just one, and no traceback."""
        errors = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, self.err
        assert "Traceback" not in self.err
        return errors[0].removeprefix("error: ")


def here(*args: str, url: str | None = None) -> Ran:
    """Run a command in this process: quick, and without a terminal."""
    out, err = _Text(), _Text()
    log = logging.getLogger("millstream")
    before = log.handlers[:], log.level, log.propagate
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*args, *(["--url", url] if url else [])])
    finally:  # a verb that goes on shows the log on stderr; the tests that come next find it as it was
        log.handlers[:], log.level, log.propagate = before
    return Ran(code, out.text(), err.text())


def apart(
    *args: str,
    url: str | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> Ran:
    """Run a command in a process of its own, to its end."""
    done = subprocess.run(
        command(*args),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        cwd=cwd,
        env=environ(url) | dict(environment or {}),
        timeout=timeout_s,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def started(
    *args: str,
    url: str | None = None,
    cwd: Path | None = None,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any = None,
    stderr: Any = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a command in a process of its own; the caller ends it, or else the end of the test does."""
    process = subprocess.Popen(
        command(*args),
        stdin=stdin,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE if stderr is None else stderr,
        cwd=cwd,
        env=environ(url) | dict(environment or {}),
    )
    RUNNING.append(process)
    return process


def end_all() -> None:
    """Kill what a failed test left running."""
    while RUNNING:
        process = RUNNING.pop()
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def command(*args: str) -> Sequence[str]:
    """The arguments of the process."""
    return [sys.executable, "-m", "millstream", *args]


def environ(url: str | None) -> dict[str, str]:
    """An environment that finds the repository from any folder, and no server but the one given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MILLSTREAM_", "REDIS_", "PYTEST_"))}
    return kept | QUIET | {"PYTHONPATH": str(ROOT)} | ({"MILLSTREAM_URL": url} if url else {})


class _Text(io.TextIOWrapper):
    """A text stream like a pipe's: UTF-8, reconfigurable, not a terminal."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", write_through=True)

    def text(self) -> str:
        """What was written."""
        self.flush()
        return self._bytes.getvalue().decode()
