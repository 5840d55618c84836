"""Workers of a list that are killed at each step of take, run and settle: nothing is lost, or runs without cause."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.keys import ListKeys
from pipeline.list_options import WORKERS
from pipeline.server.connect import Link
from pipeline.server.scripts import script
from tests.conftest import Server
from tests.faults.campaign.journal import Reader
from tests.faults.campaign.processes import Child, Nursery
from tests.faults.campaign.worker_process import checksum
from tests.proxy import Proxy
from tests.until import until

COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Z]+)\r\n(?:\$40\r\n([0-9a-f]{40})\r\n)?")
BEFORE, LATER = ("ok", "fail", "ok", "reject"), ("ok", "fail", "ok")
"""What the tasks ask for that stand in the list when the worker comes, and those that are pushed while it waits."""
STEPS = {
    "feed": script("list_feed").sha, "read": "XREADGROUP", "hand over": "BLMOVE", "settle": script("settle").sha,
    "move": script("move").sha, "heartbeat": script("duty").sha, "join": script("group").sha,
}  # fmt: skip
AT_ONCE = 8
"""So many workers die at the same time, each of a list of its own."""


@dataclass
class Death:
    """Kills a worker at a certain command that it sends: this is the last that arrives, or the first that does not."""

    at: Callable[[int, str], bool]
    """(how many have arrived, the name or script of this one) -> whether it is the one."""
    arrives: bool
    pid: int = 0
    known: threading.Event = field(default_factory=threading.Event)
    """Its pid is known."""
    done: threading.Event = field(default_factory=threading.Event)
    arrived: int = 0
    last: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def gate(self, data: bytes) -> int:
        """How much of a request arrives."""
        self.known.wait(20)
        with self.lock:
            if self.done.is_set():
                return 0
            for found in COMMAND.finditer(data):
                name = (found[2] or found[1]).decode()
                if self.at(self.arrived, name):
                    child = Child(self.pid, "plain", WORKERS, Reader(Path()))
                    child.kill()
                    self.last = name
                    self.done.set()
                    after = COMMAND.search(data, found.end())
                    return found.start() if not self.arrives else after.start() if after else len(data)
                self.arrived += 1
        return -1


class Scene:
    """One list, the worker that is to die, and the one that comes after it."""

    def __init__(self, server: Server, link: Link, nursery: Nursery, folder: Path, name: str) -> None:
        self.keys = ListKeys(name)
        self.folder = folder
        self.folder.mkdir()
        self.plans: dict[str, str] = {}
        self._server = server
        self._link = link
        self._nursery = nursery

    def play(self, death: Death) -> None:
        """All of it; AssertionError if something is lost, or was done without cause."""
        self.push(BEFORE)
        with Proxy(self._server.address) as proxy:
            proxy.gate = death.gate
            doomed = self.start(proxy.url)
            death.pid = doomed.pid
            death.known.set()
            try:
                until(lambda: death.done.is_set() or self.gone(), 30, what="it has done what there was")
                self.push(LATER)
                until(lambda: death.done.is_set() or self.gone(), 30, what="it has done the rest")
            finally:
                doomed.kill()
        heir = self.start(self._server.address.shown)
        try:
            until(self.gone, 30, what=lambda: f"all is done after {death.last}: {self.said()}")
            heir.signal(15)
            until(lambda: not heir.alive(), 20, what="the heir leaves")
        finally:
            heir.kill()
        self.check(doomed, heir, death)

    def push(self, plans: tuple[str, ...]) -> None:
        """As old producers do."""
        for plan in plans:
            data = {"name": f"task-{len(self.plans)}", "plan": plan}
            self.plans[data["name"]] = plan
            self._link.call("LPUSH", self.keys.list, json.dumps(data | {"sum": checksum(data)}))

    def start(self, url: str) -> Child:
        """A worker."""
        journal = self.folder / f"worker-{len(list(self.folder.iterdir()))}"
        pid = self._nursery.fork(
            "worker", log=str(self.folder / "log"), url=url, stream=self.keys.stream, queue=self.keys.list,
            group=WORKERS, journal=str(journal), kind="plain", seed=1, concurrency=1, work_ms=1, claim_after="1s",
        )  # fmt: skip
        return Child(pid, "plain", WORKERS, Reader(journal))

    def gone(self) -> bool:
        """Whether nothing is left in the list, the hand, the stream, nor to be retried."""
        tasks = self.keys.tasks
        replies = self._link.calls(
            [
                ("MULTI",),
                ("EXISTS", self.keys.list, self.keys.hand),
                ("XLEN", tasks.stream),
                ("XLEN", tasks.again(WORKERS)),
                ("ZCARD", tasks.retry(WORKERS)),
                ("EXEC",),
            ]
        )[-1]
        return not any(replies)

    def said(self) -> str:
        """What both said."""
        return (self.folder / "log").read_text(encoding="utf-8")[-2_000:]

    def check(self, doomed: Child, heir: Child, death: Death) -> None:
        """Every task was done, or is the dead letter it asked to be; what ran twice was begun by the killed one."""
        runs: dict[str, list[tuple[int, str]]] = {name: [] for name in self.plans}
        for child in (doomed, heir):
            ends = {}
            begun = {}
            for kind, *rest in child.journal.lines():
                if kind == "begin":
                    begun[rest[0]] = rest[1]
                elif kind == "end":
                    ends[rest[0]] = rest[1]
            for number, name in begun.items():
                runs[name].append((child.pid, ends.get(number, "")))
        where = f"killed at {death.last} ({'arrived' if death.arrives else 'lost'}), the {death.arrived}th: {runs}"
        for name, plan in self.plans.items():
            by_heir = [outcome for pid, outcome in runs[name] if pid == heir.pid]
            by_doomed = [outcome for pid, outcome in runs[name] if pid == doomed.pid]
            wanted = "rejected" if plan == "reject" else "done"
            assert by_heir[-1:] == [wanted] or by_doomed[-1:] == [wanted], (
                f"{name} ({plan}) was lost, {where}"
            )
            assert len(by_heir) <= (2 if plan == "fail" else 1), f"{name} ({plan}) ran too often, {where}"
            assert len(by_doomed) <= (2 if plan == "fail" else 1), f"{name} ({plan}) ran too often, {where}"
        dead = self._link.call("XLEN", self.keys.tasks.dead(WORKERS))
        assert dead == 1, f"{dead} dead letters, {where}"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Forks the workers of all scenes."""
    with Nursery() as nursery:
        yield nursery


def play_all(server: Server, nursery: Nursery, stream: str, folder: Path, deaths: list[Death]) -> None:
    """A scene for each of these deaths, some at the same time."""
    forking = threading.Lock()

    class OneByOne(Nursery):
        """The nursery, asked by one thread at a time."""

        def __init__(self) -> None:
            pass

        def fork(self, program: str, **arguments: object) -> int:
            with forking:
                return nursery.fork(program, **arguments)

    def play(numbered: tuple[int, Death]) -> None:
        number, death = numbered
        connector = server.connector()
        link = connector.link("scene")
        try:
            Scene(server, link, OneByOne(), folder / f"{number}", f"{stream}-{number}").play(death)
        finally:
            link.close()
            connector.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(play, enumerate(deaths)):
            pass


def at_step(name: str, nth: int) -> Callable[[int, str], bool]:
    """The nth command of this kind."""
    seen: list[str] = []

    def at(arrived: int, command: str) -> bool:
        if command == STEPS[name]:
            seen.append(command)
        return command == STEPS[name] and len(seen) == nth

    return at


@pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "is lost"])
def test_a_worker_that_is_killed_at_a_step_leaves_all_to_others(
    server: Server, nursery: Nursery, stream: str, tmp_path: Path, arrives: bool
) -> None:
    """The step's command arrives at the server, and nobody is there for its answer; or it does not arrive."""
    deaths = [Death(at_step(name, 1), arrives) for name in STEPS]
    play_all(server, nursery, stream, tmp_path, deaths)
    assert [death.last for death in deaths] == list(STEPS.values())


@pytest.mark.campaign
@pytest.mark.timeout(300)
def test_a_worker_is_killed_at_every_command(
    server: Server, nursery: Nursery, stream: str, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """So many commands arrive at the server, of the first hundred or so that a worker sends, and no more."""
    count = scaled(120)
    deaths = [
        Death(lambda arrived, _, most=most: arrived == most, arrives=False)  # type: ignore[misc]
        for most in range(0, 120, 120 // count)
    ]
    play_all(server, nursery, stream, tmp_path, deaths)
    assert sum(death.done.is_set() for death in deaths) >= len(deaths) // 2
    # Nearly all that a worker sends is one of these, so each was the first that did not arrive, several times.
    assert len(deaths) < 100 or {STEPS["feed"], STEPS["read"], STEPS["settle"]} <= {
        one.last for one in deaths
    }
