"""A password is never seen: in no log line, error, repr, event or file of what ships an application's log lines."""

import logging
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from pipeline.errors import MillstreamError
from pipeline.server.connect import Connector
from producers.logs import LogHandler, ship_logs
from producers.logs.shipper import end_all
from tests.conftest import OwnServer, Server
from tests.until import until

ROOT = Path(__file__).parent.parent.parent
CANARY = "c4n4ry-9f2e7b"
OTHER = "0th3r-c4n4ry-51"
PASSWORDS = (CANARY, OTHER)


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """All that is logged by anybody, at every level, as a formatter would show it."""
    shown: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(f"{self.format(record)} {record.__dict__!r}")

    root, before = logging.getLogger(), logging.getLogger().level
    keep = Keep()
    root.addHandler(keep)
    root.setLevel(1)
    try:
        yield shown
    finally:
        root.removeHandler(keep)
        root.setLevel(before)


@pytest.fixture
def locked(own_server: OwnServer) -> Iterator[Server]:
    """A server that asks for the password CANARY."""
    server = own_server()
    link = server.connector().link("test")
    link.call("CONFIG", "SET", "requirepass", CANARY)
    yield server
    end_all()
    # Whoever stops it has no password.
    link.call("CONFIG", "SET", "requirepass", "")
    link.close()


def url_of(server: Server, password: str) -> str:
    """Its address with this password in it."""
    return f"unix://:{quote(password)}@{server.address.path}"


def secrets_in(text: str) -> list[str]:
    """Which passwords it holds, in whatever way they may be written."""
    return [
        one for password in PASSWORDS for one in (password, quote(password), password[::-1]) if one in text
    ]


def reprs(*things: object) -> str:
    """What is shown of these objects, and of all they are made of."""
    shown = [repr(things), *map(str, things)]
    for thing in things:
        shown += [f"{value!r} {value}" for value in getattr(thing, "__dict__", {}).values()]
    return "\n".join(shown)


def by_url(server: Server, _folder: Path, password: str) -> str:
    """In the address."""
    return url_of(server, password)


def by_file(server: Server, folder: Path, password: str) -> str:
    """In a file that the address names."""
    path = folder / f"password-{password == CANARY}"
    path.touch(0o600)
    path.write_text(password)
    return f"unix://{server.address.path}?password_file={quote(str(path))}"


@pytest.mark.parametrize("way", [by_url, by_file], ids=["url", "password_file"])
def test_a_password_is_nowhere_to_be_seen(
    way: Callable[[Server, Path, str], str], locked: Server, tmp_path: Path
) -> None:
    """Right and wrong ones, the server there and gone, everything logged at the lowest level, lines in files."""
    spill = tmp_path / "spill"
    with everything_logged() as shown:
        good = ship_logs("logs", url=way(locked, tmp_path, CANARY), gather=0)
        good(None, "info", {"event": "in"})
        assert good.flush(10)
        wrong = LogHandler("logs", url=way(locked, tmp_path, OTHER), spill=spill, exit="100ms")
        dropping = LogHandler("dropped", url=way(locked, tmp_path, OTHER), exit="100ms")
        for number in range(10):
            record = {"name": "app", "msg": f"line {number}", "levelno": 30, "lineno": number}
            wrong.emit(logging.makeLogRecord(record))
            dropping.emit(logging.makeLogRecord(record))
        spool = wrong.shipper.spool
        assert spool is not None
        until(lambda: spool.spilled == 10, what="lines wait in a file")
        until(lambda: any("refuses the user or password" in line for line in shown), what="it is said")
        objects = (
            good,
            wrong,
            dropping,
            good.shipper,
            wrong.shipper,
            wrong.shipper.spool,
            wrong.shipper._producer,
        )
        assert secrets_in(reprs(*objects)) == []
        end_all()
    assert secrets_in("\n".join(shown)) == []
    assert any("log lines wait in the spill folder" in line for line in shown)
    files = [path for path in spill.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert secrets_in(path.read_bytes().decode("latin-1") + str(path)) == []
        assert path.stat().st_mode & 0o077 == 0
    connector = Connector(url_of(locked, CANARY))
    link = connector.link("test")
    for key in link.call("KEYS", "*"):
        kind = link.call("TYPE", key)
        held = link.call("XRANGE", key, "-", "+") if kind == b"stream" else link.call("DUMP", key)
        assert secrets_in(f"{key!r} {held!r}") == []
    link.close()
    connector.close()


@pytest.mark.parametrize(
    "url",
    [f"redis://:{CANARY}@127.0.0.1:port", f"redis://user:{CANARY}@[::1", f"rediss://:{CANARY}@host/x?nope=1"],
)
def test_an_address_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    """By the thread that ships, as it is looked at late; and by whoever asks for a producer."""
    with everything_logged() as shown:
        ship = ship_logs("logs", url=url, gather=0)
        ship(None, "info", {"event": "x"})
        until(lambda: ship.shipper.dropped == 1)
        with pytest.raises(MillstreamError) as caught:
            ship.shipper.make_producer()
        said = "".join(traceback.format_exception(caught.value))
    lines = [line for line in said.splitlines() if "File" not in line]
    assert secrets_in("\n".join([str(caught.value), *lines])) == []
    assert secrets_in("\n".join(shown)) == []
    end_all()


def test_nothing_of_it_is_on_stderr_at_the_end(locked: Server, tmp_path: Path) -> None:
    """Of a process that cannot send what it has, nor in its files."""
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore::DeprecationWarning", "-c",
            textwrap.dedent(
                """
                import logging, os
                from producers.logs import LogHandler
                logging.basicConfig(level=1)
                url = os.environ["URL"]
                logging.getLogger().addHandler(LogHandler("logs", url=url, exit="500ms"))
                logging.getLogger().addHandler(LogHandler("spilled", url=url, exit="500ms", spill=os.environ["SPILL"]))
                logging.error("last words")
                """
            ),
        ],
        cwd=ROOT, env={**os.environ, "URL": url_of(locked, OTHER), "SPILL": str(tmp_path / "spill")},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "last words" in done.stderr
    assert "log lines" in done.stderr
    assert secrets_in(done.stdout + done.stderr) == []
    assert list((tmp_path / "spill").rglob("*.spill"))
    for path in (tmp_path / "spill").rglob("*.spill"):
        assert secrets_in(path.read_bytes().decode("latin-1")) == []
