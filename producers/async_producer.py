"""AsyncProducer: the producer for asyncio: the same engine, and nothing that blocks the event loop.

Stands on Producer. Sending waits for room without a thread; awaiting a receipt confirms. A cancelled send has queued
nothing, a cancelled wait for a receipt changes nothing about the send.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from pipeline.errors import BufferFull, ClosedError, SendError
from pipeline.options import ProducerOptions
from pipeline.server.connect import Connector
from pipeline.units import Duration
from producers.producer import Of, Producer
from producers.receipt import Receipt, wake_futures

Queued = TypeVar("Queued")


class AsyncProducer:
    """Sends events from asyncio: `async with AsyncProducer("redis://…") as producer: await producer.send(…)`.

    Takes the arguments of Producer, and raises what it raises. It may be used by several event loops and threads.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        options: ProducerOptions | None = None,
        namespace: str = "",
        on_error: Callable[[SendError], None] | None = None,
        connector: Connector | None = None,
        **given: Any,
    ) -> None:
        self._producer = Producer(
            url, options=options, namespace=namespace, on_error=on_error, connector=connector, **given
        )

    @property
    def id(self) -> str:
        """This producer's id: the first part of its events' ids."""
        return self._producer.id

    @property
    def options(self) -> ProducerOptions:
        """The options it was made with."""
        return self._producer.options

    @property
    def counts(self) -> dict[str, int]:
        """As Producer.counts."""
        return self._producer.counts

    async def send(
        self,
        stream: str,
        data: Any = None,
        *,
        type: str = "",  # noqa: A002 - CloudEvents' word
        key: str = "",
        id: str = "",  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: datetime | None = None,
        source: str = "",
    ) -> Receipt:
        """Queue one event; `await` the receipt to have it confirmed. Waits only while the buffer is full.

        Raises:
            As Producer.send().
        """
        producer = self._producer
        prepared = producer.prepared(stream, data, type, key, id, headers, time, source)
        return await self._queue(lambda: producer.add_one(prepared, block_ms=0))

    def send_now(
        self,
        stream: str,
        data: Any = None,
        *,
        type: str = "",  # noqa: A002
        key: str = "",
        id: str = "",  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: datetime | None = None,
        source: str = "",
    ) -> Receipt:
        """As send(), without waiting for room: for callbacks of an event loop.

        Raises:
            As Producer.send(); BufferFull if there is no room now.
        """
        producer = self._producer
        return producer.add_one(
            producer.prepared(stream, data, type, key, id, headers, time, source), block_ms=0
        )

    async def send_many(
        self,
        stream: str,
        rows: Iterable[Any],
        *,
        type: Of = "",  # noqa: A002
        key: Of = "",
        id: Callable[[Any], str] | None = None,  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: Callable[[Any], datetime] | None = None,
        pack: int | bool | None = None,
    ) -> Receipt:
        """Queue many events under one receipt, as Producer.send_many(). If cancelled midway, the rest is not sent."""
        producer = self._producer
        chunks = producer.many(rows, type=type, key=key, id=id, headers=headers, time=time, pack=pack)
        if not chunks:
            return producer.nothing()
        for index, chunk in enumerate(chunks):
            try:
                await self._queue(partial(producer.add, stream, chunk, block_ms=0))
            except BaseException as error:
                if not index:
                    raise
                why = (
                    error
                    if isinstance(error, BufferFull | ClosedError)
                    else SendError("the send was cancelled")
                )
                producer.give_up(stream, chunks[index:], why)
                if why is not error:
                    raise
                break
        receipt: Receipt = chunks[0].receipt
        return receipt

    async def flush(self, timeout: Duration | None = None) -> None:  # noqa: ASYNC109 - as Producer has it
        """Wait until every send made so far has ended, well or not; their receipts say how.

        Raises:
            TimeoutError: not within `timeout`; sending goes on.
        """
        await asyncio.to_thread(self._producer.flush, timeout)

    async def close(self, timeout: Duration | None = None) -> None:  # noqa: ASYNC109
        """Send what is queued, then end; as Producer.close()."""
        await asyncio.to_thread(self._producer.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._producer.__exit__, kind, error, trace)

    def __repr__(self) -> str:
        return f"<Async{repr(self._producer)[1:]}"

    async def _queue(self, add: Callable[[], Queued]) -> Queued:
        """Queue something, waiting for room as the policy says."""
        try:
            return add()
        except BufferFull:
            if self.options.when_full != "block" or not self.options.block_ms:
                raise
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.block_ms / 1_000
        while True:
            room: asyncio.Future[None] = loop.create_future()
            self._producer.when_room(lambda room=room: wake_futures(loop, [room]))  # type: ignore[misc]
            try:
                # Tried again after asking to be told: what left meanwhile was not told.
                return add()
            except BufferFull:
                rest_s = deadline - loop.time()
                if rest_s <= 0:
                    raise
            await asyncio.wait([room], timeout=rest_s)
