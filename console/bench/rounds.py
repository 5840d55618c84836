"""Rounds: makes the measurements, each in a process of its own, one after the other and all of them again.

Interleaved, so that what the machine does beside it falls on all alike. Stands on one connection of its own for
filling, looking and removing. Whatever ends it, its processes are ended first and then its keys removed.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.limits.arrived import arrived
from benchmarks.limits.event import Tally, expected
from console.bench.benchmark_program import DEPTHS as PROGRAM_DEPTHS
from console.bench.benchmark_program import BenchmarkProgram, whole
from console.bench.measures import BARE_APPEND, LIMIT, Filled, Measure, streams_needed
from console.bench.own_keys import OwnKeys
from console.bench.process import BenchError, Result, Task, WorkProcess
from pipeline.errors import MillstreamError
from pipeline.server.connect import Connector, Link

LATENCY_S = 3.0
"""How long latency is measured in a round, if there are events enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is measured."""

    events: int
    rounds: int
    rate: float

    @property
    def latency_events(self) -> int:
        """How many events a round of latency sends."""
        return max(min(self.events, int(self.rate * LATENCY_S)), 1)


@dataclass(slots=True)
class Figures:
    """What one measure found, round by round."""

    measure: Measure
    rounds: list[Result] = field(default_factory=list)
    events: int = 0
    """Events that arrived, in all rounds."""
    right: bool = True
    """They were those that were sent, each once."""
    checked: str = "counted and checksummed"


class Rounds:
    """One run of the bench."""

    def __init__(
        self,
        connector: Connector,
        url: str | None,
        load: Load,
        program: BenchmarkProgram | None,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """say: told what is under way. warn: told what was left undone."""
        self.keys = OwnKeys()
        self._connector = connector
        self._url = url
        self._load = load
        self._program = program
        self._say = say
        self._warn = warn
        self._processes: list[WorkProcess] = []
        self._bytes: Result = {}

    def run(self, measures: Sequence[Measure]) -> list[Figures]:
        """Measure all; the figures in the same order.

        Raises:
            BenchError: a measurement could not be made.
        """
        figures = [Figures(measure) for measure in measures]
        link = self._connector.link("bench")
        try:
            for kind in streams_needed(measures):
                self._fill(link, kind)
            for turn in range(self._load.rounds):
                for at, one in enumerate(figures):
                    self._say(
                        f"round {turn + 1} of {self._load.rounds}: {one.measure.name} ({at + 1} of {len(figures)})"
                    )
                    self._measure(link, one, turn)
        finally:
            for process in self._processes:
                process.end()
            link.close()
            self._remove()
        return figures

    def _remove(self) -> None:
        try:
            self.keys.remove(self._connector)
        except (MillstreamError, KeyboardInterrupt):
            self._warn(
                f"keys that begin with {self.keys.name} or {{{self.keys.name} may be left on the server"
            )
            raise

    def _measure(self, link: Link, figures: Figures, turn: int) -> None:
        measure = figures.measure
        if measure.kind == "bytes":
            if not turn:
                figures.rounds.append(self._bytes)
                figures.events = self._load.events * 2
        elif measure.name == LIMIT:
            self._limit(link, figures)
        elif measure.kind == "append":
            self._append(link, figures)
        elif measure.kind == "both":
            self._both(link, figures)
        elif measure.kind == "latency":
            count = self._load.latency_events
            with self._stream(link, measure) as stream:
                found = self._do(
                    measure, stream=stream, group=self.keys.group(), count=count, rate=self._load.rate
                )
            self._judge(figures, _tally(found), expected(count))
            figures.rounds.append(found | {"per_s": count / found["seconds"]})
        else:
            stream = self.keys.stream(measure.filled)
            found = self._do(measure, stream=stream, group=self.keys.group(), count=self._load.events)
            self._judge(figures, _tally(found))
            self._keep(figures, found)

    def _append(self, link: Link, figures: Figures) -> None:
        """Into an empty stream, which is then read back."""
        measure = figures.measure
        with self._stream(link, measure) as stream:
            asked = {"stream": stream, "count": self._load.events, **measure.how}
            found = self._start(measure.duty or BARE_APPEND, asked).result()
            self._judge(figures, _arrived(link, stream))
        self._keep(figures, found)

    def _limit(self, link: Link, figures: Figures) -> None:
        """By the program, where there is one: the best of its depths."""
        if self._program is None:
            self._append(link, figures)
            return
        rates = []
        figures.checked = "counted"  # it writes its own bytes
        for depth in PROGRAM_DEPTHS:
            with self._stream(link, figures.measure) as stream:
                asked = whole(self._load.events, depth[0])
                rates.append(self._program.run(stream, asked, *depth))
                there = link.call("XLEN", stream)
                figures.events += there
                figures.right &= there == asked
        figures.rounds.append({"per_s": max(rates)})

    def _both(self, link: Link, figures: Figures) -> None:
        """A process that consumes, and as soon as it waits, one that sends; from first send to last settle."""
        measure, asked = figures.measure, {"count": self._load.events}
        with self._stream(link, measure) as stream:
            consumer = self._start(
                measure.duty, {**asked, "stream": stream, "group": self.keys.group(), **measure.how}
            )
            consumer.line()
            producer = self._start(measure.sender, {**asked, "stream": stream, **measure.sender_how})
            sent, found = producer.result(), consumer.result()
        self._judge(figures, _tally(found))
        seconds = found["ended_s"] - sent["began_s"]
        cpu_s = sent["cpu_s"] + found["cpu_s"]
        self._keep(figures, found | {"seconds": seconds, "cpu_s": cpu_s})

    def _fill(self, link: Link, kind: Filled) -> None:
        """A stream for those that consume, written by our own producer."""
        self._say(f"filling a stream of {kind}")
        stream, count = self.keys.stream(kind), self._load.events
        self._start(
            "produce", {"stream": stream, "count": count, "many": True, "pack": kind == "packs"}
        ).result()
        found = _arrived(link, stream)
        if found != expected(count):
            raise BenchError(
                f"{found.events:,} of {count:,} events stand in {stream}, or others than were sent"
            )
        size = _asked(link, "MEMORY", "USAGE", stream, "SAMPLES", 0)
        self._bytes |= {
            f"{kind}_bytes": None if size is None else size / count,
            f"{kind}_entries": link.call("XLEN", stream),
        }

    def _do(self, measure: Measure, **asked: Any) -> Result:
        return self._start(measure.duty, {**asked, **measure.how}).result()

    def _start(self, duty: str, asked: Task) -> WorkProcess:
        for process in self._processes:
            if not process.running:
                process.end()
        self._processes = [process for process in self._processes if process.running]
        process = WorkProcess({"duty": duty, "with": asked}, self._url)
        self._processes.append(process)
        return process

    def _keep(self, figures: Figures, found: Result) -> None:
        count = self._load.events
        cpu_us = found["cpu_s"] / count * 1e6
        figures.rounds.append(found | {"per_s": count / found["seconds"], "cpu_us": cpu_us})

    def _judge(self, figures: Figures, found: Tally | int, wanted: Tally | None = None) -> None:
        wanted = wanted or expected(self._load.events)
        if isinstance(found, int):
            figures.checked = "counted by the server's acks; the stream was checksummed"
            figures.events += found
            figures.right &= found == wanted.events
        else:
            figures.events += found.events
            figures.right &= found == wanted

    @contextlib.contextmanager
    def _stream(self, link: Link, measure: Measure) -> Iterator[str]:
        """A stream for one measurement, removed after it: memory is that of one at a time."""
        stream = self.keys.stream(measure.name)
        link.call("UNLINK", stream)
        yield stream
        link.call("UNLINK", stream)


def _arrived(link: Link, stream: str) -> Tally:
    with link.bare() as sock:
        return arrived(sock, stream)


def _tally(found: Result) -> Tally | int:
    """What arrived; where handlers did not look at it, how much."""
    events: int = found["events"]
    return events if found["checksum"] is None else Tally(events, found["checksum"])


def _asked(link: Link, *command: str | int) -> int | None:
    """An answer that a user may be denied."""
    try:
        answer = link.call(*command)
    except MillstreamError:
        return None
    return None if answer is None else int(answer)
