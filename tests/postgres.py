"""Postgres: a PostgreSQL of the tests' own, on a unix socket in a temporary folder, gone afterwards."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Postgres:
    """A running server. Everybody who can open its socket may do everything."""

    folder: Path

    @property
    def url(self) -> str:
        """How psycopg connects."""
        return f"postgresql://millstream@/postgres?host={self.folder}"


@contextlib.contextmanager
def started_postgres() -> Iterator[Postgres]:
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
    data = folder / "data"
    try:
        subprocess.run(
            [bin_folder / "initdb", "-D", data, "-U", "millstream", "-A", "trust", "-E", "UTF8", "--no-sync",
             "--no-instructions", "--locale=C"],
            check=True, capture_output=True, cwd=folder, timeout=UP_S, **user,  # type: ignore[call-overload]
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [bin_folder / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off",
                 "-c", "max_connections=60"],
                stdout=log, stderr=log, cwd=folder, **user,  # type: ignore[call-overload]
            )  # fmt: skip
        try:
            _until_up(Postgres(folder))
            yield Postgres(folder)
        finally:
            server.terminate()  # ends once its clients have gone
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
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
