"""Targets that no package brings: what stands for each keeps what it is sent, refuses what the target would refuse, and
answers in the target's own shapes, recorded from the pages named at each.
"""

import json
import re
import threading
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from pipeline.event import Event
from pipeline.webhook import verify_webhook
from tests.http_fake import Reply, Request
from tests.sinking import log_events, received

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class OpenSearchLike:
    """The bulk API. https://docs.opensearch.org/latest/api-reference/document-apis/bulk/#example-response"""

    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    """Ids that it has no room for just now."""

    def __call__(self, request: Request) -> Reply:
        """A bulk request."""
        assert (request.method, request.path) == ("POST", "/_bulk")
        assert request.headers["content-type"] == "application/x-ndjson"
        assert request.body.endswith(b"\n")
        lines = request.lines
        items = [
            {"create": self._created(action["create"], source)}
            for action, source in zip(lines[::2], lines[1::2], strict=True)
        ]
        errors = any("error" in item["create"] for item in items)
        # filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason
        shown = [
            {
                "create": {"status": item["create"]["status"]}
                | (
                    {"error": {name: item["create"]["error"][name] for name in ("type", "reason")}}
                    if "error" in item["create"]
                    else {}
                )
            }
            for item in items
        ]
        assert request.query["filter_path"] == "errors,items.*.status,items.*.error.type,items.*.error.reason"
        return Reply(200, {"errors": errors, "items": shown})

    def _created(self, action: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
        index, own = action["_index"], action["_id"]
        assert set(action) == {"_index", "_id"}
        at = {"_index": index, "_id": own}
        if own in self.busy:
            return self._error(
                at, 429, "rejected_execution_exception", "rejected execution of coordinating operation [...]"
            )
        if (index, own) in self.documents:
            return self._error(
                at, 409, "version_conflict_engine_exception",
                f"[{own}]: version conflict, document already exists (current version [1])",
            )  # fmt: skip
        number = source["data"].get("n") if isinstance(source["data"], dict) else None
        if isinstance(number, str) and not number.isdigit():  # the mapping says long
            return self._error(
                at, 400, "mapper_parsing_exception",
                f"failed to parse field [data.n] of type [long] in document with id '{own}'. "
                f"Preview of field's value: '{number}'",
            )  # fmt: skip
        self.documents[index, own] = source
        return at | {
            "_version": 1, "result": "created", "_shards": {"total": 2, "successful": 1, "failed": 0},
            "_seq_no": len(self.documents) - 1, "_primary_term": 1, "status": 201,
        }  # fmt: skip

    @staticmethod
    def _error(at: dict[str, Any], status: int, kind: str, reason: str) -> dict[str, Any]:
        return at | {
            "status": status,
            "error": {"type": kind, "reason": reason, "index": at["_index"], "shard": "0", "index_uuid": "x"},
        }


CLICKHOUSE_VERSION = "(version 25.8.1.5101 (official build))"


def clickhouse_error(code: int, name: str, text: str, status: int) -> Reply:
    """As ClickHouse says it. https://clickhouse.com/docs/interfaces/http"""
    body = f"Code: {code}. DB::Exception: {text}. ({name}) {CLICKHOUSE_VERSION}\n"
    return Reply(
        status, body, {"X-ClickHouse-Exception-Code": str(code), "Content-Type": "text/plain; charset=UTF-8"}
    )


@dataclass
class ClickHouseLike:
    """INSERT … FORMAT JSONEachRow over HTTP into a table that remembers tokens.

    https://clickhouse.com/docs/interfaces/http,
    https://clickhouse.com/docs/guides/developer/deduplicating-inserts-on-retries
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    table: str = "events"

    def __call__(self, request: Request) -> Reply:
        """An insert, done whole or not at all."""
        query = request.query
        assert query["async_insert"] == "0" and query["wait_end_of_query"] == "1"
        statement = re.fullmatch(r"INSERT INTO ([\w.]+) \(([\w, ]+)\) FORMAT JSONEachRow", query["query"])
        assert statement is not None, query["query"]
        if statement[1] != self.table:
            text = f"Table default.{statement[1]} does not exist"
            return clickhouse_error(60, "UNKNOWN_TABLE", text, 404)
        rows = request.lines
        for number, row in enumerate(rows, 1):
            assert list(row) == statement[2].split(", ")
            if '"n":"' in row["data"]:
                text = f"Cannot parse number: (while reading the value of key n): (at row {number})"
                return clickhouse_error(72, "CANNOT_PARSE_NUMBER", text, 400)
        if query["insert_deduplication_token"] not in self.tokens:
            self.tokens.add(query["insert_deduplication_token"])
            self.rows += rows
        return Reply(200, "", {"X-ClickHouse-Summary": json.dumps({"written_rows": str(len(rows))})})


@dataclass
class LokiLike:
    """POST /loki/api/v1/push: 204, or 400 with text; what is in order is taken all the same.

    https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs; the words of the refusals are those of
    https://github.com/grafana/loki/issues/11774 and https://github.com/grafana/loki/pull/12933.
    """

    lines: dict[tuple[str, int, str], dict[str, str]] = field(default_factory=dict)
    """Metadata by labels, time and text: two lines alike in these are one."""
    oldest_ns: int = 1_700_000_000_000_000_000
    longest: int = 1_000

    def __call__(self, request: Request) -> Reply:
        """A push."""
        assert (request.method, request.path) == ("POST", "/loki/api/v1/push")
        assert request.headers["content-type"] == "application/json"
        said = ""
        for stream in request.json["streams"]:
            assert set(stream) == {"stream", "values"}
            labels = "{" + ", ".join(f'{k}="{v}"' for k, v in sorted(stream["stream"].items())) + "}"
            assert all(isinstance(v, str) and v for v in stream["stream"].values())
            times = [int(value[0]) for value in stream["values"]]
            assert times == sorted(times)
            for at, text, *more in stream["values"]:
                assert isinstance(at, str) and isinstance(text, str)
                assert all(isinstance(v, str) for v in more[0].values())
                if int(at) < self.oldest_ns:
                    said = said or (
                        f"entry for stream '{labels}' has timestamp too old: 1970-01-01T00:00:00Z, oldest acceptable "
                        "timestamp is: 2026-11-19T02:00:00Z"
                    )
                elif len(text) > self.longest:
                    said = said or (
                        f"Max entry size '{self.longest}' bytes exceeded for stream '{labels}' while adding an entry "
                        f"with length '{len(text)}' bytes"
                    )
                else:
                    self.lines[labels, int(at), text] = more[0]
        return Reply(400, said + "\n", {"Content-Type": "text/plain; charset=utf-8"}) if said else Reply(204)


@dataclass
class OtlpLike:
    """POST /v1/logs, read by the protocol's own schema. https://opentelemetry.io/docs/specs/otlp/#otlphttp-response"""

    records: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        """An export; records that say "poison" are refused, and only their number is told."""
        assert (request.method, request.path) == ("POST", "/v1/logs")
        assert request.headers["content-type"] == "application/json"
        export = export_request(request.body)
        refused = 0
        for resource_logs in export.resource_logs:
            self.resources.append({kv.key: kv.value.string_value for kv in resource_logs.resource.attributes})
            for scope_logs in resource_logs.scope_logs:
                for record in scope_logs.log_records:
                    if "poison" in record.body.string_value:
                        refused += 1
                    else:
                        self.records.append(record)
        if refused:
            return Reply(
                200,
                {
                    "partialSuccess": {
                        "rejectedLogRecords": str(refused),
                        "errorMessage": "poison is not accepted",
                    }
                },
                {"Content-Type": "application/json"},
            )
        return Reply(200, {"partialSuccess": {}}, {"Content-Type": "application/json"})


def export_request(body: bytes) -> Any:
    """An ExportLogsServiceRequest from OTLP's JSON, whose trace ids are hex where protobuf's own JSON has base64."""

    def as_protobuf(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            name: b64encode(bytes.fromhex(value)).decode() if name in ("traceId", "spanId") else value
            for name, value in pairs
        }

    parsed = json.loads(body, object_pairs_hook=as_protobuf)
    return json_format.ParseDict(parsed, ExportLogsServiceRequest())


@dataclass
class WebhookLike:
    """A receiver that verifies what it is sent, knows events by stream and id, and says which it will not have."""

    events: dict[tuple[str, str], Event] = field(default_factory=dict)

    def __call__(self, request: Request) -> Reply:
        """Take the events."""
        assert (request.method, request.path) == ("POST", "/")
        assert request.headers["content-type"] == "application/cloudevents-batch+json"
        results = []
        for event in verify_webhook(request.headers, request.body, WEBHOOK_SECRET):
            if "poison" in event.data.get("event", ""):
                results.append({"id": event.id, "status": 422, "reason": "poison is not accepted"})
            else:
                self.events[event.headers.get("stream", ""), event.id] = event
        return Reply(207, {"results": results}) if results else Reply(204)


class Down:
    """Answers with given replies first, then as the target does."""

    def __init__(self, target: Any, *replies: Reply) -> None:
        self._replies = list(replies)
        self._target = target
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        """The next reply."""
        with self._lock:
            if self._replies:
                return self._replies.pop(0)
        reply: Reply = self._target(request)
        return reply


@dataclass
class Target:
    """A target and the sink that writes to it."""

    name: str
    like: Any
    options: str
    has: Callable[[Any], list[str]]
    """The ids it holds, in the order of arrival."""
    bad: Callable[[int], Event]
    """An event that it refuses."""
    words: str
    """With which it does."""
    once: bool = True
    """Whether what comes again in another batch is there once."""

    def url(self, place: str, more: str = "") -> str:
        """The sink's URL."""
        return f"{self.name}+http://{place}/?{self.options}{more}"


def not_a_number(number: int) -> Event:
    """An event whose field n is text where others have a number."""
    return log_events([number], n="many")[0]


def too_old(number: int) -> Event:
    """An event of 1970."""
    return received(Event({"event": "old"}, type="log", time_ms=1_000), number)


def poison(number: int) -> Event:
    """An event whose message is refused."""
    return log_events([number], event="poison")[0]


def targets() -> list[Target]:
    """A fresh one of each."""
    return [
        Target(
            "opensearch", OpenSearchLike(), "index=logs", lambda like: [one["id"] for one in like.documents.values()],
            not_a_number, "400: mapper_parsing_exception: failed to parse field [data.n] of type [long]",
        ),
        Target(
            "clickhouse", ClickHouseLike(), "table=events", lambda like: [row["event_id"] for row in like.rows],
            not_a_number, "Code: 72. DB::Exception: Cannot parse number", once=False,
        ),
        Target(
            "loki", LokiLike(), "labels=level,type,host", lambda like: [m["event_id"] for m in like.lines.values()],
            too_old, "400: entry for stream '{job=\"millstream\", type=\"log\"}' has timestamp too old",
        ),
        Target(
            "otlp", OtlpLike(), "partial=split",
            lambda like: [
                next(kv.value.string_value for kv in record.attributes if kv.key == "cloudevents.event_id")
                for record in like.records
            ],
            poison, "poison is not accepted", once=False,
        ),
        Target(
            "webhook", WebhookLike(), f"secret={WEBHOOK_SECRET}", lambda like: [own for _, own in like.events],
            poison, "422: poison is not accepted",
        ),
    ]  # fmt: skip
