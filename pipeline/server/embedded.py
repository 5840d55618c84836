"""EmbeddedServer: a Redis or Valkey of our own on a data folder, shared by all processes that use the folder.

Stands on ServerProcess and on file locks. Each user process holds a lock on a file of its own in FOLDER/run/users; the
last to leave stops the server. If a user is killed, its lock is gone with it, so it no longer counts; the server runs
on and the next user finds it. If the server is killed, ensure_running() starts it again on the same data.
"""

import atexit
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from pipeline.errors import MillstreamError, NoServerError, UsageError
from pipeline.server.file_lock import FileLock
from pipeline.server.locate import Address
from pipeline.server.server_process import LOADING_S, ServerProcess, Settings

Fsync = Literal["always", "everysec"]
TURN_S = LOADING_S + 30
"""How long another process may take to start or stop the server of the same folder."""


class EmbeddedServer:
    """A share in the server of one folder, from acquire() to close(). Safe for threads; a fork's child has none."""

    def __init__(self, lease: "_Lease") -> None:
        self._lease: _Lease | None = lease
        self._pid = os.getpid()
        self.folder = lease.folder

    @classmethod
    def acquire(
        cls,
        folder: str | os.PathLike[str],
        *,
        fsync: Fsync = "everysec",
        port: int | None = None,
        binary: str | os.PathLike[str] | None = None,
    ) -> "EmbeddedServer":
        """Use the folder's server, starting it if it does not run.

        Args:
            folder: where its data stays; created if missing.
            fsync: "always" has every event on disk before it is confirmed. The strictest of all users holds.
            port: a port on the loopback interface too, beside the unix socket; None: none.
            binary: the server program; None: that of the `embedded` extra, else one on PATH. A server that runs
                already is used whatever its program.

        Raises:
            NoServerError: it cannot be started; says why, with its own last line.
        """
        if fsync not in ("always", "everysec"):
            raise UsageError(f"fsync={fsync!r} of an embedded server is 'always' or 'everysec'")
        if port is not None and not 1 <= port <= 65_535:
            raise UsageError(f"port={port!r} of an embedded server is not 1 to 65535")
        wanted = Settings(fsync=fsync, port=port, binary=os.fspath(binary) if binary is not None else "")
        place = Path(os.path.abspath(os.path.expanduser(folder)))
        with _here.lock, _said_in_one_line(place):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            place = place.resolve()
            lease = _here.leases.get(place)
            if lease is None:
                lease = _Lease(place)
                lease.enter(wanted)
                _here.leases[place] = lease
            else:
                lease.want(wanted)
            lease.shares += 1
        return cls(lease)

    @property
    def address(self) -> Address:
        """The unix socket."""
        return Address(kind="unix", path=self._ours().process.settings.socket)

    @property
    def port(self) -> int | None:
        """The port on the loopback interface, if it was asked for."""
        return self._ours().process.settings.port

    @property
    def pid(self) -> int:
        """Process id of the server, another one after a restart."""
        return self._ours().process.known_pid()

    def ensure_running(self) -> None:
        """Start the server again if it was killed. Costs one connection if it runs.

        Raises:
            NoServerError: it does not start, or lives without answering.
        """
        with _here.lock, _said_in_one_line(self.folder):
            self._ours().ensure_running()

    def restart(self) -> None:
        """Stop the server, if it runs, and start it again on the same data, for all its users."""
        with _here.lock, _said_in_one_line(self.folder):
            self._ours().restart()

    def close(self) -> None:
        """Give up the share. The last user's last share stops the server, which takes until its data is on disk."""
        lease, self._lease = self._lease, None
        if lease is None or self._pid != os.getpid():
            return
        with _here.lock, _said_in_one_line(self.folder):
            lease.shares -= 1
            if lease.shares == 0 and _here.leases.pop(lease.folder, None) is not None:  # not left at exit
                lease.leave()

    def _ours(self) -> "_Lease":
        if self._lease is None or self._pid != os.getpid():
            raise NoServerError(
                f"this share in the embedded server of {self.folder} is closed, or a forked parent's"
            )
        return self._lease

    def __enter__(self) -> "EmbeddedServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Lease:
    """What this process holds of one folder: a user file, and the number of its shares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shares = 0
        self.process = ServerProcess(folder)
        self.wanted = Settings()
        self._users = folder / "run" / "users"
        self._user = FileLock(self._users / f"{os.getpid()}-{uuid.uuid4().hex[:8]}")

    def enter(self, wanted: Settings) -> None:
        """Become a user, starting the server if it does not run."""
        self._users.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "run").chmod(0o700)
        with self._turn():
            try:
                self._user.try_acquire()  # a new file: free
                self._settle(wanted)
            except BaseException:
                self._resign()
                raise

    def want(self, wanted: Settings) -> None:
        """One more share in this process, with wishes of its own."""
        with self._turn():
            self._settle(wanted)

    def ensure_running(self) -> None:
        if self.process.connectable():
            return
        with self._turn():
            self._settle(self.wanted)

    def restart(self) -> None:
        with self._turn():
            self.wanted = self._merged(self.wanted)
            if self.process.find():
                self.process.stop()
            self.process.start(self.wanted)

    def leave(self) -> None:
        """No longer be a user; the last one stops the server."""
        try:
            with self._turn():
                self._resign()
                if not self._others() and self.process.find():
                    self.process.stop()
        except FileNotFoundError:  # somebody removed the folder
            self.process.stop_without_folder()
        finally:
            self.process.forget()

    def _settle(self, wanted: Settings) -> None:
        """Have the server run as wanted, or as it must for the sake of others."""
        if not self.process.find():
            self.wanted = self._merged(wanted)
            self.process.start(self.wanted)
            return
        runs = self.process.settings
        if wanted.port is not None and wanted.port != runs.port:
            has = f"on port {runs.port}" if runs.port else "without a port"
            raise NoServerError(
                f"the embedded server of {self.folder} runs already, {has}: stop its users before asking for "
                f"port {wanted.port}"
            )
        if wanted.fsync == "always" and runs.fsync != "always":
            self.process.strengthen()
        self.wanted = replace(self.process.settings, socket="")

    def _merged(self, wanted: Settings) -> Settings:
        """What this process wants, and, if the server was killed under other users, what those had."""
        if self.shares:
            wanted = wanted.with_wishes_of(self.wanted)
        known = self.process.settings
        return wanted.with_wishes_of(known) if known.socket and self._others() else wanted

    def _others(self) -> bool:
        """Whether another process uses the server. Files of dead ones are removed."""
        live = False
        for path in list(self._users.iterdir()):
            if path == self._user.path:
                continue
            other = FileLock(path)
            if other.try_acquire():
                path.unlink(missing_ok=True)
                other.release()
            else:
                other.close()
                live = True
        return live

    def _resign(self) -> None:
        self._user.path.unlink(missing_ok=True)
        self._user.release()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One process at a time starts, stops or joins."""
        turn = FileLock(self.folder / "run" / "turn")
        if not turn.acquire(TURN_S):
            turn.close()
            raise NoServerError(
                f"another process has been starting the server of {self.folder} for {TURN_S:g} s"
            )
        with turn:
            yield


class _Here:
    """What this process holds: one lease per folder."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.leases: dict[Path, _Lease] = {}

    def forget(self) -> None:
        """In a forked child: the leases are the parent's, and its lock may have been taken by a thread we lack."""
        self.lock, self.leases = threading.RLock(), {}

    def leave_all(self) -> None:
        """At exit: what was not closed."""
        with self.lock:
            while self.leases:
                self.leases.popitem()[1].leave()


@contextmanager
def _said_in_one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except MillstreamError:
        raise
    except OSError as error:
        at = f" ({error.filename})" if error.filename and str(error.filename) != str(folder) else ""
        raise NoServerError(f"embedded server in {folder}: {error.strerror or error}{at}") from None


_here = _Here()
atexit.register(_here.leave_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_here.forget)
