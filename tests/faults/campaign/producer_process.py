"""A producer of a campaign: sends events to a stream, or pushes tasks to a list, until it is told to stop."""

import asyncio
import logging
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import BufferFull
from producers.async_producer import AsyncProducer
from producers.producer import Producer
from tests.faults.campaign.history import FAILED
from tests.faults.campaign.journal import Journal
from tests.faults.campaign.pushing import (
    push_ours,
    push_ours_many,
    push_plain_priorities,
    push_plainly,
    push_priorities,
)
from tests.faults.campaign.sending import TICK_S, Sending

PUSHING: dict[str, Callable[[str, str, Sending, float], None]] = {
    "plain": push_plainly,
    "queue": push_ours,
    "queue-many": push_ours_many,
    "priorities": push_priorities,
    "plain-priorities": push_plain_priorities,
}
"""Kinds of producers of a list."""


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
    """Send to a stream, or push to the list of this name, until SIGTERM; 0 once every send has an end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    written = Journal(journal)
    written.watch_stalls()
    sending = Sending(written, seed=seed, most_bytes=most_bytes, kill_at=kill_at, plans=plans or {})
    signal.signal(signal.SIGTERM, sending.on_signal)
    if kind in PUSHING:
        PUSHING[kind](url, stream, sending, rate)
    elif kind == "async":
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
