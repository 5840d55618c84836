"""Journal: what a process of a campaign writes down, one line at a time, and how it is read back.

A line is one write to a file opened for appending: a kill at any instruction leaves whole lines only.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TICK_S = 0.05
STALL_S = 0.25
"""A thread that wanted to run every TICK_S and could not for so long: the whole process stood still."""


class Journal:
    """Writes lines. Any thread may."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *values: Any) -> None:
        """One line: a list whose first value is its kind."""
        os.write(self._file, json.dumps(values).encode() + b"\n")

    def watch_stalls(self) -> None:
        """Write down when this process got no processor."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        before_s = time.monotonic()
        while True:
            time.sleep(TICK_S)
            now_s = time.monotonic()
            if now_s - before_s > STALL_S:
                self.write("stall", before_s, now_s)
            before_s = now_s


class Reader:
    """Reads the lines that a journal has, and later those that came since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest = b""
        self._at = 0

    def lines(self) -> Iterator[list[Any]]:
        """Whole lines that were not read yet."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield json.loads(line)
