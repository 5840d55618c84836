"""Event: what an application makes and a handler gets; and CloudEvents of it, both ways."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from pipeline.errors import DecodeError, EncodeError, UsageError
from pipeline.event import Event
from pipeline.wire import decode_entry, encode_entry
from tests.pure.event_data import JSON_DATA, events, identical

NOON = datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)


def test_an_event_holds_what_it_was_given() -> None:
    """Time to the ms, source as a header."""
    east = NOON.astimezone(timezone(timedelta(hours=2)))
    event = Event({"a": 1}, type="t", key="k", id="i", time=east, headers={"x": "y"}, source="/shop")
    assert (event.data, event.type, event.key, event.id, event.source) == ({"a": 1}, "t", "k", "i", "/shop")
    assert event.time == NOON.replace(microsecond=123_000)
    assert event.time.tzinfo is UTC
    assert event.time_ms == int(NOON.timestamp() * 1_000)
    assert event.headers == {"x": "y", "source": "/shop"}
    assert repr(event) == "Event({'a': 1}, type='t', key='k', id='i')"


def test_an_event_without_anything_is_empty() -> None:
    """It has an id and a time when it is sent."""
    event = Event()
    assert (event.data, event.type, event.key, event.id, event.source, event.headers) == (
        None,
        "",
        "",
        "",
        "",
        {},
    )
    assert event.known_time_ms is None
    with pytest.raises(UsageError, match="it has one when it is sent"):
        _ = event.time_ms


def test_the_headers_of_an_event_are_its_own() -> None:
    """The caller's dict is not kept."""
    given = {"a": "b"}
    event = Event(headers=given, source="/s")
    event.headers["a"] = "c"
    assert given == {"a": "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"type": 7}, "type=7: an event's type is text"),
        ({"key": 7}, "key=7: an event's key is text"),
        ({"id": 7}, "id=7: an event's id is text"),
        ({"source": b"x"}, "source=b'x': an event's source is text"),
        ({"time": datetime(2026, 1, 1)}, "a datetime with a zone"),  # noqa: DTZ001
        ({"time": 7}, "time=7: a datetime with a zone"),
        ({"time_ms": 1.5}, "time_ms=1.5: an int"),
        ({"time_ms": True}, "time_ms=True: an int"),
        ({"time_ms": 10**15}, "outside the years 1 to 9999"),
        ({"time_ms": 1, "time": NOON}, "either time or time_ms"),
        ({"headers": {"a": 1}}, r"headers\['a'\]=1: names and values of headers are text"),
        ({"headers": {1: "a"}}, r"headers\[1\]='a': names and values of headers are text"),
    ],
)
def test_arguments_of_wrong_types_are_refused_where_they_are_given(
    arguments: dict[str, Any], message: str
) -> None:
    """And not when the event is sent, elsewhere and later."""
    with pytest.raises(UsageError, match=message):
        Event(1, **arguments)


@given(events())
def test_events_are_equal_by_content(event: Event) -> None:
    """Any other data, id, type, key, time or header makes another event."""
    parts: dict[str, Any] = {
        "data": event.data, "id": event.id, "type": event.type, "key": event.key, "time_ms": event.known_time_ms,
        "headers": event.headers,
    }  # fmt: skip
    assert Event(**parts) == event
    others = {
        "data": [event.data],
        "headers": {**event.headers, "other": "x"},
        "time_ms": (event.known_time_ms or 0) // 2 + 7,
    }
    for name in parts:
        assert Event(**{**parts, name: others.get(name, f"{parts[name]}x")}) != event
    assert event != event.data


def test_a_long_event_is_shown_in_part() -> None:
    """A log line about an event is a line."""
    assert len(repr(Event("x" * 10_000, type="t"))) < 150


@given(events(JSON_DATA))
def test_a_cloudevent_of_an_event_is_the_event(sent: Event) -> None:
    """Through JSON and back: id, type, subject, time, headers and data."""
    (event,) = decode_entry(b"1700000000000-3", encode_entry(sent, producer="p", number=1)).events
    cloudevent = json.loads(json.dumps(event.to_cloudevent()))
    assert cloudevent["specversion"] == "1.0"
    assert all(cloudevent[name] for name in ("id", "source", "type"))
    assert all((name.isascii() and name == name.lower()) or name == "data_base64" for name in cloudevent)
    back = Event.from_cloudevent(cloudevent)
    if not event.source:
        assert back.headers.pop("source") == "millstream"
        event.headers.pop("source", None)
    if event.type == "event":
        event.type = ""
    assert back == event
    assert identical(back.data, event.data)


def test_a_cloudevent_says_what_the_event_says() -> None:
    """Extension attributes are headers; names CloudEvents does not allow are kept in one of our own."""
    event = Event(
        {"n": Decimal("1.5")}, id="7", type="order.placed", key="customer-7", time=NOON, source="/shop",
        headers={"traceparent": "00-ab-cd-01", "X-Tenant": "a", "id": "b"},
    )  # fmt: skip
    assert event.to_cloudevent() == {
        "specversion": "1.0",
        "id": "7",
        "source": "/shop",
        "type": "order.placed",
        "subject": "customer-7",
        "time": "2026-11-23T12:00:00.123000Z",
        "traceparent": "00-ab-cd-01",
        "millstreamheaders": '{"X-Tenant": "a", "id": "b"}',
        "datacontenttype": "application/json",
        "data": {"n": "1.5"},
    }


def test_bytes_are_the_base64_data_of_a_cloudevent() -> None:
    """On their own; among other data JSON has no place for them."""
    event = Event(b"\xff\x00", id="7", headers={"datacontenttype": "image/png"})
    cloudevent = event.to_cloudevent(source="/camera")
    assert cloudevent["data_base64"] == "/wA="
    assert (cloudevent["datacontenttype"], cloudevent["source"], cloudevent["type"]) == (
        "image/png",
        "/camera",
        "event",
    )
    back = Event.from_cloudevent(cloudevent)
    assert (back.data, back.headers) == (b"\xff\x00", {"datacontenttype": "image/png", "source": "/camera"})
    with pytest.raises(EncodeError, match=r"data\['a'\]: bytes cannot be sent"):
        Event({"a": b"x"}, id="7").to_cloudevent()


def test_an_event_without_an_id_is_no_cloudevent_yet() -> None:
    """It gets one when it is sent."""
    with pytest.raises(UsageError, match="has no id"):
        Event(1).to_cloudevent()


GOOD = {"specversion": "1.0", "id": "7", "source": "/s", "type": "t"}


def test_cloudevents_of_others_are_read() -> None:
    """Attributes of any type they may have; times with and without a zone."""
    event = Event.from_cloudevent(
        {
            **GOOD,
            "time": "2026-11-23T14:00:00+02:00",
            "data": "<a/>",
            "datacontenttype": "text/xml",
            "n": 7,
            "b": True,
            "x": None,
        }
    )
    assert (event.id, event.type, event.key, event.data) == ("7", "t", "", "<a/>")
    assert event.time == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert event.headers == {"source": "/s", "datacontenttype": "text/xml", "n": "7", "b": "true"}
    assert Event.from_cloudevent(GOOD).known_time_ms is None
    assert Event.from_cloudevent({**GOOD, "time": "2026-11-23T14:00:00"}).time.hour == 14


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        {},
        {**GOOD, "specversion": "0.3"},
        {**GOOD, "specversion": 1},
        {**GOOD, "id": ""},
        {**GOOD, "id": 7},
        {**GOOD, "source": None},
        {**GOOD, "type": ""},
        {**GOOD, "subject": 7},
        {**GOOD, "time": "noon"},
        {**GOOD, "time": 7},
        {**GOOD, "time": "0001-01-01T00:00:00+10:00"},
        {**GOOD, "data": 1, "data_base64": "AA=="},
        {**GOOD, "data_base64": "?"},
        {**GOOD, "data_base64": 7},
        {**GOOD, "extra": {"a": 1}},
        {**GOOD, "millstreamheaders": "{"},
        {**GOOD, "millstreamheaders": "[" * 100_000},
        {**GOOD, "millstreamheaders": '{"a": 1}'},
        {**GOOD, "millstreamheaders": 7},
    ],
)
def test_what_is_no_cloudevent_is_a_decode_error(wrong: Any) -> None:
    """Missing and wrong attributes, each by its name."""
    with pytest.raises(DecodeError):
        Event.from_cloudevent(wrong)
