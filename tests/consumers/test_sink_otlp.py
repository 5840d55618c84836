"""Otlp: records, read by the protocol's own schema (opentelemetry-proto), and partial success."""

import json
import logging
from typing import Any

import pytest

from consumers.sinks.documents import json_bytes
from consumers.sinks.http import Answer
from consumers.sinks.otlp import SEVERITY, any_value, export_body, partial_success, record_of, resource_of
from pipeline.errors import SinkAway
from pipeline.event import Event
from pipeline.severity import LEVELS
from tests.http_fake import Reply, fake
from tests.sink_targets import OtlpLike, export_request
from tests.sinking import TIME_MS, handed, log_events, received, rejected

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def exported(event: Event, service: str | None = None) -> Any:
    """Its record, as a receiver reads it."""
    request = export_request(export_body([(resource_of(event, service), json_bytes(record_of(event, 5)))]))
    return request.resource_logs[0].scope_logs[0].log_records[0]


def attributes(record: Any) -> dict[str, Any]:
    """Of a record, by name."""
    return {
        kv.key: getattr(kv.value, kv.value.WhichOneof("value") or "string_value") for kv in record.attributes
    }


def test_a_log_event_is_a_record() -> None:
    """The message is its body, the level its severity, the rest attributes."""
    event = log_events([7], user="u")[0]
    event.headers["traceparent"] = f"00-{TRACE}-{SPAN}-01"
    record = exported(event)
    assert record.time_unix_nano == (TIME_MS + 7) * 1_000_000
    assert record.observed_time_unix_nano == 5
    assert (record.severity_number, record.severity_text) == (9, "INFO")
    assert record.body.string_value == "request 7 done"
    assert (record.trace_id.hex(), record.span_id.hex(), record.flags) == (TRACE, SPAN, 1)
    assert record.event_name == "log"
    assert attributes(record) == {
        "log.record.uid": "p-7", "cloudevents.event_id": "p-7", "cloudevents.event_type": "log",
        "cloudevents.event_subject": "k7", "cloudevents.event_source": "shop", "n": 7, "user": "u",
    }  # fmt: skip


def test_an_exception_has_the_names_of_the_convention() -> None:
    """https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-logs/"""
    found = {"type": "ValueError", "message": "no", "traceback": "Traceback …\nValueError: no"}
    shown = attributes(exported(log_events([1], level="error", exception=found)[0]))
    assert {name: value for name, value in shown.items() if name.startswith("exception")} == {
        "exception.type": "ValueError", "exception.message": "no", "exception.stacktrace": found["traceback"],
    }  # fmt: skip
    text = attributes(exported(log_events([1], exception="Traceback …\napp.Bad: no: really")[0]))
    assert (text["exception.type"], text["exception.message"]) == ("app.Bad", "no: really")


def test_an_event_that_is_no_log_line_has_its_data_as_body() -> None:
    """Of any shape."""
    data = {
        "s": "ü", "i": -3, "big": 2**63, "f": 1.5, "yes": True, "none": None, "list": [1, "a", [2]],
        "map": {"a": {"b": 1}},
        "raw": b"\xff\x00", "far": float("inf"),
    }  # fmt: skip
    body = exported(received(Event(data, time_ms=0), 1)).body.kvlist_value
    values = {kv.key: kv.value for kv in body.values}
    assert (values["s"].string_value, values["i"].int_value, values["big"].string_value) == (
        "ü",
        -3,
        str(2**63),
    )
    assert (values["f"].double_value, values["yes"].bool_value, values["far"].string_value) == (
        1.5,
        True,
        "inf",
    )
    assert values["none"].WhichOneof("value") is None
    assert [v.int_value for v in values["list"].array_value.values] == [1, 0, 0]
    assert values["map"].kvlist_value.values[0].value.kvlist_value.values[0].value.int_value == 1
    assert values["raw"].bytes_value == b"\xff\x00"
    assert exported(received(Event("text", time_ms=0), 1)).body.string_value == "text"
    assert exported(received(Event(None, time_ms=-5), 1)).time_unix_nano == 0


@pytest.mark.parametrize(
    "trace",
    [
        "",
        "00-1-2-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        "x" * 500,
    ],
)
def test_a_traceparent_that_is_none_is_left_out(trace: str) -> None:
    """https://www.w3.org/TR/trace-context/#traceparent-header"""
    event = log_events([1])[0]
    event.headers["traceparent"] = trace
    assert exported(event).trace_id == b""


def test_records_are_sent_by_what_sent_them() -> None:
    """service.name is the option, else the source."""
    like = OtlpLike()
    other = received(Event("x", time_ms=0), 5)
    with fake(like) as server:
        handed(f"otlp+http://{server.place}", [*log_events(range(3)), other])
        handed(f"otlp+http://{server.place}?service=web", [other])
    assert like.resources == [
        {"service.name": "shop", "host.name": "web-1", "process.pid": "7"},
        {"service.name": "millstream"},
        {"service.name": "web"},
    ]
    assert len(like.records) == 5


def test_every_level_has_a_severity() -> None:
    """Greater for worse."""
    assert list(SEVERITY) == list(LEVELS)
    assert list(SEVERITY.values()) == sorted(SEVERITY.values())


def test_what_looks_like_bytes_and_is_not_stays_a_map() -> None:
    """A user's own {"base64": …}."""
    assert any_value({"base64": "no base64!"}) == {
        "kvlistValue": {"values": [{"key": "base64", "value": {"stringValue": "no base64!"}}]}
    }


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ("", (0, "")),
        ("{}", (0, "")),
        ('{"partialSuccess": null}', (0, "")),
        ('{"partialSuccess": {}}', (0, "")),
        ('{"partialSuccess": {"errorMessage": "use gzip"}}', (0, "use gzip")),
        ('{"partialSuccess": {"rejectedLogRecords": "3", "errorMessage": "too\\nlong"}}', (3, "too long")),
        ('{"partialSuccess": {"rejectedLogRecords": 3}}', (3, "")),
    ],
)
def test_partial_success_is_understood(body: str, refused: tuple[int, str]) -> None:
    """64-bit numbers may be text: https://opentelemetry.io/docs/specs/otlp/#partial-success-1"""
    assert partial_success(Answer(200, {}, body.encode())) == refused


@pytest.mark.parametrize(
    "body", ["[]", "3", '{"partialSuccess": 3}', '{"partialSuccess": {"rejectedLogRecords": "x"}}']
)
def test_an_answer_of_another_kind_is_not_taken_for_success(body: str) -> None:
    """Nor protobuf's bytes."""
    with pytest.raises(SinkAway, match="cannot be understood"):
        partial_success(Answer(200, {}, body.encode()))


def test_refused_records_without_names_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """partial=warn, the default: nothing is sent again, as the specification wants it."""
    like = OtlpLike()
    events = log_events(range(10))
    events[4] = log_events([4], event="poison")[0]
    with fake(like) as server, caplog.at_level(logging.WARNING, "millstream.sink"):
        assert handed(f"otlp+http://{server.place}", events).errors == {}
        assert len(server.requests) == 1
    assert "refused=1 of=10 said='poison is not accepted'" in caplog.text
    assert len(like.records) == 9


def test_a_request_of_which_all_is_refused_is_dead_letters() -> None:
    """There is no doubt which: also with partial=warn."""
    with fake(OtlpLike()) as server:
        outcomes = handed(f"otlp+http://{server.place}", [log_events([1], event="poison")[0]])
    assert rejected(outcomes) == {0: "poison is not accepted"}


def test_a_hint_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    """A receiver may warn although it has taken all."""
    reply = Reply(200, json.dumps({"partialSuccess": {"errorMessage": "deprecated"}}))
    with fake(lambda _: reply) as server, caplog.at_level(logging.WARNING, "millstream.sink"):
        assert handed(f"otlp+http://{server.place}", log_events([1])).errors == {}
    assert "said='deprecated'" in caplog.text
