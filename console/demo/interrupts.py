"""Interrupts: Ctrl-C, SIGTERM and a closed terminal while the demo runs: the first asks it to end, a second ends it."""

import signal
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns signals into a request, inside a with block. For the main thread."""

    def __init__(self) -> None:
        self.asked = False
        """Whether somebody asked the demo to end."""
        self.number = 0
        """By which signal; 0 for a key."""
        self._before: dict[int, Any] = {}

    def ask(self) -> None:
        """Ask by a key; asked again, the demo ends at once.

        Raises:
            KeyboardInterrupt: it was asked before.
        """
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def ignore(self) -> None:
        """From now on nothing interrupts: what is left is cleaning up, and is short."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __enter__(self) -> "Interrupts":
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.ask()
