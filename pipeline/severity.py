"""Severity: how bad a log event is, what it says and what it tells of an exception: read from data of any shape. Pure.

Names follow Python's logging; those of syslog, journald and other languages are known too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UsageError
from pipeline.levels import FIELDS, WORDS

LEVELS = {"trace": 5, "debug": 10, "info": 20, "notice": 25, "warning": 30, "error": 40, "critical": 50}
"""Number by name, least first."""
_LEVEL_FIELDS = (*FIELDS, "log.level")
_MESSAGE_FIELDS = ("event", "message", "msg")


def level_named(name: str, option: str = "level") -> int:
    """The number of a level's name.

    Raises:
        UsageError: no such level; the message names the option.
    """
    known = _known(name)
    if not known:
        raise UsageError(f"{option}={name!r} is no level; there are: {', '.join(LEVELS)}")
    return LEVELS[known]


def level_of(data: Any) -> str:
    """The level's name as Python's logging has it; empty where data names none that is known."""
    if isinstance(data, Mapping):
        for field in _LEVEL_FIELDS:
            value = data.get(field)
            if isinstance(value, str):
                return _known(value)
            if isinstance(value, int) and not isinstance(value, bool):
                return _numbered(value)
    return ""


def message_of(data: Any) -> tuple[str, str]:
    """What a log event says, and the field it stands in; both empty where no field is known to be the message."""
    if isinstance(data, Mapping):
        for field in _MESSAGE_FIELDS:
            value = data.get(field)
            if isinstance(value, str):
                return value, field
    return "", ""


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception that a log event tells of; what is not known is empty."""

    type: str = ""
    message: str = ""
    traceback: str = ""


def exception_of(data: Any) -> Raised | None:
    """The exception of a log event: as `ship_logs` has it (a dict), or the traceback as text, as others have it."""
    if not isinstance(data, Mapping):
        return None
    found = data.get("exception") or data.get("exc_info") or data.get("traceback")
    if isinstance(found, Mapping):
        parts = {
            name: str(found[name])
            for name in ("type", "message", "traceback")
            if isinstance(found.get(name), str)
        }
        return Raised(**parts) if parts else None
    if isinstance(found, str) and found.strip():
        kind, colon, message = found.strip().splitlines()[-1].partition(":")
        is_kind = kind.replace(".", "").replace("_", "").isalnum()
        return Raised(kind if is_kind else "", message.strip() if is_kind and colon else "", found)
    return None


def _known(name: str) -> str:
    return _NAMES.get(name.strip().lower(), "")


def _numbered(number: int) -> str:
    """The name of the highest level not above a number of Python's logging."""
    return next(
        (name for name, least in reversed(LEVELS.items()) if least <= number), "trace" if number > 0 else ""
    )


_NAMES = {word: _numbered(rank) for word, rank in WORDS.items()}
"""The name in LEVELS of every word that levels.py knows: alert and emergency are critical."""
