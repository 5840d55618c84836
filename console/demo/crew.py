"""Crew: the worker processes of one group, looked after by a supervisor in a thread of ours.

If the demo is killed, the supervisor's pipe closes and the workers stop as on SIGTERM.
"""

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

from console.demo.account import now_ms
from console.demo.children import command
from console.demo.folder import RunFolder
from console.processes import environment
from consumers.supervisor import Supervisor, Worker

PROCESSES = 2
GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Change:
    """A worker process that started or ended."""

    what: str
    """started or exited."""
    group: str
    pid: int
    code: int | None
    """How it ended: its exit code, or minus the signal's number."""
    at_ms: int
    """When that was noticed, in ms since 1970."""


class Crew:
    """Two workers of one group."""

    def __init__(self, run: RunFolder, group: str, on_change: Callable[[Change], None]) -> None:
        self.group = group
        self._on_change = on_change
        self._stopped = False
        self._supervisor = Supervisor(
            command=command("worker", str(run.path), group),
            processes=PROCESSES,
            grace_s=GRACE_S,
            on_change=self._changed,
            environment=environment(),
        )
        self._thread = threading.Thread(
            target=self._supervisor.run, name=f"demo-{group}-supervisor", daemon=True
        )
        self._thread.start()

    def pids(self) -> list[int | None]:
        """The process in each worker's place; None where one is about to start."""
        pids: list[int | None] = []
        for worker in self._supervisor.workers:
            process = worker.process
            pids.append(process.pid if process is not None and process.returncode is None else None)
        return pids

    def kill(self, pid: int) -> bool:
        """SIGKILL one of the workers, as `kill -9` does; False if it is none of ours, or gone."""
        for worker in self._supervisor.workers:
            process = worker.process
            if process is not None and process.pid == pid and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                return True
        return False

    def stop(self) -> None:
        """Ask the workers to stop."""
        if self._thread.is_alive() and not self._stopped:
            self._stopped = True
            self._supervisor.stop()

    @property
    def gone(self) -> bool:
        """Whether all of them have ended, and none is started again."""
        return not self._thread.is_alive()

    def end(self) -> None:
        """End them now, if any still runs. May be called twice."""
        if self._thread.is_alive():
            self.stop()
            self._supervisor.stop()  # the second time, they are killed
            self._thread.join()

    def _changed(self, what: str, worker: Worker) -> None:
        if worker.process is not None:
            self._on_change(Change(what, self.group, worker.process.pid, worker.process.returncode, now_ms()))
