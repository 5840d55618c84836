"""Line: what is shipped of one log call: plain data, taken at the call, masked and bounded.

Pure. The application may change its objects after the call, and they may be huge or broken: what is taken is small,
its own, and can always be sent.
"""

import re
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from types import TracebackType
from typing import Any, TypeAlias
from uuid import UUID

DEFAULT_MASK = (
    "password", "passwd", "secret", "token", "authorization", "cookie", "set_cookie", "api_key", "apikey",
    "private_key", "credentials",
)  # fmt: skip
MASKED = "***"
MAX_TEXT = 32_768
"""Longest text of one value, in characters; a longer one is cut and says so."""
MAX_ITEMS = 1_000
MAX_DEPTH = 8
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_ALIASES = {
    "warn": "warning",
    "exception": "error",
    "fatal": "critical",
    "msg": "info",
    "log": "info",
    "failure": "error",
}

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


@dataclass(slots=True)
class Line:
    """One log call."""

    data: dict[str, Any]
    level: int
    time_ms: int
    size_bytes: int
    """About how much memory its text takes."""


class Taker:
    """Takes lines, masking the values of some names at any depth, whatever their case."""

    def __init__(self, mask: Sequence[str]) -> None:
        words = [re.escape(word.lower().replace("-", "_")) for word in mask]
        # A name is meant if it is the word, or begins or ends with it as a word of its own: db_password, token_id.
        pattern = (
            re.compile(rf"(?:.*[_.\s])?(?:{'|'.join(words)})(?:[_.\s].*)?", re.DOTALL) if words else None
        )

        @lru_cache(maxsize=4_096)
        def masked(name: str) -> bool:
            return pattern is not None and pattern.fullmatch(name.lower().replace("-", "_")) is not None

        self._masked = masked

    def line(
        self, fields: Mapping[str, Any], level: int, exc_info: object = None, created_s: float | None = None
    ) -> Line:
        """The line of a log call with these fields."""
        data: dict[str, Any] = {}
        size = 64
        for name, value in fields.items():
            if name.__class__ is not str:
                name = str(name)
            kind = value.__class__
            if self._masked(name):
                value = MASKED
            elif kind is str and len(value) <= MAX_TEXT:
                size += len(value)
            elif kind is not int and kind is not float and kind is not bool and value is not None:
                value, taken = self._take(value, MAX_DEPTH)
                size += taken
            data[name] = value
            size += len(name) + 32
        exception = exception_of(exc_info)
        if exception is not None:
            data["exception"] = exception
            size += sum(len(str(part)) for part in exception.values())
        return Line(data, level, int((time.time() if created_s is None else created_s) * 1_000), size)

    def _take(self, value: Any, depth: int) -> tuple[Any, int]:
        """A plain copy of any value, and about how large it is."""
        if value is None or isinstance(value, bool | int | float):
            return value, 8
        if isinstance(value, str):
            return cut(str(value)), min(len(value), MAX_TEXT)
        if isinstance(value, bytes | bytearray):
            return bytes(value[:MAX_TEXT]), min(len(value), MAX_TEXT)
        if isinstance(value, datetime | Decimal | UUID):
            return value, 32
        if isinstance(value, date):
            return value.isoformat(), 32
        if isinstance(value, BaseException):
            return cut(shown(value)), 64
        if depth == 0:
            return cut(shown(value)), 64
        if isinstance(value, Mapping):
            size = 64
            taken: dict[str, Any] = {}
            for name, item in list(value.items())[:MAX_ITEMS]:
                name = cut(str(name))
                if self._masked(name):
                    taken[name], more = MASKED, 8
                else:
                    taken[name], more = self._take(item, depth - 1)
                size += more + len(name)
            return taken, size
        if isinstance(value, list | tuple | set | frozenset):
            pairs = [self._take(item, depth - 1) for item in list(value)[:MAX_ITEMS]]
            return [item for item, _ in pairs], 64 + sum(more for _, more in pairs)
        text = cut(shown(value))
        return text, len(text)


def level_of(name: str) -> int:
    """The number of a level's or a log method's name; info for names nobody knows."""
    name = name.lower()
    return LEVELS.get(_ALIASES.get(name, name), 20)


def level_name(level: int) -> str:
    """The name of the highest level not above this number."""
    return next((name for name, number in reversed(LEVELS.items()) if number <= level), "debug")


def exception_of(exc_info: object) -> dict[str, Any] | None:
    """Type, message and traceback of what `exc_info=` may be: an exception, or the tuple of sys.exc_info()."""
    if isinstance(exc_info, BaseException):
        error: BaseException = exc_info
    elif isinstance(exc_info, tuple) and len(exc_info) == 3 and isinstance(exc_info[1], BaseException):
        error = exc_info[1]
    else:
        return None
    kind = type(error)
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as fault:  # noqa: BLE001 - an exception may be broken in any way
        text = f"(its traceback cannot be shown: {type(fault).__name__})"
    return {
        "type": kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}",
        "message": cut(shown(error, str)),
        "traceback": cut(text, from_end=True),
    }


def cut(text: str, most: int = MAX_TEXT, *, from_end: bool = False) -> str:
    """The text, or its first (or last) part with a word on how long it is."""
    if len(text) <= most:
        return text
    said = f"… ({len(text):,} characters)"
    return said + text[-most:] if from_end else text[:most] + said


def sendable(value: Any) -> Any:
    """The same data with what no event can hold as text: ints beyond 64 bits, lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | float | bytes | datetime | Decimal | UUID):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, dict):
        return {sendable(name): sendable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [sendable(item) for item in value]
    return sendable(str(value))


def shown(value: Any, show: Any = repr) -> str:
    """Its repr; the application's own __repr__ may raise."""
    try:
        return str(show(value))
    except Exception as fault:  # noqa: BLE001
        return f"<{type(value).__name__}, whose repr raises {type(fault).__name__}>"
