"""Stage: all that a demo consists of, from the data folder to the last worker, and its orderly end.

Stands on the folder, the server, the children, the crews and the watch. However it ends, its processes end too: asked
to where there is time, killed where there is none, and by their pipes if the demo itself is killed.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from console.demo.children import Child
from console.demo.crew import PROCESSES, Crew
from console.demo.folder import GROUPS, STREAM, DemoFolder, RunFolder
from console.demo.happenings import Happenings
from console.demo.interrupts import Interrupts
from console.demo.log_files import LogFile
from console.demo.watch import Watch
from pipeline.errors import MillstreamError
from pipeline.observe.log import get_logger
from pipeline.server.changes import trim_stream
from pipeline.server.connect import Connector
from pipeline.server.embedded import EmbeddedServer
from pipeline.server.overview import server_ms

READY_S = 20.0
"""Workers have joined their groups within this time, or something is wrong."""
SENT_S = 30.0
"""What is on its way is confirmed within this time after sending was stopped."""
STILL_S = 30.0
"""Draining has failed when nothing moved for so long."""
LOOK_S = 0.1
QUICK_LOOK_S = 0.005
GIVE_UP_S = 1.0
"""No worker is killed if none could be for so long beyond the time for finding a good one."""
KEEP_MS = 3_600_000
"""The stream keeps this much of what every group has handled, in ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """What is played, and where."""

    folder: Path
    """Data folder, kept."""
    per_s: float = 200.0
    """Events a second from the service."""
    events: int | None = None
    """The service sends so many; None: until it is stopped."""
    files: Sequence[LogFile] = field(default_factory=tuple)
    """Log files to follow; where `events` is given, to their present end."""


class Stage:
    """One run of the demo, inside a with block."""

    def __init__(
        self, options: StageOptions, happenings: Happenings, interrupts: Interrupts, *, me: str
    ) -> None:
        """me: who is said to have killed what kill_worker() and kill_server() kill."""
        self.options = options
        self.happenings = happenings
        self.interrupts = interrupts
        self._me = me
        self._exit = contextlib.ExitStack()
        self.began_s = time.monotonic()
        self._senders: list[Child] = []
        self._service: Child | None = None
        self._crews: list[Crew] = []

    def __enter__(self) -> "Stage":
        """Start the server and the workers. Nothing is sent yet.

        Raises:
            MillstreamError: the folder is in use or cannot be written, or no server can be started.
        """
        with contextlib.ExitStack() as started:
            self.run: RunFolder = started.enter_context(DemoFolder(self.options.folder))
            started.callback(_log_to(self.run.log("demo")))
            self.server = EmbeddedServer.acquire(self.run.home, fsync="always")
            started.callback(self.server.close)
            self.connector = Connector(self.run.url)
            started.callback(self.connector.close)
            self.about = self.connector.capabilities().durability_line()
            self.watch = Watch(self.run, self.server, self.connector, self.happenings, self._me)
            started.callback(self._end_senders)
            for group in GROUPS:
                crew = Crew(self.run, group, self.watch.note)
                self._crews.append(crew)
                started.callback(crew.end)
            self.watch.meet(self._crews)
            self._exit = started.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    @property
    def crews(self) -> Sequence[Crew]:
        """The workers, group by group."""
        return self._crews

    def wait_for_workers(self, on_look: Callable[[], None]) -> None:
        """Until every group has all its workers, or somebody interrupts.

        Raises:
            MillstreamError: they do not come; says where to look.
        """
        until_s = time.monotonic() + READY_S
        while not self.interrupts.asked and not all(len(self.ready(group)) == PROCESSES for group in GROUPS):
            if time.monotonic() > until_s:
                raise MillstreamError(
                    f"the workers did not start within {READY_S:g} s: see {self.run.path}/*.log"
                )
            self._look(on_look)

    def ready(self, group: str) -> list[int]:
        """The workers of a group that run and have joined it."""
        held = self.watch.standings[group].held if group in self.watch.standings else {}
        return [pid for crew in self._crews if crew.group == group for pid in crew.pids() if pid in held]

    def send(self) -> None:
        """Start what sends."""
        options = self.options
        count = () if options.events is None else (str(options.events),)
        self._service = Child(self.run, "service", [f"{options.per_s:g}", *count])
        self._senders.append(self._service)
        if options.files:
            how = "follow" if options.events is None else "once"
            named = [word for file in options.files for word in (str(file.path), str(file.offset))]
            self._senders.append(Child(self.run, "follower", [how, *named]))

    def pids(self, group: str) -> list[int | None]:
        """The process in each worker's place; None where one is about to start."""
        return [pid for crew in self._crews if crew.group == group for pid in crew.pids()]

    @property
    def service_pid(self) -> int | None:
        """The service's process; None if it does not run."""
        return None if self._service is None or self._service.ended else self._service.pid

    @property
    def sending(self) -> bool:
        """Whether something still sends."""
        return not all(child.ended for child in self._senders)

    def kill_worker(self, group: str, holding_s: float) -> int | None:
        """SIGKILL the worker of a group that holds most; its pid, None if none can be killed just now.

        For so many seconds one is looked for that holds something: what it holds is what could be lost.
        """
        until_s = time.monotonic() + holding_s
        while not self.interrupts.asked:
            self.watch.look()
            ready = self.ready(group)
            held = self.watch.standings[group].held if ready else {}
            ready.sort(key=lambda pid: held[pid], reverse=True)
            if ready and (held[ready[0]] or time.monotonic() > until_s):
                self.watch.killed_worker(ready[0])
                if any(crew.kill(ready[0]) for crew in self._crews if crew.group == group):
                    return ready[0]
            if time.monotonic() > until_s + GIVE_UP_S:
                return None
            time.sleep(QUICK_LOOK_S)
        return None

    def kill_server(self) -> int:
        """SIGKILL the server; the next who needs it starts it again. Its pid."""
        pid = self.server.pid
        self.watch.killed_server()
        with contextlib.suppress(ProcessLookupError):  # somebody else was faster
            os.kill(pid, signal.SIGKILL)
        return pid

    def keep_last(self) -> None:
        """Remove from the stream what is older than KEEP_MS and handled by every group: a demo may run for days."""
        link = self.watch.link()
        if link is None:
            return
        try:
            removed = sum(trim_stream(link, STREAM, f"{server_ms(link) - KEEP_MS}-0"))
        except MillstreamError as error:  # the server went away, or the stream is not there yet
            get_logger("demo").warning("stream not trimmed", error=str(error))
            return
        if removed:
            get_logger("demo").info("stream trimmed", entries=removed)

    def stop_sending(self, on_look: Callable[[], None]) -> None:
        """Stop what sends, and wait until all that was sent is confirmed, or known not to be."""
        for child in self._senders:
            child.stop()
        until_s = time.monotonic() + SENT_S
        while self.sending and time.monotonic() < until_s:
            self._look(on_look)
        for child in self._senders:
            child.end()
            # By our SIGTERM: it had not even begun, so there is nothing to miss.
            if child.code not in (0, -signal.SIGTERM):
                self.happenings.say(
                    f"the {child.name} ended with code {child.code}: not all it sent was confirmed, see "
                    f"{self.run.log(child.name)}"
                )
        self._look(on_look)

    def drain(self, on_look: Callable[[], None]) -> bool:
        """Wait until every group has settled all it was sent; False if it stands still."""
        still_since_s, before = time.monotonic(), -1
        looks = 0
        while (
            looks < 2
        ):  # the accounts are read after the server was asked: the second look has seen them all
            self._look(on_look)
            looks = looks + 1 if self.watch.drained else 0
            left = self.watch.waiting
            if left != before:
                still_since_s, before = time.monotonic(), left
            if time.monotonic() - still_since_s > STILL_S:
                return False
        return True

    def stop_workers(self, on_look: Callable[[], None]) -> None:
        """End the workers in order."""
        for crew in self._crews:
            crew.stop()
        for crew in self._crews:
            while not crew.gone:
                self.interrupts.check()
                on_look()
                time.sleep(LOOK_S)

    def _look(self, on_look: Callable[[], None]) -> None:
        self.interrupts.check()
        self.watch.look()
        on_look()
        time.sleep(LOOK_S)

    def _end_senders(self) -> None:
        for child in self._senders:
            child.end()


def _log_to(path: Path) -> Callable[[], None]:
    """Send what the library has to say to a file: the terminal is the screen's. Returns the way back."""
    logger = logging.getLogger("millstream")
    handler = logging.FileHandler(path, "a", "utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    before, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)

    def back() -> None:
        logger.handlers[:] = before
        logger.propagate = propagate
        logger.setLevel(level)
        handler.close()

    return back
