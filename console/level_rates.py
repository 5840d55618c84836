"""LevelRates: how many events of each level came in each interval of time, and in all. Pure.

An interval is a stretch of the server's clock by entry ids, from a multiple of its length on. Either one is complete
when an event or the clock is beyond it, or (Folded) all are kept, at most so many, in intervals that grow to fit.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from console.output import counted
from console.safe_text import safe
from pipeline.levels import RANKS, level_in, level_word
from pipeline.units import show_duration

NONE = "no level"
OTHER = "other levels"
MOST_WORDS = 20
"""Of words that are no known level so many are told apart: anybody may write anything there."""
MOST_CHARS = 30
INTERVALS_MS = (1_000, 10_000, 60_000, 600_000, 3_600_000, 21_600_000, 86_400_000)
"""Each a multiple of the one before; beyond the last, ten times as long."""


@dataclass(slots=True)
class Tally:
    """Events by level."""

    counts: Counter[str] = field(default_factory=Counter)

    @property
    def events(self) -> int:
        """All of them."""
        return self.counts.total()

    def add(self, data: Any, words: set[str]) -> None:
        """One more event; `words` are the unknown levels told apart so far."""
        level = level_in(data)
        word = level_word(level)
        if not word and level is None:
            word = NONE
        elif not word:
            word = str(level)[:MOST_CHARS] or NONE
            if word not in words and len(words) >= MOST_WORDS:
                word = OTHER
            words.add(word)
        self.counts[word] += 1

    @property
    def by_rank(self) -> dict[str, int]:
        """The gravest first, then what is no known level."""
        known = [word for word in reversed(RANKS) if word in self.counts]
        return {word: self.counts[word] for word in (*known, *sorted(self.counts.keys() - RANKS.keys()))}


@dataclass(frozen=True, slots=True)
class Interval:
    """One line: a stretch of time with what came in it."""

    begin_ms: int
    length_ms: int
    tally: Tally

    def as_json(self) -> dict[str, Any]:
        """What a script gets."""
        return {
            "from_ms": self.begin_ms,
            "length_ms": self.length_ms,
            "events": self.tally.events,
            "per_s": self.tally.events * 1_000 / self.length_ms,
            "levels": self.tally.by_rank,
        }


@dataclass(slots=True)
class Whole:
    """All that came, and from when to when."""

    tally: Tally = field(default_factory=Tally)
    first_ms: int | None = None
    last_ms: int = 0
    words: set[str] = field(default_factory=set)

    def add(self, at_ms: int, data: Any) -> None:
        """One more event."""
        self.first_ms = at_ms if self.first_ms is None else min(self.first_ms, at_ms)
        self.last_ms = max(self.last_ms, at_ms)
        self.tally.add(data, self.words)

    def as_json(self) -> dict[str, Any]:
        """What a script gets."""
        first_ms = self.last_ms if self.first_ms is None else self.first_ms
        return {
            "from_ms": self.first_ms,
            "length_ms": self.last_ms - first_ms,
            "events": self.tally.events,
            "levels": self.tally.by_rank,
        }


class Running:
    """Intervals of one length, each given out when it is over. What comes late counts in the one that runs."""

    def __init__(self, length_ms: int) -> None:
        self.length_ms = length_ms
        self.whole = Whole()
        self._begin_ms: int | None = None
        self._now = Tally()

    def add(self, at_ms: int, data: Any) -> "list[Interval]":
        """One event; the intervals that are over by it."""
        over = self.clock(at_ms)
        if self._begin_ms is None:
            self._begin_ms = at_ms - at_ms % self.length_ms
        self._now.add(data, self.whole.words)
        self.whole.add(at_ms, data)
        return over

    def clock(self, now_ms: int, *, empty: bool = False) -> "list[Interval]":
        """What is over by this time; empty: also an interval in which nothing came, one for each look."""
        begin_ms = now_ms - now_ms % self.length_ms
        if self._begin_ms is None:
            if empty:
                self._begin_ms = begin_ms
            return []
        if begin_ms <= self._begin_ms:
            return []
        over = self.running()
        self._begin_ms, self._now = (begin_ms if empty else None), Tally()
        return [over] if over is not None and (empty or over.tally.events) else []

    def running(self) -> Interval | None:
        """The one that is not over yet."""
        return None if self._begin_ms is None else Interval(self._begin_ms, self.length_ms, self._now)


class Folded:
    """At most so many intervals, which grow tenfold or so whenever there would be more."""

    def __init__(self, most: int) -> None:
        self.whole = Whole()
        self.length_ms = INTERVALS_MS[0]
        self._most = most
        self._tallies: dict[int, Tally] = {}

    def add(self, at_ms: int, data: Any) -> None:
        """One event."""
        self._tallies.setdefault(at_ms // self.length_ms, Tally()).add(data, self.whole.words)
        self.whole.add(at_ms, data)
        while len(self._tallies) > self._most:
            self._grow()

    def intervals(self) -> list[Interval]:
        """Those in which something came, in order."""
        return [
            Interval(number * self.length_ms, self.length_ms, tally)
            for number, tally in sorted(self._tallies.items())
        ]

    def _grow(self) -> None:
        longer_ms = next((each for each in INTERVALS_MS if each > self.length_ms), self.length_ms * 10)
        factor, self.length_ms = longer_ms // self.length_ms, longer_ms
        folded: dict[int, Tally] = {}
        for number, tally in self._tallies.items():
            folded.setdefault(number // factor, Tally()).counts.update(tally.counts)
        self._tallies = folded


def levels_text(tally: Tally) -> str:
    """error 3, info 20: escaped, since levels are what events say."""
    return ", ".join(f"{safe(word)} {count:,}" for word, count in tally.by_rank.items())


def summary_text(whole: Whole) -> str:
    """The last line."""
    tally = whole.tally
    if whole.first_ms is None:
        return "in all: no events"
    length_ms = whole.last_ms - whole.first_ms
    rate = f" in {show_duration(length_ms)}, {tally.events * 1_000 / length_ms:,.1f}/s" if length_ms else ""
    shares = ", ".join(
        f"{safe(word)} {count:,} ({count / tally.events:.1%})" for word, count in tally.by_rank.items()
    )
    return f"in all: {counted(tally.events, 'event')}{rate}: {shares}"
