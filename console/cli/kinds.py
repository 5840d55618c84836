"""Kinds: what a word on the command line may be: a stream, a group, a position, a duration, a size.

Each checks what was typed before anything connects, so that a slip is said at once and names its option.
"""

import re
from typing import Any

import click

from pipeline.errors import UsageError
from pipeline.keys import check_name, check_stream_name
from pipeline.position import position_id
from pipeline.tables import check_table
from pipeline.units import duration_ms, rate_per_s, size_bytes

_DURATION = re.compile(r"\d+(\.\d+)?\s*(ms|s|m|min|h|d)(\s*\d.*)?")


class WrongValue(click.BadParameter):
    """A value that its kind refuses; the message says all by itself."""

    def format_message(self) -> str:
        """The message as it is."""
        return self.message


class Checked(click.ParamType):  # type: ignore[type-arg] # generic since click 8.5 only
    """A kind whose check raises UsageError."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.checked(value, _option(param))
        except UsageError as error:
            raise WrongValue(str(error), ctx=ctx, param=param) from None

    def checked(self, value: Any, option: str) -> Any:
        """The value as the verb gets it; UsageError if it is none."""
        raise NotImplementedError


class StreamName(Checked):
    """A stream's name."""

    name = "stream"

    def checked(self, value: Any, option: str) -> str:
        return check_stream_name(value)


class Name(Checked):
    """A group's or consumer's name."""

    name = "name"

    def __init__(self, what: str) -> None:
        self.what = what

    def checked(self, value: Any, option: str) -> str:
        return check_name(self.what, value)


class Position(Checked):
    """A position, kept as written: what -15m means depends on the server's clock. With ago, 15m is -15m."""

    name = "position"

    def __init__(self, *, ago: bool = False) -> None:
        self.ago = ago

    def checked(self, value: Any, option: str) -> str:
        word = str(value).strip()
        if self.ago and _DURATION.fullmatch(word):
            word = f"-{word}"
        position_id(word, 0, option)
        return word


class Milliseconds(Checked):
    """A duration, as ms."""

    name = "duration"

    def checked(self, value: Any, option: str) -> int:
        return value if isinstance(value, int) else duration_ms(value, option)


class Bytes(Checked):
    """A size, as bytes."""

    name = "size"

    def checked(self, value: Any, option: str) -> int:
        return value if isinstance(value, int) else size_bytes(value, option)


class PerSecond(Checked):
    """A rate, as so many a second."""

    name = "rate"

    def checked(self, value: Any, option: str) -> float:
        return rate_per_s(value, option)


class TableName(Checked):
    """A table in a PostgreSQL."""

    name = "table"

    def checked(self, value: Any, option: str) -> str:
        return check_table(value, option)


STREAM = StreamName()
GROUP = Name("group")
CONSUMER = Name("consumer")
POSITION = Position()
SINCE = Position(ago=True)
DURATION = Milliseconds()
SIZE = Bytes()
RATE = PerSecond()
TABLE = TableName()


def _option(param: click.Parameter | None) -> str:
    return param.opts[0] if isinstance(param, click.Option) else "position"
