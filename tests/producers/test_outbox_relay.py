"""The relay of an outbox in PostgreSQL: exactly the committed rows, each once, whatever is killed."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pipeline.errors import NotConnectedError, NotFoundError, UsageError
from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.server.replies import parse_entries
from pipeline.wire import decode_entry
from producers.producer import Producer
from producers.sources.postgres import PostgresOutbox, Relayed, create_tables, relay_outbox
from tests.conftest import Server
from tests.console.command import command, environ
from tests.postgres import Postgres
from tests.until import until


@pytest.fixture
def database(postgres: Postgres, table: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that commits each statement, and an outbox of this test."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        PostgresOutbox(table).create(connection)
        yield connection


@pytest.fixture
def producer(server: Server) -> Iterator[Producer]:
    """A producer on the run's server."""
    with Producer(server.url) as producer:
        yield producer


def events_of(link: Link, stream: str) -> list[Event]:
    """All events in the stream, in its order."""
    reply = parse_entries(link.call("XRANGE", stream, "-", "+"))
    return [event for i, fields in reply for event in decode_entry(i, fields or []).events]


def rows(database: psycopg.Connection[Any], table: str) -> int:
    """Rows of the outbox that are still to be sent."""
    found = database.execute(f"SELECT count(*) FROM {table} WHERE problem IS NULL").fetchone()
    assert found is not None
    return int(found[0])


def test_committed_rows_are_sent_as_they_are_and_deleted(
    producer: Producer,
    postgres: Postgres,
    database: psycopg.Connection[Any],
    link: Link,
    stream: str,
    table: str,
) -> None:
    """With type, key, id, headers and time; what was rolled back is not."""
    outbox = PostgresOutbox(table)
    with psycopg.connect(postgres.url) as connection:
        outbox.add(
            connection, {"n": 1, "deep": [1.5, None, "ž"]}, type="t", key="k", id="e-1", headers={"a": "b"}
        )
        outbox.add(connection, None, stream=f"{stream}-other")
    with psycopg.connect(postgres.url) as connection:
        outbox.add(connection, {"n": 2}, type="rolled back")
        connection.rollback()
    database.execute(f"INSERT INTO {table} (data) VALUES ('{{\"n\": 3}}')")  # any program
    done = relay_outbox(producer, stream, postgres.url, table=table, follow=False)
    assert (done.confirmed, done.problems, rows(database, table)) == (3, 0, 0)
    first, second = events_of(link, stream)
    assert (first.id, first.type, first.key, first.headers) == ("e-1", "t", "k", {"a": "b"})
    assert first.data == {"n": 1, "deep": [1.5, None, "ž"]}
    assert second.data == {"n": 3}
    assert abs(first.time_ms - second.time_ms) < 60_000
    assert len(events_of(link, f"{stream}-other")) == 1


def test_a_row_that_was_sent_and_not_deleted_is_not_sent_twice(
    producer: Producer,
    postgres: Postgres,
    database: psycopg.Connection[Any],
    link: Link,
    stream: str,
    table: str,
) -> None:
    """As when the relay dies between the two: the id is known."""
    outbox = PostgresOutbox(table)
    outbox.add(database, 1, id="e-1")
    producer.send(stream, 1, id="e-1").result(5)
    done = relay_outbox(producer, stream, postgres.url, table=table, follow=False)
    assert (done.confirmed, rows(database, table)) == (1, 0)
    assert [event.id for event in events_of(link, stream)] == ["e-1"]


def test_a_transaction_that_commits_late_is_not_passed_over(
    producer: Producer,
    postgres: Postgres,
    database: psycopg.Connection[Any],
    link: Link,
    stream: str,
    table: str,
) -> None:
    """Its numbers are lower than what was relayed before."""
    outbox = PostgresOutbox(table)
    with psycopg.connect(postgres.url) as late:
        outbox.add(late, "late")
        outbox.add(database, "early")
        relay_outbox(producer, stream, postgres.url, table=table, follow=False)
        assert [event.data for event in events_of(link, stream)] == ["early"]
    relay_outbox(producer, stream, postgres.url, table=table, follow=False)
    assert [event.data for event in events_of(link, stream)] == ["early", "late"]


def test_a_row_that_can_never_be_sent_says_so_and_holds_up_nothing(
    producer: Producer,
    postgres: Postgres,
    database: psycopg.Connection[Any],
    link: Link,
    stream: str,
    table: str,
) -> None:
    """Too large, no headers, no stream."""
    outbox = PostgresOutbox(table)
    outbox.add(database, 1)
    outbox.add(database, "x" * 2_000_000)
    database.execute(f"INSERT INTO {table} (headers) VALUES ('[1]')")
    database.execute(f"INSERT INTO {table} (stream) VALUES ('a{{b')")
    database.execute(f"INSERT INTO {table} (event_id) VALUES ('')")
    database.execute(f"INSERT INTO {table} (data) VALUES ('123456789012345678901234567890')")
    outbox.add(database, 2)
    done = relay_outbox(producer, stream, postgres.url, table=table, follow=False)
    assert (done.confirmed, done.problems) == (2, 5)
    assert [event.data for event in events_of(link, stream)] == [1, 2]
    said = database.execute(f"SELECT problem FROM {table} ORDER BY number").fetchall()
    assert len(said) == 5
    assert all(row[0] for row in said)
    assert "max_entry_bytes" in said[0][0]


def test_what_comes_is_relayed_soon_and_one_relay_works_at_a_time(
    server: Server, postgres: Postgres, database: psycopg.Connection[Any], link: Link, stream: str, table: str
) -> None:
    """The other stands by, and takes over when the first stops."""
    stops = [threading.Event(), threading.Event()]
    ended: list[tuple[int, Relayed]] = []

    def relay(which: int) -> None:
        with Producer(server.url) as producer:
            done = relay_outbox(producer, stream, postgres.url, table=table, stop=stops[which])
            ended.append((which, done))

    outbox = PostgresOutbox(table)
    threads = [threading.Thread(target=relay, args=(which,)) for which in (0, 1)]
    threads[0].start()
    outbox.add(database, 0)
    until(lambda: len(events_of(link, stream)) == 1, 20)
    threads[1].start()
    for n in range(1, 20):
        outbox.add(database, n)
        database.execute(f"NOTIFY {table}")
    until(lambda: len(events_of(link, stream)) == 20, 20)
    stops[0].set()
    threads[0].join(20)
    outbox.add(database, 20)
    until(lambda: len(events_of(link, stream)) == 21, 20)
    stops[1].set()
    threads[1].join(20)
    assert [event.data for event in events_of(link, stream)] == list(range(21))
    assert {which: done.confirmed for which, done in ended} == {0: 20, 1: 1}


def test_errors_that_no_waiting_mends_are_said(
    producer: Producer, postgres: Postgres, stream: str, table: str
) -> None:
    """No table, no database, no address."""
    with pytest.raises(NotFoundError, match="postgres create"):
        relay_outbox(producer, stream, postgres.url, table=table, follow=False)
    with pytest.raises(NotConnectedError, match="cannot reach PostgreSQL"):
        relay_outbox(producer, stream, "postgresql:///x?host=/nowhere", table=table)
    with pytest.raises(UsageError, match="not an address"):
        relay_outbox(producer, stream, "http://x", table=table)
    with pytest.raises(UsageError, match="small letters"):
        relay_outbox(producer, stream, postgres.url, table="A")


def test_tables_are_made_once(postgres: Postgres, table: str) -> None:
    """A second time nothing changes."""
    for _ in range(2):
        assert create_tables(postgres.url, inbox=f"{table}_i", outbox=table) == [f"{table}_i", table]


@pytest.mark.campaign
def test_a_relay_that_is_killed_again_and_again_loses_and_repeats_nothing(
    server: Server,
    postgres: Postgres,
    database: psycopg.Connection[Any],
    link: Link,
    stream: str,
    table: str,
    tmp_path: Any,
) -> None:
    """kill -9 while rows of one key come, some of them rolled back: in order, each committed one once."""
    outbox, committed = PostgresOutbox(table), 0
    arguments = command("produce", stream, "--outbox", postgres.url, "--table", table, "--follow")
    with (tmp_path / "log").open("wb") as log:
        for kill in range(6):
            relay = subprocess.Popen(arguments, env=environ(server.url), stdout=log, stderr=log)
            try:
                with psycopg.connect(postgres.url) as connection:
                    for n in range(60):
                        for _ in range(5):
                            outbox.add(connection, committed, key="k", id=f"e-{committed}")
                            committed += 1
                        if n % 7 == 0:
                            connection.rollback()
                            committed -= 5
                        connection.commit()
                before = int(link.call("XLEN", stream))
                until(lambda: int(link.call("XLEN", stream)) > min(before, committed - 1), 20)  # noqa: B023
            finally:
                relay.send_signal(signal.SIGKILL if kill < 5 else signal.SIGTERM)
                relay.wait(20)
    done = subprocess.run(
        command("produce", stream, "--outbox", postgres.url, "--table", table, "--json"),
        env=environ(server.url), capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert b'"problems": 0' in done.stdout
    assert [event.data for event in events_of(link, stream)] == list(range(committed))
    assert rows(database, table) == 0
