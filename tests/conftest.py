"""Fixtures: a real server for every run, and names of its own for every test.

MILLSTREAM_TEST_SERVER names the server program (a redis-server or valkey-server); without it, the embedded one is
used. Each worker process of a parallel run has its own server. MILLSTREAM_URL and REDIS_URL are never looked at:
tests write only to servers that they started.
"""

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from pipeline.server.embedded import EmbeddedServer
from pipeline.server.locate import Address, locate

if TYPE_CHECKING:
    from pipeline.server.connect import Connector, Link
    from tests.postgres import Postgres

TESTS = Path(__file__).parent
BYTECODE = TESTS.parent / ".pytest_cache" / "bytecode"
POSTGRES_S = 240
BINARY = os.environ.get("MILLSTREAM_TEST_SERVER") or None


@dataclass(frozen=True)
class Server:
    """A server that this run started. `url` holds it: whoever connects by it is one of its users."""

    url: str
    embedded: EmbeddedServer

    @property
    def pid(self) -> int:
        """Process id of the server; another one after restart()."""
        return self.embedded.pid

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.embedded.address

    @property
    def folder(self) -> Path:
        """Its data folder."""
        return self.embedded.folder

    def connector(self, *, timeout_ms: int = 5_000) -> "Connector":
        """A new connector to its socket; it does not count as a user of the server."""
        from pipeline.server.connect import Connector

        return Connector(self.address, timeout_ms=timeout_ms)

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on the same data, whether it runs or was killed."""
        self.embedded.restart()


OwnServer = Callable[..., Server]


def pytest_configure() -> None:
    """No test may find a server by the environment of whoever runs it."""
    for variable in ("MILLSTREAM_URL", "REDIS_URL"):
        os.environ.pop(variable, None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A run in the background of a shell ignores Ctrl-C, and so would every process that a test starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        # Hundreds of processes would each compile what they import: a third of the time that the tests take.
        # Not beside the sources all the same.
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(BYTECODE)
        sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make faults` asks for the full counts."""
    parser.addoption(
        "--full", action="store_true", help="full counts in the fault suite, not a tenth of them"
    )
    parser.addoption(
        "--rows",
        action="store_true",
        help="also campaigns, and the rows of the fault suite, 1,000 sends each",
    )
    parser.addoption("--containers", action="store_true", help="also what needs a Docker engine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests/pure by folder; leave out what is only for the full fault suite."""
    for item in items:
        if TESTS / "pure" in item.path.parents:
            item.add_marker("pure")
        if "postgres" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(POSTGRES_S))  # the first has it started, which takes its time
    full, rows = config.getoption("--full"), config.getoption("--rows")
    without = [
        name
        for name, wanted in (
            ("faults", full),
            ("rows", rows),
            ("campaign", rows or full),
            ("containers", config.getoption("--containers")),
        )
        if not wanted
    ]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in without)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def scaled(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many of a full count this run does: all with --full, else a tenth."""
    full = request.config.getoption("--full")
    return lambda count: count if full else max(1, count // 10)


@contextlib.contextmanager
def started(
    *,
    fsync: str = "everysec",
    port: int | None = None,
    folder: Path | None = None,
    binary: str | None = BINARY,
) -> Iterator[Server]:
    """A server with a data folder of its own, which is removed afterwards."""
    own = Path(folder or tempfile.mkdtemp(prefix="millstream-test-"))
    query = f"?fsync={fsync}" + (f"&server={quote(binary)}" if binary else "")
    url = f"embedded://{quote(str(own))}{query}"
    assert locate(url).folder == str(own)
    embedded = EmbeddedServer.acquire(
        own, fsync="always" if fsync == "always" else "everysec", port=port, binary=binary
    )
    try:
        yield Server(url, embedded)
    finally:
        embedded.close()
        if folder is None:
            shutil.rmtree(own, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of this run. Use names of your own (`stream`), never flush, kill or reconfigure it."""
    with started() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    """Starts servers for this test alone, to be killed, flushed and reconfigured: own_server(fsync="always")."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(started(**options))


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """A PostgreSQL of this run; use tables of your own (`table`). Skipped, with the reason, where there is none."""
    from tests.postgres import started_postgres

    with started_postgres() as running:
        yield running


@pytest.fixture
def table() -> str:
    """A table name that no other test uses."""
    return f"t_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> str:
    """A stream name that no other test uses."""
    words = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    return f"{words}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def link(server: Server) -> Iterator["Link"]:
    """A connection to the server of this run."""
    connector = server.connector()
    link = connector.link("test")
    yield link
    link.close()
    connector.close()
