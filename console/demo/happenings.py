"""Happenings: what was notable, a line each, with the time. A line may change while it is still going on."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import wrap

from console.safe_text import safe

KEPT = 200


@dataclass(slots=True)
class Happening:
    """One notable thing."""

    text: str
    at_s: float = field(default_factory=time.time)

    @property
    def clock(self) -> str:
        """When, on the clock on the wall."""
        return time.strftime("%H:%M:%S", time.localtime(self.at_s))

    def lines(self, width: int) -> list[str]:
        """The time and the text, broken into lines of at most so many cells, with nothing in them that steers."""
        indent = " " * (len(self.clock) + 2)
        first, *rest = wrap(safe(self.text), max(width - len(indent), 20)) or [""]
        return [f"{self.clock}  {first}", *(indent + more for more in rest)]


class Happenings:
    """The last notable things, the newest last. Safe for threads: each call is one step of a deque."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        """tell: called with each line as soon as it is said, where there is no screen to show them."""
        self._lines: deque[Happening] = deque(maxlen=KEPT)
        self._tell = tell

    def say(self, text: str) -> Happening:
        """Something happened."""
        line = Happening(text)
        self._lines.append(line)
        if self._tell is not None:
            self._tell(f"{line.clock}  {text}")
        return line

    def say_on(self, line: Happening, text: str) -> None:
        """It has come to this: the line is changed on a screen, and said again where there is none."""
        line.text = text
        if self._tell is not None:
            self._tell(f"{time.strftime('%H:%M:%S')}  {text}")

    def last(self, count: int) -> list[Happening]:
        """The last so many."""
        return list(self._lines)[-count:] if count > 0 else []

    def said(self) -> list[Happening]:
        """All that are kept."""
        return list(self._lines)
