"""PostgresTable: a batch handler that writes events to a table of PostgreSQL, each event once.

A batch is copied (COPY) into a temporary table, and inserted from there with ON CONFLICT DO NOTHING, in one
transaction: the table's unique index over stream and event id is what knows an event that comes again, after a crash
of whoever wrote it, or when the answer to COMMIT was lost. What PostgreSQL does not take because of one row is written
in halves until that row is alone.
"""

import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from consumers.sinks.event_rows import USUAL, ColumnOf, columns_of, names_of
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import PASSWORD, TIMEOUT, Option, Secret, SinkUrl
from pipeline.errors import DecodeError, SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.outcome import Outcomes
from pipeline.tables import check_table, events_ddl
from pipeline.units import Duration, duration_ms

HAS_DRIVER = find_spec("psycopg") is not None
"""Whether the extra `postgres` is installed."""

if TYPE_CHECKING or HAS_DRIVER:
    import psycopg
    from psycopg import errors as sql

# By the first letters of their codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING = ("08", "25", "40", "53", "55", "57", "58", "HV")
"""Passes by itself: connection, a server that became a standby, rolled back as others were in the way, resources (disk,
memory, connections), in use, stopped by an operator, I/O, a foreign server."""
_REFUSING = ("28", "3D", "3F", "42", "0A", "0L", "0P", "XX")
"""A person has to mend it, whatever the row: authorization; a database, schema, table, column or right that is missing
or does not fit; a damaged server."""
MANY = 10
"""If each of so many rows is refused, and not one row was taken yet, the table is at fault, not the events."""
Row: TypeAlias = tuple[str, int, str]
"""What rows are sorted by, the index of the event, and the line for COPY."""
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class PostgresTable:
    """Writes each event as one row, once.

    Example:
        app.consumer("logs", group="db", batch=1_000)(sink("postgresql://app@db/shop?table=logs"))
    """

    def __init__(
        self,
        address: str,
        *,
        table: str,
        password: Secret | str | None = None,
        username: str | None = None,
        create: bool = True,
        columns: str = "",
        unique: str = "",
        nul: str = "reject",
        timeout: Duration = "10s",
    ) -> None:
        """address: postgresql://… or what else psycopg takes; the others: as the options of the URL.

        Raises:
            UsageError: something that cannot be meant, or psycopg is not installed.
        """
        if not HAS_DRIVER:
            raise UsageError("PostgreSQL is reached by psycopg: pip install 'millstream[postgres]'")
        self._address = address
        self._login: dict[str, Any] = {"user": username} if username else {}
        self._password = Secret(password) if isinstance(password, str) else password
        self._table = check_table(table)
        self._columns: Sequence[ColumnOf] = columns_of(columns) if columns else USUAL
        self._ddl = events_ddl(table) if create and not columns else None
        self._replaces_nul = nul == "replace"
        self._timeout_s = duration_ms(timeout, "timeout") / 1_000
        names = ", ".join(column.name for column in self._columns)
        unique_names = ", ".join(names_of(unique, self._columns))
        self._unique = unique_names
        # Named after what it is like: behind a pooler, a session may be another sink's next.
        here = f"pg_temp.millstream_{zlib.crc32(f'{table} {names}'.encode()):08x}"
        self._begin = (
            f"BEGIN; SET LOCAL client_min_messages = error; "
            f"SET LOCAL statement_timeout = {duration_ms(timeout)}; "
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {here.removeprefix('pg_temp.')} ON COMMIT DELETE ROWS "
            f"AS SELECT {names} FROM {self._table} WITH NO DATA"
        )
        self._copy = f"COPY {here} ({names}) FROM STDIN"
        self._insert = (
            f"INSERT INTO {self._table} ({names}) SELECT {names} FROM {here} "
            f"ON CONFLICT ({unique_names}) DO NOTHING; COMMIT"
        )
        self._forget = f"DROP TABLE IF EXISTS {here}"
        self._idle: list[psycopg.Connection[Any]] = []
        self._took_some = False
        try:
            psycopg.conninfo.conninfo_to_dict(address)
        except psycopg.ProgrammingError as error:
            raise UsageError(
                f"not an address of PostgreSQL, such as postgresql://app@db/shop?table=logs: {_said(error)} (options "
                f"of the sink: {', '.join(option.name for option in KIND.options)})"
            ) from None

    def __call__(self, events: list[Event]) -> Outcomes:
        """Write the events, each once, however often it comes; one that the table cannot hold is a dead letter.

        Raises:
            SinkAway: PostgreSQL cannot be reached, or not just now. SinkRefused: a wrong password, table or right.
        """
        outcomes = Outcomes()
        rows = sorted(
            self._rows(events, outcomes)
        )  # in one order everywhere: two writers cannot wait for each other
        refused: dict[int, str] = {}
        waiting: list[Sequence[Row]] = [rows] if rows else []
        away: SinkAway | None = None
        try:
            if waiting:
                with self._connection() as connection:
                    self._write(connection, waiting, refused)
        except SinkAway as error:
            away = error
        left = [index for part in waiting for _, index, _ in part]
        self._took_some = self._took_some or len(refused) + len(left) < len(rows)
        if not self._took_some and len(refused) >= MANY:
            raise SinkRefused(
                f"table {self._table} takes none of {len(refused)} events: {next(iter(refused.values()))}"
            )
        if away is not None and (len(left) == len(rows) or not self._took_some):
            raise away
        for index in left:
            outcomes.fail(index, away or SinkAway("not written yet"))
        for index, reason in refused.items():
            outcomes.reject(index, f"PostgreSQL refuses it: {reason}")
        return outcomes

    def close(self) -> None:
        """Close the connections that no call uses."""
        while self._idle:
            self._idle.pop().close()

    def _rows(self, events: Sequence[Event], outcomes: Outcomes) -> Iterator[Row]:
        """The events as lines of COPY, with what to sort them by and their indexes."""
        getters = [column.get for column in self._columns]
        for index, event in enumerate(events):
            try:
                values = [get(event) for get in getters]
            except (DecodeError, UsageError) as error:
                outcomes.fail(index, error)
                continue
            line = _line(values)
            if "\x00" in line or r"\u0000" in line:
                without = [
                    self._without_nul(column, value)
                    for column, value in zip(self._columns, values, strict=True)
                ]
                if without != values and not self._replaces_nul:
                    outcomes.reject(
                        index,
                        "PostgreSQL holds no character U+0000, and there is one in it (nul=replace writes U+FFFD)",
                    )
                    continue
                line = _line(without)
            yield event.id, index, line

    @staticmethod
    def _without_nul(column: ColumnOf, value: str | None) -> str | None:
        """The value with U+FFFD in place of each NUL, which JSON writes as an escape."""
        if value is None:
            return None
        return _NUL.sub("\\1\ufffd", value) if column.is_json else value.replace("\x00", "\ufffd")

    def _write(
        self, connection: "psycopg.Connection[Any]", waiting: list[Sequence[Row]], refused: dict[int, str]
    ) -> None:
        """Write the rows, and leave none in `waiting`: in one transaction; in halves, if one of them is not taken.

        Raises:
            SinkAway: what is in `waiting` is not written. However many rows are refused, it takes no longer than the
            timeout: so the next try has fewer.
        """
        until_s = time.monotonic() + self._timeout_s
        while waiting:
            rows = waiting[-1]
            with _cut_after(connection, self._timeout_s + 1):
                reason = self._write_at_once(connection, rows)
            waiting.pop()
            if reason is not None and len(rows) == 1:
                refused[rows[0][1]] = reason
            elif reason is not None:
                half = len(rows) // 2
                waiting += [rows[half:], rows[:half]]
            if waiting and time.monotonic() > until_s:
                raise SinkAway("it takes longer than the timeout to find the rows that it refuses")

    def _write_at_once(self, connection: "psycopg.Connection[Any]", rows: Sequence[Row]) -> str | None:
        """Write the rows in one transaction; what PostgreSQL says if it does not take one of them."""
        try:
            connection.execute(self._begin)
            with connection.cursor().copy(self._copy) as copy:
                copy.write("".join([line for _, _, line in rows]).encode("utf-8", "replace"))
            connection.execute(self._insert)
        except psycopg.Error as error:
            problem = self._problem(error)
            if problem is not None:
                raise problem from None
            connection.execute("ROLLBACK")
            if len(rows) > 1:
                connection.execute(self._forget)  # the table may have been altered since it was made like it
            return _said(error)
        return None

    @contextmanager
    def _connection(self) -> Iterator["psycopg.Connection[Any]"]:
        """A connection for one batch; kept if it went well."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        except psycopg.Error as error:
            connection.close()
            raise self._problem(error) or error from None
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    def _connect(self) -> "psycopg.Connection[Any]":
        given: dict[str, Any] = {"application_name": "millstream", **self._login}
        if self._password is not None:
            given["password"] = self._password.read()
        try:
            connection = psycopg.connect(
                self._address,
                autocommit=True,  # transactions are begun and ended by our own statements
                prepare_threshold=None,  # poolers know no prepared statements
                connect_timeout=max(round(self._timeout_s), 2),
                **given,
            )
        except (psycopg.Error, OSError) as error:
            raise self._problem(error) or SinkAway(f"cannot reach PostgreSQL: {_said(error)}") from None
        try:
            with _cut_after(connection, self._timeout_s):
                self._create(connection)
        except psycopg.Error as error:
            connection.close()
            raise self._problem(error) or error from None
        return connection

    def _create(self, connection: "psycopg.Connection[Any]") -> None:
        if self._ddl is None:
            return
        there = connection.execute("SELECT to_regclass(%s)", (self._table,)).fetchone()
        if there is not None and there[0] is not None:
            return
        try:
            connection.execute(self._ddl)
        except (sql.UniqueViolation, sql.DuplicateTable):
            pass  # another worker made it in the same moment

    def _problem(self, error: Exception) -> SinkAway | None:
        """What an error means for the sink as a whole; None if it is about a row."""
        said, code = _said(error), getattr(error, "sqlstate", None) or ""
        if isinstance(error, sql.UndefinedTable):
            return SinkRefused(f"the database has no table {self._table}: {said}")
        if isinstance(error, sql.InvalidColumnReference):
            return SinkRefused(f"table {self._table} has no unique index on ({self._unique}): {said}")
        if code.startswith(_REFUSING):
            return SinkRefused(f"PostgreSQL refuses: {said}")
        if code.startswith(_PASSING):
            return SinkAway(f"PostgreSQL: {said}")
        if code:
            return None
        if "authentication failed" in said or "no password supplied" in said:
            return SinkRefused(f"PostgreSQL refuses the user or password: {said}")
        if re.search('(database|role) "[^"]*" (does not exist|is not permitted)|no pg_hba.conf entry', said):
            return SinkRefused(f"PostgreSQL refuses: {said}")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError):
            return SinkAway(f"PostgreSQL cannot be reached, or the connection broke: {said}")
        return None


@contextmanager
def _cut_after(connection: "psycopg.Connection[Any]", timeout_s: float) -> Iterator[None]:
    """Cut the connection if the block takes longer: a server that hangs or is gone answers nothing, not even late."""
    ours = socket.socket(fileno=connection.fileno())
    wire = ours.dup()  # the number may be another connection's by the time it is cut
    ours.detach()
    timer = threading.Timer(timeout_s, _shut_down, (wire,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        wire.close()


def _shut_down(wire: socket.socket) -> None:
    try:
        wire.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it broke, or was closed, in the same moment


def _line(values: Sequence[str | None]) -> str:
    return "\t".join([r"\N" if value is None else _escaped(value) for value in values]) + "\n"


def _escaped(text: str) -> str:
    """Text as COPY reads it: https://www.postgresql.org/docs/current/sql-copy.html (text format)."""
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if not text.isprintable():
        text = text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return text


def _said(error: Exception) -> str:
    """What the database said, in one line: without the detail, which shows whole rows."""
    diagnosis = getattr(error, "diag", None)
    said = diagnosis.message_primary if diagnosis is not None else None
    return " ".join((said or str(error) or type(error).__name__).split())


def _from_url(url: SinkUrl) -> PostgresTable:
    query = "&".join(f"{name}={quote(text, safe='')}" for name, text in url.others.items())
    options = url.options
    return PostgresTable(
        f"postgresql://{url.hosts}{quote(url.path)}" + (f"?{query}" if query else ""),
        table=options["table"],
        username=url.username,
        password=url.password,
        create=options["create"],
        columns=options["columns"] or "",
        unique=options["unique"] or "",
        nul=options["nul"],
        timeout=options["timeout"] / 1_000,
    )


KIND = SinkKind(
    make=_from_url,
    options=(
        Option("table", "text", None, "the table, with a schema before it if need be", needed=True),
        Option("create", "flag", "yes", "make the table if it is not there; not with columns="),
        Option(
            "columns",
            "text",
            None,
            "what goes where in a table of yours: id:event_id,at:time,message:data.event",
        ),
        Option("unique", "text", None, "columns of the unique index; else those of stream and event_id"),
        Option(
            "nul",
            "choice",
            "reject",
            "a character U+0000: a dead letter, or U+FFFD",
            choices=("reject", "replace"),
        ),
        TIMEOUT,
        PASSWORD,
    ),
    others=True,
    batch_events=1_000,
)
