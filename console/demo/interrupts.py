"""Interrupts: Ctrl-C, SIGTERM and a closed terminal while the demo runs: the first asks it to end, a second ends it.

A signal only leaves a note, which the demo looks at several times a second: an exception out of nowhere could leave a
lock held or a child unknown. A third signal ends the process on the spot; its children notice by their pipes.
"""

import os
import signal
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns signals into requests, inside a with block. For the main thread."""

    def __init__(self) -> None:
        self._times = 0
        self.number = 0
        """By which signal the demo was asked to end; 0 for a key, or if it was not."""
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether somebody asked the demo to end."""
        return self._times > 0

    def ask(self) -> None:
        """Ask by a key."""
        self._times += 1

    def check(self) -> None:
        """Called several times a second.

        Raises:
            KeyboardInterrupt: it was asked twice: the demo is to end at once.
        """
        if self._times > 1:
            raise KeyboardInterrupt

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
        self._times += 1
        if self._times > 2:
            os._exit(128 + number)
