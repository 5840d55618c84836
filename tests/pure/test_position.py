"""Position: entry ids in order, and the five ways people write a place in a stream."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.position import MAX_SEQ, after, before, parse_entry_id, position_id, show_entry_id

NOW_MS = 1_700_000_000_000
PARTS = st.one_of(st.integers(0, 5), st.integers(MAX_SEQ - 5, MAX_SEQ), st.integers(0, MAX_SEQ))
IDS = st.tuples(PARTS, PARTS)


@given(IDS)
def test_an_entry_id_comes_back_as_it_was(entry_id: tuple[int, int]) -> None:
    """As text and as bytes, to its last digit."""
    shown = show_entry_id(entry_id)
    assert parse_entry_id(shown) == parse_entry_id(shown.encode()) == entry_id


def test_an_id_without_sequence_means_its_first() -> None:
    """As the server takes it."""
    assert parse_entry_id("17") == (17, 0)


@given(IDS)
def test_before_and_after_are_neighbours(entry_id: tuple[int, int]) -> None:
    """Nothing lies between, at the ends of a sequence too."""
    shown = show_entry_id(entry_id)
    if entry_id != (MAX_SEQ, MAX_SEQ):
        above = parse_entry_id(after(shown))
        assert above > entry_id
        assert before(after(shown)) == shown
    if entry_id != (0, 0):
        assert parse_entry_id(before(shown)) < entry_id
        assert after(before(shown)) == shown


def test_nothing_lies_before_the_first_id() -> None:
    """0-0 stays."""
    assert before("0-0") == "0-0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1-",
        "-1",
        "a-b",
        "1-2-3",
        "1.5",
        "1 - 2",
        "18446744073709551616-0",
        "1-18446744073709551616",
        "1" * 21,
        "\udcff",
    ],
)
def test_what_is_no_entry_id_is_refused(text: str) -> None:
    """With an example of one."""
    with pytest.raises(UsageError, match="1700000000000-0"):
        parse_entry_id(text)


@pytest.mark.parametrize(
    ("text", "entry_id"),
    [
        ("start", "0-0"),
        ("0", "0-0"),
        (" start ", "0-0"),
        ("end", "$"),
        ("$", "$"),
        ("-15m", f"{NOW_MS - 900_000}-0"),
        ("-1h30m", f"{NOW_MS - 5_400_000}-0"),
        ("-90", f"{NOW_MS - 90_000}-0"),
        ("-100000d", "0-0"),
        ("1699999999999", "1699999999999-0"),
        ("1699999999999-7", "1699999999999-7"),
        ("2023-11-14T22:13:20+00:00", f"{NOW_MS}-0"),
        ("2023-11-14T23:13:20.5+01:00", f"{NOW_MS + 500}-0"),
        ("2023-11-14T22:13:20Z", f"{NOW_MS}-0"),
    ],
)
def test_the_five_ways_to_write_a_position(text: str, entry_id: str) -> None:
    """start, end, some time ago, an entry id, an ISO time."""
    assert position_id(text, NOW_MS) == entry_id


def test_a_time_without_an_offset_is_local() -> None:
    """As people read their own clocks."""
    local = datetime.fromtimestamp(NOW_MS / 1_000, UTC).astimezone().replace(tzinfo=None)
    assert position_id(local.isoformat(), NOW_MS) == f"{NOW_MS}-0"


@pytest.mark.parametrize("text", ["", "yesterday", "-", "-soon", "15m", "12:00", "2023-13-01", "1-2-3"])
def test_what_is_no_position_is_refused(text: str) -> None:
    """The message names the option."""
    with pytest.raises(UsageError, match="--from"):
        position_id(text, NOW_MS, "--from")


@given(st.text(max_size=30))
def test_any_text_is_a_position_or_refused(text: str) -> None:
    """Nothing else comes out, and no other error."""
    try:
        found = position_id(text, NOW_MS)
    except UsageError:
        return
    assert found == "$" or parse_entry_id(found) >= (0, 0)
