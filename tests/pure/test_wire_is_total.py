"""Wire: whatever the bytes of an entry are, reading ends in events or in one of two errors, soon and in bounds."""

import resource
import time
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec import Codec, pack
from pipeline.errors import DecodeError, MillstreamError, UnknownFormatError
from pipeline.event import Event
from pipeline.header import MAX_TIME_MS, MIN_TIME_MS
from pipeline.limits import DEFAULT_LIMITS
from pipeline.wire import decode_entry, encode_again, encode_entry, encode_pack
from tests.pure.event_data import FLAT_DICTS, JSON_DATA, events

AT = b"1700000000000-3"
SECONDS = 2


def read(fields: list[bytes], entry_id: bytes = AT) -> type[MillstreamError] | None:
    """Read all there is to read of an entry; the kind of error it ended in, if it did."""
    began = time.thread_time()  # a busy machine is no slow input
    try:
        entry = decode_entry(entry_id, fields)
        for event in entry.events:
            _ = (event.id, event.type, event.key, event.time, event.headers, event.data, repr(event))
            assert decode_entry(b"1800000000000-0", encode_again(event), origin=entry_id).events == [event]
    except (DecodeError, UnknownFormatError) as error:
        return type(error)
    finally:
        assert time.thread_time() - began < SECONDS
    return None


def header(*elements: Any) -> bytes:
    """A header of these elements."""
    packed: bytes = msgpack.packb(elements)
    return b"\xc1" + packed


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"h", b"b", b"\xc1\x97\x01"]), max_size=8))
def test_arbitrary_fields_do_no_harm(fields: list[bytes]) -> None:
    """Names, values, too few of either."""
    read(fields)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_headers_and_bodies_do_no_harm(h: bytes, body: bytes) -> None:
    """Behind the magic byte."""
    read([b"h", b"\xc1" + h, b"b", body])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers(-(2**63), 2**64 - 1) | st.floats()
    | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300)
@given(
    st.lists(VALUES, max_size=8),
    VALUES,
    st.sampled_from([0, 1, 2]),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
)
def test_headers_and_bodies_of_wrong_types_do_no_harm(
    elements: list[Any], body: Any, kind: int, codec: int, well_begun: bool
) -> None:
    """Valid msgpack, and anything in it."""
    h = header(1, kind, codec, 0, 1, "p", 1, *elements[:5]) if well_begun else header(*elements)
    read([b"h", h, b"b", msgpack.packb(body)])


MUTATION = st.tuples(
    st.integers(0, 3),
    st.integers(0, 10_000),
    st.integers(0, 255),
    st.sampled_from(["set", "cut", "add", "drop"]),
)


@settings(max_examples=300)
@given(
    st.lists(events(JSON_DATA, ids=False), min_size=1, max_size=4),
    st.integers(0, 4),
    st.lists(MUTATION, max_size=4),
)
def test_mutated_entries_do_no_harm(
    sent: list[Event], form: int, mutations: list[tuple[int, int, int, str]]
) -> None:
    """Bytes of valid entries changed, cut, added and dropped, in names, headers and bodies."""
    if form < 2:
        fields = encode_pack(sent, producer="p", first_number=1, compress=form == 1)
    elif form < 4:
        fields = encode_entry(
            sent[0], producer="p", number=1, codec=Codec.MSGPACK if form == 2 else Codec.JSON
        )
    else:
        fields = encode_entry(Event({"a": "b"}), producer="p", number=1, codec=Codec.FIELDS)
    for which, where, byte, how in mutations:
        raw = bytearray(fields[which % len(fields)])
        at = where % (len(raw) + 1)
        if how == "set":
            raw[at : at + 1] = bytes([byte])
        elif how == "cut":
            del raw[at:]
        elif how == "add":
            raw[at:at] = bytes([byte])
        else:
            del raw[at : at + 1]
        fields[which % len(fields)] = bytes(raw)
    read(fields)


@pytest.mark.parametrize(
    "h",
    [
        header(2, 0, 1, 0, 1, "p", 1),
        header(0, 0, 1, 0, 1, "p", 1),
        header(2, {"quite": "another form"}),
        header(1, 3, 1, 0, 1, "p", 1),
        header(1, 0, 8, 0, 1, "p", 1),
        header(1, 0, 0, 0, 1, "p", 1),
        header(1, 0, 1, 2, 1, "p", 1),
        header(1, 1, 2, 0, 1, "p", 1),
        header(1, 2, 3, 0, 1, "p", 1),
        header(1, 0, 3, 1, 1, "p", 1),
        header(1, 0, 1, 0, 1, "p", 1, None, None, None, None, None, "new"),
    ],
)
def test_what_a_newer_version_may_have_written_is_an_unknown_format(h: bytes) -> None:
    """Version, kind, codec, compression, their combinations, an element more: left to a member that knows it."""
    assert read([b"h", h, b"b", b"\x01"]) is UnknownFormatError


@pytest.mark.parametrize(
    "h",
    [
        b"\xc1",
        b"\xc1\x90",
        b"\xc1\x01",
        b"\xc1\x97\x01",
        header("1", 0, 1, 0, 1, "p", 1),
        header(True, 0, 1, 0, 1, "p", 1),
        header(1.0, 0, 1, 0, 1, "p", 1),
        header(1),
        header(1, 0, 1, 0, 1, "p"),
        header(1, None, 1, 0, 1, "p", 1),
        header(1, False, 1, 0, 1, "p", 1),
        header(1, 0, 1, 0, 0, "p", 1),
        header(1, 0, 1, 0, 2, "p", 1),
        header(1, 0, 1, 0, True, "p", 1),
        header(1, 1, 1, 0, 0, "p", 1),
        header(1, 1, 1, 0, 10_001, "p", 1),
        header(1, 0, 1, 0, 1, "", 1),
        header(1, 0, 1, 0, 1, 7, 1),
        header(1, 0, 1, 0, 1, "p", -1),
        header(1, 0, 1, 0, 1, "p", "1"),
        header(1, 0, 1, 0, 1, "p", 1, 7),
        header(1, 0, 1, 0, 1, "p", 1, None, b"key"),
        header(1, 0, 1, 0, 1, "p", 1, None, None, "now"),
        header(1, 0, 1, 0, 1, "p", 1, None, None, True),
        header(1, 0, 1, 0, 1, "p", 1, None, None, MAX_TIME_MS + 1),
        header(1, 0, 1, 0, 1, "p", 1, None, None, MIN_TIME_MS - 1),
        header(1, 0, 1, 0, 1, "p", 1, None, None, None, ["a"]),
        header(1, 0, 1, 0, 1, "p", 1, None, None, None, {"a": 1}),
        header(1, 0, 1, 0, 1, "p", 1, None, None, None, {b"a": "b"}),
        header(1, 0, 1, 0, 1, "p", 1, None, None, None, None, 7),
        header(1, 1, 1, 0, 1, "p", 1, None, None, None, None, "a pack's id"),
        header(1, 0, 1, 0, 1, "p", 1)[:-1] + b"\xc1",
        header(1, 0, 1, 0, 1, "p", 1) + b"\x01",
        b"\xc1\x9b\x01\x00\x01\x00\x01\xa1p\x01\xc0\xc0\xc0\x82\xa1a\xa1b\xa1a\xa1c",
        b"\xc1\x97\x01\x00\x01\x00\x01\xa1\xff\x01",
        header(1, 0, 1, 0, 1, "p", 1, "x" * 65_536),
        b"\xc1" + b"\x91" * 60_000,
    ],
)
def test_a_header_that_is_wrong_is_a_decode_error(h: bytes) -> None:
    """Each element, its type and range; repeated headers; too long."""
    assert read([b"h", h, b"b", b"\x01"]) is DecodeError


def test_the_body_must_be_there_once() -> None:
    """None, and two."""
    h = header(1, 0, 1, 0, 1, "p", 1)
    assert read([b"h", h]) is DecodeError
    assert read([b"h", h, b"b", b"\x01", b"b", b"\x02"]) is DecodeError
    assert read([b"h", h, b"b"]) is DecodeError


def test_a_repeated_field_is_a_decode_error() -> None:
    """With codec fields, names are keys. So is a value that is not UTF-8."""
    h = header(1, 0, 3, 0, 1, "p", 1)
    assert read([b"h", h, b"a", b"1", b"a", b"2"]) is DecodeError
    assert read([b"h", h, b"a", b"\xff"]) is DecodeError


@pytest.mark.parametrize(
    ("kind", "count", "body"),
    [
        (1, 2, [1]),
        (1, 1, [1, 2]),
        (1, 1, {"a": 1}),
        (1, 1, 1),
        (2, 1, [1]),
        (2, 1, [[]]),
        (2, 1, [[1, "now"]]),
        (2, 1, [[1, MAX_TIME_MS + 1]]),
        (2, 1, [[1, True]]),
        (2, 1, [[1, None, 7]]),
        (2, 1, [[1, None, None, 7]]),
        (2, 1, [[1, None, None, None, 7]]),
        (2, 1, [[1, None, None, None, {"a": 1}]]),
        (2, 1, [[1, None, None, None, None, 6]]),
    ],
)
def test_a_pack_that_is_wrong_is_a_decode_error(kind: int, count: int, body: Any) -> None:
    """Another number of events than the header says; records of wrong types."""
    fields = [b"h", header(1, kind, 1, 0, count, "p", 1), b"b", pack(body)]
    assert read(fields) is DecodeError
    fields = [b"h", header(1, kind, 1, 1, count, "p", 1), b"b", zstandard.compress(pack(body))]
    assert read(fields) is DecodeError


def bomb(raw: bytes) -> list[bytes]:
    """An entry whose body is this, compressed."""
    return [b"h", header(1, 0, 1, 1, 1, "p", 1), b"b", zstandard.ZstdCompressor(level=19).compress(raw)]


def test_zstd_bombs_are_refused_before_they_go_off() -> None:
    """By the size and the ratio that the frame states; one that states none, or the wrong one, is refused as well."""
    too_long, too_dense = bomb(pack(b"\0" * ((16 << 20) + 1))), bomb(pack(b"\0" * (4 << 20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read(too_long) is DecodeError
    assert read(too_dense) is DecodeError
    frame = zstandard.ZstdCompressor().compressobj().compress(b"\0" * 100)
    streamed = zstandard.ZstdCompressor().compressobj()
    unsized = streamed.compress(pack("x" * 100)) + streamed.flush()
    good = bomb(pack("x" * 100))[3]
    lying = b"\x28\xb5\x2f\xfd\xa0" + (1 << 20).to_bytes(4, "little") + good[6:]
    huge = b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + good[6:]
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    for body in (
        frame,
        unsized,
        lying,
        huge,
        skipped,
        good[:-1],
        good + b"\0",
        good + good,
        b"",
        b"\x28\xb5\x2f\xfd",
    ):
        assert read([b"h", header(1, 0, 1, 1, 1, "p", 1), b"b", body]) is DecodeError
    assert read(bomb(pack("x" * 100))) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_small_bodies_may_be_of_any_ratio() -> None:
    """A million equal characters are one log line's worth of bytes, and no bomb."""
    assert read(bomb(pack("x" * 1_000_000))) is None


def test_many_small_values_are_refused_before_they_are_made() -> None:
    """16 MiB of empty lists would take 1 GB."""
    count = (16 << 20) - 5
    lists = (b"\x90\x80" * 60 + b"\xa3abc") * (count // 124)
    raw = b"\xdd" + (count // 124 * 121).to_bytes(4, "big") + lists
    body = zstandard.ZstdCompressor(level=1).compressobj(size=len(raw))
    parts = [
        body.compress(raw[at : at + 2_048]) + body.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for at in range(0, len(raw), 2_048)
    ]
    fields = [b"h", header(1, 0, 1, 1, 1, "p", 1), b"b", b"".join(parts) + body.flush()]
    assert len(raw) < 1_000 * len(fields[3])
    with pytest.raises(DecodeError, match="max_values"):
        _ = decode_entry(AT, fields).events[0].data
    assert read(fields) is DecodeError


def test_entries_that_are_too_large_are_refused() -> None:
    """Millstream's by their body, others as a whole. Their bytes are looked at no further."""
    large = b"x" * (DEFAULT_LIMITS.max_entry_bytes + 1)
    for codec in (1, 2):
        assert read([b"h", header(1, 0, codec, 0, 1, "p", 1), b"b", large]) is DecodeError
    assert read([b"h", header(1, 0, 3, 0, 1, "p", 1), b"a", large]) is DecodeError
    assert read([b"h", header(1, 1, 1, 1, 1, "p", 1), b"b", large]) is DecodeError
    assert read([b"a", large]) is DecodeError


@given(FLAT_DICTS, st.binary(max_size=30))
def test_any_entry_id_does_no_harm(data: dict[str, Any], entry_id: bytes) -> None:
    """They come from the server, or from the envelope of an entry that may be corrupt."""
    fields = encode_entry(Event(data), producer="p", number=1)
    read(fields, entry_id)
    read([b"a", b"b"], entry_id)
