"""Sending: what a producer of a campaign sends, at a steady rate, and what it writes down of it.

What is asked for is written before it is sent, what is told after it was told: a kill leaves sends whose end nobody
knows.
"""

import os
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from pipeline.errors import NotConfirmed, SendError, SendUnknownError
from producers.receipt import Receipt
from tests.faults.campaign.history import CONFIRMED, FAILED, UNKNOWN
from tests.faults.campaign.journal import Journal
from tests.faults.campaign.worker_process import checksum

TICK_S = 0.01
PLANS = {"fail": 0.02, "later": 0.01, "reject": 0.01, "slow": 0.01}
"""What events ask for, and how many of them; the others go well."""


class Sending:
    """Makes events, and keeps the receipts until they have an end."""

    def __init__(
        self,
        journal: Journal,
        *,
        seed: int,
        most_bytes: int,
        kill_at: Sequence[int],
        plans: Mapping[str, float],
    ) -> None:
        self._journal = journal
        self._rng = random.Random(seed)
        self._most_bytes = most_bytes
        self._kill_at = frozenset(kill_at)
        self._plans = PLANS | dict(plans)
        self._pid = os.getpid()
        self._number = 0
        self._open: deque[tuple[list[str], Receipt]] = deque()
        self.stopping = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: stop sending, see to what was sent, and end."""
        self.stopping = True

    def events(self, count: int) -> list[dict[str, Any]]:
        """So many events, written down as asked for."""
        made = [self._event() for _ in range(count)]
        self._journal.write("ask", [(one["name"], one["plan"]) for one in made], time.monotonic())
        return made

    def owe(self, events: Sequence[dict[str, Any]], receipt: Receipt) -> None:
        """Remember a receipt."""
        self._open.append(([one["name"] for one in events], receipt))

    def tell(self, events: Sequence[dict[str, Any]], fate: str) -> None:
        """Write down an end."""
        self._journal.write("told", [one["name"] for one in events], fate, time.monotonic())

    def look(self) -> bool:
        """Write down the ends there are; whether any is still to come."""
        for _ in range(len(self._open)):
            names, receipt = self._open.popleft()
            if not receipt.done:
                self._open.append((names, receipt))
                continue
            self._journal.write("told", names, fate_of(receipt), time.monotonic())
        return bool(self._open)

    def chunks(self, rate: float) -> Iterator[int]:
        """How many are due, at this rate; one step every TICK_S."""
        begun_s, sent = time.monotonic(), 0
        while not self.stopping:
            due = int((time.monotonic() - begun_s) * rate) - sent
            if due > rate:  # it was held up: no flood afterwards
                begun_s, sent, due = time.monotonic(), 0, int(rate * TICK_S)
            sent += due
            yield due

    def _event(self) -> dict[str, Any]:
        self._number += 1
        draw, plan = self._rng.random(), "ok"
        for word, share in self._plans.items():
            if draw < share:
                plan = word
                break
            draw -= share
        if self._number in self._kill_at:
            plan = "kill"
        data: dict[str, Any] = {
            "name": f"p.{self._pid}-{self._number}",
            "plan": plan,
            "key": f"k{self._rng.randrange(20)}",
            "fill": self._rng.randbytes(self._rng.randrange(self._most_bytes) // 2).hex(),
        }
        return data | {"sum": checksum(data)}


def fate_of(receipt: Receipt) -> str:
    """What a receipt that has ended says."""
    try:
        receipt.result(0)
    except (SendUnknownError, NotConfirmed):
        return UNKNOWN
    except SendError:
        return UNKNOWN if receipt.entry_ids else FAILED  # of several, some may be in the stream
    return CONFIRMED
