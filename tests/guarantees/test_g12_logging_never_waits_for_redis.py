"""G12: the application thread that logs never waits for Redis and never raises because of it."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producers.logs import LogHandler, ship_logs
from producers.logs.shipper import end_all
from producers.spill.segment import Segment
from tests.conftest import OwnServer, Server
from tests.proxy import Proxy
from tests.until import until

CALLS = 3_000
LONGEST_S = 0.5
"""Far above what a log call takes on a busy machine, far below any timeout of a server that does not answer."""


@pytest.fixture(autouse=True)
def shippers_end() -> Iterator[None]:
    """The threads of a test end with it."""
    yield
    end_all()


def longest_call_s(url: str | None, stream: str, spill: str = "") -> float:
    """How long the slowest of many log calls took, from both sides, at the best of three times.

    A machine that runs other things may stop a thread for so long now and then; a call that waits does so each time.
    """
    longest_s = LONGEST_S
    for attempt in range(3):
        longest_s = min(longest_s, longest_of_calls_s(url, f"{stream}-{attempt}", spill))
        if longest_s < LONGEST_S:
            break
    return longest_s


def longest_of_calls_s(url: str | None, stream: str, spill: str) -> float:
    """How long the slowest took, through shippers that have just begun."""
    ship = ship_logs(stream, url=url, queue_events=1_000, exit="100ms", spill=spill)
    logger = logging.getLogger(f"g12.{stream}")
    logger.propagate = False
    logger.addHandler(LogHandler(stream, url=url, queue_events=1_000, exit="100ms", spill=spill))
    longest_s = 0.0
    for number in range(CALLS):
        began = time.perf_counter()
        ship(
            None, "error" if number % 10 == 0 else "info", {"event": "line", "n": number, "text": "x" * 1_000}
        )
        logger.error("line %d", number)
        longest_s = max(longest_s, time.perf_counter() - began)
    return longest_s


@contextmanager
def nobody(_server: Server, _folder: Path) -> Iterator[str]:
    """No server at all."""
    yield "unix:///nonexistent/millstream/no.sock"


@contextmanager
def black_hole(server: Server, _folder: Path) -> Iterator[str]:
    """A server that takes everything and answers nothing."""
    with Proxy(server.address) as proxy:
        proxy.black_hole()
        yield proxy.url


@contextmanager
def deaf(_server: Server, folder: Path) -> Iterator[str]:
    """A socket that nobody accepts on."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen(0)
        yield f"unix://{folder}/s"


@contextmanager
def rude(server: Server, _folder: Path) -> Iterator[str]:
    """A server that hangs up at once."""
    with Proxy(server.address) as proxy:
        proxy.refuse = True
        yield proxy.url


@pytest.mark.parametrize("where", [nobody, black_hole, deaf, rude], ids=lambda where: str(where.__name__))
def test_g12_a_log_call_is_quick_whatever_the_server_does(
    where: Callable[[Server, Path], Iterator[str]], server: Server, stream: str, tmp_path: Path
) -> None:
    """And raises nothing."""
    with where(server, tmp_path) as url:  # type: ignore[attr-defined]
        assert longest_call_s(url, stream) < LONGEST_S


def test_g12_without_an_address(stream: str) -> None:
    """Neither an argument nor the environment names one."""
    assert longest_call_s(None, stream) < LONGEST_S


def test_g12_a_server_that_stops_in_the_midst(own_server: OwnServer) -> None:
    """SIGSTOP, then kill -9, while lines flow."""
    server = own_server()
    ship = ship_logs("logs", url=server.address.shown, exit="100ms")
    timers = [
        threading.Timer(0.2, os.kill, (server.pid, signal.SIGSTOP)),
        threading.Timer(0.6, os.kill, (server.pid, signal.SIGKILL)),
    ]
    for timer in timers:
        timer.start()
    longest_s = 0.0
    until_s = time.monotonic() + 1
    while time.monotonic() < until_s:
        began = time.perf_counter()
        ship(None, "info", {"event": "line"})
        longest_s = max(longest_s, time.perf_counter() - began)
    for timer in timers:
        timer.join()
    assert longest_s < LONGEST_S


@pytest.mark.parametrize("disk", ["quick", "hangs", "full"])
def test_g12_where_lines_spill(
    disk: str, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the disk does: it is the thread that ships which writes."""
    write = Segment._append
    written = 0

    def append(segment: Segment, data: bytes) -> None:
        nonlocal written
        written += 1
        if disk == "hangs":
            time.sleep(LONGEST_S)
        if disk == "full":
            raise OSError(28, "No space left on device")
        write(segment, data)

    monkeypatch.setattr(Segment, "_append", append)
    assert longest_call_s("unix:///nonexistent/millstream/no.sock", stream, str(tmp_path)) < LONGEST_S
    until(lambda: written > 0, what="the disk was asked")
