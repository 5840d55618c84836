"""The demo without a terminal: sends a fixed number of events, kills what the issue is about, drains, and compares."""

import time
from collections.abc import Callable

from console.demo.folder import GROUPS
from console.demo.log_files import LAST_LINES
from console.demo.result import Result, result_of
from console.demo.stage import LOOK_S, Stage
from pipeline.errors import MillstreamError
from pipeline.units import show_duration

KILL_WORKERS_AT = 0.15
"""The workers are killed when this share of the service's events is confirmed."""
KILL_SERVER_AT = 0.7
SEND_S = 120.0
"""Beyond the time its pace asks for, sending may take so long on a busy machine."""
HOLDING_S = 5.0
"""A worker that holds events just then is looked for so long before it is killed anyway."""
BACK_S = 60.0


class Once:
    """One run, on its own."""

    def __init__(self, stage: Stage, tell: Callable[[str], None]) -> None:
        self._stage = stage
        self._watch = stage.watch
        self._tell = tell
        self._began_s = time.monotonic()
        self._told_s = self._began_s

    def play(self) -> tuple[Result, bool]:
        """All of it; the counts, and whether everything went as it should."""
        stage = self._stage
        total = stage.options.events or 0
        self._say(f"server: pid {stage.server.pid}, {stage.about}")
        self._say(f"data: {stage.run.home}")
        for file in stage.options.files:
            since = "" if file.whole else f", its last {LAST_LINES:,} lines"
            self._say(f"log file: {file.path}{since}")
        stage.wait_for_workers(self._nothing)
        for group in GROUPS:
            self._say(f"group {group}: workers {' and '.join(map(str, stage.ready(group)))}")
        if not stage.interrupts.asked:
            stage.send()
        self._until(lambda: self._confirmed >= total * KILL_WORKERS_AT or not stage.sending, total)
        for group in GROUPS:
            stage.kill_worker(group, HOLDING_S)
        self._until(lambda: self._confirmed >= total * KILL_SERVER_AT or not stage.sending, total)
        self._kill_server()
        self._until(lambda: not stage.sending, total)
        stage.stop_sending(self._progress)
        self._say(f"{self._watch.sent:,} events confirmed; waiting until every group has handled them")
        drained = stage.drain(self._progress)
        stage.stop_workers(self._nothing)
        link = self._watch.link() or stage.connector.link("demo")
        result = result_of(stage.run, link)
        whole = drained and not self._stage.interrupts.asked and self._confirmed >= total
        return result, whole

    @property
    def _confirmed(self) -> int:
        return self._watch.sent_by("service")

    def _kill_server(self) -> None:
        if self._stage.interrupts.asked:
            return
        before = self._watch.restarts
        self._stage.kill_server()
        until_s = time.monotonic() + BACK_S
        while self._watch.restarts == before:
            if time.monotonic() > until_s:
                raise MillstreamError(
                    f"the server was killed and has not come back within {show_duration(BACK_S * 1_000)}"
                )
            self._stage.interrupts.check()
            self._watch.look()
            time.sleep(0.01)

    def _until(self, reached: Callable[[], bool], total: int) -> None:
        until_s = time.monotonic() + total / self._stage.options.per_s + SEND_S
        while not reached() and not self._stage.interrupts.asked:
            if time.monotonic() > until_s:
                raise MillstreamError(
                    f"only {self._confirmed:,} of {total:,} events are confirmed yet: see {self._stage.run.path}"
                )
            self._watch.look()
            self._progress()
            time.sleep(LOOK_S)

    def _progress(self) -> None:
        """Every two seconds a line on how far it has come."""
        now_s = time.monotonic()
        if now_s - self._told_s < 2:
            return
        self._told_s = now_s
        watch = self._watch
        self._say(f"sent {watch.sent:,}, handled by every group {watch.ledger.handled_by_all:,}")

    def _nothing(self) -> None:
        """Nothing to say."""

    def _say(self, text: str) -> None:
        self._tell(f"{time.strftime('%H:%M:%S')}  {text}")
