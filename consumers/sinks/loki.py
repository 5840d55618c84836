"""Loki: a batch handler that pushes events as log lines into Grafana Loki.

Labels are few and of few values, as each set of values is a stream of its own: `labels=` names them, ids and keys are
refused there and go along as structured metadata (Loki 2.9 and up; metadata=no for older ones). The lines of a stream
are sent in the order of their times.

Loki takes two lines of one stream with the same time and text for one, so an event that comes again is there once; and
so that two events of one millisecond stay two, the nanoseconds below it are made of the producer's number for the
event, and of the names of stream and producer. Of a request that it refuses (400: a line too old, too long, too far
behind) Loki has taken the lines that are in order; the others are found by halves, and are dead letters. Sources:
https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs,
https://grafana.com/docs/loki/latest/get-started/labels/,
https://grafana.com/docs/loki/latest/get-started/overview/ (duplicates),
https://grafana.com/docs/loki/latest/operations/request-validation-rate-limits/
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumers.sinks.documents import in_requests, json_bytes, json_text, made_of
from consumers.sinks.event_rows import stream_of
from consumers.sinks.halving import Halving
from consumers.sinks.http import GZIP, HTTP_OPTIONS, Answer, Http, not_understood, taken, with_query
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import Option, SinkUrl
from pipeline.errors import SinkRefused, UsageError
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.outcome import Outcomes
from pipeline.severity import level_of, message_of

PORT = 3100
MAX_LABELS = 15
"""Loki's own limit of names in a stream (max_label_names_per_series)."""
MAX_LABEL_VALUE = 1_024
"""In characters; Loki's own limit is 2,048 (max_label_value_length)."""
MAX_BODY_BYTES = 3_000_000
"""Lines of one request: with their labels below the 4 MiB that Loki's servers take from one another."""
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
_UNBOUNDED = ("id", "event_id", "key", "time", "trace_id", "traceparent")
"""Of these there are as many values as events: a stream for each would be Loki's end."""


@dataclass(frozen=True, slots=True)
class Line:
    """An event as Loki keeps it."""

    labels: tuple[tuple[str, str], ...]
    time_ns: int
    text: str
    metadata: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.text.encode()) + 300


class Loki:
    """Pushes each event as a line; see the text of this module."""

    def __init__(self, url: SinkUrl) -> None:
        """As `loki+http://host:3100/?labels=level,type,host&job=shop` says.

        Raises:
            UsageError: labels that cannot be.
        """
        options = url.options
        self._labels = check_labels(options["labels"])
        self._job = options["job"]
        self._only_message = options["line"] == "message"
        self._metadata = options["metadata"]
        headers = {"X-Scope-OrgID": _tenant(options["tenant"])} if options["tenant"] is not None else {}
        self._path = with_query(url.path.rstrip("/") + "/loki/api/v1/push", {})
        self._http = Http(url, PORT, headers=headers)
        self._send = Halving()

    def __call__(self, events: list[Event]) -> Outcomes:
        """Push the lines; those that Loki will not have are rejected."""
        lines, outcomes = made_of(events, self._line)

        def send(part: Sequence[int]) -> None:
            body = push_body([lines[index] for index in part], metadata=self._metadata)
            pushed(self._http.post(self._path, body, "application/json"))

        self._send(in_requests(lines, MAX_BODY_BYTES), send, outcomes)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _line(self, event: Event) -> Line:
        return line_of(event, self._labels, self._job, only_message=self._only_message)


def check_labels(text: str) -> tuple[str, ...]:
    """The names of labels, from text with commas between them.

    Raises:
        UsageError: a name Loki does not take, one of which each event has its own value, or too many.
    """
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            raise UsageError(f"labels: {name!r} is no name of a label: letters, digits and _")
        if name in _UNBOUNDED:
            raise UsageError(
                f"labels: {name!r} has a value of its own for each event, and each would be a stream of Loki's: it "
                "goes along as structured metadata"
            )
    if len(set(names)) < len(names) or "job" in names or len(names) >= MAX_LABELS:
        raise UsageError(
            f"labels={text!r}: each once, without job (which is an option), at most {MAX_LABELS - 1}"
        )
    return names


def _tenant(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!._*'()-]{1,150}", text):
        raise UsageError(f"tenant={text!r}: letters, digits and !._*'()-, up to 150")
    return text


def line_of(event: Event, labels: Sequence[str] = ("level", "type"), job: str = "millstream", *,
            only_message: bool = False) -> Line:  # fmt: skip
    """An event as a line: what a log event says, if only_message and it says something, else its data as JSON."""
    data = json_view(event.data)
    text = message_of(data)[0] if only_message else ""
    if not text:
        text = data if isinstance(data, str) else json_text(data)
    values = {"job": job} | {name: _value(event, data, name) for name in labels}
    named = tuple(sorted((name, value[:MAX_LABEL_VALUE]) for name, value in values.items() if value))
    metadata = {"event_id": event.id, "stream": stream_of(event), "key": event.key}
    if trace := event.headers.get("traceparent", ""):
        metadata["traceparent"] = trace
    return Line(
        named, time_ns(event), text, {name: _sendable(value) for name, value in metadata.items() if value}
    )


def time_ns(event: Event) -> int:
    """When it happened, in ns: the millisecond it is known by, and below it a number that is the event's own.

    The same each time the event comes; in the order in which one producer sent what it sent in a millisecond.
    """
    number = event.number
    if not event.producer:
        number = zlib.crc32(event.id.encode("utf-8", "replace"))
    return (
        event.time_ms * 1_000_000
        + number % 1_000 * 1_000
        + zlib.crc32(f"{stream_of(event)}:{event.producer}".encode()) % 1_000
    )


def _value(event: Event, data: Any, name: str) -> str:
    """The value of a label: the event's own, else of its headers, else of its data."""
    if name == "level":
        return level_of(data)
    if name in ("type", "source", "stream"):
        return _sendable({"type": event.type, "source": event.source, "stream": stream_of(event)}[name])
    value: Any = event.headers.get(name)
    if value is None and isinstance(data, dict):
        value = data.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    return _sendable(str(value)) if isinstance(value, str | int) else ""


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def push_body(lines: Sequence[Line], *, metadata: bool = True) -> bytes:
    """The body of a push: lines by stream, in the order of their times."""
    streams: dict[tuple[tuple[str, str], ...], list[Line]] = {}
    for line in lines:
        streams.setdefault(line.labels, []).append(line)
    return json_bytes(
        {
            "streams": [
                {
                    "stream": dict(labels),
                    "values": [
                        [str(line.time_ns), line.text, *([line.metadata] if metadata else [])]
                        for line in sorted(found, key=lambda line: line.time_ns)
                    ],
                }
                for labels, found in streams.items()
            ]
        }
    )


def pushed(answer: Answer) -> None:
    """Return if Loki has taken the lines.

    Raises:
        RequestRefused, RequestFailed, SinkAway, SinkRefused: it has not, or has not all, or it is not known.
    """
    if answer.status == 260:  # block_ingestion_status_code, of which 260 is the default
        raise SinkRefused(f"it is told to take nothing from us: {answer.words}")
    taken(answer)
    if answer.body.strip():
        not_understood(answer, "Loki answers a push with nothing")


KIND = SinkKind(
    make=Loki,
    options=(
        Option("labels", "text", "level,type,host", "labels, of the event, its headers or its data"),
        Option("job", "text", "millstream", "the label job"),
        Option(
            "line", "choice", "json", "the data as JSON, or only the message of a log event",
            choices=("json", "message"),
        ),
        Option("metadata", "flag", "yes", "event id, key and traceparent as structured metadata (Loki 2.9)"),
        Option("tenant", "text", None, "tenant of a Loki that has several (X-Scope-OrgID)"),
        *HTTP_OPTIONS,
        GZIP,
    ),
    batch_events=1_000,
)  # fmt: skip
