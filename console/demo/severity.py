"""Severity: whether a log event is a warning or an error, by its level, or by the words of a plain line. Pure."""

import re
from typing import Any

_ALARMING = frozenset("warn warning error err critical fatal alert emerg emergency exception".split())
_WORDS = re.compile(r"\b(warn(?:ing)?|error|fail(?:ed|ure)?|critical|fatal|panic|segfault)\b", re.IGNORECASE)


def is_alarming(data: Any) -> bool:
    """Whether somebody should look at it."""
    if isinstance(data, dict):
        level = data.get("level") or data.get("severity")
        if isinstance(level, str):
            return level.lower() in _ALARMING
        return any(is_alarming(value) for value in data.values() if isinstance(value, str))
    return isinstance(data, str) and _WORDS.search(data) is not None
