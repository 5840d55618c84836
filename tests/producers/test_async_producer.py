"""AsyncProducer on a real server: the loop never blocks, and cancelling leaves nothing behind."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipeline.errors import BufferFull, ClosedError, SendError
from pipeline.server.connect import Link
from producers.async_producer import AsyncProducer
from tests.conftest import Server
from tests.producers.reading import datas
from tests.proxy import Proxy

NOWHERE = "unix:///nonexistent/millstream/no.sock"


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run it in an event loop of its own, for 20 s at most."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(bounded())


async def ticks(of: "asyncio.Task[object]") -> int:
    """How often the loop comes round, at 1 ms a turn, until a task has ended."""
    count = 0
    while not of.done():
        await asyncio.sleep(0.001)
        count += 1
    return count


def test_awaiting_a_receipt_confirms(server: Server, link: Link, stream: str) -> None:
    """Thousands at once, too."""

    async def work() -> None:
        async with AsyncProducer(server.address.shown) as producer:
            receipt = await producer.send(stream, 0, type="t", key="k", id="i", headers={"a": "b"})
            confirmation = await receipt
            assert (confirmation.event_id, receipt.done) == ("i", True)
            receipts = [await producer.send(stream, number) for number in range(1, 3_000)]
            confirmations = await asyncio.gather(*receipts)
            assert [one.event_id for one in confirmations[:2]] == [f"{producer.id}-2", f"{producer.id}-3"]
            many = await (await producer.send_many(stream, range(3_000, 4_000), pack=True))
            assert len(many.entry_ids) == 1_000

    run(work)
    assert datas(link, stream) == list(range(4_000))


def test_a_failed_send_raises_where_it_is_awaited(server: Server, link: Link, stream: str) -> None:
    """As result() does."""
    link.call("SET", stream, "text")

    async def work() -> None:
        async with AsyncProducer(server.address.shown) as producer:
            receipt = await producer.send(stream, 1)
            with pytest.raises(SendError, match="another type"):
                await receipt

    run(work)


def test_a_full_buffer_holds_the_sender_and_not_the_loop(server: Server, link: Link, stream: str) -> None:
    """It goes on as soon as there is room."""

    async def work() -> None:
        with Proxy(server.address) as proxy:
            async with AsyncProducer(proxy.url, buffer_events=5) as producer:
                await (await producer.send(stream, -1))
                proxy.hold()
                for number in range(5):
                    await producer.send(stream, number)
                waiting = asyncio.create_task(producer.send_many(stream, range(5, 50)))
                turning = asyncio.create_task(ticks(waiting))
                await asyncio.sleep(0.1)
                assert not waiting.done()
                proxy.release()
                await (await waiting)
                assert await turning > 20

    run(work)
    assert datas(link, stream) == list(range(-1, 50))


def test_a_buffer_that_stays_full_is_an_error(stream: str) -> None:
    """After `block`; at once with when_full=fail."""

    async def work() -> None:
        for policy in ("block", "fail"):
            producer = AsyncProducer(
                NOWHERE, buffer_events=1, send_timeout="300ms", block="100ms", when_full=policy
            )
            await producer.send(stream, 1)
            with pytest.raises(BufferFull):
                await producer.send(stream, 2)
            with pytest.raises(SendError):
                await producer.close()
            with pytest.raises(ClosedError):
                await producer.send(stream, 3)

    run(work)


def test_cancelling_a_send_that_waits_for_room_queues_nothing(
    server: Server, link: Link, stream: str
) -> None:
    """And cancelling a wait for a receipt changes nothing about its send."""

    async def work() -> None:
        with Proxy(server.address) as proxy:
            async with AsyncProducer(proxy.url, buffer_events=2) as producer:
                await (await producer.send(stream, 0))
                proxy.hold()
                receipts = [await producer.send(stream, number) for number in (1, 2)]

                async def confirm() -> None:
                    await receipts[0]

                for task in (
                    asyncio.create_task(producer.send(stream, "cancelled")),
                    asyncio.create_task(confirm()),
                ):
                    await asyncio.sleep(0.05)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                proxy.release()
                for receipt in receipts:
                    await receipt
                await (await producer.send(stream, 3))

    run(work)
    assert datas(link, stream) == [0, 1, 2, 3]


def test_a_send_many_cancelled_midway_says_how_far_it_came(server: Server, link: Link, stream: str) -> None:
    """What was queued is sent; close() tells of the rest, as nobody has its receipt."""

    async def work() -> None:
        with Proxy(server.address) as proxy:
            producer = AsyncProducer(proxy.url, buffer_events=5)
            await (await producer.send(stream, -1))
            proxy.hold()
            task = asyncio.create_task(producer.send_many(stream, range(50)))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            proxy.release()
            with pytest.raises(SendError, match=r"5 of 50 events are in it.*cancelled"):
                await producer.close()

    run(work)
    assert datas(link, stream) == [-1, 0, 1, 2, 3, 4]


def test_flush_waits_for_the_end_of_all_sends(server: Server, link: Link, stream: str) -> None:
    """Without looking at receipts."""

    async def work() -> None:
        async with AsyncProducer(server.address.shown) as producer:
            for number in range(500):
                await producer.send(stream, number)
            await producer.flush("10s")
            assert link.call("XLEN", stream) == 500
            assert producer.counts["confirmed"] == 500

    run(work)
