"""Options of `millstream dead`: which dead letters are meant, by error, event and when they died."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from console.cli.kinds import SINCE, Checked
from console.cli.selecting import selecting
from consumers.dead_letters import DeadLetters
from pipeline.dead_event import DeadSelection
from pipeline.position import parse_entry_id
from pipeline.selection import Selection


class DeadId(Checked):
    """The id of a dead letter."""

    name = "id"

    def checked(self, value: Any, option: str) -> str:
        parse_entry_id(value)
        return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters were asked for, by options."""

    chosen: DeadSelection
    since: str | None
    until: str | None

    def __bool__(self) -> bool:
        return bool(self.chosen or self.since is not None or self.until is not None)

    def range(self, letters: DeadLetters) -> tuple[str, str]:
        """The first and last id, of what is there now."""
        return letters.range(self.since or "start", self.until or "end")

    @property
    def words(self) -> str:
        """The options, as they are typed."""
        events = self.chosen.events
        given = [("--error", word) for word in self.chosen.errors]
        given += [("--type", word) for word in events.types] + [("--key", word) for word in events.keys]
        given += [("--match", events.match)] if events.match else []
        given += [("--since", self.since)] if self.since is not None else []
        return "".join(f" {option} {shlex.quote(word)}" for option, word in given)


def wanting(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options that choose among dead letters, and its function a Wanted, by the name `wanted`."""

    @wraps(verb)
    def with_wanted(
        *args: Any,
        errors: tuple[str, ...],
        since: str | None,
        until: str | None,
        selection: Selection,
        **rest: Any,
    ) -> Any:
        chosen = DeadSelection(errors=errors, events=selection)
        return verb(*args, wanted=Wanted(chosen=chosen, since=since, until=until), **rest)

    chosen: Callable[..., Any] = selecting(with_wanted)
    for option in (
        click.option("--until", type=SINCE, metavar="POSITION", help="Only what died up to then."),
        click.option("--since", type=SINCE, metavar="POSITION",
                     help="Only what died from then on: 15m, an ISO time, the id of a dead letter."),
        click.option("--error", "errors", metavar="NAME", multiple=True,
                     help="Only what died of this exception; * for any part. Several: any of them."),
    ):  # fmt: skip
        chosen = option(chosen)
    return chosen
