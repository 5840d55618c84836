"""Clock shift: servers whose wall clock a test sets forward and back, while their steady clock runs on.

Stands on clock_shift.c, a library of a few lines that is compiled here and loaded into the server process: as if an
operator, or NTP, had set the clock of its machine. (libfaketime hangs in the start of servers whose allocator looks at
the clock.) Where there is no C compiler, the tests are skipped and say so.
"""

import contextlib
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.server.server_binary import find_binary
from tests.conftest import BINARY, Server, started

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class ShiftedServer(Server):
    """A server of the test's own, and the clock it goes by."""

    offset_file: Path

    def shift(self, offset_ms: int) -> None:
        """Set the server's wall clock so much ahead of the real one, in ms; below 0 behind it, 0 to the real time."""
        with self.offset_file.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", offset_ms * 1_000))


@contextlib.contextmanager
def started_with_clock(*, fsync: str = "everysec", port: int | None = None) -> Iterator[ShiftedServer]:
    """A server whose clock can be shifted; it begins with the real time.

    Raises:
        pytest.skip.Exception: it cannot be done here.
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a server's clock is set by a library made with cc, on Linux: there is none here")
    folder = Path(tempfile.mkdtemp(prefix="millstream-clock-"))
    try:
        library, offset, program = folder / "clock_shift.so", folder / "offset", folder / "server"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
        offset.write_bytes(bytes(8))
        program.write_text(
            f"#!/bin/sh\nexport LD_PRELOAD={shlex.quote(str(library))} CLOCK_SHIFT={shlex.quote(str(offset))}\n"
            f'exec {shlex.quote(str(find_binary(BINARY)))} "$@"\n',
            encoding="utf-8",
        )
        program.chmod(0o700)
        with started(fsync=fsync, port=port, binary=str(program)) as server:
            yield ShiftedServer(server.url, server.embedded, offset)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


ClockServer = Callable[..., ShiftedServer]


@pytest.fixture
def clock_server() -> Iterator[ClockServer]:
    """Starts servers whose clock this test sets: clock_server().shift(3_600_000)."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(started_with_clock(**options))
