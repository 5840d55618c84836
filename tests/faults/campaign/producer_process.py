"""A producer of a campaign: sends at a steady rate, and writes down what it asks for and what it is told.

What is asked for is written before it is sent, what is told after it was told: a kill leaves sends whose end nobody
knows.
"""

import asyncio
import logging
import os
import random
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from pipeline.errors import BufferFull, NotConfirmed, SendError, SendUnknownError
from producers.async_producer import AsyncProducer
from producers.producer import Producer
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


def send_singly(producer: Producer, stream: str, sending: Sending, rate: float) -> None:
    """send(), now and then with an id, and then again with the same."""
    for count in sending.chunks(rate):
        for event in sending.events(count) if count else ():
            given = event["name"] if event["sum"] % 20 == 0 else ""
            for _ in range(2 if given else 1):
                try:
                    receipt = producer.send(stream, event, type="load.single", key=event["key"], id=given)
                except BufferFull:
                    sending.tell([event], FAILED)
                else:
                    sending.owe([event], receipt)
        sending.look()
        time.sleep(TICK_S)


def send_many(producer: Producer, stream: str, sending: Sending, rate: float) -> None:
    """send_many(), every second time in packs."""
    waiting = 0
    packs = False
    for count in sending.chunks(rate):
        waiting += count
        if waiting >= 20:
            events = sending.events(waiting)
            waiting, packs = 0, not packs
            try:
                receipt = producer.send_many(stream, events, type="load.many", pack=10 if packs else 0)
            except BufferFull:
                sending.tell(events, FAILED)
            else:
                sending.owe(events, receipt)
        sending.look()
        time.sleep(TICK_S)


async def send_async(
    producer: AsyncProducer, stream: str, sending: Sending, rate: float, cancels: bool
) -> None:
    """AsyncProducer; the sends are cancelled at random if asked for."""
    rng = random.Random(rate)
    for count in sending.chunks(rate):
        for event in sending.events(count) if count else ():
            task = asyncio.create_task(producer.send(stream, event, type="load.async", key=event["key"]))
            if cancels and rng.random() < 0.2:
                await asyncio.sleep(0) if rng.random() < 0.5 else None
                task.cancel()
            try:
                receipt = await task
            except BufferFull:
                sending.tell([event], FAILED)
            except asyncio.CancelledError:  # what is cancelled has queued nothing
                sending.tell([event], FAILED)
            else:
                sending.owe([event], receipt)
        sending.look()
        await asyncio.sleep(TICK_S)


def main(
    *,
    url: str,
    stream: str,
    journal: str,
    kind: str,
    seed: int,
    rate: float,
    most_bytes: int = 600,
    kill_at: Sequence[int] = (),
    plans: Mapping[str, float] | None = None,
    cancels: bool = False,
    **options: Any,
) -> int:
    """Send until SIGTERM; 0 once every send has an end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    written = Journal(journal)
    written.watch_stalls()
    sending = Sending(written, seed=seed, most_bytes=most_bytes, kill_at=kill_at, plans=plans or {})
    signal.signal(signal.SIGTERM, sending.on_signal)
    if kind == "async":
        asyncio.run(_run_async(url, stream, sending, rate, cancels, options))
    else:
        with Producer(url, **options) as producer:
            (send_many if kind == "many" else send_singly)(producer, stream, sending, rate)
            _finish(producer.flush, sending)
    written.write("exit", 0)
    return 0


async def _run_async(
    url: str, stream: str, sending: Sending, rate: float, cancels: bool, options: dict[str, Any]
) -> None:
    async with AsyncProducer(url, **options) as producer:
        await send_async(producer, stream, sending, rate, cancels)
        await producer.flush("60s")
        sending.look()


def _finish(flush: Any, sending: Sending) -> None:
    flush("60s")
    sending.look()
