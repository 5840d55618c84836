"""Stopwatch: how long something took in this process, by the clock and in CPU time, and the process's peak memory."""

import gc
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol


class Meter(Protocol):
    """Something else to be measured over the same time."""

    def start(self) -> None:
        """From here on."""

    def stop(self) -> None:
        """Up to here."""


@dataclass(slots=True)
class Stopwatch:
    """Started and stopped once. The clock is the machine's, so that two processes can compare theirs."""

    began_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    beside: Meter | None = None

    def start(self) -> None:
        """From here on it counts. What was prepared before is no longer the garbage collector's to walk through."""
        gc.collect()
        gc.freeze()
        if self.beside is not None:
            self.beside.start()
        self.cpu_s = -time.process_time()
        self.began_s = time.monotonic()

    def stop(self) -> None:
        """Up to here."""
        self.ended_s = time.monotonic()
        self.cpu_s += time.process_time()
        if self.beside is not None:
            self.beside.stop()

    def facts(self) -> dict[str, Any]:
        """What it measured."""
        return {
            "began_s": self.began_s,
            "ended_s": self.ended_s,
            "seconds": self.ended_s - self.began_s,
            "cpu_s": self.cpu_s,
            "peak_bytes": peak_bytes(),
        }


def peak_bytes() -> int:
    """The most memory this process has had resident."""
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
