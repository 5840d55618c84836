"""WorkProcess: one duty of the bench in a fresh process of its own, so that one figure's garbage is not another's.

The task goes in on its stdin and the result comes out on its stdout, as lines of JSON. The server's address goes by
the environment: a command line is read by everyone who lists processes. It ends with us, however we end.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from console.processes import environment, module_command
from console.settings import worker_environment
from consumers.supervisor import PARENT_FD
from pipeline.errors import MillstreamError

Task = Mapping[str, Any]
Result = dict[str, Any]


class BenchError(MillstreamError):
    """A measurement that could not be made, or whose events did not all arrive."""


class WorkProcess:
    """A process that does one duty."""

    def __init__(self, task: Task, url: str | None, module: str = f"{__package__}.work") -> None:
        """module: the one that does it, if not that of the bench."""
        self.task = task
        read_end, self._alive = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        try:
            self._process = subprocess.Popen(
                module_command(module),
                env=environment(worker_environment(url)) | {PARENT_FD: str(read_end)},
                pass_fds=[read_end],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # Ctrl-C in the terminal is for the bench, which ends its processes in order
                text=True,
            )
        finally:
            os.close(read_end)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(dict(task)) + "\n")
            self._process.stdin.close()
        except BrokenPipeError:  # it ended at once; line() says why
            pass

    def line(self) -> Result:
        """What it says next.

        Raises:
            BenchError: it ended instead; with the last it had to say.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            found: Result = json.loads(line)
            return found
        code = self._process.wait()
        self._said.seek(0)
        last = self._said.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        raise BenchError(f"{self.task['duty']} ended with code {code}: {''.join(last) or 'it said nothing'}")

    def result(self) -> Result:
        """What it found, at its end."""
        found = self.line()
        while found.get("ready"):
            found = self.line()
        self._process.wait()
        return found

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it now, if it still runs. May be called twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
