"""OpenSearch: what is sent for an event, and what each item of an answer means.

Shapes of answers: https://docs.opensearch.org/latest/api-reference/document-apis/bulk/#example-response
"""

import json
from typing import Any

import pytest

from consumers.sinks.http import Answer
from consumers.sinks.opensearch import bulk_lines, check_index, document_id, log_document, read_items
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.outcome import Outcomes, Reject
from tests.http_fake import fake
from tests.sink_targets import OpenSearchLike
from tests.sinking import handed, log_events, made, received


def test_an_event_is_two_lines() -> None:
    """Created by its id, with @timestamp, which data streams demand."""
    action, document = bulk_lines(log_events([7])[0], "logs").splitlines()
    assert json.loads(action) == {"create": {"_index": "logs", "_id": "p-7"}}
    assert json.loads(document) == {
        "id": "p-7", "@timestamp": "2026-11-26T02:00:00.130Z", "type": "log", "key": "k7", "source": "shop",
        "headers": {"host": "web-1", "pid": "7"}, "message": "request 7 done", "log": {"level": "info"},
        "data": {"event": "request 7 done", "level": "info", "n": 7},
    }  # fmt: skip


def test_what_json_cannot_hold_is_shown() -> None:
    """Bytes as base64, infinity as text; a line feed stays within its line."""
    event = received(Event({"raw": b"\xff", "far": float("inf"), "text": "a\nb"}, time_ms=0), 1)
    _, document = bulk_lines(event, "logs").splitlines()
    assert json.loads(document)["data"] == {"raw": {"base64": "/w=="}, "far": "inf", "text": "a\nb"}


def test_an_index_by_date_is_that_of_the_event() -> None:
    """So that what comes again goes where it went."""
    event = received(Event(1, time_ms=1_000), 1)
    for index, expected in (
        ("logs-{date}", "logs-1970.01.01"),
        ("logs-{month}-x", "logs-1970.01-x"),
        ("{year}", "1970"),
    ):
        assert (
            json.loads(bulk_lines(event, check_index(index)).splitlines()[0])["create"]["_index"] == expected
        )


@pytest.mark.parametrize(
    "index", ["Logs", "-logs", "_logs", "lo gs", "logs/x", "logs-{day}", "logs-{", "a" * 256, "*"]
)
def test_an_index_that_cannot_be_is_refused(index: str) -> None:
    """At the start, not by each document."""
    with pytest.raises(UsageError, match="index="):
        made(f"opensearch+http://h?index={index.replace(' ', '%20')}")


def test_an_id_that_is_too_long_is_a_digest() -> None:
    """The same each time."""
    assert document_id("x" * 512) == "x" * 512
    assert document_id("ü" * 300).startswith("sha256-")
    assert document_id("ü" * 300) != document_id("ü" * 301)


def test_a_plain_event_is_a_document_too() -> None:
    """No message, no level."""
    assert log_document(received(Event("hello", time_ms=0), 3)) == {
        "id": "p-3", "@timestamp": "1970-01-01T00:00:00.000Z", "data": "hello",
    }  # fmt: skip


def answer(*items: Any, errors: bool = True) -> Answer:
    """As it comes."""
    return Answer(200, {}, json.dumps({"took": 1, "errors": errors, "items": items}).encode())


def failed(status: int, kind: str, reason: str = "because") -> dict[str, Any]:
    """An item that failed."""
    return {
        "create": {"_index": "logs", "_id": "x", "status": status, "error": {"type": kind, "reason": reason}}
    }


@pytest.mark.parametrize(
    ("item", "kind", "said"),
    [
        ({"create": {"status": 201}}, None, ""),
        (failed(409, "version_conflict_engine_exception"), None, ""),
        (failed(400, "mapper_parsing_exception"), Reject, "400: mapper_parsing_exception: because"),
        (
            failed(400, "strict_dynamic_mapping_exception"),
            Reject,
            "400: strict_dynamic_mapping_exception: because",
        ),
        (failed(429, "rejected_execution_exception"), SinkAway, "429: rejected_execution_exception: because"),
        (failed(503, "unavailable_shards_exception"), SinkAway, "503: unavailable_shards_exception: because"),
        (failed(404, "index_not_found_exception"), SinkRefused, "404: index_not_found_exception: because"),
        (failed(403, "cluster_block_exception"), SinkRefused, "403: cluster_block_exception: because"),
        (failed(400, "index_closed_exception"), SinkRefused, "400: index_closed_exception: because"),
        (failed(400, "validation_exception"), SinkRefused, "400: validation_exception: because"),
        (
            failed(400, "illegal_argument_exception", "pipeline with id [p] does not exist"),
            SinkRefused,
            "400: illegal_argument_exception: pipeline with id [p] does not exist",
        ),
        ({"create": {"status": 400}}, Reject, "400: no reason given"),
        ({"create": {"status": 400, "error": "in one\nword"}}, Reject, "400: in one word"),
    ],
)
def test_what_an_item_means(item: dict[str, Any], kind: type[Exception] | None, said: str) -> None:
    """For its event alone."""
    outcomes = Outcomes()
    read_items(answer({"create": {"status": 201}}, item, {"create": {"status": 201}}), [4, 7, 9], outcomes)
    assert set(outcomes.errors) == ({7} if kind else set())
    if kind:
        assert (type(outcomes.errors[7]), str(outcomes.errors[7])) == (kind, said)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"errors": "no"}', b'{"errors": true}', b'{"errors": true, "items": []}',
        b'{"errors": true, "items": [1]}', b'{"errors": true, "items": [{}]}',
        b'{"errors": true, "items": [{"create": {}}]}', b'{"errors": true, "items": [{"create": {"status": "x"}}]}',
        b"[" * 100_000,
    ],
    ids=lambda body: body[:40],
)  # fmt: skip
def test_an_answer_of_another_kind_is_not_taken_for_success(body: bytes) -> None:
    """What became of the documents is not known: they are sent again, and there once by their ids."""
    with pytest.raises(SinkAway, match="cannot be understood"):
        read_items(Answer(200, {}, body), [0], Outcomes())


def test_a_document_that_there_is_no_room_for_waits_alone() -> None:
    """The others of its batch are done."""
    like = OpenSearchLike(busy={"p-3"})
    with fake(like) as server:
        outcomes = handed(
            f"opensearch+http://{server.place}?index=logs-{{date}}&pipeline=geo", log_events(range(10))
        )
        assert server.requests[0].query["pipeline"] == "geo"
    assert {index: type(error) for index, error in outcomes.errors.items()} == {3: SinkAway}
    assert {index for index, _ in like.documents} == {"logs-2026.11.26"}
    assert len(like.documents) == 9


def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes: a batch of long events is several requests."""
    monkeypatch.setattr("consumers.sinks.opensearch.MAX_BODY_BYTES", 10_000)
    like = OpenSearchLike()
    with fake(like) as server:
        assert (
            handed(f"opensearch+http://{server.place}?index=a", log_events(range(100), more="x" * 500)).errors
            == {}
        )
        assert 6 <= len(server.requests) <= 12
        assert all(len(request.body) <= 10_000 for request in server.requests)
    assert len(like.documents) == 100
