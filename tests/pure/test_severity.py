"""Severity: levels, messages and exceptions of log events of any shape."""

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.levels import FIELDS, WORDS
from pipeline.severity import LEVELS, Raised, exception_of, level_named, level_of, message_of


@pytest.mark.parametrize(
    ("data", "level"),
    [
        ({"level": "info"}, "info"),
        ({"level": "WARN"}, "warning"),
        ({"severity": "Fatal"}, "critical"),
        ({"levelname": "ERROR"}, "error"),
        ({"level": 30}, "warning"),
        ({"level": 35}, "warning"),
        ({"level": 1}, "trace"),
        ({"level": 0}, ""),
        ({"level": True}, ""),
        ({"level": "loud"}, ""),
        ({"level": None, "severity": "err"}, "error"),
        ({"n": 1}, ""),
        ("ERROR in text", ""),
        (None, ""),
    ],
)
def test_levels_are_known_by_many_names(data: Any, level: str) -> None:
    """Python's, syslog's, other languages'."""
    assert level_of(data) == level


def test_a_level_that_is_none_is_refused() -> None:
    """With those there are."""
    assert level_named("error") == LEVELS["error"] == 40
    with pytest.raises(UsageError, match="where='loud' is no level; there are: trace, debug"):
        level_named("loud", "where")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"event": "hello", "message": "x"}, ("hello", "event")),
        ({"msg": "hello"}, ("hello", "msg")),
        ({"event": {"id": 1}, "message": "hello"}, ("hello", "message")),
        ({"event": {"id": 1}}, ("", "")),
        ([1], ("", "")),
    ],
)
def test_a_message_is_text_of_a_known_name(data: Any, message: tuple[str, str]) -> None:
    """Else there is none."""
    assert message_of(data) == message


TRACE = "Traceback (most recent call last):\n  …\na.b.Error: no: x"


@pytest.mark.parametrize(
    ("data", "raised"),
    [
        ({"exception": {"type": "E", "message": "m", "traceback": "t"}}, Raised("E", "m", "t")),
        ({"exception": {"type": "E", "n": 3}}, Raised("E")),
        ({"exception": {"n": 3}}, None),
        ({"exc_info": TRACE}, Raised("a.b.Error", "no: x", TRACE)),
        ({"traceback": "KeyboardInterrupt"}, Raised("KeyboardInterrupt", "", "KeyboardInterrupt")),
        ({"exception": "it went wrong, badly"}, Raised("", "", "it went wrong, badly")),
        ({"exception": True}, None),
        ({}, None),
        ("x", None),
    ],
)
def test_an_exception_is_found_in_either_form(data: Any, raised: Raised | None) -> None:
    """Structured, or as text, of which the last line names it."""
    assert exception_of(data) == raised


@pytest.mark.parametrize("field", FIELDS)
def test_what_comparisons_know_as_a_level_sinks_know_too(field: str) -> None:
    """`--where 'level>=error'` of tail and `where=level>=error` of the mails are of one mind about every word."""
    for word, rank in WORDS.items():
        name = level_of({field: word.upper()})
        assert LEVELS[name] == min(rank, LEVELS["critical"])
