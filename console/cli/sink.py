"""millstream sink: which sinks there are for `consume --sink`, and the options of one."""

import click

from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.output import Column
from consumers.sinks.by_url import SINKS, kind_of
from pipeline.errors import NotFoundError

_COLUMNS = (Column("sink", "SINK"), Column("does", "WRITES"), Column("example", "EXAMPLE", shrinks=True))
_OPTIONS = (
    Column("name", "OPTION"),
    Column("value", "VALUE"),
    Column("default", "DEFAULT"),
    Column("help", "MEANING", shrinks=True),
)


@click.group(
    "sink",
    cls=Noun,
    examples=[
        ("millstream sinks", "all of them"),
        ("millstream sink show jsonl", "the options of one, with their defaults"),
    ],
)
def verb() -> None:
    """Sinks: ready-made targets for `millstream consume --sink URL`."""


@verb.command("ls", cls=Verb, examples=[("millstream sinks --json", "for a script")])
@click.pass_obj
def ls(session: Session) -> None:
    """List the sinks, each with an example of its URL."""
    session.out.rows(
        _COLUMNS,
        [
            {"sink": f"{scheme}:", "does": listed.does, "example": listed.example}
            for scheme, listed in SINKS.items()
        ],
    )


@verb.command("show", cls=Verb, examples=[("millstream sink show jsonl", "its options, with their defaults")])
@click.argument("name")
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Show the options of a sink: they stand behind a ? in its URL, with & between them."""
    scheme = name.rstrip(":/").lower()
    if scheme not in SINKS:
        raise NotFoundError(f"there is no sink {name!r}; there are: {', '.join(SINKS)}")
    kind, listed = kind_of(f"{scheme}:"), SINKS[scheme]
    session.out.talk(f"{listed.does}: {listed.example}")
    session.out.rows(
        _OPTIONS,
        [
            {"name": o.name, "value": o.metavar, "default": o.default, "help": o.help, "needed": o.needed}
            for o in kind.options
        ],
        none="it has no options",
    )
    if kind.others:
        session.out.talk("others go on to the target as they are")
