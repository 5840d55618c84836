"""play: one demo from beginning to end, on a screen or without, and what is said when it is over."""

from collections.abc import Sequence
from pathlib import Path

from console.cli.exit_codes import FAILED, INTERRUPTED, OK
from console.demo.happenings import Happenings
from console.demo.interrupts import Interrupts
from console.demo.once import Once
from console.demo.stage import Stage, StageOptions
from console.output import Output


def play(out: Output, *, folder: Path, files: Sequence[Path], events: int | None, per_s: float) -> int:
    """Play it; the exit code. events None: on the screen, until somebody quits.

    Raises:
        MillstreamError: it cannot be played: no server, folder in use, a file that cannot be read.
    """
    options = StageOptions(folder=folder, files=files, events=events, per_s=per_s)
    with Interrupts() as interrupts:
        with Stage(options, Happenings(out.talk), me="the demo") as stage:
            result, whole = Once(stage, interrupts, out.talk).play()
        out.done(str(result.as_json()), **result.as_json())
        if interrupts.asked:
            return INTERRUPTED
        return OK if whole and not result.lost_count else FAILED
