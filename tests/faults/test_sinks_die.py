"""A stream into PostgreSQL, of which workers are killed and PostgreSQL stopped at random: each event is one row."""

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from producers.producer import Producer
from tests.conftest import Server
from tests.console.command import here, started
from tests.consuming import Consuming
from tests.postgres import Postgres, started_postgres
from tests.until import until

CANARY = "Can4ry-pa55"
WORKERS = 2
CHUNK = 10_000


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A PostgreSQL of this test alone, with a role that needs a password."""
    with started_postgres() as running:
        with psycopg.connect(running.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{CANARY}'")
            connection.execute("GRANT ALL ON SCHEMA public TO app")
        (running.folder / "data" / "pg_hba.conf").write_text(
            "local all millstream trust\nlocal all app scram-sha-256\n"
        )
        running.read_anew()
        yield running


class Crew:
    """Workers of `millstream consume --sink`, some of which are killed."""

    def __init__(self, url: str, stream: str, sink: str, log: Path) -> None:
        self._args = ("consume", stream, "-g", "g", "--claim-after", "1s", "--sink", sink)
        self._url = url
        self.log = log
        self.workers: list[subprocess.Popen[bytes]] = []
        self.command_lines = ""

    def start(self) -> None:
        """Start one more."""
        with self.log.open("ab") as log:
            self.workers.append(
                started(*self._args, url=self._url, stdout=log, stderr=log, environment={"PW": CANARY})
            )

    def kill(self, rng: random.Random) -> None:
        """Kill one, at any instruction, and start another."""
        worker = self.workers.pop(rng.randrange(len(self.workers)))
        self.command_lines += Path(f"/proc/{worker.pid}/cmdline").read_text()
        worker.kill()
        worker.wait()
        self.start()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()

    def stop(self) -> list[int]:
        """Tell them all to stop; their exit codes."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        return [worker.wait(30) for worker in self.workers]


def feed(url: str, stream: str, events: int) -> None:
    """Log lines in packs, as applications ship them."""
    with Producer(url, pack=100) as producer:
        for start in range(0, events, CHUNK):
            producer.send_many(
                stream,
                [
                    {"level": "info", "event": "request finished", "method": "GET", "path": "/orders/1234",
                     "status": 200, "duration_ms": 12.5, "request_id": f"{n:016x}", "n": n}
                    for n in range(start, min(start + CHUNK, events))
                ],
                type="log.info",
            ).result(60)  # fmt: skip


def run(
    consuming: Consuming,
    server: Server,
    database: Postgres,
    log: Path,
    rng: random.Random,
    events: int,
    kills: int,
) -> dict[str, float]:
    """All events into the table, through so many kills and half as many stops; what was done, and how fast it went."""
    sink = f"{database.url_of('app:${PW}')}&table=logs&timeout=5s"
    with Crew(server.url, consuming.stream, sink, log) as crew:
        return run_crew(crew, consuming, server, database, rng, events, kills)


def run_crew(
    crew: Crew,
    consuming: Consuming,
    server: Server,
    database: Postgres,
    rng: random.Random,
    events: int,
    kills: int,
) -> dict[str, float]:
    """run(), with workers that are gone at its end, however it ends."""
    log = crew.log
    feeding = threading.Thread(target=feed, args=(server.url, consuming.stream, events))
    feeding.start()
    began_s = time.monotonic()
    for _ in range(WORKERS):
        crew.start()

    def rows() -> int:
        with psycopg.connect(database.url, autocommit=True) as connection:
            if connection.execute("SELECT to_regclass('logs')").fetchone() == (None,):
                return 0
            found = connection.execute("SELECT count(*) FROM logs").fetchone()
        return found[0] if found else 0

    def said() -> str:
        return f"{rows()} rows\n{log.read_text()[-5_000:]}"

    # At random moments of the work, not of the clock: a machine that is busy has as many faults in as many events.
    faults = sorted((rng.uniform(0, 0.9), number) for number in range(kills + kills // 2))
    for share, number in faults:
        least = events * share

        def so_many(least: float = least) -> bool:
            return rows() >= least

        until(so_many, 60 + events / 2_000, what=said, every_s=events / 4_000_000)
        if number < kills:
            crew.kill(rng)
        else:
            database.stop(signal.SIGQUIT)  # as after a crash: sessions end in the midst of whatever they do
            time.sleep(rng.uniform(0.3, 1.5))
            database.start()

    def over() -> bool:
        consuming.advance(60_000)  # what was put off need not be waited for
        return not feeding.is_alive() and rows() >= events and consuming.drained()

    until(over, 60 + events / 2_000, what=said, every_s=0.25)
    took_s = time.monotonic() - began_s
    feeding.join()
    assert crew.stop() == [0] * WORKERS
    with psycopg.connect(database.url) as connection:
        found = connection.execute(
            "SELECT count(*), count(DISTINCT event_id), count(DISTINCT data->>'n'), min((data->>'n')::int), "
            "max((data->>'n')::int) FROM logs"
        ).fetchone()
    assert found == (events, events, events, 0, events - 1)
    assert here("dead", consuming.stream, "g", "--json", url=server.url).json == []
    lines = log.read_text()
    assert CANARY not in lines
    assert CANARY not in crew.command_lines
    assert "PW" in crew.command_lines
    assert "events wait" in lines, "PostgreSQL was never missed: nothing was shown"
    assert "Traceback" not in lines, lines
    return {"took_s": took_s, "rows_per_s": events / took_s, "kills": kills, "stops": kills // 2}


@pytest.mark.rows
@pytest.mark.timeout(180)
def test_each_event_is_a_row_whatever_dies(
    consuming: Consuming, server: Server, database: Postgres, tmp_path: Path, rng: random.Random
) -> None:
    """Kill -9 of workers, immediate stops of PostgreSQL: exactly as many rows as events, and no dead letter."""
    run(consuming, server, database, tmp_path / "log", rng, 30_000, 4)


@pytest.mark.faults
@pytest.mark.timeout(1_800)
def test_a_million_events_are_a_million_rows(
    consuming: Consuming,
    server: Server,
    database: Postgres,
    tmp_path: Path,
    rng: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    """The same with 1,000,000 lines."""
    done = run(consuming, server, database, tmp_path / "log", rng, 1_000_000, 20)
    record_property("done", done)
    print(done)  # noqa: T201 - shown by -s
