"""PostgresInbox: `once=` for effects in PostgreSQL: the note that an event is done is part of the effect's transaction.

Works on the caller's connection (psycopg 3, plain or async), and never commits: what the transaction does and the note
are there together, or neither is. The database decides, whatever dies: worker, server, network.
"""

from typing import Any, Protocol

from consumers.delivery import Delivery
from pipeline.tables import INBOX, check_table, inbox_ddl
from pipeline.units import Duration, duration_ms


class Connection(Protocol):
    """A psycopg connection, or a cursor."""

    def execute(self, query: Any, params: Any = None) -> Any:
        """Run a statement; what is returned has rowcount."""


class AsyncConnection(Protocol):
    """A psycopg AsyncConnection, or an async cursor."""

    async def execute(self, query: Any, params: Any = None) -> Any:
        """Run a statement; what is returned has rowcount."""


class PostgresInbox:
    """Which events the transactions of a group have done.

    Example:
        inbox = PostgresInbox()

        @app.consumer("payments", group="charge", once=True)
        def charge(event: Event, delivery: Delivery) -> None:
            with pool.connection() as connection:                 # one transaction
                if inbox.first(connection, delivery):
                    connection.execute("INSERT INTO charges …")

    `millstream postgres create URL` makes its table; create() does, and inbox_ddl() is the statement for a migration.
    """

    def __init__(self, table: str = INBOX) -> None:
        """table: its name, with a schema before it if need be.

        Raises:
            UsageError: a name that cannot be.
        """
        self.table = check_table(table)
        self._insert = (
            f"INSERT INTO {self.table} (stream, group_name, event_id) "
            "VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
        )
        self._delete = f"DELETE FROM {self.table} WHERE done_at < now() - %s * interval '1 millisecond'"

    @property
    def ddl(self) -> str:
        """The statement that makes the table, if it is not there."""
        return inbox_ddl(self.table)

    def first(self, connection: Connection, delivery: Delivery) -> bool:
        """Note the event as done in the connection's transaction; False if an earlier one has done it: do nothing then.

        Beside another transaction that is doing it just now, it waits for how that one ends. A handler that returns
        after False is right: the event is done.
        """
        return bool(connection.execute(self._insert, _names(delivery)).rowcount)

    async def first_async(self, connection: AsyncConnection, delivery: Delivery) -> bool:
        """first(), for an AsyncConnection."""
        return bool((await connection.execute(self._insert, _names(delivery))).rowcount)

    def create(self, connection: Connection) -> None:
        """Make the table, if it is not there."""
        connection.execute(self.ddl)

    async def create_async(self, connection: AsyncConnection) -> None:
        """create(), for an AsyncConnection."""
        await connection.execute(self.ddl)

    def forget(self, connection: Connection, older_than: Duration) -> int:
        """Remove notes older than this ("30d"), in the connection's transaction; how many.

        An event that comes again after that is done again: keep them for longer than anybody replays.
        """
        return int(connection.execute(self._delete, (duration_ms(older_than, "older_than"),)).rowcount)

    async def forget_async(self, connection: AsyncConnection, older_than: Duration) -> int:
        """forget(), for an AsyncConnection."""
        done = await connection.execute(self._delete, (duration_ms(older_than, "older_than"),))
        return int(done.rowcount)


def _names(delivery: Delivery) -> tuple[str, str, str]:
    return delivery.stream, delivery.group, delivery.once_id
