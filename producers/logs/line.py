"""Line: what is shipped of one log call: its fields as msgpack, written at the call, masked and bounded.

Pure. The application may change its objects after the call, and they may be huge or broken: what is taken is small,
is bytes, and can always be sent. Nearly every line is a flat dict of scalars under names that were met before: that is
found out and written in a few steps of C.
"""

import gc
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from types import TracebackType
from typing import Any, TypeAlias
from uuid import UUID

from pipeline.codec import EXACT, SCALARS, encode_msgpack, pack_exact
from pipeline.errors import EncodeError, UsageError
from producers.logs.mask import MASKED, OVERLAP, Pattern, TextMask, name_pattern

SMALL_BYTES = 4_096
"""A line with a longer body is counted as it comes; the others by their number."""
MAX_BODY_BYTES = 512_000
"""Of a line that is longer, only the beginning of its message is shipped: it could not be sent."""
MAX_TEXT = 32_768
"""Longest text of one value, in characters; a longer one is cut and says so."""
MAX_MASKED = MAX_BODY_BYTES
"""So many characters of a line are looked at for what is to be masked; what comes behind them is not shipped."""
MAX_ITEMS = 1_000
MAX_DEPTH = 8
MAX_CHAIN = 10
"""So many causes of an exception are shipped, as many notes, and as many members of a group."""
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
Text: TypeAlias = Callable[..., str]
"""Makes of a text one that can be shipped; with from_end=True its end is what counts."""
Line: TypeAlias = tuple[int, float, bytes]
"""One log call: level, seconds since 1970, the fields as msgpack. A tuple, because one is made for every call."""

_KEPT = SCALARS - {bytes}


class Taker:
    """Takes lines, masking the values of some names at any depth, whatever their case, and what patterns find in texts.

    Raises:
        UsageError: a pattern that cannot be accepted.
    """

    def __init__(self, mask: Sequence[str], patterns: Sequence[Pattern] = ()) -> None:
        pattern = name_pattern(mask)
        self._texts = TextMask(patterns)
        self._masks = bool(self._texts)

        @lru_cache(maxsize=MAX_NAMES)
        def masked(name: str) -> bool:
            return pattern is not None and pattern.fullmatch(name.lower().replace("-", "_")) is not None

        self._masked = masked
        self._open: set[str] = set()
        self._known = self._open.issuperset
        self.all_open = _never if self._masks else self._known
        """Whether all these names were met before, none is masked, and their values need not be looked at."""

    def flat(self, fields: dict[str, Any]) -> bytes | None:
        """The body of a line that is a small, flat dict under names that line() has met; None for any other."""
        if self._known(fields) and (
            # What the garbage collector does not track holds no containers (CPython below 3.14; later it tracks all).
            not gc.is_tracked(fields) or SCALARS.issuperset(map(type, fields.values()))
        ):
            try:
                body = pack_exact(fields, None, EXACT)
            except (
                TypeError
            ):  # times, ints beyond 64 bits, lone surrogates, and all that msgpack does not know
                return None
            if len(body) <= SMALL_BYTES and not (
                self._masks
                and self._texts.finds([value for value in fields.values() if value.__class__ is str])
            ):
                return body
        return None

    def line(
        self, fields: Mapping[str, Any], level: int, exc_info: object = None, created_s: float | None = None
    ) -> Line:
        """The line of a log call with these fields, whatever they are."""
        data: dict[str, Any] = {}
        text = self._text()
        for name, value in fields.items():
            if name.__class__ is not str:
                name = str(name)
            if self._masked(name):
                value = MASKED
            else:
                if len(self._open) < MAX_NAMES and len(name) <= MAX_NAME:
                    self._open.add(name)
                if value.__class__ not in _KEPT or (
                    value.__class__ is str and (self._masks or len(value) > MAX_TEXT)
                ):
                    value = self._take(value, MAX_DEPTH, text)
            data[name] = value
        exception = exception_of(exc_info, text)
        if exception is not None:
            data["exception"] = exception
        return level, time.time() if created_s is None else created_s, body_of(data)

    def _text(self) -> Text:
        """What makes a shippable text of a text of one line."""
        if not self._masks:
            return cut
        left = MAX_MASKED

        def masked(text: str, *, from_end: bool = False) -> str:
            nonlocal left
            # A little more is looked at than is shipped: what the cut goes through is found, too.
            seen = text[-MAX_TEXT - OVERLAP :] if from_end else text[: MAX_TEXT + OVERLAP]
            left -= len(seen)
            if left < 0:
                return f"… ({len(text):,} characters)"
            shown = self._texts(seen)
            if len(seen) == len(text):
                return cut(shown, from_end=from_end)
            said = f"… ({len(text):,} characters)"
            return said + shown[-MAX_TEXT:] if from_end else shown[:MAX_TEXT] + said

        return masked

    def _take(self, value: Any, depth: int, text: Text) -> Any:
        """A plain copy of any value."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return text(str(value))
        if isinstance(value, bytes | bytearray):
            raw = bytes(value[:MAX_TEXT])
            return text(raw.decode("latin-1")).encode("latin-1", "replace") if self._masks else raw
        if isinstance(value, datetime | Decimal | UUID):
            return value
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, BaseException) or depth == 0:
            return text(shown(value))
        if isinstance(value, Mapping):
            taken: dict[str, Any] = {}
            for name, item in list(value.items())[:MAX_ITEMS]:
                name = cut(str(name))
                taken[name] = MASKED if self._masked(name) else self._take(item, depth - 1, text)
            return taken
        if isinstance(value, list | tuple | set | frozenset):
            return [self._take(item, depth - 1, text) for item in list(value)[:MAX_ITEMS]]
        return text(shown(value))


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


def level_number(level: int | str) -> int:
    """The number of a level that somebody chose.

    Raises:
        UsageError: nobody knows it.
    """
    if isinstance(level, int):
        return level
    name = level.lower()
    name = _ALIASES.get(name, name)
    if name not in LEVELS and name != "notset":
        raise UsageError(f"level={level!r}: a number, or one of {', '.join(LEVELS)}")
    return LEVELS.get(name, 0)


METHOD_LEVELS = {name: level_of(name) for name in (*LEVELS, *_ALIASES)}


@lru_cache(maxsize=256)
def level_name(level: int) -> str:
    """The name of the highest level not above this number."""
    return next((name for name, number in reversed(LEVELS.items()) if number <= level), "debug")


def exception_of(exc_info: object, text: Text | None = None) -> dict[str, Any] | None:
    """What `exc_info=` may be, an exception or the tuple of sys.exc_info(): type, message, traceback, and what of
    notes, `cause` (raise … from), `context` (raised while it was handled) and `exceptions` (of a group) there is.

    text makes a shippable text.
    """
    if isinstance(exc_info, BaseException):
        error: BaseException = exc_info
    elif isinstance(exc_info, tuple) and len(exc_info) == 3 and isinstance(exc_info[1], BaseException):
        error = exc_info[1]
    else:
        return None
    text = text or cut
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception as fault:  # noqa: BLE001 - an exception may be broken in any way
        trace = f"(its traceback cannot be shown: {type(fault).__name__})"
    said = _said_by(error, text, MAX_CHAIN)
    rest = {name: said.pop(name) for name in list(said) if name not in ("type", "message")}
    return {**said, "traceback": text(trace, from_end=True), **rest}


def _said_by(error: BaseException, text: Text, depth: int) -> dict[str, Any]:
    """An exception without its traceback, and those it hangs together with."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    said: dict[str, Any] = {"type": name, "message": text(shown(error, str))}
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list) and notes:
        said["notes"] = [text(shown(note, str)) for note in notes[:MAX_CHAIN]]
    if depth == 0:  # a chain may be endless
        return said
    if error.__cause__ is not None:
        said["cause"] = _said_by(error.__cause__, text, depth - 1)
    elif error.__context__ is not None and not error.__suppress_context__:
        said["context"] = _said_by(error.__context__, text, depth - 1)
    if isinstance(error, BaseExceptionGroup):
        said["exceptions"] = [
            _said_by(each, text, min(depth - 1, 2)) for each in error.exceptions[:MAX_CHAIN]
        ]
    return said


def _never(_names: object) -> bool:
    return False


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
