"""ClickHouse: a batch handler that inserts each batch into a table, over ClickHouse's HTTP interface.

`INSERT … FORMAT JSONEachRow`, waited for (async_insert=0), and done whole or not at all as long as the rows are of one
partition. Each request has a token made of its events' streams and ids, so the same request again is inserted once, if
the table remembers tokens: a replicated one does (its last 1,000), a plain MergeTree with
non_replicated_deduplication_window. Events that come again in another batch (after a crash, a take-over) have another
token and may be there twice, but in a ReplacingMergeTree ordered by stream and event_id, which keeps one of them, in
time, and at once for `SELECT … FINAL`. TABLE is such a table.

What a row is refused for is found by halves, and is a dead letter. Which of ClickHouse's error codes are a row's fault,
which pass and which a person has to mend, is one table below; the codes are those of `system.errors`. Sources:
https://clickhouse.com/docs/interfaces/http, https://clickhouse.com/docs/interfaces/formats/JSONEachRow,
https://clickhouse.com/docs/guides/developer/deduplicating-inserts-on-retries
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from consumers.sinks.documents import in_requests, iso_time, json_bytes, json_text, made_of, unique_id
from consumers.sinks.event_rows import stream_of
from consumers.sinks.halving import Halving, RequestRefused
from consumers.sinks.http import (
    COMPRESS,
    HTTP_OPTIONS,
    Answer,
    Http,
    not_understood,
    retry_after_s,
    taken,
    with_query,
)
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import Option, SinkUrl
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.outcome import Outcomes
from pipeline.severity import level_of, message_of

PORT, TLS_PORT = 8123, 8443
MAX_BODY_BYTES = 32_000_000
"""Of one request, before compression; ClickHouse reads it as it comes."""
COLUMNS = ("stream", "event_id", "time", "type", "key", "source", "level", "message", "headers", "data")
"""All that may be asked for by columns=."""
TABLE = """CREATE TABLE IF NOT EXISTS {table} (
    stream   LowCardinality(String),
    event_id String,
    time     DateTime64(3, 'UTC'),
    type     LowCardinality(String),
    key      String,
    source   LowCardinality(String),
    level    LowCardinality(String),
    message  String,
    headers  Map(LowCardinality(String), String),
    data     String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (stream, type, time, event_id)
SETTINGS non_replicated_deduplication_window = 1000"""
"""A table that keeps each event once; `data` is JSON as text. With data=json it may be of type JSON."""

ROW = frozenset({
    6, 25, 26, 27, 33, 38, 41, 44, 53, 70, 72, 117, 128, 130, 131, 321, 349, 376, 441, 467, 469, 675, 676, 691
})  # fmt: skip
"""A row cannot be read, or does not fit its column or a constraint of the table."""
PASSING = frozenset({
    3, 159, 160, 201, 202, 203, 209, 210, 225, 236, 241, 242, 243, 244, 252, 279, 285, 286, 319, 394, 439, 499, 999
})  # fmt: skip
"""Too busy, too full, too many parts, read-only or without its Keeper just now."""
MENDED = frozenset({10, 16, 20, 47, 48, 50, 60, 62, 73, 81, 115, 164, 192, 193, 194, 195, 291, 472, 497, 516})
"""No such table, column or database, no right, a wrong password."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_CODE = re.compile(r"Code: ([0-9]{1,6})")


class ClickHouse:
    """Inserts each event as a row; see the text of this module for what is there once."""

    def __init__(self, url: SinkUrl) -> None:
        """As `clickhouse+http://host:8123/database?table=events` says.

        Raises:
            UsageError: no table, or names that cannot be.
        """
        options = url.options
        database, table = url.path.strip("/"), options["table"]
        for name, value in (("database", database), ("table", table)):
            if value and not _NAME.fullmatch(value):
                raise UsageError(f"{name}={value!r}: letters, digits and _, up to 128")
        self._columns = _columns(options["columns"])
        self._as_json = options["data"] == "json"
        self._query = {
            "query": insert(f"{database}.{table}" if database else table, self._columns),
            "async_insert": "0",
            "wait_end_of_query": "1",
            "date_time_input_format": "best_effort",
        }
        self._send = Halving()
        self._http = Http(url, TLS_PORT if url.scheme.endswith("https") else PORT)

    def __call__(self, events: list[Event]) -> Outcomes:
        """Insert the rows; those that the table cannot hold are rejected."""
        rows, outcomes = made_of(events, lambda event: row(event, self._columns, as_json=self._as_json))

        def send(part: Sequence[int]) -> None:
            token = batch_token([unique_id(events[index]) for index in part])
            path = with_query("/", {**self._query, "insert_deduplication_token": token})
            body = b"".join(rows[index] for index in part)
            inserted(self._http.post(path, body, "application/x-ndjson"))

        self._send(in_requests(rows, MAX_BODY_BYTES), send, outcomes)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _columns(text: str) -> tuple[str, ...]:
    columns = tuple(text.split(","))
    strange = [name for name in columns if name not in COLUMNS]
    if strange or "event_id" not in columns or len(set(columns)) < len(columns):
        raise UsageError(f"columns={text!r}: event_id and some of {', '.join(COLUMNS)}, each once")
    return columns


def insert(table: str, columns: Sequence[str]) -> str:
    """The statement; rows follow as the body."""
    return f"INSERT INTO {table} ({', '.join(columns)}) FORMAT JSONEachRow"


def row(event: Event, columns: Sequence[str] = COLUMNS, *, as_json: bool = False) -> bytes:
    """One event as a line of JSONEachRow. as_json: data as JSON itself, not as text that holds it."""
    shown = json_view(event.data)
    made: dict[str, Any] = {
        "stream": stream_of(event),
        "event_id": event.id,
        "time": iso_time(event),
        "type": event.type,
        "key": event.key,
        "source": event.source,
        "level": level_of(event.data),
        "message": message_of(event.data)[0],
        "headers": {name: value for name, value in event.headers.items() if name != "source"},
        "data": shown if as_json else json_text(shown),
    }
    return json_bytes({name: made[name] for name in columns}) + b"\n"


def batch_token(ids: Sequence[str]) -> str:
    """The same for the same events in the same order, and no others."""
    digest = hashlib.sha256()
    for event_id in ids:
        raw = event_id.encode("utf-8", "replace")
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.hexdigest()


def inserted(answer: Answer) -> None:
    """Return if the rows are in the table.

    ClickHouse names its error by X-ClickHouse-Exception-Code and in the text; its statuses are coarse (500 for most),
    and 200 is no promise, as headers may be sent before the insert fails.

    Raises:
        RequestRefused, RequestFailed, SinkAway, SinkRefused: they are not, or it is not known.
    """
    found = _CODE.match(answer.words)
    number = answer.headers.get("x-clickhouse-exception-code") or (found[1] if found else "")
    if not re.fullmatch("[0-9]{1,6}", number):
        taken(answer)
        if answer.body.strip():
            not_understood(answer, "ClickHouse answers an INSERT with nothing")
        return
    code = int(number)
    if code in ROW:
        raise RequestRefused(answer.words)
    if code in PASSING:
        raise SinkAway(answer.words, retry_after_s(answer))
    if code in MENDED:
        raise SinkRefused(answer.words)
    taken(answer)
    raise SinkAway(answer.words)  # an error behind a 200


KIND = SinkKind(
    make=ClickHouse,
    options=(
        Option("table", "text", None, "table that rows are inserted into", needed=True),
        Option("columns", "text", ",".join(COLUMNS), "columns that are inserted, with commas"),
        Option(
            "data",
            "choice",
            "text",
            "data as JSON in a String, or for a column of type JSON",
            choices=("text", "json"),
        ),
        *HTTP_OPTIONS,
        COMPRESS,
    ),
    batch_events=5_000,
)
