"""Keyboard: single keys from the terminal, without Enter and without echo, inside a with block."""

import os
import re
import select
import sys
import termios
import tty
from types import TracebackType

READ_BYTES = 64
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[ -~])?")
"""Arrows and their like: their letters are no keys of ours."""


class Keyboard:
    """The terminal's keys. It is put back as it was at the end; a kill -9 leaves it without echo (`reset` helps)."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()

    def __enter__(self) -> "Keyboard":
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        attributes = termios.tcgetattr(self._fd)
        # Ctrl-C stays a signal; Ctrl-Z would leave a screen behind that nobody draws, with all processes running on.
        attributes[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(self._fd, termios.TCSADRAIN, attributes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def pressed(self, timeout_s: float) -> str | None:
        """The keys pressed within the time, as soon as there are any; None if the terminal is gone."""
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return ""
        try:
            keys = os.read(self._fd, READ_BYTES)
        except OSError:
            return None
        if not keys:
            return None
        return _SEQUENCE.sub(b"", keys).decode("utf-8", "replace").lower()
