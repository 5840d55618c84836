"""A chain of three groups with effects in PostgreSQL, its workers killed at random: each charge once, none missing."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipeline.server.connect import Link
from producers.producer import Producer
from tests.conftest import Server
from tests.faults.crew import ROOT
from tests.postgres import Postgres
from tests.until import until

PROGRAM = ROOT / "examples" / "payments.py"
GROUPS = (("payments", "fraud"), ("charges", "charge"), ("notices", "notify"))
WORKERS = 3


class Chain:
    """The workers of examples/payments.py, each of which runs all three groups."""

    def __init__(self, folder: Path, server: Server, namespace: str, database: str) -> None:
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "MILLSTREAM_URL": server.url,
            "PAYMENTS_DATABASE": database,
            "PAYMENTS_NAMESPACE": namespace,
            "PAYMENTS_CLAIM_AFTER": "1s",
        }
        self._log = folder / "log"
        self._namespace = namespace
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Chain":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def call(self, *words: str) -> None:
        """Run the program to its end."""
        subprocess.run([sys.executable, str(PROGRAM), *words], env=self._environment, check=True, timeout=60)

    def start(self, count: int = 1) -> None:
        """Start so many more workers."""
        for _ in range(count):
            with self._log.open("ab") as log:
                command = [sys.executable, str(PROGRAM), "work"]
                self.workers.append(subprocess.Popen(command, env=self._environment, stdout=log, stderr=log))

    def pending(self, link: Link, pid: int | None = None) -> int:
        """Entries that are pending in all groups, of one worker or of all."""
        total = 0
        for stream, group in GROUPS:
            key = f"{self._namespace}:{stream}"
            rows = link.calls([("XPENDING", key, group, "-", "+", 10_000)])[0]
            if isinstance(rows, list):
                total += sum(pid is None or f"-{pid}-".encode() in row[1] for row in rows)
        return total

    def kill(self, link: Link, rng: random.Random) -> int:
        """kill -9 one worker, as it is, and start another in its place; how many entries it held."""
        victim = rng.choice(self.workers)
        victim.send_signal(signal.SIGSTOP)
        held = self.pending(link, victim.pid)
        victim.kill()
        victim.wait()
        self.workers.remove(victim)
        self.start()
        return held

    def said(self) -> str:
        """What the workers said, for a failing test."""
        return self._log.read_text(errors="replace")[-4_000:]


@pytest.fixture
def database(postgres: Postgres, table: str) -> str:
    """The address of a database of this test."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {table}")
    return postgres.url.replace("/postgres?", f"/{table}?")


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_each_charge_is_made_once_and_none_is_missing(
    server: Server,
    link: Link,
    stream: str,
    database: str,
    tmp_path: Path,
    rng: random.Random,
    scaled: Callable[[int], int],
) -> None:
    """fraud emits to charge, charge to notify; workers are killed in the midst of each."""
    payments, kills = scaled(10_000), scaled(60)
    with Chain(tmp_path, server, stream, database) as chain, Producer(server.url) as producer:
        chain.call("tables")
        chain.start(WORKERS)
        rows = [{"id": n, "amount": 1 + n % 100} for n in range(payments)]
        held = 0
        with psycopg.connect(database, autocommit=True) as connection:

            def count(what: str) -> Any:
                row = connection.execute(what).fetchone()
                assert row is not None
                return row[0]

            for kill in range(kills):
                part = rows[kill * payments // kills : (kill + 1) * payments // kills]
                producer.send_many(f"{stream}:payments", part, key=lambda row: str(row["id"] % 50)).result(30)
                busy = rng.randint(1, 20)
                until(lambda: chain.pending(link) >= busy or not missing(link, stream), 60, what=chain.said)  # noqa: B023
                held += chain.kill(link, rng)
            until(
                lambda: count("SELECT count(DISTINCT payment) FROM letters") == payments,
                60 + payments / 20,
                what=chain.said,
                every_s=0.1,
            )
            until(lambda: not chain.pending(link), 60, what=chain.said)
            assert held, "no worker held anything when it was killed: nothing was shown"
            for table in ("charges", "letters"):
                assert count(f"SELECT count(*) FROM {table}") == payments, "some were done twice"
                assert count(f"SELECT count(DISTINCT payment) FROM {table}") == payments
            assert count("SELECT sum(amount) FROM charges") == sum(row["amount"] for row in rows)
        # What was emitted is there once, and the effect in Redis was carried out once.
        assert link.call("XLEN", f"{stream}:charges") == link.call("XLEN", f"{stream}:notices") == payments
        checked = link.call("GET", f"{{{stream}:payments}}:checked")
        assert int(checked) == sum(row["amount"] for row in rows)


def missing(link: Link, namespace: str) -> int:
    """Payments that have not yet come to the end of the chain."""
    return int(link.call("XLEN", f"{namespace}:payments")) - int(link.call("XLEN", f"{namespace}:notices"))
