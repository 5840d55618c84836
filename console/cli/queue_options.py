"""Options of `millstream queue`: how a list queue is laid out on the server, as those who share it agreed on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from console.cli.kinds import DURATION, Name
from pipeline.list_options import ENDS, FORMATS, ORDERS, ListOptions
from pipeline.task import PAYLOADS

LIST = Name("list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the queues of one command are laid out."""

    options: dict[str, Any]
    """Of ListOptions."""

    def of(self, name: str) -> ListOptions:
        """The options of one list. Raises: UsageError: they do not fit this one."""
        return ListOptions(name=name, **self.options)


def laid_out(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options that say how a list is laid out, and its function a Layout, by the name `layout`."""
    names = (
        "push_end",
        "order",
        "payload",
        "entries",
        "scheduled",
        "old_processing",
        "old_records",
        "old_timeout",
    )

    @wraps(verb)
    def with_layout(*args: Any, **given: Any) -> Any:
        values = {name: given.pop(name) for name in names}
        options = {
            "push": values["push_end"],
            "order": values["order"],
            "payload": values["payload"],
            "format": values["entries"],
            "scheduled": values["scheduled"],
            "old_processing": values["old_processing"],
            "old_records": values["old_records"],
            "old_timeout_ms": values["old_timeout"],
        }
        return verb(*args, layout=Layout(options=options), **given)

    chosen: Callable[..., Any] = with_layout
    for option in (
        click.option("--old-timeout", type=DURATION, metavar="DURATION", default="5m", show_default=True,
                     help="How long their tasks run at most, where no record says so."),
        click.option("--old-records", metavar="PREFIX", default="processing:", show_default=True,
                     help="What the keys of their records begin with."),
        click.option("--old-processing", metavar="KEY", default="",
                     help="The list that old workers move tasks of this queue, and of no other, to while they run; "
                          "none: there are none, and nothing is looked for."),
        click.option("--scheduled", metavar="KEY", default="scheduled", show_default=True,
                     help="The sorted set of delayed tasks, with --format classic."),
        click.option("--format", "entries", type=click.Choice(FORMATS), metavar="FORMAT", default="unique",
                     show_default=True,
                     help="Of delayed and priority tasks: unique (each push is a task), or classic (as old code has "
                          "it: equal payloads are one task)."),
        click.option("--payload", type=click.Choice(list(PAYLOADS)), metavar="FORMAT", default="auto",
                     show_default=True,
                     help="What payloads are: json, text, msgpack, or auto: as their bytes tell."),
        click.option("--order", type=click.Choice(ORDERS), metavar="ORDER", default="fifo", show_default=True,
                     help="fifo, lifo, or priority: the key is a sorted set, the lowest score first."),
        click.option("--push", "push_end", type=click.Choice(ENDS), metavar="END", default="left", show_default=True,
                     help="The end that tasks are pushed to: left (LPUSH) or right (RPUSH)."),
    ):  # fmt: skip
        chosen = option(chosen)
    return chosen
