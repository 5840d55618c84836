"""ClickHouse: rows, tokens and error codes; and rows and table against the engine itself, where it is installed.

The engine is chdb, ClickHouse within Python (extra clickhouse-test): what it says is what a server would say, but for
HTTP, which tests/sink_targets.py stands for.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from consumers.sinks.clickhouse import COLUMNS, MENDED, PASSING, ROW, TABLE, batch_token, inserted, row
from consumers.sinks.halving import RequestFailed, RequestRefused
from consumers.sinks.http import Answer
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from tests.http_fake import HttpFake, Reply, Request, fake
from tests.sink_targets import CLICKHOUSE_VERSION, ClickHouseLike, clickhouse_error
from tests.sinking import handed, log_events, made, received, rejected

ROOT = Path(__file__).parent.parent.parent
needs_engine = pytest.mark.skipif(
    find_spec("chdb") is None,
    reason="the ClickHouse engine is not installed: pip install 'millstream[clickhouse-test]'",
)


def test_an_event_is_a_row() -> None:
    """Data as JSON text, headers as a map."""
    assert json.loads(row(log_events([7])[0])) == {
        "stream": "", "event_id": "p-7", "time": "2026-11-26T02:00:00.130Z", "type": "log", "key": "k7",
        "source": "shop",
        "level": "info", "message": "request 7 done", "headers": {"host": "web-1", "pid": "7"},
        "data": '{"event":"request 7 done","level":"info","n":7}',
    }  # fmt: skip
    assert json.loads(row(log_events([7])[0], ("event_id", "data"), as_json=True)) == {
        "event_id": "p-7", "data": {"event": "request 7 done", "level": "info", "n": 7},
    }  # fmt: skip


def test_a_token_is_that_of_these_events_in_this_order() -> None:
    """Wherever the ids' borders are."""
    assert batch_token(["a", "b"]) == batch_token(["a", "b"])
    assert (
        len(
            {batch_token(ids) for ids in (["a", "b"], ["b", "a"], ["ab"], ["a"], ["a", "b", "c"], ["", "ab"])}
        )
        == 6
    )


def test_a_code_has_one_meaning() -> None:
    """A row's fault, passing, or to be mended."""
    assert not (ROW & PASSING or ROW & MENDED or PASSING & MENDED)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (clickhouse_error(117, "INCORRECT_DATA", "Cannot parse input", 400), RequestRefused),
        (clickhouse_error(469, "VIOLATED_CONSTRAINT", "Constraint `c` is violated", 500), RequestRefused),
        (clickhouse_error(252, "TOO_MANY_PARTS", "Too many parts (300)", 500), SinkAway),
        (clickhouse_error(241, "MEMORY_LIMIT_EXCEEDED", "Memory limit exceeded", 500), SinkAway),
        (clickhouse_error(242, "TABLE_IS_READ_ONLY", "Table is in readonly mode", 500), SinkAway),
        (clickhouse_error(60, "UNKNOWN_TABLE", "Table x does not exist", 404), SinkRefused),
        (clickhouse_error(16, "NO_SUCH_COLUMN_IN_TABLE", "No such column nope", 500), SinkRefused),
        (clickhouse_error(516, "AUTHENTICATION_FAILED", "default: Authentication failed", 403), SinkRefused),
        (clickhouse_error(497, "ACCESS_DENIED", "Not enough privileges", 403), SinkRefused),
        (clickhouse_error(49, "LOGICAL_ERROR", "Never happens", 500), RequestFailed),
        (clickhouse_error(49, "LOGICAL_ERROR", "behind a 200", 200), SinkAway),
        (clickhouse_error(117, "INCORRECT_DATA", "behind a 200", 200), RequestRefused),
        (Reply(200, f"Code: 117. DB::Exception: x. (INCORRECT_DATA) {CLICKHOUSE_VERSION}"), RequestRefused),
        (Reply(200, "<html>"), SinkAway),
        (Reply(400, "Bad Request of a proxy"), RequestRefused),
        (Reply(500, ""), RequestFailed),
    ],
    ids=lambda value: str(getattr(value, "body", value))[:60],
)
def test_what_an_answer_means(reply: Reply, kind: type[Exception]) -> None:
    """By its code, whatever the status."""
    headers = {name.lower(): value for name, value in reply.headers.items()}
    with pytest.raises(kind) as raised:
        inserted(Answer(reply.status, headers, str(reply.body).encode()))
    assert type(raised.value) is kind


def test_an_empty_answer_is_an_insert() -> None:
    """As ClickHouse answers one."""
    inserted(Answer(200, {"x-clickhouse-summary": '{"written_rows":"3"}'}, b""))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "table=… is missing"),
        ("table=a;drop", "table='a;drop': letters"),
        ("table=t&columns=time", "columns='time': event_id and some of"),
        ("table=t&columns=event_id,nope", "event_id and some of"),
        ("table=t&columns=event_id,event_id", "event_id and some of"),
        ("table=t&data=xml", "data='xml': one of text, json"),
    ],
)
def test_what_cannot_be_meant_is_refused(query: str, said: str) -> None:
    """Nothing of it gets into a statement."""
    with pytest.raises(UsageError, match=said):
        made(f"clickhouse+http://h/db?{query}")


def test_a_table_of_another_database_and_an_unknown_one() -> None:
    """The database is the path; where the table is not there, everything waits for somebody to make it."""
    like = ClickHouseLike(table="logs.events")
    with fake(like) as server:
        url = f"clickhouse+http://app:secret@{server.place}/logs"
        assert handed(f"{url}?table=events&columns=event_id,time,data", log_events(range(3))).errors == {}
        assert [list(one) for one in like.rows] == [["event_id", "time", "data"]] * 3
        with pytest.raises(SinkRefused, match=r"Table default.logs.nope does not exist"):
            handed(f"{url}?table=nope", log_events(range(3)))


class Engine:
    """The engine behind HTTP, as far as the sink goes."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        """Carry out an insert, with the settings of the request."""
        settings = ", ".join(
            f"{name}='{value}'"
            for name, value in request.query.items()
            if name not in ("query", "wait_end_of_query")
        )
        statement = request.query["query"].replace(" FORMAT ", f" SETTINGS {settings} FORMAT ")
        try:
            self.query(f"{statement} {request.body.decode()}")
        except RuntimeError as error:
            code = re.match(r"Code: (\d+)", str(error))
            if code is None:
                raise
            return Reply(500, str(error), {"X-ClickHouse-Exception-Code": code[1]})
        return Reply(200)

    def query(self, statement: str) -> list[Any]:
        """Its rows."""
        with self._lock:
            return [
                json.loads(line) for line in str(self._session.query(statement, "JSONEachRow")).splitlines()
            ]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One for all tests: a process may have one."""
    session: Any = import_module("chdb.session").Session()
    session.query("CREATE DATABASE logs ENGINE = Atomic")
    with contextlib.closing(session):
        yield Engine(session)


@pytest.fixture
def served(engine: Engine, table: str) -> Iterator[tuple[HttpFake, str]]:
    """The engine, listening, with a table as documented."""
    engine.query(TABLE.format(table=f"logs.{table}"))
    with fake(engine) as server:
        yield server, f"clickhouse+http://{server.place}/logs?table={table}"


@needs_engine
def test_codes_are_those_of_the_engine(engine: Engine) -> None:
    """None is invented."""
    codes = tuple(ROW | PASSING | MENDED)
    names = engine.query(
        f"SELECT number AS n, errorCodeToName(number) AS name FROM numbers(1000) WHERE n IN {codes}"
    )
    assert {one["n"] for one in names if one["name"]} == ROW | PASSING | MENDED


@needs_engine
def test_the_engine_takes_our_rows(engine: Engine, served: tuple[HttpFake, str], table: str) -> None:
    """As they are meant, with the time in UTC; the same batch again is there once."""
    _, url = served
    odd = received(Event({"text": "a\nü\u2028'\"\\", "raw": b"\xff"}, type="t'\"", time_ms=1), 100)
    for _ in range(2):
        assert handed(url, [*log_events(range(3)), odd]).errors == {}
    rows = engine.query(f"SELECT * FROM logs.{table} ORDER BY event_id")
    assert [one["event_id"] for one in rows] == ["p-0", "p-1", "p-100", "p-2"]
    assert rows[0] == {
        "stream": "", "event_id": "p-0", "time": "2026-11-26 02:00:00.123", "type": "log", "key": "k0",
        "source": "shop",
        "level": "info", "message": "request 0 done", "headers": {"host": "web-1", "pid": "7"},
        "data": '{"event":"request 0 done","level":"info","n":0}',
    }  # fmt: skip
    assert json.loads(rows[2]["data"]) == {"text": "a\nü\u2028'\"\\", "raw": {"base64": "/w=="}}
    assert rows[2]["time"] == "1970-01-01 00:00:00.001"


@needs_engine
def test_events_that_come_again_in_another_batch_are_merged(
    engine: Engine, served: tuple[HttpFake, str], table: str
) -> None:
    """By the documented table: at once for FINAL."""
    _, url = served
    for numbers in (range(10), range(5, 15)):
        handed(url, log_events(numbers))
    assert engine.query(f"SELECT count() AS n FROM logs.{table} FINAL") == [{"n": 15}]
    assert engine.query(f"SELECT count() AS n FROM logs.{table}") == [{"n": 20}]
    engine.query(f"OPTIMIZE TABLE logs.{table} FINAL")
    assert engine.query(f"SELECT count() AS n FROM logs.{table}") == [{"n": 15}]


@needs_engine
def test_a_plain_table_remembers_no_tokens(engine: Engine, served: tuple[HttpFake, str], table: str) -> None:
    """What the docs say of it."""
    url = served[1].replace(table, f"{table}_plain")
    plain = (
        TABLE.format(table=f"logs.{table}_plain")
        .replace("ReplacingMergeTree", "MergeTree")
        .partition("SETTINGS")[0]
    )
    engine.query(plain)
    for _ in range(2):
        handed(url, log_events(range(3)))
    assert engine.query(f"SELECT count() AS n FROM logs.{table}_plain") == [{"n": 6}]


@needs_engine
def test_a_row_that_the_engine_refuses_is_found(
    engine: Engine, served: tuple[HttpFake, str], table: str
) -> None:
    """By a constraint of the table: the others are in it."""
    engine.query(f"ALTER TABLE logs.{table} ADD CONSTRAINT few CHECK length(message) < 100")
    events = log_events(range(40))
    events[13] = log_events([13], event="x" * 200)[0]
    outcomes = handed(served[1], events)
    assert list(rejected(outcomes)) == [13]
    assert "Constraint `few`" in str(outcomes.errors[13])
    assert engine.query(f"SELECT count() AS n FROM logs.{table}") == [{"n": 39}]


@needs_engine
def test_data_may_be_json_itself(engine: Engine, served: tuple[HttpFake, str], table: str) -> None:
    """For a column of type JSON; what is no object is refused alone."""
    engine.query(
        f"CREATE TABLE logs.{table}_json (event_id String, data JSON) ENGINE = MergeTree ORDER BY event_id"
    )
    url = served[1].replace(table, f"{table}_json") + "&data=json&columns=event_id,data"
    events = [*log_events(range(3)), received(Event("no object"), 9)]
    assert list(rejected(handed(url, events))) == [3]
    assert engine.query(f"SELECT toString(sum(data.n::Int64)) AS n FROM logs.{table}_json") == [{"n": "3"}]


@needs_engine
@pytest.mark.parametrize("change", ["table", "column", "database"])
def test_what_is_not_there_waits_for_who_makes_it(
    engine: Engine, served: tuple[HttpFake, str], table: str, change: str
) -> None:
    """No event pays for it."""
    url = served[1]
    if change == "table":
        url = url.replace(table, "nosuch")
    elif change == "database":
        url = url.replace("/logs?", "/nosuch?")
    else:
        engine.query(f"ALTER TABLE logs.{table} DROP COLUMN source")
    with pytest.raises(SinkRefused, match=r"Code: (60|81|16)"):
        handed(url, log_events(range(3)))


def test_every_column_is_in_the_documented_table() -> None:
    """In its order; and it is the one in the docs."""
    assert TABLE.format(table="events") in (ROOT / "docs" / "sinks.md").read_text()
    assert tuple(re.findall(r"^    (\w+) ", TABLE, re.MULTILINE)) == COLUMNS
