"""Field: where one row is fought: a server, producers, the workers of two groups, and what is written down of them."""

import contextlib
import itertools
import json
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.envelope import read_again, read_dead, read_retry_body
from pipeline.errors import DecodeError, MillstreamError, UnknownFormatError
from pipeline.keys import ListKeys, StreamKeys
from pipeline.server.connect import Link
from pipeline.server.replies import Fields, pairs, parse_entries, text
from pipeline.wire import decode_entry
from tests.faults.campaign.history import (
    CONFIRMED,
    FAILED,
    Fault,
    History,
    Hostile,
    Left,
    Letter,
    Run,
    Sample,
    Sent,
    Stall,
)
from tests.faults.campaign.journal import STALL_S, Reader
from tests.faults.campaign.processes import Child, Nursery
from tests.faults.campaign.server import FaultyServer, now_s
from tests.faults.campaign.wire import Wire
from tests.proxy import Proxy
from tests.until import until

SAMPLE_S = 0.1
MOST_PENDING = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The workers of one group."""

    group: str
    kinds: Sequence[str] = ("plain", "async")
    """plain, async, batch or blocking, one worker each; or pop: none of a group, but who pops from the list."""
    obeys: bool = False
    """Its handlers do as events ask; else they handle all alike."""
    options: dict[str, Any] = field(default_factory=dict)
    """For worker_process.main."""
    ordered: bool = False
    """One worker with one slot, which no fault kills: first runs come in the order of the stream."""

    @property
    def pops(self) -> bool:
        """Whether there is no group."""
        return "pop" in self.kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Who sends, and who handles."""

    producers: Sequence[str] = ("single", "many", "async")
    rate: float = 600
    """Events a second, of all producers together."""
    most_bytes: int = 600
    options: dict[str, Any] = field(default_factory=dict)
    """For producer_process.main."""
    queue: str = ""
    """The list queue that producers push to, instead of a stream. It has one crew."""
    order: str = "fifo"
    """Of the list queue."""
    crews: Sequence[Crew] = (
        Crew(group="audit", kinds=("plain", "async")),
        Crew(group="bill", kinds=("batch", "async"), obeys=True),
    )


class Field:
    """One row's processes. Used by one thread, beside which a sampler looks at what is pending."""

    def __init__(
        self,
        folder: Path,
        server: FaultyServer,
        nursery: Nursery,
        load: Load,
        *,
        seed: int,
        stream: str = "orders",
    ) -> None:
        self.folder = folder
        self.server = server
        self.queue = ListKeys(load.queue) if load.queue else None
        self.keys = self.queue.tasks if self.queue else StreamKeys(stream)
        self.rng = random.Random(seed)
        self.worker_url = self.producer_url = server.url
        self.load = load
        self.workers: list[Child] = []
        self.producers: list[Child] = []
        self.faults: list[Fault] = []
        self.hostile: list[Hostile] = []
        self.wire: Wire | None = None
        """The network before the server, where the row has one."""
        self.proxy: Proxy | None = None
        """What stands before it, where the row has it."""
        self.notes: list[str] = []
        """What the row has to say beside its counts."""
        self.hold = folder / "hold"
        """While this file is there, handlers that know it wait."""
        self.calm = folder / "calm"
        """Once this file is there, programs do no more harm to themselves."""
        self._nursery = nursery
        self._seeds = itertools.count(seed * 1_000)
        self._gone: list[Child] = []
        self._killed: set[int] = set()
        self._confirmed = 0
        self._told: dict[str, str] = {}
        self._asked: dict[str, tuple[str, str, float, bool]] = {}
        self._told_s: dict[str, float] = {}
        self._latest_s: dict[str, float] = {}
        """By producer, when it was asked for the latest send whose end it was told."""
        self._exits: dict[int, int] = {}
        self._stalls: list[Stall] = []
        self._samples: list[Sample] = []
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.load_from_s = self.load_until_s = 0.0

    def __enter__(self) -> "Field":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for child in [*self.workers, *self.producers, *self._gone]:
            child.kill()
        if self._sampler.ident is not None:
            self._sampler.join(20)

    # Processes.

    def start(self) -> None:
        """Start the workers, and then the producers."""
        for crew in self.load.crews:
            for kind in crew.kinds:
                self.start_worker(crew, kind)
        self.until_joined()
        self._sampler.start()
        self.load_from_s = now_s()
        for kind in self.load.producers:
            self.start_producer(kind)
        until(lambda: self.confirmed() > 0, 60, what=self.said)

    def start_worker(self, crew: Crew, kind: str, **more: Any) -> Child:
        """One more worker of a group."""
        number = next(self._seeds)
        journal = self.folder / f"worker-{number}"
        pid = self._nursery.fork(
            "worker",
            log=str(self.folder / f"log-{crew.group}"),
            url=self.worker_url,
            stream=self.keys.stream,
            group=crew.group,
            queue=self.load.queue,
            order=self.load.order,
            journal=str(journal),
            kind=kind,
            seed=number,
            obeys=crew.obeys,
            calm=str(self.calm),
            **({"hold": str(self.hold)} | crew.options | more),
        )
        child = Child(pid, kind, crew.group, Reader(journal))
        self.workers.append(child)
        return child

    def start_producer(self, kind: str, **more: Any) -> Child:
        """One more producer."""
        number = next(self._seeds)
        journal = self.folder / f"producer-{number}"
        pid = self._nursery.fork(
            "producer",
            log=str(self.folder / "log-producers"),
            url=self.producer_url,
            stream=self.load.queue or self.keys.stream,
            journal=str(journal),
            kind=kind,
            seed=number,
            **{"rate": self.load.rate / len(self.load.producers), "most_bytes": self.load.most_bytes}
            | self.load.options
            | more,
        )
        child = Child(pid, kind, "", Reader(journal))
        self.producers.append(child)
        return child

    def until_joined(self) -> None:
        """Wait until every worker is a member of its group."""

        def joined() -> bool:
            with self.server.link() as link:
                names = {
                    text(name)
                    for crew in self.load.crews
                    for name in link.call("HKEYS", self.keys.members(crew.group))
                }
            members = [worker for worker in self.workers if worker.kind != "pop"]
            return all(any(f"-{worker.pid}-" in name for name in names) for worker in members)

        until(joined, 60, what=self.said, every_s=0.05)

    def replace(self, child: Child) -> Child:
        """Start another worker or producer in the place of one that is gone."""
        if child in self.producers:
            self.producers.remove(child)
            self._gone.append(child)
            return self.start_producer(child.kind)
        self.workers.remove(child)
        self._gone.append(child)
        return self.start_worker(self.crew(child.group), child.kind)

    def retire(self, worker: Child) -> None:
        """Remember a worker that is gone and has no successor."""
        self._gone.append(worker)

    def crew(self, group: str) -> Crew:
        """The crew of a group."""
        return next(crew for crew in self.load.crews if crew.group == group)

    def killable(self) -> list[Child]:
        """Workers that a fault may hit: those of an ordered group are left alone."""
        return [worker for worker in self.workers if not self.crew(worker.group).ordered]

    def kill(self, victims: Sequence[Child]) -> None:
        """kill -9 of all these at one moment."""
        for victim in victims:
            victim.signal(signal.SIGSTOP)  # what each holds stands still while it is counted
        effect = sum(self.held_by(victim) for victim in victims if victim.group)
        from_s = now_s()
        for victim in victims:
            self._killed.add(victim.pid)
            victim.signal(signal.SIGKILL)
        for victim in victims:
            victim.kill()
        pids = frozenset(victim.pid for victim in victims)
        producers = sum(not victim.group for victim in victims)
        self.note(
            Fault("killed", from_s, now_s(), pids, effect=effect + producers, repeats=True, deadly=True)
        )

    def held_by(self, worker: Child) -> int:
        """How many entries are pending with a worker."""
        with self.server.link() as link:
            held = 0
            for key in (self.keys.stream, self.keys.again(worker.group)):
                summary = link.calls([("XPENDING", key, worker.group)])[0]
                if isinstance(summary, MillstreamError) or not summary[0]:
                    continue
                held += sum(int(count) for name, count in summary[3] if f"-{worker.pid}-" in text(name))
        return held

    def until_busy(self, workers: Sequence[Child], timeout_s: float = 3) -> None:
        """Wait until one of them holds something; if none does in all that time, what follows hits nothing."""
        with contextlib.suppress(AssertionError):
            until(lambda: any(self.held_by(worker) for worker in workers), timeout_s, every_s=0.005)

    def note(self, fault: Fault) -> None:
        """Write down what was done."""
        self.faults.append(fault)

    @contextlib.contextmanager
    def fault(self, kind: str, effect: Callable[[], int] | int = 1, **facts: Any) -> Iterator[None]:
        """Write down that something was done while the block ran; effect: how much it hit, asked at its end."""
        from_s = now_s()
        yield
        hit = effect if isinstance(effect, int) else effect()
        self.note(Fault(kind, from_s, now_s(), effect=hit, **facts))

    # How far it is.

    def confirmed(self) -> int:
        """Sends confirmed so far."""
        self._read_producers()
        return self._confirmed

    def until_confirmed(self, more: int, timeout_s: float = 60) -> None:
        """Wait until so many more sends are confirmed."""
        wanted = self.confirmed() + more
        until(lambda: self.confirmed() >= wanted, timeout_s, what=self.said, every_s=0.02)

    def until_all_told(self, timeout_s: float = 60) -> None:
        """Wait until every producer was told the end of something that it was asked for from now on."""
        from_s = now_s()

        def told() -> bool:
            self._read_producers()
            return all(self._latest_s.get(f"p.{one.pid}", 0.0) >= from_s for one in self.producers)

        until(told, timeout_s, what=self.said, every_s=0.05)

    def pause(self, seconds: float) -> None:
        """Let things go on for so long: a part of the plan of a fault, not a wait for a condition."""
        time.sleep(seconds)

    def said(self) -> str:
        """The last words of all processes, for a row that got stuck."""
        words = [
            f"{path.name}: " + path.read_text(errors="replace")[-1_500:]
            for path in sorted(self.folder.glob("*log*"))
        ]
        return "\n".join(words)

    def _read_producers(self) -> None:
        for producer in [*self.producers, *self._gone]:
            if producer.group:
                continue
            source = f"p.{producer.pid}"
            for kind, *rest in producer.journal.lines():
                if kind == "ask":
                    for name, plan in rest[0]:
                        self._asked[name] = (source, plan, rest[1], producer.kind.startswith("plain"))
                elif kind == "told":
                    names, fate, at_s = rest
                    for name in names:
                        before = self._told.get(name)
                        if before == CONFIRMED or (before is not None and fate == FAILED):
                            continue
                        self._told[name] = fate
                        source, _, asked_s, _ = self._asked[name]
                        self._latest_s[source] = max(asked_s, self._latest_s.get(source, 0.0))
                        self._told_s.setdefault(name, at_s)
                        self._confirmed += fate == CONFIRMED
                elif kind == "stall":
                    self._stalls.append(Stall(producer.pid, *rest))
                elif kind == "exit":
                    self._exits[producer.pid] = rest[0]

    # The end.

    def finish(self, timeout_s: float = 90) -> None:
        """Stop the producers, let the groups work off what there is, and stop the workers."""
        self.stop(self.producers, timeout_s)
        self.load_until_s = now_s()
        self.calm.touch()
        self._read_producers()
        try:
            until(self.drained, timeout_s, every_s=0.1)
        except AssertionError:
            self.notes.append(f"not drained within {timeout_s:g} s")
        self._ended.set()
        self._sampler.join(20)
        self.stop(self.workers, 40)

    def stop(self, children: Sequence[Child], timeout_s: float) -> None:
        """SIGTERM, and wait until they are gone; those that stay are killed, and not well."""
        for child in children:
            child.signal(signal.SIGTERM)
        try:
            until(lambda: not any(child.alive() for child in children), timeout_s, every_s=0.02)
        except AssertionError:
            for child in children:
                child.kill()

    def drained(self) -> bool:
        """Whether no group has anything left but what it is to keep."""
        kept = {entry.entry_id for entry in self.hostile if entry.wanted == "kept"}
        with self.server.link() as link:
            if self._in_list(link) or (self.queue and link.call("HLEN", self.queue.popped)):
                return False
            for crew in self.load.crews:
                left = self._left(link, crew.group)
                if left is None or left[0] - kept or left[1] or left[2]:
                    return False
        return True

    def _in_list(self, link: Link) -> list[str]:
        """The names of the tasks that nobody has taken, or that lie in the hand."""
        if self.queue is None:
            return []
        look = "ZRANGE" if self.load.order == "priority" else "LRANGE"
        found = [*link.call("LRANGE", self.queue.hand, 0, -1), *link.call(look, self.queue.list, 0, -1)]
        return [json.loads(payload[payload.index(b"{") :])["name"] for payload in found]

    def _left(self, link: Link, group: str) -> tuple[set[str], list[Fields], list[Fields]] | None:
        """What a group has left: entries pending or unread, what is due again, and what waits; None if it is gone."""
        keys = self.keys
        if self.crew(group).pops:
            return set(), [], []
        pending, groups, again, bodies = link.calls(
            [
                ("XPENDING", keys.stream, group, "-", "+", MOST_PENDING),
                ("XINFO", "GROUPS", keys.stream),
                ("XRANGE", keys.again(group), "-", "+"),
                ("HVALS", keys.retry_bodies(group)),
            ]
        )
        for reply in (pending, groups, again, bodies):
            if isinstance(reply, MillstreamError):
                return None
        facts = next((one for one in map(pairs, groups) if text(one["name"]) == group), None)
        if facts is None:
            return None
        unread = link.call("XRANGE", keys.stream, f"({text(facts['last-delivered-id'])}", "+")
        ids = {text(row[0]) for row in pending} | {text(entry_id) for entry_id, _ in parse_entries(unread)}
        due = [read_again(fields or [])[1] for _, fields in parse_entries(again)]
        waiting = [read_again(read_retry_body(body))[1] for body in bodies]
        return ids, due, waiting

    def history(self) -> History:
        """All that was written down, and what is left on the server."""
        self._read_producers()
        appended: list[tuple[str, str, int]] = []
        by_entry: dict[str, list[str]] = defaultdict(list)
        letters: list[Letter] = []
        left: dict[str, Left] = {}
        kept: dict[str, frozenset[str]] = {}
        meant = {entry.entry_id for entry in self.hostile}
        with self.server.link(timeout_ms=20_000) as link:
            for entry_id, fields in _all_entries(link, self.keys.stream):
                for index, name in enumerate(names_in(fields, entry_id)):
                    by_entry[entry_id.decode()].append(name)
                    if name:
                        appended.append((name, entry_id.decode(), index))
            for crew in self.load.crews:
                for _, fields in _all_entries(link, self.keys.dead(crew.group)):
                    letters += _letters(crew.group, fields)
                rest = self._left(link, crew.group)
                if rest is None:
                    left[crew.group] = Left(others=1)
                    continue
                ids, due, waiting = rest
                kept[crew.group] = frozenset(ids & meant)
                found = [name for entry_id in ids - meant for name in by_entry.get(entry_id, [""])]
                found += [name for fields in (*due, *waiting) for name in names_in(fields, b"0-0")]
                found += self._in_list(link)
                left[crew.group] = Left(
                    frozenset(filter(None, found)),
                    sum(not name for name in found),
                    len(by_entry.keys() - ids) if self.queue else 0,
                )
        runs, badly = self._runs(), self._ended_badly()
        return History(
            groups=[crew.group for crew in self.load.crews],
            sent=self._sent(),
            runs=runs,
            appended=appended,
            letters=letters,
            faults=self.faults,
            stalls=self._stalls,
            samples=self._samples,
            left=left,
            hostile=self.hostile,
            kept=kept,
            rejecting=frozenset(crew.group for crew in self.load.crews if crew.obeys),
            ordered=frozenset(crew.group for crew in self.load.crews if crew.ordered),
            load_from_s=self.load_from_s,
            load_until_s=self.load_until_s,
            ended_badly=badly,
        )

    def _sent(self) -> dict[str, Sent]:
        return {
            name: Sent(
                name,
                source,
                int(name.rpartition("-")[2]),
                plan,
                asked_s,
                self._told.get(name, "unknown"),
                self._told_s.get(name),
                plainly,
            )
            for name, (source, plan, asked_s, plainly) in self._asked.items()
        }

    def _runs(self) -> list[Run]:
        runs: list[Run] = []
        for worker in [*self.workers, *self._gone]:
            if not worker.group:
                continue
            begun: dict[int, Run] = {}
            for kind, *rest in Reader(worker.journal.path).lines():
                if kind == "begin":
                    begun[rest[0]] = Run(worker.group, worker.pid, *rest[1:])
                elif kind == "end":
                    number, outcome, at_s = rest
                    begun[number] = replace(begun[number], ended_s=at_s, outcome=outcome)
                elif kind == "stall":
                    self._stalls.append(Stall(worker.pid, *rest))
                elif kind == "exit":
                    self._exits[worker.pid] = rest[0]
            runs += begun.values()
        return runs

    def _ended_badly(self) -> list[str]:
        return [
            f"{'worker' if child.group else 'producer'} {child.pid} ({child.group or child.kind}) "
            + (
                f"ended with code {self._exits[child.pid]}"
                if child.pid in self._exits
                else "did not end by itself"
            )
            for child in [*self.workers, *self.producers, *self._gone]
            if child.pid not in self._killed and self._exits.get(child.pid) != 0
        ]

    def letters_of(self, link: Link, group: str, error: str) -> int:
        """How many dead letters a group has for this error."""
        found = [
            one for _, fields in _all_entries(link, self.keys.dead(group)) for one in _letters(group, fields)
        ]
        return sum(one.error == error and bool(one.name) for one in found)

    def meant_to_die(self, child: Child) -> None:
        """A worker that an event killed."""
        self._killed.add(child.pid)

    # The sampler's thread.

    def _sample(self) -> None:
        link: Link | None = None
        connector = self.server.connector(timeout_ms=30_000)
        while not self._ended.wait(SAMPLE_S):
            try:
                if link is None or link.closed:
                    link = connector.link("sampler")
                for crew in self.load.crews:
                    self._sample_group(link, crew.group)
            except MillstreamError:
                continue  # the server is away, or the group: that is what the row is about
        if link is not None:
            link.close()
        connector.close()

    def _sample_group(self, link: Link, group: str) -> None:
        from_s = now_s()
        rows = link.call("XPENDING", self.keys.stream, group, "-", "+", MOST_PENDING)
        until_s = now_s()
        if until_s - from_s > STALL_S:
            self._stalls.append(Stall(0, from_s, until_s))
            return
        self._samples.append(Sample(group, from_s, until_s, {text(row[0]): text(row[1]) for row in rows}))


def names_in(fields: Fields, entry_id: bytes) -> list[str]:
    """The names of the events of an entry; one empty name for what cannot be read or is a stranger's."""
    try:
        events = decode_entry(entry_id, list(fields)).events
        return [str(event.data.get("name", "")) if isinstance(event.data, dict) else "" for event in events]
    except (DecodeError, UnknownFormatError):
        return [""]


def _letters(group: str, fields: Fields) -> list[Letter]:
    letter, original = read_dead(fields)
    assert letter is not None, "a dead letter begins with its envelope"
    names = names_in(original, letter.entry_id.encode())
    return [Letter(group, name, letter.entry_id, letter.error, letter.attempts) for name in names]


def _all_entries(link: Link, key: str) -> Iterator[tuple[bytes, Fields]]:
    start = "-"
    while rows := parse_entries(link.call("XRANGE", key, start, "+", "COUNT", 1_000)):
        for entry_id, fields in rows:
            yield entry_id, fields or []
        start = f"({rows[-1][0].decode()}"
