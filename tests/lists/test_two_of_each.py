"""Two schedulers, promoters, recoverers at once, over connections that lose answers: nothing is doubled or lost.

20,000 tasks with --full, a tenth without.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.due import Due
from pipeline.errors import NotConnectedError
from pipeline.list_options import ListOptions
from pipeline.server.connect import Connector, Link
from pipeline.server.list_due import promote_tasks
from pipeline.server.list_old import OldTasks
from pipeline.server.list_push import push
from tests.clustered import one_node_cluster
from tests.conftest import Server, started
from tests.lists.classic import ClassicQueue, finish, record_key, stop_after
from tests.lists.test_due import layout
from tests.proxy import Proxy, Rule
from tests.until import until

Scaled = Callable[[int], int]
TASKS = 20_000
PER_CALL = 20
LOST_ANSWER = 41
"""Of so many answers one is lost, and the connection with it."""


class Crew:
    """Threads, each with a link of its own that breaks now and then, which do one thing again and again."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self.cuts = 0
        self.failures: list[BaseException] = []

    def each(self, *works: Callable[[Callable[[Callable[[Link], Any]], Any]], None]) -> None:
        """Start each with a function that calls what it is given with a link, anew after each lost answer."""
        for work in works:
            thread = threading.Thread(target=self._run, args=(work,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def again(self, step: Callable[[Link], Any]) -> Callable[[Any], None]:
        """Work that does a step over and over until the crew is told to stop."""

        def work(tried: Callable[[Callable[[Link], Any]], Any]) -> None:
            while not self._over.is_set():
                tried(step)

        return work

    def join(self) -> None:
        """Wait for those that end by themselves."""
        for thread in self._threads:
            thread.join(60)

    def stop(self) -> None:
        """End all."""
        self._over.set()
        self.join()
        assert self.failures == []

    def _run(self, work: Callable[[Callable[[Callable[[Link], Any]], Any]], None]) -> None:
        links: list[Link] = []

        def tried(step: Callable[[Link], Any]) -> Any:
            while True:
                try:
                    if not links:
                        links.append(self._connector.link("crew"))
                    return step(links[0])
                except NotConnectedError:
                    self.cuts += 1
                    links.clear()

        try:
            work(tried)
        except BaseException as error:
            self.failures.append(error)
            raise


@contextmanager
def crew_at(address: Any, *, tcp: bool = False, lost: Rule | None = None) -> Iterator[Crew]:
    """A crew behind a proxy that loses answers: those for which `lost` is true, or every 41st."""
    with Proxy(address, tcp=tcp) as proxy:
        connector = Connector(proxy.url)
        connector.capabilities()
        proxy.swallow_every(LOST_ANSWER)
        proxy.swallow = lost or proxy.swallow
        crew = Crew(connector)
        try:
            yield crew
        finally:
            crew.stop()
            connector.close()


def schedule(
    options: ListOptions, who: str, tasks: list[bytes], tried: Callable[[Callable[[Link], Any]], Any]
) -> None:
    """A scheduler: calls with numbers, each repeated until it is answered."""
    for number, start in enumerate(range(0, len(tasks), PER_CALL), 1):
        some, due = tasks[start : start + PER_CALL], Due(after_ms=number % 50)

        def step(link: Link, number: int = number, some: list[bytes] = some, due: Due = due) -> None:
            push(link, options, who, number, some, due=due)

        tried(step)


@pytest.mark.campaign
@pytest.mark.timeout(240)
@pytest.mark.parametrize("members", ["unique", "classic"])
def test_two_schedulers_and_two_promoters_double_nothing(
    server: Server, link: Link, stream: str, scaled: Scaled, members: str
) -> None:
    """Every delayed task is in the list once, whatever answers were lost. Unique: equal payloads among them."""
    options = layout(stream, format=members)
    count = scaled(TASKS)
    every = 10 if members == "unique" else 1
    halves = [[b"%d-%d" % (half, n // every) for n in range(count // 2)] for half in (0, 1)]
    with crew_at(server.address) as promoters, crew_at(server.address) as schedulers:
        promoters.each(*[promoters.again(partial(promote_tasks, options=options))] * 2)
        schedulers.each(*[partial(schedule, options, f"s{half}", halves[half]) for half in (0, 1)])
        schedulers.join()
        key = options.scheduled if members == "classic" else options.keys.due
        until(lambda: not link.call("EXISTS", key), 60, what="all were promoted")
    assert promoters.cuts + schedulers.cuts > count // 2_000
    found: Counter[bytes] = Counter(link.call("LRANGE", options.name, 0, -1))
    assert found == Counter(halves[0] + halves[1])


@pytest.mark.campaign
@pytest.mark.timeout(240)
def test_two_promoters_in_a_cluster_double_nothing(tmp_path: Path, stream: str, scaled: Scaled) -> None:
    """Two steps for each batch, and any of them may be the one whose answer is lost."""
    with one_node_cluster(tmp_path) as server:
        connector = server.connector()
        link = connector.link("test")
        options = layout(stream, format="classic")
        tasks = [b"%d" % n for n in range(scaled(TASKS))]
        with crew_at(server.address, tcp=True) as crew:
            crew.each(*[crew.again(partial(promote_tasks, options=options, cluster=True))] * 2)
            schedule(options, "s", tasks, lambda step: step(link))
            until(lambda: link.call("LLEN", options.name) >= len(tasks), 60, what="all were promoted")
            until(lambda: not link.call("EXISTS", options.scheduled))
        assert crew.cuts > len(tasks) // 2_000
        assert Counter(link.call("LRANGE", options.name, 0, -1)) == Counter(tasks)
        connector.close()


@pytest.mark.campaign
@pytest.mark.timeout(240)
def test_two_recoverers_double_nothing(scaled: Scaled) -> None:
    """Half of the tasks with records that timed out, half without, equal ones among these; records of done tasks, too;
    and beside them live old workers, who take and acknowledge."""
    count = scaled(TASKS)
    options = ListOptions(name="emails", old_processing="processing", old_timeout_ms=1_000)
    recorded = [b"recorded-%d" % n for n in range(count // 2)]
    bare = [b"bare-%d" % (n // 5) for n in range(count // 2)]
    done = [b"done-%d" % n for n in range(count // 20)]
    with started() as server, redis.Redis(unix_socket_path=server.address.path) as client:
        link = server.connector().link("test")
        live = ClassicQueue(client, "live")
        with client.pipeline(transaction=False) as pipeline:
            for number, task in enumerate(recorded + done):
                if number < len(recorded):
                    pipeline.lpush("processing", task)
                pipeline.hset(
                    f"processing:{number}" if number % 3 else record_key(task),
                    mapping={"task": task, "timestamp": 1, "timeout": 1},
                )
            for start in range(0, len(bare), 500):
                pipeline.lpush("processing", *bare[start : start + 500])
            pipeline.execute()
        acknowledged = 0
        puts, answers = itertools.count(1), itertools.count(1)

        def lost(_number: int, reply: bytes) -> bool:
            # a look that is cut begins anew: not every look may be
            return (b"recovered" in reply and next(puts) % 53 == 0) or next(answers) % (3 * count) == 0

        with crew_at(server.address, lost=lost) as crew:
            steps = [OldTasks(options), OldTasks(options)]
            crew.each(*[crew.again(one.run_once) for one in steps])
            until_s = time.monotonic() + 60
            while link.call("LLEN", "emails") < len(recorded) + len(bare) and time.monotonic() < until_s:
                for task in (b"live-1", b"live-2", b"live-1"):
                    live.push(task)
                    taken = finish(live.dequeue())
                    assert taken is not None
                    finish(live.acknowledge(taken))
                    acknowledged += 1
        assert crew.cuts > 2
        assert Counter(link.call("LRANGE", "emails", 0, -1)) == Counter(recorded + bare)
        assert acknowledged > 0
        assert client.llen("processing") == 0
        assert client.keys("processing:*") == []
        link.close()


@pytest.mark.campaign
def test_two_old_recoverers_do_double(old_pair: tuple[ClassicQueue, ClassicQueue]) -> None:
    """What the above is measured against: both see a task that timed out, and both push it."""
    first, second = old_pair
    first.push(b"task")
    stop_after(first.dequeue(), "recorded")
    first.redis.hset(record_key(b"task"), "timestamp", 1)
    one, other = first.recover(), second.recover()
    for steps in (one, other):
        for step in steps:
            if step == "found":
                break
    finish(one), finish(other)
    assert first.redis.lrange("emails", 0, -1) == [b"task", b"task"]


@pytest.fixture
def old_pair() -> Iterator[tuple[ClassicQueue, ClassicQueue]]:
    """Two old processes on a server of their own."""
    with started() as server:
        with (
            redis.Redis(unix_socket_path=server.address.path) as one,
            redis.Redis(unix_socket_path=server.address.path) as other,
        ):
            yield ClassicQueue(one, "emails"), ClassicQueue(other, "emails")
