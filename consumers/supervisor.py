"""Supervisor: keeps N worker processes running, and leaves none behind.

It starts them, restarts those that end (with backoff), and passes SIGTERM and SIGINT on. Each worker holds the read
end of a pipe whose write end only the supervisor has: if the supervisor is killed, even by SIGKILL, the pipe closes
and the workers stop as on SIGTERM.
"""

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.backoff import Backoff
from pipeline.observe.log import get_logger

PARENT_FD = "MILLSTREAM_PARENT_FD"
"""Environment variable that tells a worker which file descriptor closes when its supervisor is gone."""
FINAL_EXIT = 78
"""A worker that ends with this code says that no restart would help (EX_CONFIG of sysexits.h): all are stopped."""
RESTART = Backoff(initial_ms=200, longest_ms=30_000, jitter=0.5)
STEADY_S = 10.0
"""A worker that ran so long starts its backoff anew, in s."""
POLL_S = 0.1


@dataclass(slots=True)
class Worker:
    """One place for a worker process, and the process that fills it just now."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    restart_s: float = 0.0
    """When to start it again, by the monotonic clock."""


@dataclass(slots=True)
class Supervisor:
    """Runs `command` in so many processes until it is told to stop."""

    command: Sequence[str]
    processes: int
    grace_s: float
    """After a stop was asked for, workers that still run after so long (plus some slack) are killed, in s."""
    on_change: Callable[[str, Worker], None] | None = None
    """Called with "started", "exited" or "killed" and the worker."""
    environment: dict[str, str] | None = None
    """Environment of the workers; None: this process's own."""
    workers: list[Worker] = field(init=False)
    _alive: tuple[int, int] = field(init=False)
    _stop: tuple[int, int] = field(init=False)
    _signal: int = 0
    final: bool = False
    """A worker ended with FINAL_EXIT, and so all were stopped."""

    def __post_init__(self) -> None:
        self.workers = [Worker(number) for number in range(self.processes)]
        self._alive = os.pipe()
        self._stop = os.pipe()

    def run(self) -> int:
        """Keep the workers running until stop(); 0 if all of them then ended cleanly, else 1."""
        log = get_logger("supervisor")
        try:
            while not self._signal:
                self._look_after(log.warning)
                select.select([self._stop[0]], [], [], POLL_S)
            return self._stop_all(log.warning)
        finally:
            for worker in self.workers:
                if worker.process is not None and worker.process.poll() is None:
                    worker.process.kill()
                    worker.process.wait()
            for fd in (*self._alive, *self._stop):
                os.close(fd)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask all workers to stop; a second call kills them. Safe in a signal handler."""
        if self._signal:
            for worker in self.workers:
                if worker.process is not None and worker.process.returncode is None:
                    worker.process.kill()
            return  # run() is awake since the first call, and may have closed its pipe by now
        self._signal = number
        os.write(self._stop[1], b"x")

    def _look_after(self, say: Callable[..., object]) -> None:
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is not None:
                code = worker.process.returncode
                if code == FINAL_EXIT:
                    say(
                        "a worker cannot go on, and no restart would help: all are stopped",
                        pid=worker.process.pid,
                    )
                    self._signal = signal.SIGTERM
                    self.final = True
                    return
                steady = time.monotonic() - worker.started_s > STEADY_S
                worker.failures = 1 if steady else worker.failures + 1
                wait_ms = RESTART.wait_ms(worker.failures)
                worker.restart_s = time.monotonic() + wait_ms / 1_000
                ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
                say(
                    "worker ended, it is started again", pid=worker.process.pid, ended_by=ended, in_ms=wait_ms
                )
                self._tell("exited", worker)
                worker.process = None
            if worker.process is None and time.monotonic() >= worker.restart_s:
                self._start(worker)

    def _start(self, worker: Worker) -> None:
        environment = dict(os.environ if self.environment is None else self.environment)
        environment[PARENT_FD] = str(self._alive[0])
        worker.process = subprocess.Popen(
            self.command,
            env=environment,
            pass_fds=[self._alive[0]],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone, which passes it on once
        )
        worker.started_s = time.monotonic()
        self._tell("started", worker)

    def _stop_all(self, say: Callable[..., object]) -> int:
        running = [worker.process for worker in self.workers if worker.process is not None]
        for process in running:
            if process.poll() is None:
                process.send_signal(self._signal)
        deadline_s = time.monotonic() + self.grace_s + 5
        for process in running:
            try:
                process.wait(max(deadline_s - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                say("worker did not stop within grace, it is killed", pid=process.pid)
                process.kill()
                process.wait()
        # Who died of the signal itself had not begun to listen, and held nothing.
        return 0 if all(process.returncode in (0, -self._signal) for process in running) else 1

    def _tell(self, what: str, worker: Worker) -> None:
        if self.on_change is not None:
            self.on_change(what, worker)


def supervised(environment: dict[str, str] | None = None) -> bool:
    """Whether this process is a supervisor's worker."""
    return PARENT_FD in (os.environ if environment is None else environment)


def restarted(environment: dict[str, str] | None = None) -> bool:
    """Whether somebody starts this process again when it fails, and knows FINAL_EXIT: a supervisor of ours, or systemd.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#%24SYSTEMD_EXEC_PID
    """
    given = os.environ if environment is None else environment
    return supervised(environment) or given.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def stop_with_parent(environment: dict[str, str] | None = None) -> None:
    """In a worker: send ourselves SIGTERM when the supervisor is gone. Does nothing in other processes."""
    fd = (os.environ if environment is None else environment).get(PARENT_FD)
    if fd is None:
        return

    def watch() -> None:
        try:
            while os.read(int(fd), 1):
                pass
        except (
            OSError
        ):  # not our pipe: the variable was inherited by a process that did not get the descriptor
            return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="millstream-parent", daemon=True).start()
