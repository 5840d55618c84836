"""selecting: the options --type, --key and --match, as every verb takes them that acts on some of many events."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from console.cli.kinds import Checked
from pipeline.selection import Selection, check_match
from pipeline.where import Where, parse


class Match(Checked):
    """A text to look for, or a regular expression between slashes."""

    name = "text"

    def checked(self, value: Any, option: str) -> str:
        return check_match(value, option)


class Comparison(Checked):
    """A field, an operator and a value."""

    name = "comparison"

    def checked(self, value: Any, option: str) -> Where:
        return value if isinstance(value, Where) else parse(value, option)


WHERE = click.option("--where", "where", type=Comparison(), metavar="EXPRESSION", multiple=True,
                     help="Only events whose data has this: 'level>=error', status=404, 'user.name~^a'; = != < <= > >= "
                          "~ !~. Several: all of them.")  # fmt: skip

_OPTIONS = (
    click.option("--type", "types", metavar="TYPE", multiple=True,
                 help="Only events of this type; * for any part. Several: any of them."),
    click.option("--key", "keys", metavar="KEY", multiple=True,
                 help="Only events with this key. Several: any of them."),
    click.option("--match", type=Match(), metavar="TEXT",
                 help="Only events whose data, as `tail` shows it, holds this text; /…/ is a regular expression."),
)  # fmt: skip


def selecting(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the three options, and its function their Selection, by the name `selection`."""

    @wraps(verb)
    def with_selection(
        *args: Any, types: tuple[str, ...], keys: tuple[str, ...], match: str | None, **rest: Any
    ) -> Any:
        return verb(*args, selection=Selection(types=types, keys=keys, match=match or ""), **rest)

    chosen: Callable[..., Any] = with_selection
    for option in reversed(_OPTIONS):
        chosen = option(chosen)
    return chosen
