"""Processes: the workers and producers of a campaign, forked by a nursery, and what can be done to them."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.campaign.journal import Reader
from tests.until import until

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Child:
    """A process that a nursery forked."""

    pid: int
    kind: str
    group: str
    """Of a worker; empty for a producer."""
    journal: Reader

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def alive(self) -> bool:
        """Whether the process is there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        until(lambda: not self.alive(), 20, what=f"process {self.pid} is gone", every_s=0.002)


class Nursery:
    """Forks children that run the product of one folder."""

    def __init__(self, tree: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.campaign.nursery"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def fork(self, program: str, **arguments: Any) -> int:
        """Start a program of the nursery; its pid."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"program": program, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the nursery has ended")
        return int(answer)
