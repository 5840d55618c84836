"""SingleHeaders: written in parts, a header has the bytes it has when it is written whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import Codec, encode_each, encode_flat, encode_msgpack
from pipeline.errors import EncodeError, EventTooLargeError
from pipeline.header import SINGLE, UNCOMPRESSED, SingleHeaders, write_header
from pipeline.limits import DEFAULT_LIMITS
from tests.pure.event_data import DATA, FLAT_DICTS, TEXT, TIMES_MS

PRODUCER = "0123456789abcdef"
HEADERS = SingleHeaders(PRODUCER, Codec.MSGPACK, DEFAULT_LIMITS)
NUMBERS = st.integers(1, 2**64 - 1) | st.sampled_from([127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32])


def whole(number: int, type_: str, key: str, time_ms: int | None) -> bytes:
    """The header as it is written for any event."""
    return write_header(
        SINGLE, Codec.MSGPACK, UNCOMPRESSED, 1, PRODUCER, number, type_, key, time_ms, None, "", DEFAULT_LIMITS
    )  # fmt: skip


@given(NUMBERS, TEXT, TEXT, st.none() | TIMES_MS)
def test_a_header_written_in_parts_is_the_header(
    number: int, type_: str, key: str, time_ms: int | None
) -> None:
    """Whatever it says."""
    assert HEADERS.write(number, type_, key, time_ms) == whole(number, type_, key, time_ms)


@given(NUMBERS.filter(lambda number: number < 2**64 - 300), st.integers(1, 300), TEXT, TEXT)
def test_headers_in_a_row_differ_in_their_numbers_alone(first: int, count: int, type_: str, key: str) -> None:
    """Also where the numbers grow by a byte on the way."""
    expected = [whole(number, type_, key, None) for number in range(first, first + count)]
    assert HEADERS.write_each(range(first, first + count), type_, key) == expected


@pytest.mark.parametrize(("type_", "key"), [("{}", ""), ("", "{}")], ids=["type", "key"])
def test_text_that_cannot_be_sent_is_refused(type_: str, key: str) -> None:
    """As by any other way: a lone surrogate, and what is longer than a header may be."""
    with pytest.raises(EncodeError):
        HEADERS.write(1, type_.format("\ud800"), key.format("\ud800"))
    with pytest.raises(EventTooLargeError):
        HEADERS.write(1, type_.format("x" * 70_000), key.format("x" * 70_000))


@given(st.lists(FLAT_DICTS, min_size=1, max_size=5))
def test_rows_encoded_together_have_the_bytes_of_each(rows: list[object]) -> None:
    """Each by itself, and all as one array."""
    assert encode_each(rows) == [encode_msgpack(row) for row in rows]
    assert encode_flat(rows) == encode_msgpack(rows)


@given(st.lists(DATA, min_size=1, max_size=5))
def test_rows_that_are_not_flat_are_left_to_others(rows: list[object]) -> None:
    """None, or the right bytes: never other ones."""
    together, each = encode_flat(rows), encode_each(rows)
    assert together is None or together == encode_msgpack(rows)
    assert each is None or each == [encode_msgpack(row) for row in rows]
