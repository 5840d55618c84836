"""Otlp: a batch handler that exports events as log records to an OpenTelemetry collector, by OTLP over HTTP.

The body is OTLP's JSON encoding, which needs no further library and which every receiver of the protocol takes: ids of
traces in hex, 64-bit numbers as text, enums as numbers. A log event's message is the record's body and its other fields
are attributes; of any other event the data is the body.

OTLP has no ids that a receiver deduplicates by: a request whose answer was lost is made again, and its records may be
there twice; log.record.uid tells. A receiver that refuses some records of a request says how many, and not which
(partial_success), and wants nothing of it again. So `partial=warn` says it in our log, and they are done for this
group; `partial=split` sends the request again in halves until the refused ones are alone, which makes them dead
letters with the receiver's words, and doubles those around them. Sources:
https://opentelemetry.io/docs/specs/otlp/#otlphttp, https://opentelemetry.io/docs/specs/otel/logs/data-model/,
https://opentelemetry.io/docs/specs/semconv/registry/attributes/cloudevents/,
https://opentelemetry.io/docs/specs/semconv/registry/attributes/log/, https://www.w3.org/TR/trace-context/
"""

import base64
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from consumers.sinks.documents import in_requests, json_bytes, made_of, unique_id
from consumers.sinks.event_rows import stream_of
from consumers.sinks.halving import Halving, RequestRefused
from consumers.sinks.http import GZIP, HTTP_OPTIONS, Answer, Http, not_understood, taken, with_query
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import Option, SinkUrl
from consumers.sinks.words import words_of
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.observe.log import Limited, get_logger
from pipeline.outcome import Outcomes
from pipeline.severity import exception_of, level_of, message_of

PORT = 4318
MAX_BODY_BYTES = 3_000_000
"""Of one request, before compression; the specification's own limit for servers is 20 MiB, older ones take 4 MiB."""
SEVERITY = {
    "trace": 1, "debug": 5, "info": 9, "notice": 10, "warning": 13, "error": 17, "critical": 21,
}  # fmt: skip
"""https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber"""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_EXCEPTION = ("exception", "exc_info", "traceback")
_TAKEN = ("level", "severity", "levelname", "log.level", "lvl")


class Otlp:
    """Exports each event as a log record; see the text of this module."""

    def __init__(self, url: SinkUrl) -> None:
        """As `otlp+http://collector:4318/?service=shop` says; a path takes the place of /v1/logs."""
        self._service = url.options["service"]
        self._split = url.options["partial"] == "split"
        self._path = with_query(url.path if url.path.strip("/") else "/v1/logs", {})
        self._http = Http(url, PORT)
        self._send = Halving()
        self._name = url.shown
        self._say = Limited(get_logger("sink"))

    def __call__(self, events: list[Event]) -> Outcomes:
        """Export the records."""
        observed_ns = time.time_ns()
        records, outcomes = made_of(events, lambda event: json_bytes(record_of(event, observed_ns)))
        resources = {index: resource_of(events[index], self._service) for index in records}

        def send(part: Sequence[int]) -> None:
            body = export_body([(resources[index], records[index]) for index in part])
            answer = self._http.post(self._path, body, "application/json")
            taken(answer)
            refused, said = partial_success(answer)
            if said and not refused:
                self._say.warning("hint", "the receiver has a hint", sink=self._name, said=said)
            if refused and (self._split or refused >= len(part)):
                raise RequestRefused(said or "refused without a reason")
            if refused:
                self._say.warning(
                    "partial", "the receiver took only some of the records; partial=split finds the others",
                    sink=self._name, refused=refused, of=len(part), said=said,
                )  # fmt: skip

        self._send(in_requests(records, MAX_BODY_BYTES), send, outcomes)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


Resource = tuple[tuple[str, str], ...]


def resource_of(event: Event, service: str | None = None) -> Resource:
    """What sent the event: service.name (the option, else its source), host.name, process.pid."""
    names = {
        "service.name": service or event.source or "millstream",
        "host.name": event.headers.get("host", ""),
        "process.pid": event.headers.get("pid", ""),
    }
    return tuple((name, value) for name, value in names.items() if value)


def record_of(event: Event, observed_ns: int) -> dict[str, Any]:
    """An event as a LogRecord in OTLP's JSON encoding."""
    data = json_view(event.data)
    message, field = message_of(data)
    level = level_of(data)
    record: dict[str, Any] = {
        "timeUnixNano": str(max(event.time_ms, 0) * 1_000_000),
        "observedTimeUnixNano": str(observed_ns),
    }
    if level:
        record |= {"severityNumber": SEVERITY[level], "severityText": level.upper()}
    if event.type:
        record["eventName"] = event.type
    attributes: dict[str, Any] = {
        "log.record.uid": unique_id(event),
        "messaging.destination.name": stream_of(event),
        "cloudevents.event_id": event.id, "cloudevents.event_type": event.type,
        "cloudevents.event_subject": event.key, "cloudevents.event_source": event.source,
    }  # fmt: skip
    if message:
        raised = exception_of(data)
        if raised is not None:
            attributes |= {
                "exception.type": raised.type, "exception.message": raised.message,
                "exception.stacktrace": raised.traceback,
            }  # fmt: skip
        aside = {field, *(_TAKEN if level else ()), *(_EXCEPTION if raised is not None else ())}
        attributes |= {name: value for name, value in data.items() if name not in aside}
        record["body"] = {"stringValue": message}
    else:
        record["body"] = any_value(data)
    record["attributes"] = key_values(
        {name: value for name, value in attributes.items() if value not in ("", None)}
    )
    trace = _TRACEPARENT.fullmatch(event.headers.get("traceparent", ""))
    if trace is not None and int(trace[1], 16) and int(trace[2], 16):
        record |= {"traceId": trace[1], "spanId": trace[2], "flags": int(trace[3], 16)}
    return record


def any_value(value: Any) -> dict[str, Any]:
    """A value of json_view as an AnyValue in OTLP's JSON encoding."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)} if -(1 << 63) <= value < 1 << 63 else {"stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    if isinstance(value, Mapping):
        if value.keys() == {"base64"} and isinstance(value["base64"], str) and _is_base64(value["base64"]):
            return {"bytesValue": value["base64"]}
        return {"kvlistValue": {"values": key_values(value)}}
    return {"stringValue": str(value)}


def key_values(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A map as the list of KeyValue that OTLP has for it."""
    return [{"key": name, "value": any_value(value)} for name, value in values.items()]


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def export_body(records: Sequence[tuple[Resource, bytes]]) -> bytes:
    """An ExportLogsServiceRequest of records, each JSON already, by what sent them."""
    by_resource: dict[Resource, list[bytes]] = {}
    for resource, record in records:
        by_resource.setdefault(resource, []).append(record)
    parts = [
        b'{"resource":{"attributes":%s},"scopeLogs":[{"scope":{"name":"millstream"},"logRecords":[%s]}]}'
        % (json_bytes(key_values(dict(resource))), b",".join(found))
        for resource, found in by_resource.items()
    ]
    return b'{"resourceLogs":[%s]}' % b",".join(parts)


def partial_success(answer: Answer) -> tuple[int, str]:
    """How many records the receiver refused, and what it says; (0, "") if it has taken all.

    Raises:
        SinkAway: the answer is no ExportLogsServiceResponse, so it is not known.
    """
    if not answer.body.strip():
        return 0, ""
    reply = answer.json()
    partial = reply.get("partialSuccess", {}) if isinstance(reply, dict) else None
    if partial is None and isinstance(reply, dict):
        return 0, ""
    if not isinstance(partial, dict):
        not_understood(answer, "it is no ExportLogsServiceResponse")
    rejected, message = partial.get("rejectedLogRecords", 0), partial.get("errorMessage", "")
    try:
        number = int(rejected)
    except (TypeError, ValueError, OverflowError):
        not_understood(answer, f"rejectedLogRecords={rejected!r}")
    return max(number, 0), words_of(str(message))


KIND = SinkKind(
    make=Otlp,
    options=(
        Option("service", "text", None, "service.name of all records; an event's source if not said"),
        Option(
            "partial", "choice", "warn",
            "records that are refused without being named: said in the log, or found by sending halves again",
            choices=("warn", "split"),
        ),
        *HTTP_OPTIONS,
        GZIP,
    ),
)  # fmt: skip
