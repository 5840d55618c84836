"""millstream postgres: the tables that Millstream keeps in a PostgreSQL of yours: the inbox and the outbox."""

import click

from console.cli.kinds import TABLE
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from pipeline.tables import INBOX, OUTBOX, inbox_ddl, outbox_ddl


@click.group(
    "postgres",
    cls=Noun,
    default="ddl",
    examples=[
        ("millstream postgres ddl", "the statements, for your migrations"),
        (
            "millstream postgres create postgresql://app@db/shop",
            "makes both tables, where they are not there",
        ),
    ],
)
def verb() -> None:
    """Tables in a PostgreSQL of yours: the inbox of PostgresInbox, and the outbox that `produce --outbox` relays."""


_INBOX = click.option(
    "--inbox", type=TABLE, metavar="NAME", default=INBOX, show_default=True, help="The inbox's table."
)
_OUTBOX = click.option(
    "--outbox", type=TABLE, metavar="NAME", default=OUTBOX, show_default=True, help="The outbox's table."
)


@verb.command("ddl", cls=Verb, examples=[("millstream postgres ddl", "the statements, for a migration")])
@_INBOX
@_OUTBOX
@click.pass_obj
def ddl(session: Session, inbox: str, outbox: str) -> None:
    """Print the statements that make both tables."""
    click.echo(f"{inbox_ddl(inbox)};\n\n{outbox_ddl(outbox)};")


@verb.command(
    "create",
    cls=Verb,
    examples=[
        ("millstream postgres create postgresql://app@db/shop", "both, where they are not there"),
        ("millstream postgres create postgresql://app@db/shop --outbox shop.outbox", "under a name of yours"),
    ],
)
@click.argument("database", metavar="DATABASE")
@_INBOX
@_OUTBOX
@click.pass_obj
def create(session: Session, database: str, inbox: str, outbox: str) -> None:
    """Make both tables in DATABASE (postgresql://…), where they are not there; nothing is changed that is."""
    from producers.sources.postgres import create_tables

    names = create_tables(database, inbox=inbox, outbox=outbox)
    session.out.done(f"tables there: {', '.join(names)}", tables=", ".join(names))
