"""Levels: how grave a log line is, as a number that compares, whatever word or number its logger writes. Pure.

The numbers are those of Python's logging (10 debug to 50 critical), and what syslog and others know lies between and
beyond them. Sources: https://docs.python.org/3/library/logging.html#logging-levels,
https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1 (syslog's names).
"""

from typing import Any

RANKS = {
    "trace": 5,
    "debug": 10,
    "info": 20,
    "notice": 25,
    "warning": 30,
    "error": 40,
    "critical": 50,
    "alert": 60,
    "emergency": 70,
}
_ALIASES = {
    "verbose": "debug",
    "dbg": "debug",
    "information": "info",
    "informational": "info",
    "inf": "info",
    "warn": "warning",
    "wrn": "warning",
    "err": "error",
    "exception": "error",
    "severe": "error",
    "crit": "critical",
    "fatal": "critical",
    "panic": "emergency",
    "emerg": "emergency",
    "failure": "error",
    "fine": "debug",
}
WORDS = RANKS | {alias: RANKS[word] for alias, word in _ALIASES.items()}
"""The rank of every word that is known, in small letters."""
FIELDS = ("level", "levelname", "severity", "log_level", "loglevel", "lvl")
"""What loggers call the field, first found first."""


def rank_of(value: Any) -> float | None:
    """The rank of a level: a word in any case, or a number, which is its own rank; None: it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or len(value) > 20:
        return None
    rank = WORDS.get(value.strip().lower())
    return None if rank is None else float(rank)


def level_word(value: Any) -> str:
    """One word for levels that mean the same: `warning` for WARN, warn and 30; empty for what is no level."""
    rank = rank_of(value)
    if rank is None:
        return ""
    return next((word for word, least in reversed(RANKS.items()) if least <= rank), "trace")


def level_in(data: Any) -> Any:
    """The level as it stands in an event's data; None where there is none."""
    if not isinstance(data, dict):
        return None
    return next((data[name] for name in FIELDS if data.get(name) is not None), None)
