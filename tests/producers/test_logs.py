"""Log shipping on a real server: the application never waits, never fails, and each line is there once."""

import io
import logging
import logging.config
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog

from pipeline.codec import decode_msgpack
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.server.connect import Link
from producers.logs import LogHandler, ShipLogs, ship_logs
from producers.logs.line import MAX_TEXT, Line, Taker, exception_of
from producers.logs.mask import PATTERNS, PIECE, TextMask
from producers.logs.shipper import ROOM_MS, SEND_EVENTS, SINGLES, end_all
from tests.conftest import Server
from tests.producers.reading import events
from tests.proxy import Proxy
from tests.until import until

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "unix:///nonexistent/millstream/no.sock"


@pytest.fixture(autouse=True)
def shippers_end() -> Iterator[None]:
    """The threads of a test end with it."""
    yield
    end_all()


@pytest.fixture
def logger(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    """A logger of this test, with no other handlers."""
    logger = logging.getLogger(f"app.{request.node.name}")
    logger.setLevel(logging.DEBUG)
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


@pytest.fixture
def handler(server: Server, stream: str, logger: logging.Logger) -> LogHandler:
    """A handler of that logger."""
    handler = LogHandler(stream, url=server.address.shown, gather=0)
    logger.addHandler(handler)
    return handler


@pytest.fixture
def ship(server: Server, stream: str) -> ShipLogs:
    """The processor, to be called by hand or configured."""
    return ship_logs(stream, url=server.address.shown, gather=0)


def shipped(link: Link, stream: str, count: int) -> list[Event]:
    """The events of the stream, once so many are there."""
    until(lambda: len(events(link, stream)) >= count, what=f"{count} lines in the stream")
    found = events(link, stream)
    assert len(found) == count
    return found


def data_of(line: Line) -> Any:
    """The fields of a line that was taken."""
    _, _, body = line
    return decode_msgpack(body)


def bound(ship: ShipLogs, out: io.StringIO, *more: Any) -> Any:
    """A structlog logger that prints JSON lines and ships them."""
    return structlog.wrap_logger(
        structlog.PrintLogger(out), processors=[*more, ship, structlog.processors.JSONRenderer()]
    )


def test_a_line_of_structlog_is_an_event_and_goes_on_unchanged(
    ship: ShipLogs, link: Link, stream: str
) -> None:
    """Level in the type, fields as data, time of the call."""
    out = io.StringIO()
    bound(ship, out).warning("disk is full", path="/var", free_bytes=0, password="hunter2")
    (event,) = shipped(link, stream, 1)
    assert event.type == "log.warning"
    assert event.data == {
        "event": "disk is full", "path": "/var", "free_bytes": 0, "password": "***", "level": "warning"
    }  # fmt: skip
    assert event.headers["pid"] == str(os.getpid())
    assert abs(event.time_ms - time.time() * 1_000) < 20_000
    assert '"password": "hunter2"' in out.getvalue()


def test_a_record_of_the_standard_library_is_an_event(
    handler: LogHandler, logger: logging.Logger, link: Link, stream: str
) -> None:
    """Message, logger, place and extra fields."""
    logger.error(
        "order %d failed", 7, extra={"order": 7, "api_key": "k", "nested": {"token": "t", "n": [1, 2]}}
    )
    (event,) = shipped(link, stream, 1)
    assert event.type == "log.error"
    assert event.data["event"] == "order 7 failed"
    assert event.data["logger"] == logger.name
    assert event.data["where"].startswith("test_logs.test_a_record")
    assert (event.data["order"], event.data["api_key"]) == (7, "***")
    assert event.data["nested"] == {"token": "***", "n": [1, 2]}


def test_exceptions_are_data(
    handler: LogHandler, ship: ShipLogs, logger: logging.Logger, link: Link, stream: str
) -> None:
    """Type, message and traceback; from both sides."""
    try:
        raise KeyError("missing")
    except KeyError:
        logger.exception("failed")
        bound(ship, io.StringIO(), structlog.processors.ExceptionRenderer()).exception("rendered before")
        bound(ship, io.StringIO()).error("failed", exc_info=True)
    for event in (one for one in shipped(link, stream, 3) if "rendered" not in one.data["event"]):
        assert event.type == "log.error"
        assert event.data["exception"]["type"] == "KeyError"
        assert event.data["exception"]["message"] == "'missing'"
        assert 'raise KeyError("missing")' in event.data["exception"]["traceback"]


def test_levels_below_are_not_shipped(
    server: Server, logger: logging.Logger, link: Link, stream: str
) -> None:
    """Each side has its own."""
    ship = ship_logs(stream, url=server.address.shown, level="warning", gather=0)
    log = bound(ship, io.StringIO())
    log.info("no")
    log.warning("yes")
    logger.addHandler(LogHandler(stream, url=server.address.shown, level="error", gather=0))
    logger.warning("no")
    logger.critical("yes")
    assert [event.type for event in shipped(link, stream, 2)] == ["log.warning", "log.critical"]


class Broken:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


def test_whatever_is_logged_is_shipped_somehow(
    handler: LogHandler, ship: ShipLogs, logger: logging.Logger, link: Link, stream: str
) -> None:
    """Broken, endless, huge and odd values: none raises, none keeps the others away."""
    endless: list[Any] = []
    endless.append(endless)
    values: dict[str, Any] = {
        "broken": Broken(), "endless": endless, "huge": "x" * 5_000_000, "big": 2**80, "surrogate": "\ud800",
        "bytes": b"\xff", "set": {1}, "decimal": Decimal("1.5"), "uuid": uuid4(), "time": datetime.now(UTC),
        "nan": float("nan"), "error": ValueError("x"), "many": list(range(100_000)), "type": int,
    }  # fmt: skip
    log = bound(ship, io.StringIO())
    for name, value in values.items():
        ship(None, "info", {"event": name, "value": value, 7: "odd key"})
    for message, argument in (("%d is no number", "text"), ("%s", Broken())):
        handler.emit(
            logging.makeLogRecord({"msg": message, "args": (argument,), "name": "app", "levelno": 20})
        )
    log.info("last")
    found = shipped(link, stream, len(values) + 3)
    data = {event.data["event"]: event.data.get("value") for event in found}
    assert "whose repr raises" in data["broken"]
    assert len(data["huge"]) < 40_000
    assert data["big"] == str(2**80)
    assert data["surrogate"] == "\\ud800"
    assert data["decimal"] == Decimal("1.5")
    assert len(data["many"]) == 1_000


def test_names_are_masked_whatever_their_case_and_depth() -> None:
    """As words of a name, not as parts of a word."""
    taker = Taker(("password", "set-cookie"))
    line = taker.line(
        {
            "Password": 1,
            "db_password": 2,
            "PASSWORD_hash": 3,
            "passwords": 4,
            "headers": [{"Set-Cookie": 5, "a": 6}],
        },
        20,
    )
    assert data_of(line) == {
        "Password": "***", "db_password": "***", "PASSWORD_hash": "***", "passwords": 4,
        "headers": [{"Set-Cookie": "***", "a": 6}],
    }  # fmt: skip


def renderers() -> dict[str, Callable[..., Any]]:
    """Ways in which structlog hands lines to the standard library."""
    return {
        "json": structlog.processors.JSONRenderer(),
        "key value": structlog.processors.KeyValueRenderer(),
        "logfmt": structlog.processors.LogfmtRenderer(),
        "formatter": structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        "kwargs": structlog.stdlib.render_to_log_kwargs,
        "console": structlog.dev.ConsoleRenderer(),
    }


@pytest.mark.parametrize("name", list(renderers()))
def test_processor_and_handler_together_ship_a_line_once(
    name: str, handler: LogHandler, ship: ShipLogs, logger: logging.Logger, link: Link, stream: str
) -> None:
    """Lines of structlog through a logger of the standard library, and plain ones between them."""
    log = structlog.wrap_logger(
        logger, wrapper_class=structlog.stdlib.BoundLogger, processors=[ship, renderers()[name]]
    )
    sent = []
    for number in range(5):
        text = f'structlog "{number}" ü'
        log.info(text, n=number)
        logger.info("plain %d", number)
        sent += [text, f"plain {number}"]
    assert [event.data["event"] for event in shipped(link, stream, 10)] == sent


def test_a_formatter_with_the_processor_and_the_handler_ship_a_record_once(
    handler: LogHandler, ship: ShipLogs, logger: logging.Logger, link: Link, stream: str
) -> None:
    """structlog's ProcessorFormatter renders plain records too; in either order of handlers."""
    out = io.StringIO()
    printing = logging.StreamHandler(out)
    printing.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[ship],
        )
    )
    logger.addHandler(printing)
    logger.info("one")
    logger.handlers.reverse()
    logger.info("two")
    assert [event.data["event"] for event in shipped(link, stream, 2)] == ["one", "two"]
    assert out.getvalue().count("\n") == 2


def test_records_of_the_same_moment_are_shipped_once_each(
    server: Server,
    handler: LogHandler,
    logger: logging.Logger,
    link: Link,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock stands still, as in a test of the application; or who makes records knows seconds only."""
    logger.addHandler(LogHandler(stream, url=server.address.shown, gather=0))
    made = logging.getLogRecordFactory()

    def at_one_moment(*args: Any, **named: Any) -> logging.LogRecord:
        record = made(*args, **named)
        record.created = 1_795_660_099.0
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", at_one_moment)
    for number in range(500, 510):
        logger.info("line %d", number)
    for number in range(510, 520):
        logger.info(f"line {number}")  # noqa: G004
    assert [event.data["event"] for event in shipped(link, stream, 20)] == [
        f"line {n}" for n in range(500, 520)
    ]


def test_lines_of_threads_and_signal_handlers_are_shipped(
    handler: LogHandler, logger: logging.Logger, link: Link, stream: str
) -> None:
    """A handler of signals may log in the midst of a log call."""
    count = 0

    def work(*_: object) -> None:
        nonlocal count
        count += 1
        handler.emit(logging.makeLogRecord({"msg": "signal", "name": "app", "levelno": 20}))

    signal.signal(signal.SIGVTALRM, work)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.002, 0.002)
    try:
        threads = [
            threading.Thread(target=lambda: deque(map(logger.info, ["thread"] * 300))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for _ in range(1_000):
            logger.info("main")
        for thread in threads:
            thread.join()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN)  # one may be on its way still
    shipped(link, stream, 1_900 + count)


def test_our_own_lines_are_not_shipped(handler: LogHandler, link: Link, stream: str) -> None:
    """Nor those that others log in our threads: a line about lines would never end."""
    for name in ("millstream", "millstream.producer"):
        handler.emit(logging.makeLogRecord({"name": name, "msg": "own", "levelno": 20}))
    theirs_in_our_thread = {"name": "redis", "msg": "own", "levelno": 20, "threadName": "millstream-producer"}
    handler.emit(logging.makeLogRecord(theirs_in_our_thread))
    handler.emit(logging.makeLogRecord({"name": "app", "msg": "theirs", "levelno": 20}))
    assert shipped(link, stream, 1)[0].data["event"] == "theirs"


def test_without_room_the_oldest_go_first_and_errors_last(
    stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted, and said once a second at most."""
    began_s = time.monotonic()
    ship = ship_logs(stream, url=NOWHERE, queue_events=100, gather=0, pack=0, exit="100ms")
    shipper = ship.shipper

    def on_its_way() -> int:
        return shipper._producer._sender.outbox.events if shipper._producer else 0

    moved, moved_s = 0, 0.0

    def stuck() -> bool:
        """The producer is full, and the shipper's thread waits with some lines in hand, its own about those dropped
        perhaps among them, or alone."""
        nonlocal moved, moved_s
        ship(None, "info", {"event": "early"})
        if on_its_way() != moved:
            moved, moved_s = on_its_way(), time.monotonic()
        waited_ms = (time.monotonic() - moved_s) * 1_000
        return (
            moved > SEND_EVENTS - SINGLES
            and shipper.queued - shipper.dropped >= moved + 99
            and waited_ms > 2 * ROOM_MS
        )

    until(stuck, every_s=0)
    for number in range(50):
        ship(None, "error", {"event": f"error {number}"})
    for number in range(1_000):
        ship(None, "info", {"event": number})
    assert [data_of(line)["event"] for line in shipper._grave] == [f"error {number}" for number in range(50)]
    assert [data_of(line)["event"] for line in shipper._lines] == list(range(950, 1_000))
    assert not shipper.intake
    until(lambda: "log lines dropped" in caplog.text)
    assert caplog.text.count("log lines dropped") <= time.monotonic() - began_s + 2


def test_the_queue_is_bounded_in_bytes(stream: str) -> None:
    """About."""
    ship = ship_logs(stream, url=NOWHERE, queue_bytes=100_000, gather="10s", exit="100ms")
    for _ in range(100):
        ship(None, "info", {"event": "x" * 10_000})
    assert ship.shipper._bytes <= 100_000
    assert len(ship.shipper._lines) + len(ship.shipper.intake) < 12


def test_a_server_that_comes_back_gets_what_was_kept(server: Server, link: Link, stream: str) -> None:
    """In order; the thread that logs noticed nothing."""
    with Proxy(server.address) as proxy:
        ship = ship_logs(stream, url=proxy.url, gather=0)
        ship(None, "info", {"event": -1})
        shipped(link, stream, 1)
        proxy.refuse = True
        proxy.cut()
        for number in range(3_000):
            ship(None, "info", {"event": number})
        proxy.refuse = False
        found = shipped(link, stream, 3_001)
    assert [event.data["event"] for event in found] == list(range(-1, 3_000))


def test_a_flush_does_not_wait_for_lines_to_gather(server: Server, link: Link, stream: str) -> None:
    """What is queued is sent at once."""
    ship = ship_logs(stream, url=server.address.shown, gather="30s")
    began = time.monotonic()
    for number in range(2):
        ship(None, "info", {"event": number})
        assert ship.flush(10)
        assert len(events(link, stream)) == number + 1
    assert time.monotonic() - began < 10


def test_one_shipper_serves_all_who_ship_to_the_same_stream(server: Server, stream: str) -> None:
    """One thread, one connection, one queue."""
    one = ship_logs(stream, url=server.address.shown)
    assert LogHandler(stream, url=server.address.shown).shipper is one.shipper
    assert ship_logs(f"{stream}-2", url=server.address.shown).shipper is not one.shipper


def test_names_and_options_are_checked_where_they_are_given() -> None:
    """And nothing is raised later: not even that there is no address."""
    with pytest.raises(UsageError, match="stream name"):
        ship_logs("{")
    with pytest.raises(UsageError, match="there is no log option 'queue'"):
        LogHandler("logs", queue=1)
    ship = ship_logs("logs", gather=0)
    ship(None, "info", {"event": "no address anywhere"})
    until(lambda: ship.shipper.dropped == 1)


def script(text: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(text), *args],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_end_of_the_process_ships_what_is_queued(server: Server, link: Link, stream: str) -> None:
    """Also what is logged by a forked child, and in the last moment."""
    done = script(
        """
        import atexit, logging, os, sys
        from producers.logs import LogHandler
        log = logging.getLogger("app")
        log.addHandler(LogHandler(sys.argv[2], url=sys.argv[1]))
        log.warning("parent")
        pid = os.fork()
        if pid == 0:
            for number in range(100):
                log.error("child")
            sys.exit()
        os.waitpid(pid, 0)
        atexit.register(log.error, "last")
        """,
        server.address.shown,
        stream,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = [event.data["event"] for event in shipped(link, stream, 102)]
    assert sorted(found) == sorted(["parent", "last", *["child"] * 100])
    assert len({event.headers["pid"] for event in events(link, stream)}) == 2


def test_the_end_of_the_process_is_not_held_up_by_a_missing_server(stream: str) -> None:
    """Two seconds, then a word on stderr."""
    began = time.monotonic()
    done = script(
        """
        import logging, sys
        from producers.logs import LogHandler
        log = logging.getLogger("app")
        log.addHandler(LogHandler("logs", url=sys.argv[1], exit="500ms"))
        for number in range(10):
            log.error("line")
        """,
        NOWHERE,
    )
    assert done.returncode == 0
    assert "log lines were not shipped" in done.stderr
    assert "unsent=10" in done.stderr
    assert time.monotonic() - began < 8


CARD, BEARER = "4111 1111 1111 1111", "Bearer abc.def-ghi_jkl"


def test_patterns_are_masked_wherever_they_stand(
    server: Server, logger: logging.Logger, link: Link, stream: str
) -> None:
    """In messages, nested data, objects, bytes, notes, causes and tracebacks; from both sides, flat lines too."""
    patterns = ["card", "bearer", r"key-(\d+)"]
    given: dict[str, Any] = {"url": server.address.shown, "gather": 0, "mask_patterns": patterns}
    ship = ship_logs(stream, **given)
    logger.addHandler(LogHandler(stream, **given))
    logger.propagate = False

    class Shown:
        def __repr__(self) -> str:
            return f"<paid with {CARD}>"

    def fail() -> None:
        try:
            raise KeyError(BEARER)
        except KeyError as error:
            error.add_note(f"tried with {CARD}")
            raise ValueError(f"refused key-12345: {CARD}") from error

    for _ in range(2):  # the second time all names are known
        ship(None, "info", {"event": f"paid {CARD}", "level": "info", "logger": "a", "auth": BEARER, "n": 1})
    ship(
        None,
        "info",
        {"event": "x", "deep": {"a": [{"b": (CARD, Shown(), BEARER.encode())}]}, "key": "key-777"},
    )
    logger.info("paid %s with %s", "key-99", CARD, extra={"more": [BEARER]})
    try:
        fail()
    except ValueError:
        logger.exception("failed")
        ship(None, "error", {"event": "failed", "exc_info": True})
    found = shipped(link, stream, 6)
    everything = repr([event.data for event in found])
    for secret in ("4111", "abc.def", "12345", "777", "key-99"):
        assert secret not in everything
    assert (
        found[0].data
        == found[1].data
        == {"event": "paid ***", "level": "info", "logger": "a", "auth": "Bearer ***", "n": 1}
    )
    assert found[2].data["key"] == "key-***"
    assert found[4].data["exception"]["message"] == "refused key-***: ***"
    assert found[4].data["exception"]["cause"]["notes"] == ["tried with ***"]
    assert "ValueError: refused key-***: ***" in found[4].data["exception"]["traceback"]


def test_what_is_masked_in_a_long_text_is_masked_where_pieces_end_and_where_it_is_cut() -> None:
    """At every offset around the ends of the pieces; nothing else is changed."""
    mask = TextMask(["card"])
    for before in [*range(40), *range(PIECE - 45, PIECE + 25), *range(2 * PIECE - 300, 2 * PIECE + 5)]:
        text = "x" * before + " " + CARD + " " + "y" * 3_000
        assert mask(text) == "x" * before + " *** " + "y" * 3_000
    taker = Taker((), ["card"])
    for before in range(MAX_TEXT - 60, MAX_TEXT + 5):
        body = data_of(taker.line({"event": "x" * before + " " + CARD + " and more"}, 20))["event"]
        assert "1111" not in body
        assert len(body) < MAX_TEXT + 100


def test_a_pattern_that_cannot_be_is_refused_where_it_is_given() -> None:
    """No expression, one that finds nothing's place, one that would hold up who logs."""
    for given, said in (
        ("[", "not a regular expression"),
        ("a*", "holds nothing"),
        ("(a+)+$", "bound its repeats"),
        (r"(\w+\s?)*!", "bound its repeats"),
        (b"x", "neither a text"),
    ):
        with pytest.raises(UsageError, match=said):
            ship_logs("logs", mask_patterns=[given])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="a list of patterns"):
        ship_logs("logs", mask_patterns="card")
    with pytest.raises(UsageError, match="a list of names"):
        ship_logs("logs", mask="password")
    with pytest.raises(UsageError, match="level='eror': a number, or one of debug, info"):
        ship_logs("logs", level="eror")


@pytest.mark.parametrize(
    "text", ["a" * 40_000, "1" * 40_000, "a@" * 20_000, "a:" * 20_000, "Bearer " * 6_000]
)
def test_masking_a_long_text_takes_a_bounded_time(text: str) -> None:
    """With all patterns that come along."""
    taker = Taker((), list(PATTERNS))
    began_s = time.thread_time()
    taker.line({"event": text}, 20)
    assert time.thread_time() - began_s < 0.5
    began_s = time.thread_time()
    taker.line({"event": [text] * 1_000}, 20)  # what would be too large to be sent is not looked at
    assert time.thread_time() - began_s < 3


def test_a_chain_of_exceptions_is_data() -> None:
    """Cause, context, notes and the members of groups, each with type and message; endless chains end."""

    def raised() -> BaseException:
        try:
            try:
                raise OSError("disk")
            except OSError as first:
                first.add_note("while saving")
                raise ValueError("order") from first
        except ValueError as second:
            try:
                raise ExceptionGroup("several", [second, KeyError("k")])
            except ExceptionGroup as group:
                return group

    said = exception_of(raised())
    assert said is not None
    assert (said["type"], said["message"]) == ("ExceptionGroup", "several (2 sub-exceptions)")
    assert said["context"]["type"] == "ValueError"
    order, key = said["exceptions"]
    assert order["cause"] == {"type": "OSError", "message": "disk", "notes": ["while saving"]}
    assert key == {"type": "KeyError", "message": "'k'"}
    assert "while saving" in said["traceback"]
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert exception_of(one) is not None
    quiet = ValueError("quiet")
    quiet.__context__, quiet.__suppress_context__ = one, True
    assert set(exception_of(quiet) or {}) == {"type", "message", "traceback"}


def test_bound_context_comes_along(
    handler: LogHandler, ship: ShipLogs, logger: logging.Logger, link: Link, stream: str
) -> None:
    """structlog's contextvars, also of lines of the standard library; what a line says itself goes first."""
    with structlog.contextvars.bound_contextvars(request_id="r-7", logger="bound", token="secret"):
        logger.info("plain", extra={"n": 1})
        bound(ship, io.StringIO(), structlog.contextvars.merge_contextvars).info("bound", n=2)
    logger.info("after")
    plain, line, after = [event.data for event in shipped(link, stream, 3)]
    assert (plain["request_id"], plain["logger"], plain["n"], plain["token"]) == (
        "r-7",
        logger.name,
        1,
        "***",
    )
    assert (line["request_id"], line["n"], line["token"]) == ("r-7", 2, "***")
    assert "request_id" not in after


def test_logging_is_set_up_by_a_dict(server: Server, link: Link, stream: str, tmp_path: Path) -> None:
    """By the public name; options are keys, as a configuration file has them."""
    name = f"app.dict.{stream}"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "stream": {
                    "class": "millstream.LogHandler", "level": "INFO", "stream": stream, "url": server.address.shown,
                    "mask": ["pin"], "mask_patterns": ["card"], "spill": str(tmp_path / "spill"), "spill_bytes": "10MB",
                    "gather": "10ms", "queue_bytes": "1MB",
                }
            },
            "loggers": {name: {"handlers": ["stream"], "level": "DEBUG", "propagate": False}},
        }
    )  # fmt: skip
    logger = logging.getLogger(name)
    logger.debug("no")
    logger.info("paid %s", CARD, extra={"pin": "1234"})
    (event,) = shipped(link, stream, 1)
    assert (event.data["event"], event.data["pin"]) == ("paid ***", "***")
    (handler,) = logger.handlers
    assert isinstance(handler, LogHandler)
    assert handler.shipper.options.spill_bytes == 10_000_000
    logger.removeHandler(handler)
    handlers = {"stream": {"class": "millstream.LogHandler", "stream": "{"}}
    with pytest.raises(ValueError, match="stream"):
        logging.config.dictConfig({"version": 1, "handlers": handlers, "root": {"handlers": ["stream"]}})


def test_our_own_lines_and_those_of_our_threads_never_come_back(
    server: Server, link: Link, stream: str, tmp_path: Path
) -> None:
    """Everything at DEBUG through root, the client library's lines too, while the server goes and comes: it ends."""
    root = logging.getLogger()
    before = root.level
    out = io.StringIO()
    with Proxy(server.address) as proxy:
        handler = LogHandler(stream, url=proxy.url, spill=tmp_path / "spill")
        ship = ship_logs(stream, url=proxy.url, spill=tmp_path / "spill", level="debug")
        printing = logging.StreamHandler(out)
        printing.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                processors=[structlog.dev.ConsoleRenderer()], foreign_pre_chain=[ship]
            )
        )
        root.setLevel(logging.DEBUG)
        root.addHandler(handler)
        root.addHandler(printing)
        try:
            proxy.refuse = True
            root.debug("one")
            until(lambda: "trouble with the server" in out.getvalue(), what="our own line is printed")
            until(
                lambda: handler.shipper.spool is not None and handler.shipper.spool.spilled,
                what="it waits in a file",
            )
            root.info("two")
            proxy.refuse = False
            assert handler.shipper.flush(10_000)
        finally:
            root.setLevel(before)
            root.removeHandler(handler)
            root.removeHandler(printing)
    lines = [event.data["event"] for event in events(link, stream) if event.data["logger"] == "root"]
    assert lines == ["one", "two"]
    assert not [event for event in events(link, stream) if event.data["logger"].startswith("millstream")]


def test_lines_that_the_server_refuses_are_counted_as_dropped(
    server: Server, link: Link, stream: str
) -> None:
    """Without a spill they have no other place."""
    link.call("SET", stream, "mine")
    ship = ship_logs(stream, url=server.address.shown, gather=0)
    for number in range(10):
        ship(None, "info", {"event": number})
    until(lambda: ship.shipper.dropped == 10)
    link.call("DEL", stream)
    ship(None, "info", {"event": "again"})
    until(lambda: len(events(link, stream)) == 2, what="the line, and what is said about those before")
    said = next(event.data for event in events(link, stream) if event.data["event"] == "log lines dropped")
    assert (said["dropped"], said["why"], said["level"]) == (10, "the server refused them", "warning")
    assert said["since"] <= said["until"]


@pytest.mark.slow
@pytest.mark.parametrize("spill", [False, True])
def test_forked_workers_ship_their_own_lines(
    spill: bool, server: Server, link: Link, stream: str, tmp_path: Path
) -> None:
    """As gunicorn with preload does it: set up and used before the forks; by os.fork and by multiprocessing."""
    done = script(
        """
        import logging, multiprocessing, os, signal, sys
        import structlog
        from producers.logs import LogHandler, ship_logs
        url, stream, spill = sys.argv[1:]
        log = logging.getLogger("app")
        log.setLevel("INFO")
        log.addHandler(LogHandler(stream, url=url, spill=spill, exit="20s"))
        ship = ship_logs(stream, url=url, spill=spill, exit="20s")
        slog = structlog.wrap_logger(log, processors=[ship, structlog.processors.JSONRenderer()])
        for number in range(500):
            log.info("parent %d", number)

        def work(name):
            for number in range(300):
                log.info("%s %d", name, number)
                slog.info(f"{name} struct {number}")

        pids = []
        for name in ("a", "b"):
            pid = os.fork()
            if pid == 0:
                work(name)
                sys.exit()
            pids.append(pid)
        forking = multiprocessing.get_context("fork")
        process = forking.Process(target=work, args=("c",))
        process.start()
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        process.join()
        assert process.exitcode == 0
        log.info("parent 500")
        """,
        server.address.shown, stream, str(tmp_path / "spill") if spill else "",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = [event.data["event"] for event in shipped(link, stream, 501 + 3 * 600)]
    assert [line for line in found if line.startswith("parent")] == [
        f"parent {number}" for number in range(501)
    ]
    for name in "abc":
        mine = [line for line in found if line.startswith(f"{name} ")]
        assert mine == [text for n in range(300) for text in (f"{name} {n}", f"{name} struct {n}")]
    assert len({event.headers["pid"] for event in events(link, stream)}) == 4
    assert not list(tmp_path.rglob("*.spill"))


@pytest.mark.slow
def test_the_page_on_logs_says_what_works(server: Server, link: Link, stream: str, tmp_path: Path) -> None:
    """Its examples, one after the other in one program, with a folder and a stream of this test."""
    page = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    code = (
        "\n".join(blocks).replace("/var/spool/app", str(tmp_path / "spill")).replace('"logs"', f'"{stream}"')
    )
    code += """
import logging.config, uuid
logging.getLogger().handlers.clear()
logging.config.dictConfig(LOGGING)
structlog.contextvars.bind_contextvars(request_id="r-1")
structlog.get_logger().info("from structlog", password="x")
logging.getLogger("app").info("from logging, 4111 1111 1111 1111")
"""
    done = script("import os\nos.environ['MILLSTREAM_URL'] = " + repr(server.address.shown) + "\n" + code)
    assert (done.returncode, done.stderr) == (0, "")
    by_event = {event.data["event"]: event.data for event in shipped(link, stream, 2)}
    assert by_event["from structlog"] == {
        "event": "from structlog", "level": "info", "password": "***", "request_id": "r-1"
    }  # fmt: skip
    assert by_event["from logging, ***"]["request_id"] == "r-1"
