"""Postgres: a transactional outbox: events are rows of a table, inserted in the transaction that they tell of, and a
relay sends what was committed: exactly that, each once.

A row is deleted once its event is confirmed. Killed in between, the relay sends it again under the same id, and the
append script knows it (S:ids): nothing is lost or doubled, provided that a relay runs again within `dedupe_for`. One
relay works at a time (an advisory lock); others stand by. Rows go in the order of their numbers, chunk by chunk: what
one transaction inserts after it has seen another's commit is behind that one's rows, also in the stream.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.backoff import RECONNECT
from pipeline.errors import (
    AccessDeniedError,
    ClosedError,
    EncodeError,
    EventTooLargeError,
    NotConnectedError,
    NotFoundError,
    SendError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.event import Event
from pipeline.keys import check_stream_name
from pipeline.observe.log import Limited, get_logger
from pipeline.tables import INBOX, OUTBOX, check_table, inbox_ddl, outbox_ddl
from producers.producer import Producer
from producers.receipt import Receipt

HAS_DRIVER = find_spec("psycopg") is not None
"""Whether the extra `postgres` is installed. Inserting events works with any driver of its manners."""

if TYPE_CHECKING or HAS_DRIVER:
    import psycopg
    from psycopg import errors as sql

CHUNK_ROWS = 500
"""Rows sent together; the next are read once these are confirmed."""
POLL_S = 0.25
"""How often an outbox without rows is looked at, in seconds; `NOTIFY <table>` has it looked at at once."""
STAND_BY_S = 1.0
"""How often a relay that stands by looks whether it is its turn, in seconds."""
STOP_CHECK_S = 0.2

_COLUMNS = "number, event_id, stream, type, key, data, headers, time"
_log = get_logger("outbox")


class Connection(Protocol):
    """A psycopg connection, or a cursor."""

    def execute(self, query: Any, params: Any = None) -> Any:
        """Run a statement."""


class AsyncConnection(Protocol):
    """A psycopg AsyncConnection, or an async cursor."""

    async def execute(self, query: Any, params: Any = None) -> Any:
        """Run a statement."""


class PostgresOutbox:
    """Inserts events into the outbox, in the caller's transaction.

    Example:
        outbox = PostgresOutbox()
        with pool.connection() as connection:
            connection.execute("INSERT INTO orders …")
            outbox.add(connection, {"id": 7}, type="order.placed", key="customer-7")

    `millstream produce orders --outbox postgresql://…` relays them. `millstream postgres create URL` makes the table;
    create() does, and outbox_ddl() is the statement for a migration. Rows may be inserted by any program.
    """

    def __init__(self, table: str = OUTBOX) -> None:
        """table: its name, with a schema before it if need be.

        Raises:
            UsageError: a name that cannot be.
        """
        self.table = check_table(table)

    @property
    def ddl(self) -> str:
        """The statement that makes the table, if it is not there."""
        return outbox_ddl(self.table)

    def add(self, connection: Connection, data: Any = None, **given: Any) -> None:
        """Insert an event; given: stream (None: the relay's), type, key, id, headers, time (with a zone).

        Raises:
            UsageError: something else was given, or data that JSON cannot hold.
        """
        connection.execute(*self._insert(data, **given))

    async def add_async(self, connection: AsyncConnection, data: Any = None, **given: Any) -> None:
        """add(), for an AsyncConnection."""
        await connection.execute(*self._insert(data, **given))

    def create(self, connection: Connection) -> None:
        """Make the table, if it is not there."""
        connection.execute(self.ddl)

    async def create_async(self, connection: AsyncConnection) -> None:
        """create(), for an AsyncConnection."""
        await connection.execute(self.ddl)

    def _insert(
        self,
        data: Any,
        *,
        stream: str | None = None,
        type: str = "",  # noqa: A002 - CloudEvents' word
        key: str = "",
        id: str = "",  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: datetime | None = None,
    ) -> tuple[str, Sequence[Any]]:
        Event(None, type=type, key=key, id=id, headers=headers, time=time)  # refused here, not by the relay
        try:
            values = {"data": json.dumps(data, allow_nan=False), "headers": json.dumps(dict(headers or {}))}
        except (TypeError, ValueError) as error:
            raise UsageError(f"the data of an outbox is JSON: {error}") from None
        given = {"stream": stream, "type": type, "key": key, "event_id": id or None, "time": time}
        named = values | {name: value for name, value in given.items() if value is not None}
        marks = ", ".join("%s::jsonb" if name in values else "%s" for name in named)
        return f"INSERT INTO {self.table} ({', '.join(named)}) VALUES ({marks})", list(named.values())


@dataclass(slots=True)
class Relayed:
    """What a relay has done so far."""

    confirmed: int = 0
    """Rows whose events are in their streams, and which are deleted."""
    problems: int = 0
    """Rows that can never be sent: their column `problem` says why, and they are passed over."""
    restarts: int = 0
    """How often a server was away, or a send failed, so that rows were read again."""
    standing_by: bool = False
    """Another relay is at work."""


def relay_outbox(
    producer: Producer,
    stream: str,
    url: str,
    *,
    table: str = OUTBOX,
    follow: bool = True,
    stop: threading.Event | None = None,
    progress: Callable[[Relayed], None] | None = None,
) -> Relayed:
    """Send the rows of an outbox, each once, and delete them; with follow=True also those still to come, until `stop`.

    Args:
        producer: sends them; its `confirm` is the level at which rows are deleted, its `dedupe_for` the time within
            which a relay that was killed is to run again.
        stream: where rows go that name no stream. url: the database, as psycopg takes it (postgresql://…).
        progress: called with the counts after each chunk.

    Returns:
        The counts.

    Raises:
        UsageError: a name that cannot be. NotFoundError: no such table. NotConnectedError: the database cannot be
        reached at the start (later it is waited for). AccessDeniedError and the like: no repeat can mend it.
    """
    _need_driver()
    relay = _Relay(producer, stream, url, check_table(table), stop or threading.Event(), progress)
    check_stream_name(producer.stream_name(stream))
    try:
        relay.run(follow=follow)
    finally:
        relay.close()
    return relay.done


def create_tables(url: str, *, inbox: str | None = INBOX, outbox: str | None = OUTBOX) -> list[str]:
    """Make the tables that are named (None: not that one), where they are not there; their names.

    Raises:
        UsageError: a name that cannot be. NotConnectedError: the database cannot be reached. AccessDeniedError: it
        refuses us.
    """
    statements = [
        (name, ddl(name)) for name, ddl in ((inbox, inbox_ddl), (outbox, outbox_ddl)) if name is not None
    ]
    _need_driver()
    with _connect(url) as connection:
        for name, statement in statements:
            try:
                connection.execute(statement)
            except sql.InsufficientPrivilege as error:
                raise AccessDeniedError(f"table {name}: {_said(error)}") from None
            except psycopg.Error as error:
                raise UsageError(f"table {name}: {_said(error)}") from None
    return [name for name, _ in statements]


class _Relay:
    """One relay at work. Not for several threads."""

    def __init__(
        self,
        producer: Producer,
        stream: str,
        url: str,
        table: str,
        stop: threading.Event,
        progress: Callable[[Relayed], None] | None,
    ) -> None:
        self.done = Relayed()
        self._producer = producer
        self._stream = stream
        self._url = url
        self._table = table
        self._stop = stop
        self._progress = progress or (lambda _: None)
        self._connection: psycopg.Connection[Any] | None = None
        self._limited = Limited(_log)

    def run(self, *, follow: bool) -> None:
        """Relay until stopped, or (follow=False) until no row is left."""
        failures = 0
        while not self._stop.is_set():
            try:
                if self._connection is None:
                    self._connection = _connect(self._url)
                    self._connection.execute(f'LISTEN "{self._table}"')
                if self._mine(self._connection):
                    rows = self._read(self._connection)
                    if rows:
                        self._relay(self._connection, rows)
                        failures = 0
                    elif not follow:
                        return
                    else:
                        for _ in self._connection.notifies(timeout=POLL_S, stop_after=1):
                            pass
                    continue
                if not follow:
                    raise UsageError(f"another relay is at work on table {self._table}")
                self._stop.wait(STAND_BY_S)
                continue
            except NotConnectedError as error:
                if not failures and not self.done.restarts and not self.done.confirmed:
                    raise  # at the start: somebody is there to see it
                why = str(error)
            except SendError as error:
                _raise_if_final(error)
                why = str(error)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self.close()
                why = _said(error)
            failures += 1
            self.done.restarts += 1
            self._limited.warning("relay", "outbox waits: rows are read again", table=self._table, why=why)
            self._stop.wait(RECONNECT.wait_ms(failures) / 1_000)

    def close(self) -> None:
        """Close the connection, and with it let go of the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _mine(self, connection: "psycopg.Connection[Any]") -> bool:
        """Whether this relay is the one at work; taken if nobody else is. Held as long as the connection is."""
        held = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ).fetchone()
        if held is not None and held[0]:
            return True
        answer = connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"millstream outbox {self._table}",)
        ).fetchone()
        mine = answer is not None and bool(answer[0])
        if not mine and not self.done.standing_by:
            _log.info("another relay is at work: standing by", table=self._table)
        self.done.standing_by = not mine
        return mine

    def _read(self, connection: "psycopg.Connection[Any]") -> list[Any]:
        try:
            return connection.execute(
                f"SELECT {_COLUMNS} FROM {self._table} WHERE problem IS NULL ORDER BY number LIMIT {CHUNK_ROWS}"
            ).fetchall()
        except sql.UndefinedTable:
            raise NotFoundError(
                f"the database has no table {self._table}: `millstream postgres create` makes it"
            ) from None
        except sql.UndefinedColumn as error:
            raise UsageError(f"table {self._table} is no outbox: {_said(error)}") from None
        except sql.InsufficientPrivilege as error:
            raise AccessDeniedError(f"table {self._table}: {_said(error)}") from None

    def _relay(self, connection: "psycopg.Connection[Any]", rows: Sequence[Any]) -> None:
        """Send a chunk of rows and delete those that are confirmed, unless it is to stop before they are."""
        events: dict[str, list[tuple[int, Event]]] = {}
        for row in rows:
            event = self._event(connection, row)
            if event is not None:
                events.setdefault(row[2] or self._stream, []).append((row[0], event))
        receipts: list[tuple[list[int], Receipt]] = []
        for stream, few in events.items():
            receipt = self._producer.send_many(stream, [event for _, event in few])
            receipt._disregard()  # looked at here, or the rows are read again
            receipts.append(([number for number, _ in few], receipt))
        for numbers, receipt in receipts:
            if not self._confirmed(receipt):
                return
            connection.execute(f"DELETE FROM {self._table} WHERE number = ANY(%s)", (numbers,))
            self.done.confirmed += len(numbers)
        self._progress(self.done)

    def _confirmed(self, receipt: Receipt) -> bool:
        """Wait for the end of a send; False if it is to stop before that.

        Raises:
            SendError: it failed, or may have, or is not confirmed at its level.
        """
        while True:
            try:
                receipt.result(STOP_CHECK_S)
            except TimeoutError:
                if self._stop.is_set():
                    return False
            else:
                return True

    def _event(self, connection: "psycopg.Connection[Any]", row: Any) -> Event | None:
        """The event of a row; None if it can never be sent: the row says so then."""
        number, event_id, stream, type_, key, data, headers, time = row
        try:
            event = Event(data, id=event_id, type=type_, key=key, headers=headers, time=time)
            if not event_id:
                raise UsageError("an event of an outbox has an id")
            self._producer.entries([event])
            check_stream_name(self._producer.stream_name(stream or self._stream))
        except (UsageError, EncodeError, EventTooLargeError, TypeError, AttributeError, ValueError) as error:
            problem = str(error)[:1_000].replace("\x00", "")
            connection.execute(f"UPDATE {self._table} SET problem = %s WHERE number = %s", (problem, number))
            self.done.problems += 1
            self._limited.warning(
                "problem",
                "a row of the outbox can never be sent: it is passed over",
                number=number,
                why=problem,
            )
            return None
        return event


def _need_driver() -> None:
    if not HAS_DRIVER:
        raise UsageError("PostgreSQL is reached by psycopg: pip install 'millstream[postgres]'")


def _connect(url: str) -> "psycopg.Connection[Any]":
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="millstream")
    except psycopg.ProgrammingError as error:
        raise UsageError(
            f"not an address of PostgreSQL, such as postgresql://app@db/shop: {_said(error)}"
        ) from None
    except psycopg.OperationalError as error:
        said = _said(error)
        if "authentication failed" in said or "no password supplied" in said:
            raise AccessDeniedError(f"PostgreSQL refuses the user or password: {said}") from None
        unreached = NotConnectedError(f"cannot reach PostgreSQL: {said}")
        unreached.add_note(
            "this is about the database, not about Redis: does the address name the right host and port?"
        )
        raise unreached from None


def _said(error: Exception) -> str:
    """What the database said, in one line."""
    return " ".join((str(error) or type(error).__name__).split())


def _raise_if_final(error: SendError) -> None:
    """Raise what no repeat can mend: rights, types, a closed producer."""
    cause = error.__cause__
    if isinstance(cause, AccessDeniedError | WrongKeyTypeError | UsageError | ClosedError):
        raise cause
