"""Times: each form in which loggers write one is read to the ms; what cannot be right is said."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.sources.parsers import parse_auto
from producers.sources.times import Times, Untimed, local_offset, time_auto, time_field

NOW = datetime(2026, 11, 26, 2, 28, 19, 123_000, UTC)
NOW_MS = round(NOW.timestamp() * 1_000)
HOUR_MS = 3_600_000


def plus_two(_: int) -> int:
    """The zone of these tests."""
    return 2 * HOUR_MS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-26T02:28:19.123Z", NOW_MS),
        ("2026-11-26T02:28:19.123456789Z", NOW_MS),
        ("2026-11-26 02:28:19.123 UTC and more", NOW_MS),
        ("2026-11-26T03:28:19.123+01:00", NOW_MS),
        ("2026-11-26T03:28:19.123+0100", NOW_MS),
        ("2026-11-25T21:28:19.123-05", NOW_MS),
        ("2026-11-26 04:28:19,123", NOW_MS),
        ("2026-11-26 04:28:19,123 INFO started", NOW_MS),
        ("2026/11/26 04:28:19 [error] 1#1: x", NOW_MS - 123),
        ("2026-11-26T04:28", NOW_MS - 19_123),
        ("Nov 26 04:28:19 host app: text", NOW_MS - 123),
        ("Nov 26 04:28:19.123", NOW_MS),
        ("26/Nov/2026:03:28:19 +0100", NOW_MS - 123),
        ("2026-11-26 02:28:60Z", NOW_MS - 19_123 + 60_000),
    ],
)
def test_each_form_is_read(text: str, expected: int) -> None:
    """Without a zone it is this machine's."""
    assert Times(plus_two).of_text(text, NOW_MS) == expected


@pytest.mark.parametrize(
    "text", ["", "text", "2026-11-26", "12:30:00", "Now 26 04:28:19", "20261126T022819Z"]
)
def test_what_is_no_time_is_none(text: str) -> None:
    """And no error."""
    assert Times(plus_two).of_text(text, NOW_MS) is None


@pytest.mark.parametrize("value", [1_795_660_099, 1_795_660_099.123, 1_795_660_099_123, 1_795_660_099_123_456,
                                   1_795_660_099_123_456_789, "1795660099", "1795660099.123456"])  # fmt: skip
def test_numbers_since_1970_are_told_by_their_size(value: Any) -> None:
    """Seconds, ms, us and ns."""
    found = Times(plus_two).of_value(value, NOW_MS)
    assert found is not None
    assert abs(found - 1_795_660_099_123) < 1_000


def test_a_stamp_without_a_year_is_the_latest_that_can_be() -> None:
    """In January, December is last year; the 29th of February is that of the last leap year."""
    january = round(datetime(2027, 1, 1, 0, 5, tzinfo=UTC).timestamp() * 1_000)
    times = Times(lambda _: 0)

    def of(text: str) -> datetime:
        found = times.of_text(text, january)
        assert found is not None
        return datetime.fromtimestamp(found / 1_000, UTC)

    assert of("Dec 31 23:59:59") == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert of("Jan  1 00:04:00") == datetime(2027, 1, 1, 0, 4, tzinfo=UTC)
    assert of("Jan  1 23:00:00") == datetime(2027, 1, 1, 23, tzinfo=UTC)
    assert of("Feb 29 12:00:00") == datetime(2024, 2, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"timestamp": "2026-11-26T02:28:19.123Z", "x": 1}, NOW_MS),
        ({"ts": 1_795_660_099.123}, NOW_MS),
        ({"@timestamp": "2026-11-26T02:28:19.123Z"}, NOW_MS),
        ({"time": 12, "ts": 1_795_660_099.123}, NOW_MS),  # the first is a duration
        ({"time": "12ms"}, None),
        ({"t": True}, None),
        ({"message": "2026-11-26T02:28:19.123Z"}, None),
        ("[2026-11-26 04:28:19,123] INFO x", NOW_MS),
        ("<2026-11-26 04:28:19,123> x", NOW_MS),
        ("text", None),
        (["2026-11-26T02:28:19.123Z"], None),
        (None, None),
    ],
)
def test_auto_finds_the_time_in_known_places(data: Any, expected: int | None) -> None:
    """Fields that are called so, and the beginning of a text."""
    assert time_auto(plus_two)(data, NOW_MS) == expected


@pytest.mark.parametrize(
    "line",
    [
        "Nov 26 04:28:19 web-1 sshd[812]: text",
        "<34>1 2026-11-26T02:28:19Z web-1 sshd 812 - - text",
        '10.0.0.7 - - [26/Nov/2026:02:28:19 +0000] "GET / HTTP/1.1" 200 12',
        "2026/11/26 04:28:19 [error] 12#12: *7 text",
    ],
)
def test_of_what_is_parsed_the_time_is_found(line: str) -> None:
    """In their field time."""
    data = parse_auto(line)
    assert isinstance(data, dict)
    assert time_auto(plus_two)(data, NOW_MS) == NOW_MS - 123


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"time": "1970-01-01T00:00:12Z"}, "1970-01-01T00:00:12.00:00 lies before 2000"),
        ({"ts": 12.5}, "lies before 2000"),
        ({"time": "2100-01-01T00:00:00Z"}, "2100-01-01T00:00:00.00:00 lies more than a day ahead"),
        ({"ts": 10**19}, "lies more than a day ahead"),
        ({"ts": 10**400}, "lies more than a day ahead"),
        ({"ts": float("inf")}, "lies more than a day ahead"),
        ("2026-02-30 12:00:00 x", "there is no day 2026-02-30"),
        ("2026-11-26 25:00:00 x", "there is no 25:00 o'clock"),
        ("9999-12-31 23:59:59 x", "ahead"),
        ("0000-01-01 00:00:00 x", "before 2000"),
    ],
)
def test_what_cannot_be_right_is_said(data: Any, why: str) -> None:
    """With what was claimed."""
    with pytest.raises(Untimed, match=why):
        time_auto(plus_two)(data, NOW_MS)


def test_a_named_field_must_have_a_time() -> None:
    """Also one within another."""
    of = time_field("event.created", plus_two)
    assert of({"event": {"created": "2026-11-26T02:28:19.123Z"}}, NOW_MS) == NOW_MS
    assert of({"event.created": 1_795_660_099_123}, NOW_MS) == NOW_MS
    for data, why in (
        ("text", "no field 'event.created'"),
        ({"event": {"created": "soon"}}, "'soon' is no time"),
    ):
        with pytest.raises(Untimed, match=why):
            of(data, NOW_MS)


@given(st.datetimes(datetime(2000, 1, 2), datetime(2026, 11, 26)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_iso_times_of_every_zone_come_back(moment: datetime, minutes: int) -> None:
    """To the ms."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    for text in (aware.isoformat(), aware.isoformat(" "), aware.isoformat(timespec="microseconds")):
        assert Times(plus_two).of_text(text, NOW_MS) == expected


@given(st.text(max_size=40) | st.from_regex(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", fullmatch=True)
       | st.integers() | st.floats())  # fmt: skip
def test_any_value_is_a_time_or_none_or_cannot_be_right(value: Any) -> None:
    """Nothing else comes out; and a time is one that an event may have."""
    for data in (value, {"ts": value}, {"time": value}):
        try:
            found = time_auto(local_offset)(data, NOW_MS)
        except Untimed:
            continue
        assert found is None or 946_684_800_000 <= found <= NOW_MS + 86_400_000
