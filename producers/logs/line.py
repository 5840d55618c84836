"""Line: what is shipped of one log call: its fields as msgpack, written at the call, masked and bounded.

Pure. The application may change its objects after the call, and they may be huge or broken: what is taken is small,
is bytes, and can always be sent. Nearly every line is a flat dict of scalars under names that were met before: that is
found out and written in a few steps of C.
"""

import gc
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from types import TracebackType
from typing import Any, TypeAlias
from uuid import UUID

from pipeline.codec import EXACT, SCALARS, encode_msgpack, pack_exact
from pipeline.errors import EncodeError

DEFAULT_MASK = (
    "password", "passwd", "secret", "token", "authorization", "cookie", "set_cookie", "api_key", "apikey",
    "private_key", "credentials",
)  # fmt: skip
MASKED = "***"
SMALL_BYTES = 4_096
"""A line with a longer body is counted as it comes; the others by their number."""
MAX_BODY_BYTES = 512_000
"""Of a line that is longer, only the beginning of its message is shipped: it could not be sent."""
MAX_TEXT = 32_768
"""Longest text of one value, in characters; a longer one is cut and says so."""
MAX_ITEMS = 1_000
MAX_DEPTH = 8
MAX_NAMES, MAX_NAME = 4_096, 256
"""How many names are remembered, and how long they are at most."""
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
Line: TypeAlias = tuple[int, float, bytes]
"""One log call: level, seconds since 1970, the fields as msgpack. A tuple, because one is made for every call."""

_KEPT = SCALARS - {bytes}


class Taker:
    """Takes lines, masking the values of some names at any depth, whatever their case."""

    def __init__(self, mask: Sequence[str]) -> None:
        words = [re.escape(word.lower().replace("-", "_")) for word in mask]
        # A name is meant if it is the word, or begins or ends with it as a word of its own: db_password, token_id.
        pattern = (
            re.compile(rf"(?:.*[_.\s])?(?:{'|'.join(words)})(?:[_.\s].*)?", re.DOTALL) if words else None
        )

        @lru_cache(maxsize=MAX_NAMES)
        def masked(name: str) -> bool:
            return pattern is not None and pattern.fullmatch(name.lower().replace("-", "_")) is not None

        self._masked = masked
        self._open: set[str] = set()
        self.all_open = self._open.issuperset
        """Whether all these names were met before, and none is masked."""

    def flat(self, fields: dict[str, Any]) -> bytes | None:
        """The body of a line that is a small, flat dict under names that line() has met; None for any other."""
        if self.all_open(fields) and (
            # What the garbage collector does not track holds no containers (CPython below 3.14; later it tracks all).
            not gc.is_tracked(fields) or SCALARS.issuperset(map(type, fields.values()))
        ):
            try:
                body = pack_exact(fields, None, EXACT)
            except (
                TypeError
            ):  # times, ints beyond 64 bits, lone surrogates, and all that msgpack does not know
                return None
            if len(body) <= SMALL_BYTES:
                return body
        return None

    def line(
        self, fields: Mapping[str, Any], level: int, exc_info: object = None, created_s: float | None = None
    ) -> Line:
        """The line of a log call with these fields, whatever they are."""
        data: dict[str, Any] = {}
        for name, value in fields.items():
            if name.__class__ is not str:
                name = str(name)
            if self._masked(name):
                value = MASKED
            else:
                if len(self._open) < MAX_NAMES and len(name) <= MAX_NAME:
                    self._open.add(name)
                if value.__class__ not in _KEPT or (value.__class__ is str and len(value) > MAX_TEXT):
                    value = self._take(value, MAX_DEPTH)
            data[name] = value
        exception = exception_of(exc_info)
        if exception is not None:
            data["exception"] = exception
        return level, time.time() if created_s is None else created_s, body_of(data)

    def _take(self, value: Any, depth: int) -> Any:
        """A plain copy of any value."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return cut(str(value))
        if isinstance(value, bytes | bytearray):
            return bytes(value[:MAX_TEXT])
        if isinstance(value, datetime | Decimal | UUID):
            return value
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, BaseException):
            return cut(shown(value))
        if depth == 0:
            return cut(shown(value))
        if isinstance(value, Mapping):
            taken: dict[str, Any] = {}
            for name, item in list(value.items())[:MAX_ITEMS]:
                name = cut(str(name))
                taken[name] = MASKED if self._masked(name) else self._take(item, depth - 1)
            return taken
        if isinstance(value, list | tuple | set | frozenset):
            return [self._take(item, depth - 1) for item in list(value)[:MAX_ITEMS]]
        return cut(shown(value))


def body_of(data: dict[str, Any]) -> bytes:
    """The data as msgpack, as far as an entry can hold it: what nobody can send becomes text."""
    for change in (dict, sendable):
        try:
            body = encode_msgpack(change(data))
        except EncodeError:
            continue
        if len(body) <= MAX_BODY_BYTES:
            return body
    few = {name: cut(str(sendable(data.get(name, ""))), 1_000) for name in ("event", "logger", "level")}
    return encode_msgpack(few)


def level_of(name: str) -> int:
    """The number of a level's or a log method's name; info for names nobody knows."""
    name = name.lower()
    return LEVELS.get(_ALIASES.get(name, name), 20)


METHOD_LEVELS = {name: level_of(name) for name in (*LEVELS, *_ALIASES)}


@lru_cache(maxsize=256)
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
