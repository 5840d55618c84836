"""Codecs: what is sent comes back, what cannot come back is refused, and no bytes do harm."""

import enum
import time
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import Codec, array_of, decode_items, decode_msgpack, encode_msgpack
from pipeline.errors import DecodeError, EncodeError, UsageError
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.text_codecs import decode_fields, decode_foreign, decode_json, encode_fields, encode_json
from tests.pure.event_data import DATA, FLAT_DICTS, JSON_DATA, as_read, identical


@given(DATA)
def test_msgpack_gives_back_what_was_sent(data: Any) -> None:
    """Every type of data, nested; only the zone of a time becomes UTC."""
    assert identical(decode_msgpack(encode_msgpack(data)), as_read(data))


@given(JSON_DATA)
def test_json_gives_back_what_json_has(data: Any) -> None:
    """Dicts, lists, text, numbers, booleans and None."""
    assert identical(decode_json(encode_json(data)), data)


@given(FLAT_DICTS)
def test_fields_give_back_text(data: dict[str, Any]) -> None:
    """Text as it is, everything else as its JSON."""
    back = decode_fields(encode_fields(data))
    assert list(back) == list(data)
    for name, value in data.items():
        assert (
            back[name] == value
            if isinstance(value, str)
            else identical(decode_json(back[name].encode()), value)
        )


@given(st.lists(DATA, max_size=5))
def test_an_array_of_packed_values_is_the_array_of_the_values(items: list[Any]) -> None:
    """A pack's body is put together from events that are encoded already."""
    assert array_of([encode_msgpack(item) for item in items]) == encode_msgpack(items)


@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
def test_arrays_of_any_length_begin_as_msgpack_says(count: int) -> None:
    """The three lengths of an array's header."""
    assert array_of([b"\x00"] * count) == msgpack.packb([0] * count)


class Color(enum.StrEnum):
    """Text that is an Enum."""

    RED = "red"


class Size(enum.IntEnum):
    """An int that is an Enum."""

    BIG = 3


class Shade(enum.Enum):
    """An Enum that is neither."""

    DARK = "dark"


@dataclass
class Address:
    """A dataclass within another."""

    city: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Customer:
    """A dataclass."""

    id: int
    address: Address
    tags: tuple[str, ...] = ()


class Model:
    """What pydantic's models offer."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def model_dump(self) -> dict[str, Any]:
        """The model's fields."""
        return self._values


class BrokenModel:
    """A model that cannot be read."""

    def model_dump(self) -> dict[str, Any]:
        """Always fails."""
        raise RuntimeError("no database")


Point = namedtuple("Point", "x y")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "read"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Point(1, 2), [1, 2]),
        ({"a": Color.RED, "b": Size.BIG, Color.RED: 1}, {"a": "red", "b": 3, "red": 1}),
        ({Color.RED: 1}, {"red": 1}),
        (bytearray(b"xy"), b"xy"),
        (memoryview(b"xy"), b"xy"),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        (
            Customer(7, Address("Ulm", NOON), ("new",)),
            {"id": 7, "address": {"city": "Ulm", "since": NOON}, "tags": ["new"]},
        ),
        (Model(id=7, inner=Model(tags=("a",))), {"id": 7, "inner": {"tags": ["a"]}}),
        ([Model(id=1)], [{"id": 1}]),
    ],
)
def test_what_stands_for_plain_data_is_sent_as_it(data: Any, read: Any) -> None:
    """Tuples, subclasses, dataclasses and models, also within one another; only in msgpack bytes stay bytes."""
    assert identical(decode_msgpack(encode_msgpack(data)), read)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: Any = 1
for _ in range(33):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"user": {1, 2}}, "data['user']: a set cannot be sent; send a list"),
        ({"a": [0, {"b": frozenset()}]}, "data['a'][1]['b']: a frozenset cannot be sent; send a list"),
        (deque([1]), "data: a deque cannot be sent; send a list"),
        (
            {"day": date(2026, 1, 1)},
            "data['day']: a date cannot be sent; send a datetime, or its isoformat()",
        ),
        ({"for": timedelta(1)}, "data['for']: a timedelta cannot be sent; send its total_seconds()"),
        ({"shade": Shade.DARK}, "data['shade']: a Shade (an Enum) cannot be sent; send its value"),
        ({"o": object()}, "data['o']: an object cannot be sent; data is made of dict, list, str"),
        ({"kind": Customer}, "data['kind']: a type cannot be sent; data is made of"),
        ({"c": Customer(1, Address("x", {1}))}, "data['c'].address.since: a set cannot be sent"),  # type: ignore[arg-type]
        ({"m": BrokenModel()}, "data['m']: a BrokenModel cannot be sent (RuntimeError: no database)"),
        ({"a": {1: 2}}, "data['a']: the key 1 is an int; keys are text"),
        ({"a": {b"k": 2}}, "data['a']: the key b'k' is a bytes; keys are text"),
        ({"a": {"\ud800": 2}}, "data['a']: the key '\\ud800' is not valid Unicode"),
        ([2**64], "data[0]: the int has 65 bits; 64 can be sent"),
        ([-(2**63) - 1], "data[0]: the int has 64 bits; 64 can be sent (from -2**63 to 2**64-1)"),
        (["\ud800"], "data[0]: the text is not valid Unicode (a lone surrogate)"),
        ([Decimal("sNaN")], "data[0]: a signaling NaN cannot be sent"),
        (
            [datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))],
            "lies outside the years 1 to 9999 in UTC",
        ),
        (
            [datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))],
            "lies outside the years 1 to 9999 in UTC",
        ),
        (CYCLE, "nested too deep: at most 32 dicts and lists within one another"),
        (DEEP, "nested too deep: at most 32 dicts and lists within one another"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_place(data: Any, message: str) -> None:
    """The innermost place that is at fault, its type, and what to send instead; the encoder works on afterwards."""
    with pytest.raises(EncodeError) as refusal:
        encode_msgpack(data)
    assert message in str(refusal.value)
    assert decode_msgpack(encode_msgpack({"a": 1})) == {"a": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": b"x"}, "data['a']: bytes cannot be sent as JSON or as fields"),
        ({"a": [float("nan")]}, "data['a'][0]: nan cannot be sent as JSON"),
        ({"a": float("-inf")}, "data['a']: -inf cannot be sent as JSON"),
        ({"a": 2**64}, "data['a']: the int has 65 bits"),
        ({"a": "\ud800"}, "data['a']: the text is not valid Unicode"),
        ({"a": {1: 1}}, "data['a']: the key 1 is an int"),
        (DEEP, "nested too deep"),
    ],
)
def test_what_json_does_not_have_is_refused(data: dict[str, Any], message: str) -> None:
    """JSON and fields refuse the same, by its place."""
    for encode in (encode_json, encode_fields):
        with pytest.raises(EncodeError) as refusal:
            encode(data)
        assert message in str(refusal.value)


def test_times_decimals_and_uuids_are_text_in_json() -> None:
    """In fields too, and there without quotes."""
    data = {"t": NOON, "d": Decimal("1.50"), "u": UUID(int=7), "l": [Decimal(1)]}
    text = {
        "t": "2026-11-23T12:00:00+00:00",
        "d": "1.50",
        "u": "00000000-0000-0000-0000-000000000007",
        "l": ["1"],
    }
    assert decode_json(encode_json(data)) == text
    assert decode_fields(encode_fields(data)) == {**text, "l": '["1"]'}


def test_fields_hold_a_dict_and_nothing_else() -> None:
    """A list has no names."""
    with pytest.raises(EncodeError, match="codec=fields sends a dict, not list"):
        encode_fields([1])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_msgpack_carries_nan_and_infinity(number: float) -> None:
    """They are floats of the application, and msgpack has them."""
    assert identical(decode_msgpack(encode_msgpack({"a": number})), {"a": number})


@pytest.mark.parametrize("depth", [31, 32])
def test_data_is_nested_up_to_the_limit(depth: int) -> None:
    """32 containers within one another, written and read."""
    data: Any = 1
    for _ in range(depth):
        data = [data]
    assert decode_msgpack(encode_msgpack(data)) == data
    assert decode_json(encode_json(data)) == data


DUPLICATES = {
    "flat": b"\x82\xa1a\x01\xa1a\x02",
    "more than fixmap holds": b"\xde\x00\x5f"
    + b"".join(msgpack.packb(f"{min(i, 93)}") + b"\x01" for i in range(95)),
    "nested": b"\x81\xa1b\x82\xa1a\x01\xa1a\x02",
    "in a list": b"\x91\x82\xa1a\x01\xa1a\x02",
    "in other forms": b"\x82\xa1a\x01\xd9\x01a\x02",
}


@pytest.mark.parametrize("raw", DUPLICATES.values(), ids=DUPLICATES)
def test_a_repeated_key_is_refused(raw: bytes) -> None:
    """Two readers might see two values. msgpack itself takes the last."""
    with pytest.raises(DecodeError, match="same key twice"):
        decode_msgpack(raw)


def test_longer_forms_of_other_writers_are_read() -> None:
    """str32 for a letter, map32 for one pair, float32: valid msgpack, if not what Millstream writes."""
    raw = (
        b"\xdf\x00\x00\x00\x02"
        b"\xdb\x00\x00\x00\x01a"
        b"\xd3" + (1).to_bytes(8, "big") + b"\xa1f\xca\x3f\x80\x00\x00"
    )
    assert decode_msgpack(raw) == {"a": 1, "f": 1.0}


BAD_MSGPACK = {
    "nothing": b"",
    "more behind it": b"\x01\x01",
    "cut off": b"\x82\xa1a\x01",
    "never used byte": b"\xc1",
    "not UTF-8": b"\xa1\xff",
    "a lone surrogate": b"\xa3\xed\xa0\x80",
    "int key": b"\x81\x01\x01",
    "bytes key": b"\x81\xc4\x01a\x01",
    "bytes key, nested": b"\x91\x81\xc4\x01a\x01",
    "nil key": b"\x81\xc0\x01",
    "list key": b"\x81\x90\x01",
    "unknown ext": b"\xd4\x63a",
    "a UUID too short": b"\xd4\x03a",
    "a Decimal that is none": b"\xd6\x02abcd",
    "a Decimal with an underscore": b"\xd6\x021_00",
    "a signaling NaN": b"\xd6\x02sNaN",
    "a Decimal out of range": b"\xc7\x18\x021E+" + b"9" * 21,
    "a local time too short": b"\xd6\x01abcd",
    "a local time out of range": b"\xd7\x01\x7f" + b"\xff" * 7,
    "a timestamp out of range": b"\xc7\x0c\xff\x00\x00\x00\x00\x7f" + b"\xff" * 7,
    "a timestamp of too many ns": b"\xc7\x0c\xff" + b"\xff" * 4 + b"\x00" * 8,
    "a timestamp of odd length": b"\xc7\x05\xffabcde",
    "33 deep": b"\x91" * 33 + b"\x01",
    "1,000 deep": b"\x91" * 1_000 + b"\x01",
    "a million deep": b"\x91" * 1_000_000 + b"\x01",
    "maps a million deep": b"\x81\xa1a" * 330_000 + b"\x01",
    "an array of 2**31": b"\xdd\x80\x00\x00\x00",
    "arrays that claim a million, within one another": (b"\xdd\x00\x0f\x00\x00" * 1_000).ljust(
        1 << 20, b"\x00"
    ),
    "a map of 2**31": b"\xdf\x80\x00\x00\x00",
    "text of 4 GB": b"\xdb\xff\xff\xff\xff",
}


@pytest.mark.parametrize("raw", BAD_MSGPACK.values(), ids=BAD_MSGPACK)
def test_corrupt_msgpack_is_a_decode_error_soon(raw: bytes) -> None:
    """Within 2 s, a million bytes of it."""
    began = time.perf_counter()
    with pytest.raises(DecodeError):
        decode_msgpack(raw)
    assert time.perf_counter() - began < 2


BAD_JSON = {
    "nothing": b"",
    "not UTF-8": b'"\xff"',
    "a byte order mark": b"\xef\xbb\xbf1",
    "NaN": b"[NaN]",
    "infinity": b"-Infinity",
    "a number out of range": b"1e400",
    "a number of 5,000 digits": b"1" * 5_000,
    "a repeated key": b'{"a":{"b":1,"b":2}}',
    "a lone surrogate": b'["\\ud800"]',
    "a lone surrogate as key": b'{"\\uDC00":1}',
    "33 deep": b"[" * 33 + b"]" * 33,
    "900 deep": b"[" * 900 + b"]" * 900,
    "half a million deep": b"[" * 500_000 + b"]" * 500_000,
    "dicts 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "two values": b"1 2",
    "over 1 MiB": b'"' + b"x" * (1 << 20) + b'"',
}


@pytest.mark.parametrize("raw", BAD_JSON.values(), ids=BAD_JSON)
def test_corrupt_json_is_a_decode_error_soon(raw: bytes) -> None:
    """Within 2 s, a million bytes of it."""
    began = time.perf_counter()
    with pytest.raises(DecodeError):
        decode_json(raw)
    assert time.perf_counter() - began < 2


def test_json_may_escape_what_is_valid() -> None:
    """A pair of surrogates is one character, and an escaped backslash before ud800 is none."""
    assert decode_json(b'["\\ud83d\\ude00","\\\\ud800","\\u00e9"]') == ["😀", "\\ud800", "é"]


def test_more_values_than_allowed_are_refused_before_they_are_made() -> None:
    """A body of 3 MB may hold text, but not three million empty lists, which would take 200 MB."""
    count = 3_000_000
    bomb = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    with pytest.raises(DecodeError, match="max_values=1,048,576"):
        decode_msgpack(bomb)
    text = "x" * count
    assert decode_msgpack(encode_msgpack({"text": text})) == {"text": text}


@given(st.lists(DATA, max_size=20))
def test_values_are_counted_as_msgpack_reads_them(items: list[Any]) -> None:
    """The count before decoding takes one step per value: a limit of just as many passes, one below does not."""
    raw = encode_msgpack(items)

    def values(data: Any) -> int:
        if isinstance(data, dict):
            return 1 + sum(1 + values(value) for value in data.values())
        return 1 + (sum(map(values, data)) if isinstance(data, list) else 0)

    count = values(items)
    if len(raw) > count:
        assert identical(decode_msgpack(raw, Limits(max_values=count)), as_read(items))
    with pytest.raises(DecodeError):
        decode_msgpack(raw, Limits(max_values=count - 1))


@pytest.mark.parametrize(
    ("raw", "records"),
    [
        (b"\x80", False),
        (b"\x01", False),
        (b"\x92\x81\xa1a\x01\x82\xa1a\x01\xa1a\x02", False),
        (b"\x91\x81\x01\x01", False),
        (b"\x91\x81\xa1a\x01", True),
        (b"\x91\x90", True),
        (b"\x91\x91\x82\xa1a\x01\xa1a\x02", True),
        (b"\x91\x91\x81\xc4\x01a\x02", True),
        (b"\x91\x92\x80\xd6\xff\x00\x00\x00", True),
        (b"\x91" * 34 + b"\x01", False),
        (b"\x91" * 35 + b"\x01", True),
    ],
)
def test_items_of_a_pack_are_checked_like_any_data(raw: bytes, records: bool) -> None:
    """No array, no records, a repeated key, a key that is not text, 33 deep."""
    with pytest.raises(DecodeError):
        decode_items(raw, DEFAULT_LIMITS, records=records)


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=8))
def test_foreign_fields_keep_every_value(pairs: list[tuple[bytes, bytes]]) -> None:
    """Text where it is UTF-8, else bytes; the values of a repeated name become a list."""

    def raw(value: str | bytes) -> bytes:
        return value.encode() if isinstance(value, str) else value

    data = decode_foreign([part for pair in pairs for part in pair])
    kept = [
        (raw(n), raw(v)) for n, found in data.items() for v in (found if isinstance(found, list) else [found])
    ]
    assert sorted(kept) == sorted(pairs)
    for name, value in data.items():
        assert isinstance(value, list) == ([n for n, _ in pairs].count(raw(name)) > 1)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_data_or_in_a_decode_error(raw: bytes) -> None:
    """And what was data can be sent again."""
    for decode, encode in ((decode_msgpack, encode_msgpack), (decode_json, encode_json)):
        try:
            data = decode(raw)
        except DecodeError:
            continue
        encode(data)


def test_codecs_go_by_name() -> None:
    """As in options; another name is refused with those that there are."""
    assert Codec.named("json") is Codec.JSON
    with pytest.raises(UsageError, match="codec='yaml': one of msgpack, json, fields"):
        Codec.named("yaml")
