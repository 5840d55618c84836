"""Where: an expression on a field of an event's data, as people type it: `level>=error`, `user.name~^a`. Pure.

Parsed once, with an error that says where it stops making sense; then asked of one event's data after the other, of
any shape: what a field holds never raises.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from pipeline.errors import UsageError
from pipeline.levels import FIELDS, RANKS, rank_of
from pipeline.selection import data_line

Number: TypeAlias = int | float | Decimal
Wanted: TypeAlias = "str | Number | bool | datetime | re.Pattern[str] | None"

OPERATORS = ("!=", "!~", "<=", ">=", "==", "=~", "=", "<", ">", "~")
"""Longer ones first. == is =, and =~ is ~."""
FORM = "FIELD=VALUE, with one of = != < <= > >= ~ !~ between them"
_FIELD = re.compile(r"\s*([\w@$-]+(?:\.[\w@$-]+)*|\"[^\"]+\")\s*")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_WORDS = {"true": True, "false": False, "null": None}
_SECOND = re.compile(r"\s(?:and|or|AND|OR|&&|\|\|)\s+[\w@$.-]+\s*(?:[=<>~]|!=|!~)")
_MOST_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Where:
    """A field, an operator and what the field is compared with. Made by parse().

    A field that is not there has no value: only `!=` and `!~` are true of it, and `=null`. A list has what each of
    its items has: `tags=urgent` is true if one is. Numbers compare as numbers, also where the data has them as text; a
    field called level by the rank of levels; times as times; all else as text.
    """

    text: str
    """As it was typed."""
    path: tuple[str, ...]
    operator: str
    wanted: Wanted
    by_rank: bool = False
    """The wanted number is a level's rank, and so are the values."""

    def takes(self, data: Any) -> bool:
        """Whether it is true of this data."""
        if self.operator in ("!=", "!~"):
            return not self._any("=" if self.operator == "!=" else "~", data)
        return self._any(self.operator, data)

    def _any(self, operator: str, data: Any) -> bool:
        values = list(values_of(data, self.path))
        if self.wanted is None:
            return not values or any(value is None for value in values)
        return any(self._compare(operator, value) for value in values)

    def _compare(self, operator: str, value: Any) -> bool:
        wanted = self.wanted
        if isinstance(wanted, re.Pattern):
            return value is not None and wanted.search(_text(value)) is not None
        if self.by_rank:
            rank = rank_of(value)
            return rank is not None and _holds(operator, rank, wanted)
        if isinstance(wanted, bool):
            return value is wanted or (isinstance(value, str) and value.lower() == str(wanted).lower())
        if isinstance(wanted, int | float | Decimal):
            number = _number_in(value)
            return number is not None and _holds(operator, number, wanted)
        if isinstance(wanted, datetime):
            moment = _moment_in(value)
            return moment is not None and _holds(operator, moment, wanted)
        return value is not None and _holds(operator, _text(value), wanted)


def parse(text: str, option: str = "where") -> Where:
    """The expression.

    Raises:
        UsageError: it is none; says what was expected, at which character, and names the option.
    """

    def wrong(what: str, at: int) -> UsageError:
        return UsageError(f"{option}={text!r}: {what} at character {at + 1}")

    if not text.strip():
        raise UsageError(f"{option}={text!r}: expected {FORM}, such as level>=error")
    field = _FIELD.match(text)
    if field is None:
        raise wrong("expected the name of a field", len(text) - len(text.lstrip()))
    at = field.end()
    symbol = next((one for one in OPERATORS if text.startswith(one, at)), None)
    if symbol is None:
        raise wrong("expected one of = != < <= > >= ~ !~", at)
    begins = at + len(symbol)
    rest = text[begins:]
    begins += len(rest) - len(rest.lstrip())
    value = rest.strip()
    operator = {"==": "=", "=~": "~"}.get(symbol, symbol)
    if not value:
        raise wrong(f"expected a value behind {operator} (two quotes for empty text)", begins)
    if value[0] in "=<>!~" and operator not in ("~", "!~"):
        raise wrong("expected a value (in quotes, if it begins with an operator)", begins)
    second = _SECOND.search(rest)
    if second is not None and value[0] not in "\"'" and operator not in ("~", "!~"):
        raise wrong(
            "expected one comparison (give the option once for each; quotes if it is text)",
            at + len(symbol) + second.start() + 1,
        )
    name = field[1]
    path = (name[1:-1],) if name.startswith('"') else tuple(name.split("."))
    by_rank = path[-1] in FIELDS
    try:
        wanted = _wanted(operator, value, by_rank)
    except _Wrong as error:
        raise wrong(str(error), begins) from None
    ranked = by_rank and isinstance(wanted, int | float) and not isinstance(wanted, bool)
    return Where(text, path, operator, wanted, ranked)


def all_take(expressions: "tuple[Where, ...]", data: Any) -> bool:
    """Whether all of them are true of the data."""
    return all(one.takes(data) for one in expressions)


def values_of(data: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """What stands at a path: a value for each item, where lists stand on the way.

    `data.x` is the same as x, if the data has no field `data`.
    """
    if path[0] == "data" and len(path) > 1 and not (isinstance(data, Mapping) and "data" in data):
        path = path[1:]
    found = [data]
    for at, name in enumerate(path):
        whole = ".".join(path[at:])  # {"http.status": 200}, as flat loggers write it
        ends = [
            each[whole]
            for each in found
            if at < len(path) - 1 and isinstance(each, Mapping) and whole in each
        ]
        yield from _items(ends)
        found = list(_below(found, name))
    yield from _items(found)


class _Wrong(Exception):
    """What was expected of a value."""


def _wanted(operator: str, value: str, by_rank: bool) -> Wanted:
    quoted = len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]
    if value[0] in "\"'" and not quoted:
        raise _Wrong(f"expected the closing {value[0]}")
    if quoted:
        value = value[1:-1]
    if operator in ("~", "!~"):
        try:
            return re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise _Wrong(f"expected a regular expression ({error})") from None
    ordered = operator not in ("=", "!=")
    if by_rank:
        rank = rank_of(value)
        if rank is not None:
            return rank
        if ordered and not _NUMBER.fullmatch(value):
            raise _Wrong(f"expected a level ({', '.join(RANKS)})")
    if quoted:
        return value
    if value in _WORDS:
        if ordered:
            raise _Wrong(f"expected something that has an order, which {value} has not")
        return _WORDS[value]
    number = _number(value)
    if number is not None:
        return number
    return _moment(value) or value


def _below(found: list[Any], name: str) -> Iterator[Any]:
    for each in found:
        if isinstance(each, Mapping):
            if name in each:
                yield each[name]
        elif isinstance(each, list):
            if name.isdecimal():
                if len(name) < 10 and int(name) < len(each):
                    yield each[int(name)]
            else:
                yield from _below([item for item in each if isinstance(item, Mapping)], name)


def _items(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _holds(operator: str, value: Any, wanted: Any) -> bool:
    try:
        return _ORDERED[operator](value, wanted)
    except (TypeError, InvalidOperation):  # a time without a zone beside one with; a signalling NaN
        return False


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else data_line(value)


def _number_in(value: Any) -> Number | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | Decimal):
        return value
    return _number(value.strip()) if isinstance(value, str) else None


def _number(text: str) -> Number | None:
    if len(text) > _MOST_DIGITS or not text.isascii() or not _NUMBER.fullmatch(text):
        return None
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def _moment_in(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return _zoned(value)
    return _moment(value) if isinstance(value, str) else None


def _moment(text: str) -> datetime | None:
    """An ISO time with a date; a date alone is its first moment."""
    if not 10 <= len(text) <= _MOST_DIGITS or text[4:5] != "-" or text[7:8] != "-":
        return None
    try:
        return _zoned(datetime.fromisoformat(text))
    except ValueError:
        return None


def _zoned(moment: datetime) -> datetime | None:
    """Without a zone it is local time, as positions are."""
    try:
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError, OSError):
        return None
