"""Loki: streams, times and lines, and the labels that are refused."""

import json

import pytest

from consumers.sinks.halving import RequestRefused
from consumers.sinks.http import Answer
from consumers.sinks.loki import check_labels, line_of, push_body, pushed, time_ns
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from tests.http_fake import Reply, fake
from tests.sink_targets import LokiLike
from tests.sinking import TIME_MS, handed, log_events, made, received, rejected


def test_an_event_is_a_line_of_a_stream() -> None:
    """Data as JSON; what has many values goes along as metadata."""
    event = log_events([7])[0]
    event.headers["traceparent"] = "00-1-2-01"
    line = line_of(event, ("level", "type", "host"), "shop")
    assert dict(line.labels) == {"job": "shop", "level": "info", "type": "log", "host": "web-1"}
    assert json.loads(line.text) == {"event": "request 7 done", "level": "info", "n": 7}
    assert line.metadata == {"event_id": "p-7", "key": "k7", "traceparent": "00-1-2-01"}


def test_a_line_may_be_the_message_alone() -> None:
    """Where there is one."""
    assert line_of(log_events([7])[0], only_message=True).text == "request 7 done"
    assert line_of(received(Event({"a": 1}, time_ms=0), 1), only_message=True).text == '{"a":1}'
    assert line_of(received(Event("plain", time_ms=0), 1)).text == "plain"


def test_labels_are_of_the_event_its_headers_or_its_data() -> None:
    """One that it lacks is left out, and so is what is no scalar; long ones are cut."""
    event = received(
        Event(
            {"app": "a" * 2_000, "ok": True, "n": 3, "deep": {}, "level": "WARN"},
            time_ms=0,
            headers={"zone": "z"},
        ),
        1,
    )
    line = line_of(event, ("level", "app", "zone", "ok", "n", "deep", "none"))
    assert dict(line.labels) == {
        "job": "millstream", "level": "warning", "app": "a" * 1_024, "zone": "z", "ok": "true", "n": "3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("level,key", "'key' has a value of its own for each event"),
        ("event_id", "'event_id' has a value of its own"),
        ("1st", "'1st' is no name of a label"),
        ("a-b", "is no name of a label"),
        ("__name__", "is no name of a label"),
        ("a,a", "each once"),
        ("job", "without job"),
        (",".join(f"a{n}" for n in range(15)), "at most 14"),
    ],
)
def test_labels_that_would_be_lokis_end_are_refused(labels: str, said: str) -> None:
    """At the start."""
    with pytest.raises(UsageError, match=said):
        check_labels(labels)
    with pytest.raises(UsageError, match=said):
        made(f"loki+http://h?labels={labels}")


def test_two_events_of_one_millisecond_stay_two() -> None:
    """Alike in everything but their numbers, or their producers."""
    same = Event("tick", time_ms=TIME_MS)
    times = [time_ns(received(same, number)) for number in range(1_000)]
    assert times == sorted(set(times))
    assert {time // 1_000_000 for time in times} == {TIME_MS}
    assert time_ns(received(same, 1, "a")) != time_ns(received(same, 1, "b"))
    assert time_ns(received(same, 5)) == time_ns(received(same, 5))


def test_lines_are_sent_by_stream_in_the_order_of_their_times() -> None:
    """Also where the events were not."""
    lines = [line_of(event) for event in log_events([3, 1, 2])] + [line_of(log_events([9], level="error")[0])]
    streams = json.loads(push_body(lines))["streams"]
    assert [len(stream["values"]) for stream in streams] == [3, 1]
    assert [json.loads(value[1])["n"] for value in streams[0]["values"]] == [1, 2, 3]
    assert all(len(value) == 3 for value in streams[0]["values"])
    plain = json.loads(push_body(lines, metadata=False))["streams"]
    assert all(len(value) == 2 for value in plain[0]["values"])


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Answer(204), None, ""),
        (Answer(200), None, ""),
        (Answer(260, {}, b"ingestion is blocked until 2027"), SinkRefused, "ingestion is blocked until 2027"),
        (Answer(200, {}, b"<html>"), SinkAway, "cannot be understood"),
        (
            Answer(429, {}, b"Ingestion rate limit exceeded for user fake"),
            SinkAway,
            "429: Ingestion rate limit",
        ),
        (
            Answer(400, {}, b"error at least one label pair is required per stream\n"),
            RequestRefused,
            "at least one label",
        ),
    ],
)
def test_what_an_answer_means(reply: Answer, kind: type[Exception] | None, said: str) -> None:
    """https://grafana.com/docs/loki/latest/operations/request-validation-rate-limits/"""
    if kind is None:
        pushed(reply)
        return
    with pytest.raises(kind, match=said):
        pushed(reply)


def test_lines_that_are_refused_are_found_and_the_rest_is_there_once() -> None:
    """Loki takes what is in order of each request that it refuses, and knows it again."""
    like = LokiLike()
    events = log_events(range(60))
    events[10] = log_events([10], event="x" * 2_000)[0]
    events[50] = received(Event("old", time_ms=5), 50)
    with fake(like) as server:
        outcomes = handed(f"loki+http://{server.place}?tenant=shop", events)
        assert {request.headers["x-scope-orgid"] for request in server.requests} == {"shop"}
        assert len(server.requests) < 30
    assert list(rejected(outcomes)) == [50, 10] or list(rejected(outcomes)) == [10, 50]
    assert "Max entry size" in str(outcomes.errors[10])
    assert "too old" in str(outcomes.errors[50])
    assert len(like.lines) == 58


def test_a_tenant_that_cannot_be_is_refused() -> None:
    """It is a header."""
    with pytest.raises(UsageError, match="tenant="):
        made("loki+http://h?tenant=a%0d%0ab")


def test_a_path_of_a_proxy_stays_in_front() -> None:
    """As with Grafana's own gateway."""
    with fake(lambda _: Reply(204)) as server:
        handed(f"loki+http://{server.place}/logs/", log_events([1]))
        assert server.requests[0].path == "/logs/loki/api/v1/push"
