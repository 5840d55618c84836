"""The sink postgresql: every event is one row, once; a bad row is alone, and a bad server costs no event."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from consumers.sinks.by_url import sink
from consumers.sinks.postgres import PostgresTable
from pipeline.errors import DecodeError, SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.wire import decode_entry, encode_entry
from tests.consuming import Consuming
from tests.postgres import Postgres, started_postgres
from tests.until import until

Database = psycopg.Connection[Any]
CANARY = "Can4ry-pa55"


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """A connection that commits each statement."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        yield connection


def events(count: int, **given: Any) -> list[Event]:
    """Numbered events."""
    return [
        Event(
            {"n": n, "level": "info", "event": "line"},
            id=f"e-{n}", type="log.info", key="k", time_ms=1_700_000_000_123, **given,
        )
        for n in range(count)
    ]  # fmt: skip


def numbers(database: Database, table: str) -> list[int]:
    """The numbers of the events in the table."""
    return [row[0] for row in database.execute(f"SELECT (data->>'n')::int FROM {table} ORDER BY 1")]


class Made(Protocol):
    """Makes the sink, without its patience, and closes it afterwards."""

    def __call__(self, postgres: Postgres | str, table: str, **given: Any) -> PostgresTable: ...


@pytest.fixture
def made() -> Iterator[Made]:
    """Sinks of this test."""
    targets: list[PostgresTable] = []

    def make(postgres: Postgres | str, table: str, **given: Any) -> PostgresTable:
        targets.append(
            PostgresTable(postgres if isinstance(postgres, str) else postgres.url, table=table, **given)
        )
        return targets[-1]

    yield make
    for target in targets:
        target.close()


def test_an_event_is_a_row(made: Made, postgres: Postgres, database: Database, table: str) -> None:
    """Its data and headers as jsonb, its level a column of its own; the table is made when first needed."""
    event = Event(
        {"level": "warning", "text": 'tab\t "quoted" \\ back\nline ü 漢 \\N \\u0041', "n": [1, None, 2.5]},
        id="e-1", type="log.warning", key="k\tk", time_ms=1_700_000_000_123, headers={"traceparent": "00-ab"},
        source="/shop",
    )  # fmt: skip
    outcomes = made(postgres, table)([event])
    assert not outcomes.errors
    (row,) = database.execute(f"SELECT * FROM {table}").fetchall()
    assert row[:2] == ("", "e-1")
    assert row[2].timestamp() == 1_700_000_000.123
    assert row[3:] == (
        "log.warning", "k\tk", "/shop", "warning", event.data, {"traceparent": "00-ab", "source": "/shop"},
    )  # fmt: skip


def test_an_event_that_comes_again_is_one_row(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """In the same batch, in the next, and from another worker; ids are those of a stream."""
    target = made(postgres, table)
    target(events(10) + events(5))
    target(events(15))
    made(postgres, table)(events(20))
    assert numbers(database, table) == list(range(20))
    target.close()
    target(events(21))
    assert numbers(database, table) == list(range(21))


def test_a_stream_becomes_rows(
    consuming: Consuming, postgres: Postgres, database: Database, table: str
) -> None:
    """Through a consumer, packs included, with the stream's name in each row."""
    with sink(f"{postgres.url}&table={table}") as target:
        consuming.app.consumer(consuming.stream, group="g", batch=100)(target)
        consuming.send(*({"n": n} for n in range(150)))
        consuming.send_pack([{"n": n} for n in range(150, 200)])
        consuming.run_until_drained()
    assert numbers(database, table) == list(range(200))
    assert database.execute(f"SELECT DISTINCT stream FROM {table}").fetchall() == [(consuming.stream,)]


def test_two_streams_may_have_events_of_one_id(
    made: Made, consuming: Consuming, postgres: Postgres, database: Database, table: str
) -> None:
    """A producer numbers the events of each stream on its own."""
    target = made(postgres, table)
    target([])
    for stream in (consuming.stream, f"{consuming.stream}-2"):
        consuming.app.consumer(stream, group="g", batch=10)(target)
        consuming.link.call("XADD", stream, "*", *encode_entry(Event({"n": 1}), producer="p", number=1))
    with consuming.running():
        consuming.until_drained()
        until(lambda: len(numbers(database, table)) == 2, what="both are there")


BAD: dict[str, tuple[Any, dict[str, Any]]] = {
    "NUL in data": ({"n": 1, "text": "a\x00b"}, {}),
    "NUL in a key of data": ({"n": 1, "a\x00b": 1}, {}),
    "NUL in the type": ({"n": 1}, {"type": "a\x00"}),
    "NUL in a header": ({"n": 1}, {"headers": {"h": "\x00"}}),
    "an id beyond the index": ({"n": 1}, {"id": "".join(str(hash((i, "x"))) for i in range(1_000))}),
}


@pytest.mark.parametrize("what", BAD)
def test_a_row_that_cannot_be_is_alone(
    made: Made, what: str, postgres: Postgres, database: Database, table: str
) -> None:
    """It is rejected, with PostgreSQL's reason, and the other 199 are rows."""
    data, given = BAD[what]
    full: dict[str, Any] = {"id": "bad", "time_ms": 0} | given
    batch = events(200)
    batch[77] = Event(data, **full)
    outcomes = made(postgres, table)(batch)
    assert list(outcomes.errors) == [77]
    assert "PostgreSQL" in str(outcomes.errors[77])
    assert numbers(database, table) == [n for n in range(200) if n != 77]


def test_what_only_looks_like_nul_is_kept(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    r"""The text \u0000 is six characters, however many backslashes stand before it."""
    texts = [
        r"\u0000",
        r"\\u0000",
        r"a\tb",
        "\\" * 5 + "u0000\t\n",
        "\ud800".encode("utf-8", "replace").decode(),
    ]
    outcomes = made(postgres, table)(
        [Event({"n": n, "t": text}, id=str(n), type=text, time_ms=0) for n, text in enumerate(texts)]
    )
    assert not outcomes.errors
    rows = database.execute(f"SELECT data->>'t', type FROM {table} ORDER BY data->>'n'").fetchall()
    assert rows == [(text, text) for text in texts]


def test_nul_may_be_replaced(made: Made, postgres: Postgres, database: Database, table: str) -> None:
    """nul=replace: for logs, whose lines nobody sends again."""
    outcomes = made(postgres, table, nul="replace")(
        [Event({"n": 1, "t": "a\x00\\\x00b\tc"}, id="1", type="x\x00\ty", time_ms=0)]
    )
    assert not outcomes.errors
    assert database.execute(f"SELECT data->>'t', type FROM {table}").fetchall() == [
        ("a\ufffd\\\ufffdb\tc", "x\ufffd\ty")
    ]


def test_what_json_cannot_hold_is_shown(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """Infinities, bytes, decimals: as `json_view` has it; a corrupt event fails for good."""
    fields = encode_entry(Event({"n": 7}), producer="p", number=7)
    corrupt = decode_entry(b"1-0", [*fields[:3], b"\xc1" + fields[3][1:]]).events[0]
    odd = Event({"far": float("inf"), "raw": b"\xff\x00", "nan": float("nan")}, id="odd", time_ms=0)
    outcomes = made(postgres, table)([odd, corrupt, *events(1)])
    assert list(outcomes.errors) == [1]
    assert isinstance(outcomes.errors[1], DecodeError)
    rows = dict(database.execute(f"SELECT event_id, data FROM {table}").fetchall())
    assert rows["odd"] == {"far": "inf", "raw": {"base64": "/wA="}, "nan": "nan"}


def test_a_table_of_ones_own_gets_what_columns_say(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """By name, with types of its own; what does not fit one row is that row's alone, also after the table changed."""
    database.execute(
        f"CREATE TABLE {table} (id text, at timestamptz, message text, n smallint, "
        "trace text, rest jsonb DEFAULT '{}', made timestamptz DEFAULT now(), PRIMARY KEY (id, at)) "
        "PARTITION BY RANGE (at)"
    )
    database.execute(f"CREATE TABLE {table}_all PARTITION OF {table} DEFAULT")
    target = made(
        postgres, table,
        columns="id:event_id,at:time,message:data.event,n:data.n,trace:headers.traceparent,rest:data.rest",
        unique="id,at",
    )  # fmt: skip
    batch = events(3, headers={"traceparent": "00"})
    batch.append(Event({"n": 40_000, "event": 1.5, "rest": {"a": [1]}}, id="e-3", time_ms=1))
    batch.append(Event(["no dict"], id="e-4", time_ms=1))
    outcomes = target(batch)
    assert list(outcomes.errors) == [3]
    assert "out of range for type smallint" in str(outcomes.errors[3])
    rows = database.execute(f"SELECT id, message, n, trace, rest FROM {table} ORDER BY id").fetchall()
    assert rows[0] == ("e-0", "line", 0, "00", None)
    assert rows[3] == ("e-4", None, None, None, None)
    database.execute(f"ALTER TABLE {table} ALTER n TYPE bigint")
    assert not target(batch).errors
    rows = database.execute(f"SELECT id, message, n, rest FROM {table} ORDER BY id").fetchall()
    assert rows[3] == ("e-3", "1.5", 40_000, {"a": [1]})
    assert len(rows) == 5


def test_a_value_that_a_rule_of_the_table_forbids_is_alone(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """A CHECK, say: several of one batch, and none of the others."""
    target = made(postgres, table)
    target(events(1))
    database.execute(f"ALTER TABLE {table} ADD CHECK ((data->>'n')::int % 50 <> 7)")
    outcomes = target(events(200))
    assert sorted(outcomes.errors) == [7, 57, 107, 157]
    assert "violates check constraint" in str(outcomes.errors[7])
    assert len(numbers(database, table)) == 196


def test_more_refused_rows_than_the_timeout_lets_find_come_to_an_end(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """Each try settles some, the others wait without an attempt: no batch is tried for ever."""
    target = made(postgres, table, timeout="200ms")
    target(events(1))
    database.execute(f"ALTER TABLE {table} ADD CHECK ((data->>'n')::int % 3 <> 1)")
    left, dead, tries = events(300), [], 0
    while left:
        try:
            errors = target(left).errors
        except SinkAway:  # a machine that was busy
            errors = {index: SinkAway("all of them") for index in range(len(left))}
        dead += [left[i].data["n"] for i, error in errors.items() if not isinstance(error, SinkAway)]
        left = [left[i] for i, error in errors.items() if isinstance(error, SinkAway)]
        tries += 1
        assert tries < 100
    assert tries > 1
    assert sorted(dead) == list(range(1, 300, 3))
    assert numbers(database, table) == [n for n in range(300) if n % 3 != 1]


def test_a_table_that_takes_no_row_at_all_is_at_fault_itself(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """No event pays for a column that must not be null and that nobody writes."""
    database.execute(f"CREATE TABLE {table} (event_id text PRIMARY KEY, must int NOT NULL)")
    with pytest.raises(SinkRefused, match="takes none of 20 events: null value in column"):
        made(postgres, table, columns="event_id")(events(20))


@pytest.mark.parametrize(
    ("setup", "given", "said"),
    [
        ("", {"create": False}, "the database has no table {table}"),
        ("CREATE TABLE {table} (event_id text)", {"columns": "event_id"}, "no unique index on (event_id)"),
        ("CREATE TABLE {table} (id text PRIMARY KEY)", {}, "column"),
        ("CREATE SCHEMA IF NOT EXISTS s", {"table": "nosuch.t"}, "nosuch"),
    ],
)
def test_a_wrong_table_refuses_all_and_rejects_none(
    made: Made,
    setup: str,
    given: dict[str, Any],
    said: str,
    postgres: Postgres,
    database: Database,
    table: str,
) -> None:
    """Somebody has to mend it; the same sink goes on once that is done."""
    if setup:
        database.execute(setup.format(table=table))
    full = {"table": table} | given
    with pytest.raises(SinkRefused) as caught:
        made(postgres, **full)(events(20))
    assert said.format(table=table) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sink_goes_on_when_its_table_is_there(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """Also when somebody dropped it: then it is made again."""
    target = made(postgres, table)
    target(events(2))
    database.execute(f"DROP TABLE {table}")
    with pytest.raises(SinkRefused):
        target(events(3))
    assert not target(events(3)).errors
    assert numbers(database, table) == [0, 1, 2]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://a@db/x", "table=… is missing"),
        ("postgresql://a@db/x?table=A-B", "table='A-B': small letters"),
        (
            "postgresql://a@db/x?table=t&tabel=u",
            'invalid URI query parameter: "tabel" (options of the sink: table,',
        ),
        ("postgresql://a@db/x?table=t&columns=at:time,n:data.n", "no column gets event_id"),
        ("postgresql://a@db/x?table=t&columns=event_id,x:dat", "'dat' is none of stream, event_id, time"),
        ("postgresql://a@db/x?table=t&columns=event_id,event_id", "stands there twice"),
        ("postgresql://a@db/x?table=t&columns=event_id,A:data.a", "'A' is no column"),
        ("postgresql://a@db/x?table=t&unique=id", "unique='id': 'id' is none of the columns"),
        ("postgresql://a@db/x?table=t&nul=drop", "nul='drop': one of reject, replace"),
        ("postgresql://a@db/x?table=t&timeout=0", "timeout='0': at least"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_at_once(url: str, said: str) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError) as caught:
        sink(url)
    assert said in str(caught.value)


def test_writers_of_the_same_events_do_not_lock_each_other_out(
    made: Made, postgres: Postgres, database: Database, table: str
) -> None:
    """Whatever the order that each has them in: four threads of one sink, and each event is one row."""
    target = made(postgres, table)
    target(events(1))
    failures: list[BaseException] = []

    def write(seed: int) -> None:
        batch = events(400)
        step = (1, 3, 7, 399)[seed]
        try:
            for _ in range(5):
                assert not target([batch[(i * step) % 400] for i in range(400)]).errors
        except BaseException as error:  # noqa: BLE001 - for the assertion below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert numbers(database, table) == list(range(400))


def sessions(database: Database) -> list[int]:
    """The process ids of the sinks' sessions."""
    found = database.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'millstream'")
    return [row[0] for row in found]


@pytest.fixture
def own() -> Iterator[Postgres]:
    """A PostgreSQL of this test alone."""
    with started_postgres() as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_dies_hangs_or_ends_a_session_costs_no_event(
    made: Made, own: Postgres, table: str
) -> None:
    """Each is an absence, within the timeout; afterwards the same sink goes on, and no row is missing or double."""
    target = made(own, table, timeout="1s")
    target(events(10))
    with psycopg.connect(own.url, autocommit=True) as database:
        (session,) = sessions(database)
        database.execute("SELECT pg_terminate_backend(%s)", (session,))
    with pytest.raises(SinkAway) as caught:
        target(events(20))
    assert not isinstance(caught.value, SinkRefused)
    target(events(20))

    with psycopg.connect(own.url, autocommit=True) as database:
        (session,) = sessions(database)
    os.kill(session, signal.SIGSTOP)  # a machine that is gone answers nothing at all
    began_s = time.monotonic()
    with pytest.raises(SinkAway):
        target(events(30))
    assert time.monotonic() - began_s < 5
    os.kill(session, signal.SIGCONT)
    target(events(30))

    own.stop(signal.SIGQUIT)
    for _ in range(2):
        with pytest.raises(SinkAway, match="cannot be reached"):
            target(events(40))
    own.start()
    target(events(40))
    with psycopg.connect(own.url, autocommit=True) as database:
        assert numbers(database, table) == list(range(40))
        (session,) = sessions(database)
        with database.transaction():
            database.execute(f"LOCK TABLE {table}")
            with pytest.raises(SinkAway, match="statement timeout"):
                target(events(50))
        assert not target(events(50)).errors
        assert numbers(database, table) == list(range(50))


class Cut:
    """Passes bytes between a socket of its own and a server's; cuts instead of passing on that a COMMIT was done."""

    def __init__(self, folder: Path, server: Path) -> None:
        self._server = str(server / ".s.PGSQL.5432")
        self.folder = folder
        self.cut_next_commit = False
        self.cuts = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _pass(self, client: Any, server: Any) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answers(self, server: Any, client: Any) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if self.cut_next_commit and b"COMMIT\0" in data:
                    self.cut_next_commit = False
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)
                    break
                client.sendall(data)
        client.close()
        server.close()


def test_a_commit_whose_answer_is_lost_is_repeated_without_harm(
    made: Made, postgres: Postgres, database: Database, table: str, tmp_path: Path
) -> None:
    """It happened; the batch is written again, and is there once."""
    cut = Cut(tmp_path, postgres.folder)
    try:
        target = made(f"postgresql://millstream@/postgres?host={tmp_path}", table)
        target(events(5))
        cut.cut_next_commit = True
        with pytest.raises(SinkAway):
            target(events(10))
        assert cut.cuts == 1
        assert numbers(database, table) == list(range(10)), "it was committed"
        assert not target(events(10)).errors
        assert numbers(database, table) == list(range(10))
    finally:
        cut.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_password_is_never_shown(
    own: Postgres, table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Right or wrong, in the URL, the environment or a file: in no log, error or outcome. A wrong one is waited for."""
    with psycopg.connect(own.url, autocommit=True) as database:
        database.execute(f"CREATE ROLE app LOGIN PASSWORD '{CANARY}'")
        database.execute("GRANT ALL ON SCHEMA public TO app")
    hba = own.folder / "data" / "pg_hba.conf"
    hba.write_text("local all millstream trust\nlocal all app scram-sha-256\n")
    own.read_anew()
    file = tmp_path / "password"
    file.write_text(f"{CANARY}\n")
    where = f"app%s@/postgres?host={own.folder}&table={table}"
    urls: list[str] = [
        "postgresql://" + where % f":{CANARY}",
        "postgresql://" + where % "" + f"&password={CANARY}",
        "postgresql://" + where % "" + f"&password_file={file}",
        "postgresql://" + where % ":${PW}",
    ]
    shown = []
    for number, url in enumerate(urls, 1):
        with sink(url, environ={"PW": CANARY}, patience=0) as right:
            outcomes = right(events(number))
            shown.append(f"{right.__qualname__} {vars(right)} {outcomes and outcomes.errors}")
    with psycopg.connect(own.url) as database:
        assert numbers(database, table) == list(range(4))

    for wrong in (urls[0].replace(CANARY, CANARY + "x"), urls[2].replace(str(file), str(tmp_path / "none"))):
        patient = sink(wrong, patience=0)
        with pytest.raises(Exception, match="later") as caught:
            patient(events(10))
        shown.append(f"{caught.value!r} {caught.value.__cause__} {caught.value.__context__} {vars(patient)}")
    said = [record.getMessage() for record in caplog.records]
    assert any("refuses the user or password" in line for line in said)
    assert any("cannot read the password from" in line for line in said)
    assert CANARY not in "\n".join(shown + said)
