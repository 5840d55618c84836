"""Live: the demo on a terminal, drawn a few times a second, with keys, until somebody quits."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live as RichLive

from console.demo.actions import Actions
from console.demo.keyboard import Keyboard
from console.demo.result import Result, result_of
from console.demo.screen import draw
from console.demo.stage import Stage

DRAW_S = 0.2
TRIM_S = 60.0
"""How often what is an hour old is removed from the stream."""


class Live:
    """The screen and its keys, inside a with block. Whatever ends the block gives the terminal back as it was."""

    def __init__(self, stage: Stage, *, color: bool) -> None:
        self._stage = stage
        self._interrupts = stage.interrupts
        self._console = Console(no_color=not color, highlight=False, emoji=False, markup=False)
        self._actions = Actions(stage)
        self._keyboard = Keyboard()
        self._live = RichLive(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._phase = "starting"

    def __enter__(self) -> "Live":
        self._keyboard.__enter__()
        try:
            self._live.__enter__()
        except BaseException:
            self._keyboard.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._live.__exit__(kind, error, trace)
        finally:
            self._keyboard.__exit__(kind, error, trace)

    def play(self) -> tuple[Result, bool]:
        """Until somebody quits, and then to the end; the counts, and whether every group has settled everything."""
        stage = self._stage
        stage.wait_for_workers(self._turn)
        if not self._interrupts.asked:
            stage.send()
        self._phase = "running"
        trim_s = time.monotonic() + TRIM_S
        while not self._interrupts.asked:
            stage.watch.look()
            if time.monotonic() > trim_s:
                trim_s += TRIM_S
                stage.keep_last()
            self._turn(DRAW_S)
        self._phase = "stopping"
        stage.stop_sending(self._turn)
        drained = stage.drain(self._turn)
        while self._actions.rewinding:
            drained = stage.drain(self._turn)
        self._phase = "ending"
        stage.stop_workers(self._turn)
        return result_of(stage.run, stage.watch.link() or stage.connector.link("demo")), drained

    def _turn(self, wait_s: float = 0) -> None:
        """Draw, and do what the keys say that are pressed within the time."""
        self._interrupts.check()
        width, height = self._console.size
        self._live.update(draw(self._stage, self._phase, width, height), refresh=True)
        keys = self._keyboard.pressed(wait_s)
        if keys is None:
            self._interrupts.ask()
            return
        for key in keys:
            if key == "q":
                self._interrupts.ask()
            elif self._phase == "running" and key in ("k", "s", "b", "r"):
                self._do(key)

    def _do(self, key: str) -> None:
        actions = self._actions
        {"k": actions.kill_worker, "s": actions.kill_server, "b": actions.bad_event, "r": actions.rewind}[
            key
        ]()
