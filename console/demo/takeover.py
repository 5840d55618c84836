"""Takeover: what a killed worker held, and how it comes to the others.

Pure: it is told what the server and the accounts say.
"""

import math
from collections import Counter

from console.demo.account import Handled
from console.demo.facts import Held
from console.demo.happenings import Happening, Happenings
from pipeline.units import show_duration

CLAIM_AFTER_MS = 3_000
ACCOUNTS_MS = 1_000
"""Who took over is told when all its events stand in accounts, or after so long."""


class Takeover:
    """One killed worker, from its end until nothing is held in its name any more."""

    def __init__(
        self,
        happenings: Happenings,
        group: str,
        pid: int,
        *,
        by: str,
        at_ms: int,
        held: Held,
        others: list[int],
    ) -> None:
        """by: how its end is told ("you killed 4133"); held: what it held then; others: who may take it over."""
        self.group = group
        self.pid = pid
        self.at_ms = at_ms
        self.held = held
        self.took_ms: int | None = None
        """How long it took until the last of them was another's, in ms; None as long as it goes on."""
        self._told = not held.count
        self._by = by
        self._takers: Counter[int] = Counter()
        self._happenings = happenings
        self._line: Happening = happenings.say(self._going_on(_names(others) or "the others", at_ms))

    @property
    def done(self) -> bool:
        """Whether nothing is held in its name any more, and that was told."""
        return self._told

    def handled(self, pid: int, line: Handled) -> None:
        """One of its events was handled by somebody."""
        if pid != self.pid and line.at_ms >= self.at_ms:
            self._takers[pid] += 1

    def look(self, left: int, others: list[int], now_ms: int) -> None:
        """So many entries are still held in its name; `others` are the workers that may take them."""
        if self._told:
            return
        if left:
            self._line.text = self._going_on(_names(others) or "the others", now_ms)
        elif self.took_ms is None:
            self.took_ms = now_ms - self.at_ms

    def tell(self, now_ms: int) -> None:
        """Say how it ended, as soon as the accounts show who handled its events."""
        if self._told or self.took_ms is None:
            return
        waited_ms = now_ms - self.at_ms - self.took_ms
        if self._takers.total() < len(self.held.entries) and waited_ms < ACCOUNTS_MS:
            return
        self._told = True
        who = _names(list(self._takers))
        took = show_duration(self.took_ms)
        if (
            not who and self.took_ms < CLAIM_AFTER_MS // 2
        ):  # its last acknowledgements were still on their way
            end = "they were settled as it went"
        else:
            end = f"{who or 'others'} took over after {took}"
        self._happenings.say_on(self._line, f"{self._held()}; {end}")

    def _held(self) -> str:
        count = self.held.count
        return f"{self._by} with {count:,} event{'s' if count != 1 else ''} running"

    def _going_on(self, who: str, now_ms: int) -> str:
        if not self.held.count:
            return f"{self._by}; it held nothing just then"
        left_s = max(math.ceil((self.at_ms + CLAIM_AFTER_MS - now_ms) / 1_000), 0)
        when = f"in {left_s} s" if left_s else "any moment"
        return f"{self._held()}; {who} will take over {when}"


def _names(pids: list[int]) -> str:
    return " and ".join(map(str, sorted(pids)))
