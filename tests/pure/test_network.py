"""What an intake makes of bytes: bodies, codings, frames, records, addresses; and never anything but what is said."""

import gzip
import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from producers.sources.network.body import records_of
from producers.sources.network.endpoint import endpoint
from producers.sources.network.frames import LineFrames, SyslogFrames
from producers.sources.network.inflate import inflated
from producers.sources.network.record import json_record, syslog_record
from producers.sources.network.refused import Refused
from producers.sources.syslog_line import FACILITIES, LEVELS

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LINES, JSON = "application/x-ndjson", "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("body", "kind", "records"),
    [
        (b'{"a": 1}', JSON, [{"a": 1}]),
        (b'[{"a": 1}, 2]', JSON, [{"a": 1}, 2]),
        (b'{"a": 1}\n\r\n{"a": 2}\r\n', LINES, [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}\n{"a": 2}', JSON, [{"a": 1}, {"a": 2}]),  # what Fluent Bit sends as format json_lines
        (b"[1]\n[2]", LINES, [[1], [2]]),
        (b'{\n"a": 1\n}', "application/vnd.x+json", [{"a": 1}]),
    ],
)
def test_a_body_is_its_records(body: bytes, kind: str, records: list[Any]) -> None:
    """Lines, an array, or one value."""
    assert records_of(body, kind) == records


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        (b'{"a": 1}\n\n{"a": }\n', LINES, 400, "line 3 is not JSON (character 7: Expecting value): {\"a\": }"),
        (b'{"a": 1}\n{"a"', JSON, 400, "line 2 is not JSON"),
        (b"{", JSON, 400, "the body is not JSON (line 1, character 2: "),
        (b'{"a": "\xff"}', LINES, 400, "line 1 is not JSON (byte 8 is not UTF-8): {\"a\": \"\\xff\"}"),
        (b'{"a": NaN}', LINES, 400, "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', JSON, 400, "a key stands there twice"),
        (b"[" * 100_000, JSON, 400, "nested too deep"),
        (b"", LINES, 400, "no events in the body"),
        (b"[]", JSON, 400, "no events in the body"),
        (b"", JSON, 400, "the body is not JSON"),
        (b"{}", "text/plain", 415, "Content-Type 'text/plain': send application/json or application/x-ndjson"),
        (b"{}", "", 415, "no Content-Type: send"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_whole_and_says_where(
    body: bytes, kind: str, status: int, why: str
) -> None:
    """Also what a browser would send to a site that did not ask for it."""
    with pytest.raises(Refused) as refused:
        records_of(body, kind)
    assert refused.value.status == status
    assert why in str(refused.value)


@given(st.binary(max_size=200), st.sampled_from([LINES, JSON]))
@example(b"[" * 200, JSON)
def test_any_body_is_records_or_refused(body: bytes, kind: str) -> None:
    """And what is taken can be written as JSON again."""
    try:
        records = records_of(body, kind)
    except Refused:
        return
    assert records and json.dumps(records)


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def bare_deflate(body: bytes) -> bytes:
    """As some take the name `deflate`."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_body_is_what_it_was(coding: str) -> None:
    """In several members or frames too, up to as much as is allowed."""
    body = b"line\n" * 10_000
    packed = CODINGS[coding](body)
    assert inflated(packed, coding.upper(), len(body)) == body
    if coding != "deflate":
        assert inflated(packed * 3, coding, 3 * len(body)) == 3 * body
    with pytest.raises(Refused, match="larger than") as refused:
        inflated(packed, coding, len(body) - 1)
    assert refused.value.status == 413
    for damaged in (packed[:-1], b"\0" + packed, packed + b"x"):
        with pytest.raises(Refused, match=f"the body is not {coding}") as refused:
            inflated(damaged, coding, 2 * len(body))
        assert refused.value.status == 400


def test_other_codings_are_named_or_left() -> None:
    """Both meanings of deflate; identity is none; brotli is not known."""
    assert inflated(bare_deflate(b"text"), "deflate", 4) == b"text"
    assert inflated(b"text", "identity", 1) == inflated(b"text", "", 1) == b"text"
    with pytest.raises(Refused, match="'br': one of gzip, deflate, zstd") as refused:
        inflated(b"text", "br", 4)
    assert refused.value.status == 415


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_refused_before_it_is_inflated(coding: str) -> None:
    """A gigabyte of zeros in a few bytes."""
    zeros = zstandard.ZstdCompressor(write_content_size=False).compressobj() if coding == "zstd" else None
    if zeros is not None:
        bomb = b"".join(zeros.compress(bytes(1 << 20)) for _ in range(1_000)) + zeros.flush()
    else:
        stream = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
        bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(100)) + stream.flush()
    with pytest.raises(Refused, match="larger than") as refused:
        inflated(bomb, coding, 1_000_000)
    assert refused.value.status == 413


@given(st.binary(max_size=300), st.sampled_from([*CODINGS, "identity"]))
def test_any_bytes_are_inflated_or_refused(body: bytes, coding: str) -> None:
    """Never another error, and never more than is allowed."""
    try:
        found = inflated(body, coding, 1_000)
    except Refused:
        return
    assert len(found) <= 1_000


def cut_up(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, the rest in one."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line)), st.lists(st.integers(1, 9)))
def test_lines_are_the_same_however_they_come(lines: list[bytes], sizes: list[int]) -> None:
    """Those that are too long are passed over and counted; empty ones are none."""
    frames = LineFrames(8)
    found = [
        line
        for piece in cut_up(b"".join(b"%b\n" % line for line in lines), sizes)
        for line in frames.feed(piece)
    ]
    assert found == [line.rstrip(b"\r") for line in lines if line.rstrip(b"\r") and len(line) <= 8]
    assert frames.too_long == sum(len(line) > 8 for line in lines)
    assert (frames.rest(), frames.cut) == (b"", False)


@given(
    st.lists(st.tuples(st.binary(max_size=12).filter(lambda text: b"\n" not in text), st.booleans())),
    st.lists(st.integers(1, 9)),
)
def test_syslog_messages_are_the_same_however_they_come(
    texts: list[tuple[bytes, bool]], sizes: list[int]
) -> None:
    """Counted or ended by a newline, mixed as one likes: `rsyslog` and `logger` may share a connection."""
    messages = [(b"<13>" + text.replace(b"\0", b"").replace(b"\r", b""), counted) for text, counted in texts]
    data = b"".join(b"%d %b" % (len(one), one) if counted else one + b"\n" for one, counted in messages)
    frames = SyslogFrames(10)
    found = [one for piece in cut_up(data, sizes) for one in frames.feed(piece)]
    assert found == [one for one, _ in messages if len(one) <= 10]
    assert frames.too_long == sum(len(one) > 10 for one, _ in messages)
    assert (frames.rest(), frames.cut) == (b"", False)


def test_what_has_begun_is_known_to_be_cut_where_that_is_known() -> None:
    """A message whose length was said; a line without its end may be whole."""
    frames = SyslogFrames(100)
    assert frames.feed(b"5 <1>ab12 <1>") == [b"<1>ab"]
    assert (frames.rest(), frames.cut) == (b"<1>", True)
    frames = SyslogFrames(100)
    assert frames.feed(b"<1>ab\n1") == [b"<1>ab"]
    assert frames.cut
    frames = SyslogFrames(100)
    assert frames.feed(b"<1>ab") == []
    assert (frames.rest(), frames.cut) == (b"<1>ab", False)


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_any_bytes_are_framed_within_bounds(pieces: list[bytes]) -> None:
    """No frame is longer than allowed, none is empty, and what is held is bounded."""
    for frames in (LineFrames(16), SyslogFrames(16)):
        for piece in pieces:
            assert all(1 <= len(one) <= 16 for one in frames.feed(piece))
            assert len(frames.rest()) <= 16


@pytest.mark.parametrize(
    ("message", "data", "time"),
    [
        (
            b"<11>1 2026-02-03T04:05:06.789+01:00 h app 7 ID1 - \xef\xbb\xbfl\xc3\xa4uft",
            {"level": "error", "facility": "user", "host": "h", "app": "app", "process": "7", "message_id": "ID1",
             "message": "läuft"},
            datetime(2026, 2, 3, 3, 5, 6, 789_000, tzinfo=UTC),
        ),
        (b"<11>1 1970-01-01T00:00:00Z h - - - - early", {"time": "1970-01-01T00:00:00Z", "message": "early"}, None),
        (b"<11>1 2100-01-01T00:00:00Z h - - - - late", {"time": "2100-01-01T00:00:00Z", "message": "late"}, None),
        (b"<11>1 2026-02-31T00:00:00Z h - - - - none", {"time": "2026-02-31T00:00:00Z", "message": "none"}, None),
        (b"<11>1 - h - - - - no time", {"message": "no time"}, None),
    ],
)  # fmt: skip
def test_a_syslog_message_is_data_and_a_time(
    message: bytes, data: dict[str, Any], time: datetime | None
) -> None:
    """A time that cannot be right stays as it was written."""
    record = syslog_record(message, NOW)
    assert record.data == record.data | data
    assert ("time" in record.data) == ("time" in data)
    assert (record.time, record.headers) == (time, None)


def test_a_time_without_a_year_is_the_last_that_may_be() -> None:
    """Up to a day ahead of ours, and else before it, in this machine's zone."""

    def year(stamp: str) -> datetime | None:
        return syslog_record(f"<13>{stamp} h a: text".encode(), NOW).time

    for ahead in (timedelta(hours=-3), timedelta(hours=20), timedelta(days=-300)):
        local = (NOW + ahead).astimezone()
        stamp = f"{local:%b} {local.day:2} {local:%H:%M:%S}"
        assert year(stamp) == local
    assert (year("Mar  4 12:00:00") or NOW).astimezone(UTC).year == 2025
    assert (year("Feb 29 12:00:00") or NOW).astimezone(UTC).year == 2024
    assert year("Feb 30 12:00:00") is None


@given(st.one_of(st.binary(), st.builds(
    lambda p, t, rest: f"<{p}>{t} {rest}".encode(),
    st.integers(0, 200),
    st.sampled_from(["1", "1 -", "1 2026-13-01T00:00:00Z", "1 9999-12-31T23:59:59-12:00", "Feb 29 25:61:00",
                     "Xyz 01 00:00:00"]),
    st.text(),
)))  # fmt: skip
def test_any_bytes_are_a_record(message: bytes) -> None:
    """Both kinds: data that says what it is, or the text and why it is no more."""
    record = syslog_record(message, NOW)
    if isinstance(record.data, dict):
        assert isinstance(record.data["message"], str)
        assert (
            record.data.get("level", "info") in LEVELS and record.data.get("facility", "user") in FACILITIES
        )
        assert record.time is None or record.time.tzinfo is not None
    else:
        assert record.headers is not None and "unparsed" in record.headers
    record = json_record(message)
    assert record.headers is None or isinstance(record.data, str) or "decoded" in record.headers


@pytest.mark.parametrize(
    ("text", "shown", "loopback"),
    [
        ("8080", "127.0.0.1:8080", True), (":0", "127.0.0.1:0", True), ("0.0.0.0:80", "0.0.0.0:80", False),
        ("[::1]:65535", "[::1]:65535", True), ("localhost:1", "localhost:1", True),
        ("logs.example:1", "logs.example:1", False),
    ],
)  # fmt: skip
def test_a_port_alone_is_this_machine_only(text: str, shown: str, loopback: bool) -> None:
    """Whoever wants more says so."""
    where = endpoint(text, "http")
    assert (str(where), where.loopback) == (shown, loopback)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "1.2.3.4:65536", "::1:80", "http://h:80", "h:-1", "[::1]80"]
)
def test_an_address_that_is_none_is_named(text: str) -> None:
    """With the option, and what would be one."""
    with pytest.raises(UsageError, match=r"^tcp='.*' is not HOST:PORT \(127"):
        endpoint(text, "tcp")
