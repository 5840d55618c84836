"""A chain with effects in PostgreSQL: each payment is checked, charged once and notified once, whatever is killed.

pip install 'millstream[embedded,postgres]'
export PAYMENTS_DATABASE=postgresql://localhost/payments MILLSTREAM_URL=embedded://./data
python examples/payments.py tables           # makes them
python examples/payments.py work             # until Ctrl-C; start several, kill them as you like
python examples/payments.py pay 1000         # payments to work on
python examples/payments.py report           # what was charged, and how often
"""

import os
import sys
import threading
from typing import Any

import psycopg

from millstream import Delivery, Event, Pipeline, PostgresInbox, Producer, Reject

DATABASE = os.environ.get("PAYMENTS_DATABASE", "postgresql://localhost/payments")
NAMESPACE = os.environ.get("PAYMENTS_NAMESPACE", "")
CLAIM_AFTER = os.environ.get("PAYMENTS_CLAIM_AFTER", "30s")

app = Pipeline(namespace=NAMESPACE)
inbox = PostgresInbox()
own = threading.local()


def database() -> "psycopg.Connection[Any]":
    """A connection per thread; `with database().transaction()` commits at its end."""
    if getattr(own, "connection", None) is None or own.connection.closed:
        own.connection = psycopg.connect(DATABASE, autocommit=True)
    connection: psycopg.Connection[Any] = own.connection
    return connection


@app.consumer("payments", group="fraud", once=True, concurrency=4, claim_after=CLAIM_AFTER)
def fraud(event: Event, delivery: Delivery) -> None:
    """Looks at a payment, counts it, and asks for the charge: all in the step that settles it."""
    if event.data["amount"] <= 0:
        raise Reject("nothing to charge")
    delivery.effect("INCRBY", f"{{{delivery.stream}}}:checked", event.data["amount"])
    delivery.emit("charges", event.data, type="charge.requested", key=event.key)


@app.consumer("charges", group="charge", concurrency=4, claim_after=CLAIM_AFTER)
def charge(event: Event, delivery: Delivery) -> None:
    """Charges once: the note that it is done is in the transaction that does it."""
    connection = database()
    with connection.transaction():
        if inbox.first(connection, delivery):
            connection.execute(
                "INSERT INTO charges (payment, amount) VALUES (%s, %s)",
                (event.data["id"], event.data["amount"]),
            )
    # Also where it was done before: a run that died behind its commit has emitted nothing.
    delivery.emit("notices", event.data, type="charge.made", key=event.key)


@app.consumer("notices", group="notify", concurrency=4, claim_after=CLAIM_AFTER)
def notify(event: Event, delivery: Delivery) -> None:
    """Notes the letter to be sent, once."""
    connection = database()
    with connection.transaction():
        if inbox.first(connection, delivery):
            connection.execute("INSERT INTO letters (payment) VALUES (%s)", (event.data["id"],))


def tables() -> None:
    """Make them; none of ours forbids a payment twice, so that a second charge would be seen."""
    with psycopg.connect(DATABASE) as connection:
        inbox.create(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS charges (payment int NOT NULL, amount int NOT NULL)")
        connection.execute("CREATE TABLE IF NOT EXISTS letters (payment int NOT NULL)")


def pay(count: int) -> None:
    """Send so many payments."""
    with Producer(namespace=NAMESPACE) as producer:
        rows = [{"id": n, "amount": 1 + n % 100} for n in range(count)]
        receipt = producer.send_many(
            "payments", rows, type="payment", key=lambda row: f"card-{row['id'] % 50}"
        )
        receipt.result()
    print(f"sent {count} payments")


def report() -> None:
    """What was done, and how often."""
    with psycopg.connect(DATABASE) as connection:
        for name in ("charges", "letters"):
            rows, payments = connection.execute(
                f"SELECT count(*), count(DISTINCT payment) FROM {name}"
            ).fetchone() or (0, 0)
            print(f"{name}: {rows} for {payments} payments")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tables"]:
            tables()
        case ["work"]:
            sys.exit(0 if app.run() else 1)
        case ["pay", count]:
            pay(int(count))
        case ["report"]:
            report()
        case _:
            sys.exit(__doc__)
