"""Child: a process of the demo's own, started from a module of this package, which ends with the demo.

Stands on the supervisor's pipe: whoever holds its read end gets SIGTERM when the demo is gone, however it went.
"""

import os
import signal
import subprocess
from collections.abc import Sequence

from console.demo.folder import RunFolder
from console.processes import environment, module_command
from consumers.supervisor import PARENT_FD, stop_with_parent

KILL_S = 5.0
"""A child that was killed is waited for so long."""


def command(module: str, *args: str) -> list[str]:
    """The command line that runs a module of this package."""
    return module_command(f"{__package__}.{module}", *args)


def begin(run: RunFolder, who: str) -> None:
    """What each child does first: be counted, write what it has to say to its log, end with the demo."""
    run.join()
    log = os.open(run.log(who), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    stop_with_parent()


class Child:
    """One process, from start to end."""

    def __init__(self, run: RunFolder, module: str, args: Sequence[str]) -> None:
        self.name = module
        read_end, self._alive = os.pipe()
        # What it says before begin(), such as an error in our own modules, must not run across the screen.
        with open(run.log(module), "ab") as log:
            self._process = subprocess.Popen(
                command(module, str(run.path), *args),
                env={**environment(), PARENT_FD: str(read_end)},
                pass_fds=[read_end],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the demo, which ends its children in order
            )
        os.close(read_end)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to end."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End it now, if it still runs. May be called twice."""
        if not self.ended:
            self._process.kill()
        self._process.wait(KILL_S)
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
