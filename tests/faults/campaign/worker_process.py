"""A worker of a campaign: does what each event asks for, and writes down every run, its begin and its end.

A line is written before the handler returns: what it says has ended may not be settled yet, what is settled has ended.
"""

import asyncio
import itertools
import logging
import os
import random
import signal
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from consumers.app import Pipeline
from consumers.delivery import held_of
from consumers.list_queue import ListQueue
from pipeline.event import Event
from pipeline.list_options import ListOptions
from pipeline.options import Retry
from pipeline.outcome import Later, Outcomes, Reject
from tests.faults.campaign.journal import Journal


class Handling:
    """The handlers of one worker."""

    def __init__(
        self, journal: Journal, *, obeys: bool, work_ms: float, slow_s: float, seed: int, hold: str
    ) -> None:
        self._journal = journal
        self._obeys = obeys
        self._work_ms = work_ms
        self._slow_s = slow_s
        self._hold = hold
        self._rng = random.Random(seed)
        self._numbers = itertools.count(1)
        self._put_off: set[str] = set()

    def begin(self, event: Event) -> tuple[int, str, str]:
        """Write down that a run begins; its number, the event's name and what it asks for."""
        held, number = held_of(event), next(self._numbers)
        data = event.data if isinstance(event.data, dict) else {}
        name = str(data.get("name", ""))
        intact = not name or checksum(data) == data.get("sum")
        self._journal.write(
            "begin", number, name, held.shown_id, held.again.index if held.again else event._index,
            held.entry_id.decode(), held.ref.again, intact, held.attempt, time.monotonic(),
        )  # fmt: skip
        return number, name, str(data.get("plan", "ok"))

    def end(self, number: int, outcome: str) -> None:
        """Write down that it has ended."""
        self._journal.write("end", number, outcome, time.monotonic())

    def work_s(self, plan: str) -> float:
        """How long this run takes."""
        return self._slow_s if plan == "slow" else self._rng.random() * self._work_ms / 500

    def verdict(self, event: Event, name: str, plan: str) -> Exception | None:
        """What to raise; None for nothing."""
        if plan == "kill" and self._obeys:
            os.kill(os.getpid(), signal.SIGKILL)
        if plan == "fail" and self._obeys and held_of(event).attempt == 1:
            return ValueError("the first time it fails")
        if plan == "reject" and self._obeys:
            return Reject("as it asked")
        if plan == "later" and self._obeys and name not in self._put_off:
            self._put_off.add(name)
            return Later("50ms")
        return None

    def held_up(self) -> bool:
        """Whether handlers are to wait just now."""
        return bool(self._hold) and os.path.exists(self._hold)

    def popped(self, data: dict[str, Any]) -> None:
        """A task that a plain pop returned: it is this process's, and done."""
        name, number = data["name"], next(self._numbers)
        now_s, intact = time.monotonic(), checksum(data) == data["sum"]
        self._journal.write("begin", number, name, name, 0, name, False, intact, 1, now_s)
        self.end(number, "done")

    def plain(self, event: Event) -> None:
        """A plain handler."""
        number, name, plan = self.begin(event)
        time.sleep(self.work_s(plan))
        while self.held_up():
            time.sleep(0.02)
        self._close(number, self.verdict(event, name, plan))

    def blocking(self, event: Event) -> None:
        """What an async handler runs that blocks its loop, as the plain one."""
        self.plain(event)

    async def waiting(self, event: Event) -> None:
        """An async handler."""
        number, name, plan = self.begin(event)
        try:
            await asyncio.sleep(self.work_s(plan))
            while self.held_up():  # noqa: ASYNC110 - it waits for a file
                await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            self.end(number, "cancelled")
            raise
        self._close(number, self.verdict(event, name, plan))

    async def batches(self, events: list[Event]) -> Outcomes:
        """A batch handler."""
        for event in events:
            _ = event.data  # what is corrupt is refused before any of them has begun
        outcomes, begun = Outcomes(), [self.begin(event) for event in events]
        try:
            await asyncio.sleep(self.work_s("slow" if any(b[2] == "slow" for b in begun) else "ok"))
        except asyncio.CancelledError:
            for number, _, _ in begun:
                self.end(number, "cancelled")
            raise
        for index, (event, (number, name, plan)) in enumerate(zip(events, begun, strict=True)):
            error = self.verdict(event, name, plan)
            if error is not None:
                outcomes.fail(index, error)
            self.end(number, _word(error))
        return outcomes

    def _close(self, number: int, error: Exception | None) -> None:
        self.end(number, _word(error))
        if error is not None:
            raise error


def _word(error: Exception | None) -> str:
    if error is None:
        return "done"
    return {Reject: "rejected", Later: "later"}.get(type(error), "failed")


def checksum(data: dict[str, Any]) -> int:
    """Of all that an event carries but the sum itself."""
    return zlib.crc32("|".join(f"{k}={data[k]}" for k in sorted(data) if k != "sum").encode())


async def cancel_some(rng: random.Random, every_s: float, calm: str) -> None:
    """Cancel tasks of this loop at random, as an application might, until there is a file that says it is enough."""
    while not os.path.exists(calm):  # noqa: ASYNC240 - it is looked for, not read
        await asyncio.sleep(every_s * 2 * rng.random())
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if others:
            rng.choice(others).cancel("at random")


def pop_all(url: str, queue: str, order: str, handling: Handling) -> None:
    """Pop, one task after the other, until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    with ListQueue(queue, url, order=order) as tasks:
        while not stopping.is_set():
            data = tasks.pop("300ms")
            if data is not None:
                handling.popped(data)


def main(
    *,
    url: str,
    stream: str,
    group: str,
    journal: str,
    kind: str,
    seed: int,
    queue: str = "",
    order: str = "fifo",
    obeys: bool = True,
    work_ms: float = 2,
    slow_s: float = 0.1,
    claim_after: str = "1s",
    concurrency: int = 8,
    window: int | None = None,
    cancel_every_s: float = 0,
    hold: str = "",
    calm: str = "",
    grace: str = "20s",
) -> int:
    """Consume until SIGTERM; 0 after a clean stop. queue: the list whose tasks `stream` holds, and its order."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    written = Journal(journal)
    written.watch_stalls()
    handling = Handling(written, obeys=obeys, work_ms=work_ms, slow_s=slow_s, seed=seed, hold=hold)
    if kind == "pop":
        pop_all(url, queue, order, handling)
        written.write("exit", 0)
        return 0
    app = Pipeline(url)
    options: dict[str, Any] = (
        {"list": ListOptions(name=queue, order=order)} if queue else {"stream": stream}
    ) | {
        "group": group,
        "claim_after": claim_after,
        "concurrency": concurrency,
        "grace": grace,
        "window_events": window,
        "retry": Retry(attempts=5, initial="50ms", longest="200ms"),
    }

    async def blocking(event: Event) -> None:
        handling.blocking(event)

    handlers: dict[str, Callable[..., Any]] = {
        "plain": handling.plain,
        "async": handling.waiting,
        "blocking": blocking,
    }
    if kind == "batch":
        options |= {"batch": 20, "batch_wait": "20ms", "concurrency": max(concurrency // 4, 1)}
        app.consumer(**options)(handling.batches)
    else:
        app.consumer(**options)(handlers[kind])
    if cancel_every_s:

        @app.lifespan
        async def cancelling() -> Any:
            task = asyncio.create_task(cancel_some(random.Random(seed), cancel_every_s, calm))
            yield
            task.cancel()

    code = 0 if app.run() else 1
    written.write("exit", code)
    return code
