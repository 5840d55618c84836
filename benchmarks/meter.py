"""CostMeter: what work costs this process, and CpuTime, which every machine can measure."""

import time
from typing import Protocol


class CostMeter(Protocol):
    """Started and stopped around work; then it knows what the work cost."""

    cost: float

    def start(self) -> None:
        """From here on."""

    def stop(self) -> None:
        """Up to here."""


class CpuTime:
    """CPU time of this process in microseconds, all threads of it."""

    def __init__(self) -> None:
        self.cost = 0.0

    def start(self) -> None:
        """From here on."""
        self._began_ns = time.process_time_ns()

    def stop(self) -> None:
        """Up to here."""
        self.cost = (time.process_time_ns() - self._began_ns) / 1_000
