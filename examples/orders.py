"""Orders: one stream of business events, three groups, each with every event.

millstream server --dir data                                  # in one terminal; it says its URL
MILLSTREAM_URL=… python examples/orders.py                    # in another: ten orders, handled by three groups
MILLSTREAM_URL=… millstream run orders:app --processes 2      # in examples/: the same workers, without sending
"""

import asyncio
import threading

from millstream import Delivery, Event, Later, Outcomes, Pipeline, Producer, Reject, Retry

app = Pipeline()
mailbox_open = threading.Event()


@app.consumer("orders", group="billing", types=["order.placed"], retry=Retry(attempts=3, initial="200ms"))
def bill(event: Event, delivery: Delivery) -> None:
    """Plain: runs in a thread. The first run of order 3 fails, and is retried while the others go on."""
    if event.data["id"] == 3 and delivery.attempt == 1:
        raise ConnectionError("the bank does not answer")
    if event.data["total"] <= 0:
        raise Reject("nothing to pay")  # a dead letter at once: no retry would mend it
    print(f"billing  order {event.data['id']}: {event.data['total']} (run {delivery.attempt})")


@app.consumer("orders", group="mail", concurrency=64)
async def mail(event: Event) -> None:
    """Async: a task of the event loop, up to 64 at a time."""
    if not mailbox_open.is_set():
        mailbox_open.set()
        raise Later("300ms")  # not now; the attempt is not spent
    await asyncio.sleep(0.01)
    print(f"mail     order {event.data['id']} to {event.key}")


@app.consumer("orders", group="search", batch=100, batch_wait="50ms")
def index(events: list[Event]) -> Outcomes:
    """Batch: up to 100 events a call, an outcome for each."""
    print(f"search   {len(events)} orders in one call")
    return Outcomes()


def send(count: int) -> None:
    """Place some orders; every receipt is looked at, so no failure goes unseen."""
    with Producer() as producer:
        receipts = [
            producer.send("orders", {"id": n, "total": n * 10}, type="order.placed", key=f"customer-{n % 3}")
            for n in range(count)
        ]
        for receipt in receipts:
            receipt.result(timeout=5)
    print(f"sent     {count} orders, all confirmed")


if __name__ == "__main__":
    threading.Timer(0.5, send, [10]).start()
    app.run()  # until Ctrl-C
