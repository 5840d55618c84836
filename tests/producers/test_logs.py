"""Log shipping on a real server: the application never waits, never fails, and each line is there once."""

import io
import logging
import os
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
from producers.logs.line import Line, Taker
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
    ship = ship_logs(stream, url=NOWHERE, queue_events=100, gather=0, pack=0, exit="100ms")
    shipper = ship.shipper

    def on_its_way() -> int:
        return shipper._producer._sender.outbox.events if shipper._producer else 0

    moved, moved_s = 0, 0.0

    def stuck() -> bool:
        """The producer is full, and the shipper's thread waits with some lines in hand."""
        nonlocal moved, moved_s
        ship(None, "info", {"event": "early"})
        if on_its_way() != moved:
            moved, moved_s = on_its_way(), time.monotonic()
        waited_ms = (time.monotonic() - moved_s) * 1_000
        return (
            moved > SEND_EVENTS - SINGLES
            and shipper.queued - shipper.dropped > moved + 100
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
    assert caplog.text.count("log lines dropped") <= 3


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
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
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
