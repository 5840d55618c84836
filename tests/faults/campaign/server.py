"""FaultyServer: a real server of one row's own, so that everything that can go wrong with one can be done to it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.server.connect import Connector, Link
from pipeline.server.locate import Address
from pipeline.server.server_binary import find_binary, version_of

UP_S = 30.0


def show_version(program: str | None) -> str:
    """What a program is, as in "Redis 7.0.15"."""
    binary = find_binary(program)
    name = "Valkey" if "valkey" in binary.name else "Redis"
    return f"{name} {'.'.join(map(str, version_of(binary)))}"


class FaultyServer:
    """Started, killed, stopped and started again, with or without its data."""

    def __init__(
        self,
        folder: Path,
        *,
        program: str | None = None,
        fsync: str = "everysec",
        data: Path | None = None,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        listen: tuple[str, int] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """data: where its files are, if not beneath `folder`; before: a command it is started by; listen: host and port
        instead of a unix socket."""
        self.program = find_binary(program)
        self.data = data or folder / "data"
        self.log = folder / "server.log"
        self._socket = folder / "s"
        self._before = tuple(before)
        self._environment = dict(environment or {})
        self._options = {
            "appendonly": "yes",
            "appendfsync": fsync,
            "save": "",
            "daemonize": "no",
            "protected-mode": "no",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "yes",
            **(options or {}),
        }
        if version_of(self.program) < (7,):
            del self._options["enable-debug-command"]
        if listen is None:
            self.address = Address(kind="unix", path=str(self._socket))
            self._options |= {"port": "0", "unixsocket": str(self._socket)}
            self.url = f"unix://{self._socket}"
        else:
            self.address = Address(kind="tcp", host=listen[0], port=listen[1])
            self._options |= {"bind": listen[0], "port": str(listen[1])}
            self.url = f"redis://{listen[0]}:{listen[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "FaultyServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()

    @property
    def pid(self) -> int:
        """Process id of the server itself."""
        assert self._process is not None, "it was started"
        return self._process.pid

    def connector(self, *, timeout_ms: int = 5_000) -> Connector:
        """A connector to it."""
        return Connector(self.address, timeout_ms=timeout_ms)

    def start(self, *, wait: bool = True) -> None:
        """Start it on the data there is, and wait until it answers."""
        self.data.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        words = [word for name, value in self._options.items() for word in (f"--{name}", value)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._before, str(self.program), *words],
                cwd=self.data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                start_new_session=True,
            )
        if wait:
            self.wait_until_up()

    def wait_until_up(self, timeout_s: float = UP_S) -> None:
        """Wait until it answers and has loaded its data."""
        connector = self.connector(timeout_ms=2_000)
        try:
            connector.wait_until_up(int(timeout_s * 1_000)).close()
        except MillstreamError as error:
            said = self.log.read_text(errors="replace")[-2_000:]
            raise NotConnectedError(f"the server does not come up: {error}; it said: {said}") from None
        finally:
            connector.close()

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def alive(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def lose_data(self) -> None:
        """Remove what it has on disk; only while it is down."""
        assert not self.alive(), "it is down"
        shutil.rmtree(self.data)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP while the block runs."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def link(self, *, timeout_ms: int = 5_000) -> Iterator[Link]:
        """A connection of its own for the block."""
        connector = self.connector(timeout_ms=timeout_ms)
        link = connector.link("campaign")
        try:
            yield link
        finally:
            link.close()
            connector.close()

    def asked_plainly(self, request: bytes) -> bytes:
        """The first bytes of the answer to a request over a socket that asks nothing else; empty if there is none."""
        unix = self.address.kind == "unix"
        where = self.address.path if unix else (self.address.host, self.address.port)
        with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as one, contextlib.suppress(OSError):
            one.settimeout(1)
            one.connect(where)
            one.sendall(request)
            return one.recv(1 << 12)
        return b""

    def sleep_inside(self, seconds: float) -> None:
        """Have the server do nothing for so long, in the midst of a command."""
        with self.link(timeout_ms=int(seconds * 1_000) + 5_000) as link:
            link.call("DEBUG", "SLEEP", str(seconds))


def now_s() -> float:
    """The clock of all journals."""
    return time.monotonic()
