"""Postgres: a PostgreSQL of the tests' own, on a unix socket in a temporary folder, gone afterwards."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

UP_S = 90


def programs() -> Path | None:
    """The folder of initdb and postgres, the newest there is; None if there is none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).parent)
    versions = sorted(found, key=lambda path: [int(n) for n in path.parent.name.split(".") if n.isdigit()])
    return versions[-1] if versions else None


class Postgres:
    """A server of the tests' own. Everybody who can open its socket may do everything, as it is made."""

    def __init__(self, folder: Path, bin_folder: Path, user: dict[str, object], *options: str) -> None:
        self.folder = folder
        self._bin_folder = bin_folder
        self._user = user
        self._options = options
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How psycopg connects."""
        return self.url_of("millstream")

    def url_of(self, login: str, database: str = "postgres") -> str:
        """The same for another user, perhaps with a password."""
        return f"postgresql://{login}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._bin_folder / "postgres", "-D", self.folder / "data", "-k", self.folder,
                 "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60", *self._options],
                stdout=log, stderr=log, cwd=self.folder, **self._user,  # type: ignore[call-overload]
            )  # fmt: skip
        _until_up(self)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions, SIGQUIT leaves all as it is, to be recovered at the next start."""
        if self._server is None:
            return
        self._server.send_signal(number)
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def read_anew(self) -> None:
        """Have it read its configuration again."""
        if self._server is not None:
            self._server.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def started_postgres(*options: str) -> Iterator[Postgres]:
    """A fresh server. Skips the test, with the reason, where there is no PostgreSQL or psycopg."""
    pytest.importorskip("psycopg", reason="psycopg (extra `postgres`) is not installed")
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="millstream-pg-"))
    user: dict[str, object] = {}
    if os.geteuid() == 0:  # it refuses to be run by root
        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        folder.chmod(0o755)  # its socket is for us too
    server = Postgres(folder, bin_folder, user, *options)
    try:
        subprocess.run(
            [bin_folder / "initdb", "-D", folder / "data", "-U", "millstream", "-A", "trust", "-E", "UTF8",
             "--no-sync", "--no-instructions", "--locale=C"],
            check=True, capture_output=True, cwd=folder, timeout=UP_S, **user,  # type: ignore[call-overload]
        )  # fmt: skip
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _until_up(postgres: Postgres) -> None:
    import psycopg

    from tests.until import until

    def up() -> bool:
        try:
            psycopg.connect(postgres.url).close()
        except psycopg.OperationalError:
            return False
        return True

    until(up, UP_S, what=lambda: (postgres.folder / "log").read_text())
