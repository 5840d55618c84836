"""--where: what an expression is true of, and what is said about one that is none."""

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.levels import RANKS, level_in, level_word, rank_of
from pipeline.where import OPERATORS, all_take, parse

DATA = {
    "level": "WARNING",
    "event": "request handled",
    "status": 404,
    "size": "1200",
    "ratio": Decimal("0.5"),
    "ok": True,
    "none": None,
    "user": {"name": "Ada", "tags": ["admin", "urgent"], "level": 60},
    "items": [{"sku": "a-1", "n": 1}, {"sku": "b-2", "n": 20}],
    "http.method": "GET",
    "at": datetime(2026, 11, 26, 12, tzinfo=UTC),
    "when": "2026-11-26T12:00:00Z",
    "odd name": "x",
}


@pytest.mark.parametrize(
    ("expression", "true"),
    [
        ("level>=warn", True),
        ("level > info", True),
        ("level>=error", False),
        ("level<error", True),
        ("level=warning", True),
        ('level="Warn"', True),
        ("level!=WARNING", False),
        ("level>=30", True),
        ("level>30", False),
        ("level=nonsense", False),
        ("level~^WARN", True),
        ("user.level>=critical", True),
        ("data.level=warning", True),
        ("status=404", True),
        ("status==404.0", True),
        ("status!=404", False),
        ("status>=400", True),
        ("status<4e2", False),
        ("status=four", False),
        ("status~^4", True),
        ("size>1000", True),
        ("size=1200", True),
        ('size="1200"', True),
        ('size="1200.0"', False),
        ("ratio=0.5", True),
        ("ratio>0.4", True),
        ("ok=true", True),
        ("ok=false", False),
        ("ok=1", False),
        ("none=null", True),
        ("missing=null", True),
        ("missing!=null", False),
        ("status!=null", True),
        ("missing=x", False),
        ("missing!=x", True),
        ("missing>1", False),
        ("missing!~x", True),
        ("event=request handled", True),
        ("event = 'request handled' ", True),
        ("event>request", True),
        ("event=~hand(led|y)", True),
        ("event~^handled", False),
        ("event!~^handled", True),
        ("user.name=Ada", True),
        ("user.name=ada", False),
        ("user.name~(?i)ada", True),
        ('user~"name": "Ada"', True),
        ("user.tags=urgent", True),
        ("user.tags!=urgent", False),
        ("user.tags=x", False),
        ("items.sku=b-2", True),
        ("items.n>10", True),
        ("items.0.n>10", False),
        ("items.7.n>10", False),
        ("http.method=GET", True),
        ("at>=2026-11-26", True),
        ("at<2026-11-26T12:00:00+00:00", False),
        ("when=2026-11-26T13:00:00+01:00", True),
        ('"odd name"=x', True),
        ("event=x and y", False),
    ],
)
def test_it_is_true_of_what_it_says(expression: str, true: bool) -> None:
    """Levels by rank, numbers and times by value, lists by their items, all else as text."""
    assert parse(expression).takes(DATA) is true


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "expected FIELD=VALUE"),
        ("  ", "expected FIELD=VALUE"),
        ("level", "expected one of = != < <= > >= ~ !~ at character 6"),
        ("level error", "expected one of = != < <= > >= ~ !~ at character 7"),
        (">=error", "expected the name of a field at character 1"),
        (" a..b=1", "expected one of = != < <= > >= ~ !~ at character 3"),
        ("level>=", "expected a value behind >= (two quotes for empty text) at character 8"),
        ("level>>error", "expected a value (in quotes, if it begins with an operator) at character 7"),
        ("level>=eror", f"expected a level ({', '.join(RANKS)}) at character 8"),
        ("a= 'x", "expected the closing ' at character 4"),
        ("a~(", "expected a regular expression (missing ), unterminated subpattern"),
        ("a>null", "expected something that has an order, which null has not at character 3"),
        ("level>=error and status>=500", "expected one comparison (give the option once for each"),
        ("a=1 && b=2", "at character 5"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_place(expression: str, said: str) -> None:
    """One line that quotes the expression and names the option."""
    with pytest.raises(UsageError) as caught:
        parse(expression, "--where")
    message = str(caught.value)
    assert message.startswith(f"--where={expression!r}: ")
    assert said in message
    assert "\n" not in message


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.decimals()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.binary(max_size=4)
    | st.sampled_from(["error", "1.5", "2026-11-26", "9999-12-31T23:59:59.999999"])
)
ANY_DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "level", "a.b"]), inner, max_size=3)
    ),
    max_leaves=8,
)
VALUES = st.sampled_from(
    ["error", "1", "1.5", "true", "null", "x", "2026-11-26", "0001-01-01", '""', "9e9", "9" * 39]
)


@given(
    ANY_DATA,
    st.sampled_from(["a", "b", "level", "a.b", "a.0.b", "data.a"]),
    st.sampled_from(OPERATORS),
    VALUES,
)
def test_no_data_makes_it_raise_and_not_is_the_other_of_is(
    data: Any, field: str, operator: str, value: str
) -> None:
    """Whatever the shape: an answer."""
    try:
        found = parse(f"{field}{operator}{value}")
    except UsageError:
        return  # a level or an order that is none
    answer = found.takes(data)
    if operator in ("=", "~"):
        assert parse(f"{field}!{operator}{value}").takes(data) is not answer
    assert all_take((found,), data) is answer and all_take((), data)


@given(st.text(max_size=30))
def test_any_text_is_an_expression_or_a_usage_error(text: str) -> None:
    """Nothing else comes of it."""
    with suppress(UsageError):
        parse(text).takes(DATA)


def test_levels_are_ranked_as_loggers_write_them() -> None:
    """Words in any case and numbers; what is none has no rank."""
    assert [rank_of(word) for word in ("WARN", "warning", "Err", "fatal", 30, 42.5)] == [
        30,
        30,
        40,
        50,
        30,
        42.5,
    ]
    assert [rank_of(value) for value in ("loud", "", None, True, [40], "x" * 1_000)] == [None] * 6
    assert [level_word(value) for value in ("FATAL", 42, 1, "emerg", "loud", None)] == [
        "critical", "error", "trace", "emergency", "", "",
    ]  # fmt: skip
    assert [RANKS[word] for word in RANKS] == sorted(RANKS.values())
    assert level_in({"severity": "ERROR"}) == "ERROR"
    assert level_in({"level": None, "lvl": 3}) == 3
    assert level_in({}) is level_in("error") is None
