"""PostgresInbox: what a transaction does for an event is done once, whatever dies before or after its commit."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from consumers.delivery import Delivery
from consumers.postgres import PostgresInbox
from pipeline.envelope import Again, again_fields
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.replayed import Replayed
from tests.consuming import Consuming
from tests.postgres import Postgres
from tests.until import until

SLOWLY = Retry(attempts=3, initial="1m", jitter=0)
"""What fails waits until the test lets time pass."""


@pytest.fixture
def database(postgres: Postgres, table: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that commits each statement; the tables of this test are there."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        PostgresInbox(f"{table}_inbox").create(connection)
        connection.execute(f"CREATE TABLE {table} (event_id text, run int)")
        yield connection


def effects(database: psycopg.Connection[Any], table: str) -> list[tuple[str, int]]:
    """What the transactions have done."""
    return database.execute(f"SELECT event_id, run FROM {table} ORDER BY 1, 2").fetchall()


def test_a_run_that_comes_after_the_commit_does_nothing(
    consuming: Consuming, postgres: Postgres, database: psycopg.Connection[Any], table: str
) -> None:
    """As after a crash between commit and acknowledgement: the note is in the transaction."""
    inbox = PostgresInbox(f"{table}_inbox")

    @consuming.app.consumer(consuming.stream, group="g", retry=SLOWLY)
    def handle(event: Event, delivery: Delivery) -> None:
        with psycopg.connect(postgres.url) as connection:
            if inbox.first(connection, delivery):
                connection.execute(f"INSERT INTO {table} VALUES (%s, %s)", (event.id, delivery.attempt))
        if delivery.attempt == 1:
            raise ConnectionError("after the commit")

    consuming.send(1, 2)
    with consuming.running():
        until(lambda: consuming.waiting() == 2)
        consuming.advance(120_000)
        consuming.until_drained()
    assert effects(database, table) == [("test-1", 1), ("test-2", 1)]


def test_a_transaction_that_is_rolled_back_has_done_nothing(
    consuming: Consuming, postgres: Postgres, database: psycopg.Connection[Any], table: str
) -> None:
    """Neither the effect nor the note is there: the next run does it."""
    inbox = PostgresInbox(f"{table}_inbox")

    @consuming.app.consumer(consuming.stream, group="g", retry=SLOWLY)
    async def handle(event: Event, delivery: Delivery) -> None:
        async with await psycopg.AsyncConnection.connect(postgres.url) as connection:
            if await inbox.first_async(connection, delivery):
                await connection.execute(f"INSERT INTO {table} VALUES (%s, %s)", (event.id, delivery.attempt))
            if delivery.attempt == 1:
                raise ConnectionError("before the commit")

    consuming.send(1, 2)
    with consuming.running():
        until(lambda: consuming.waiting() == 2)
        consuming.advance(120_000)
        consuming.until_drained()
    assert effects(database, table) == [("test-1", 2), ("test-2", 2)]


def test_beside_another_transaction_it_waits_for_how_that_one_ends(
    consuming: Consuming, postgres: Postgres, database: psycopg.Connection[Any], table: str
) -> None:
    """Of two runs at once one does it, also if the one that began rolls back."""
    inbox = PostgresInbox(f"{table}_inbox")
    kept: list[Delivery] = []

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        kept.append(delivery)

    consuming.send(1)
    consuming.run_until_drained()
    found: list[bool] = []

    def second() -> None:
        with psycopg.connect(postgres.url) as connection:
            found.append(inbox.first(connection, kept[0]))

    for rolls_back in (True, False):
        with psycopg.connect(postgres.url) as connection:
            assert inbox.first(connection, kept[0]) is rolls_back
            thread = threading.Thread(target=second)
            thread.start()
            if rolls_back:
                waits = (
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
                )
                until(lambda: database.execute(waits, (f"%{inbox.table}%",)).fetchone() == (1,))  # noqa: B023
                connection.rollback()
        thread.join(20)
    assert found == [True, False]


def test_groups_and_replays_that_do_it_again_have_notes_of_their_own(
    consuming: Consuming, postgres: Postgres, database: psycopg.Connection[Any], table: str
) -> None:
    """A replay without --again does nothing; one with it does it once more, and once only."""
    inbox = PostgresInbox(f"{table}_inbox")

    @consuming.app.consumer(consuming.stream, group="g")
    @consuming.app.consumer(consuming.stream, group="h")
    def handle(event: Event, delivery: Delivery) -> None:
        with psycopg.connect(postgres.url) as connection:
            if inbox.first(connection, delivery):
                connection.execute(f"INSERT INTO {table} VALUES (%s, 1)", (event.id,))

    (fields,) = consuming.encoded(1)
    entry_id = consuming.send_raw(fields)
    with consuming.running():
        consuming.until_drained("g")
        consuming.until_drained("h")
        assert len(effects(database, table)) == 2
        for again, number in ((False, 2), (True, 3), (True, 3)):
            why = Replayed(id="ab", at_ms=1, again=again, what="a test").why
            envelope = again_fields(Again(stream=consuming.stream, entry_id=entry_id, why=why), fields)
            consuming.link.call("XADD", consuming.keys.again("g"), "*", *envelope)
            consuming.until_drained("g")
            assert len(effects(database, table)) == number


def test_old_notes_can_be_removed(
    consuming: Consuming, database: psycopg.Connection[Any], table: str
) -> None:
    """Older than what is said."""
    inbox = PostgresInbox(f"{table}_inbox")
    for age in ("1 day", "40 days"):
        database.execute(f"INSERT INTO {inbox.table} VALUES ('s', 'g', %s, now() - %s::interval)", (age, age))
    assert inbox.forget(database, "30d") == 1
    assert database.execute(f"SELECT event_id FROM {inbox.table}").fetchall() == [("1 day",)]


@pytest.mark.parametrize("name", ["", "Inbox", "a; DROP TABLE b", "a.b.c", 'a"b', "x" * 64])
def test_a_table_that_cannot_be_is_refused(name: str) -> None:
    """Names go into statements as they are."""
    with pytest.raises(UsageError, match="small letters"):
        PostgresInbox(name)
