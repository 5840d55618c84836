"""Event data for tests: hypothesis strategies of all that can be sent, and a way to compare what came back."""

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from pipeline.event import Event

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
INTS = st.integers(-(2**63), 2**64 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ZONED = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones())  # noqa: DTZ001
LOCAL = st.datetimes()
DECIMALS = st.decimals(allow_nan=False, places=None)
JSON_SCALARS = st.none() | st.booleans() | INTS | FINITE | TEXT
SCALARS = (
    JSON_SCALARS | st.floats(allow_nan=False) | st.binary(max_size=40) | ZONED | LOCAL | DECIMALS | st.uuids()
)


def nested(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Dicts and lists of these scalars, a few levels deep."""
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=5),
        max_leaves=12,
    )


DATA = nested(SCALARS)
JSON_DATA = nested(JSON_SCALARS)
FLAT_DICTS = st.dictionaries(TEXT, JSON_SCALARS, max_size=20)
TIMES_MS = st.integers(-62_135_596_800_000, 253_402_300_799_999)
HEADERS = st.dictionaries(TEXT, TEXT, max_size=3)


@st.composite
def events(draw: st.DrawFn, data: st.SearchStrategy[Any] = DATA, ids: bool = True) -> Event:
    """An event as an application makes one."""
    return Event(
        draw(data),
        type=draw(st.just("") | TEXT),
        key=draw(st.just("") | TEXT),
        id=draw(st.just("") | TEXT) if ids else "",
        time_ms=draw(st.none() | TIMES_MS),
        headers=draw(st.just({}) | HEADERS),
    )


def identical(left: Any, right: Any) -> bool:
    """The same types and values all the way down, where == takes True for 1 and 1.0, and 0.0 for -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, Decimal):
        return str(left) == str(right)
    return bool(left == right)


def as_read(data: Any) -> Any:
    """What a reader gets for this data: times with a zone come back in UTC."""
    if isinstance(data, dict):
        return {key: as_read(value) for key, value in data.items()}
    if isinstance(data, list):
        return [as_read(value) for value in data]
    if isinstance(data, datetime) and data.utcoffset() is not None:
        return data.astimezone(UTC)
    return data
