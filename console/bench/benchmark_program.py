"""BenchmarkProgram: redis-benchmark or valkey-benchmark, which knows what the server can do without any Python.

It is given an entry of the same two fields of the same sizes. It has no way to be given a password but its command
line, which everyone who lists processes can read: it is not used where there is one, nor with TLS.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.limits.append import HEADER
from console.bench.process import BenchError
from pipeline.errors import UsageError
from pipeline.server.locate import Address

PROGRAMS = ("redis-benchmark", "valkey-benchmark")
DEPTHS = ((16, 50), (100, 4), (200, 8), (500, 2))
"""Commands per request (-P) and connections (-c), of which the best counts."""
BODY_BYTES = 161
LEAST_ENTRIES = 10_000
"""With fewer its clock, which counts ms, shows no rate."""
SLOWEST_PER_S = 10_000
"""A program that is slower than this, and a minute beside, is given up."""
_RATE = re.compile(r"([\d.]+) requests per second")


def whole(count: int, per_request: int) -> int:
    """So many, or the next number that fills the last request: the program sends no other."""
    return -(-max(count, LEAST_ENTRIES) // per_request) * per_request


@dataclass(frozen=True, slots=True)
class BenchmarkProgram:
    """A program that was found, and how it reaches the server."""

    path: Path
    reach: Sequence[str]

    @property
    def name(self) -> str:
        """What people call it."""
        return self.path.name

    def command(self, stream: str, count: int, per_request: int, connections: int) -> list[str]:
        """The command line for one depth."""
        # Text of our sizes: an argument cannot hold every byte that an entry can.
        entry = ("h", "h" * len(HEADER), "b", "b" * BODY_BYTES)
        return [
            str(self.path), *self.reach, "-n", str(count), "-P", str(per_request), "-c", str(connections), "-q",
            "XADD", stream, "*", *entry,
        ]  # fmt: skip

    def run(self, stream: str, count: int, per_request: int, connections: int) -> float:
        """Append so many entries; the rate it says it reached, per second.

        Raises:
            BenchError: it could not; with its own words.
        """
        process = subprocess.Popen(
            self.command(stream, count, per_request, connections),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "REDISCLI_AUTH"},
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=60 + count / SLOWEST_PER_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} appends fewer than {SLOWEST_PER_S:,} entries per second") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        rates = _RATE.findall(out)
        if process.returncode or not rates:
            said = (err.strip() or out.strip() or f"code {process.returncode}").splitlines()[-1]
            raise BenchError(f"{self.name} failed: {said}")
        return float(rates[-1])


def find_program(named: str | None, address: Address) -> BenchmarkProgram | str:
    """The program named, else one on PATH; or why none can be used.

    Raises:
        UsageError: the one named cannot be run.
    """
    path = shutil.which(named) if named else next(filter(None, map(shutil.which, PROGRAMS)), None)
    if path is None and named:
        raise UsageError(f"--redis-benchmark={named!r} is not a program that can be run")
    if path is None:
        return "there is no redis-benchmark on PATH (--redis-benchmark names one)"
    if address.password or address.username:
        return "redis-benchmark takes a password on its command line only, where everyone could read it"
    if address.tls:
        return "redis-benchmark is not used with TLS"
    if address.kind == "unix":
        reach: list[str] = ["-s", address.path]
    else:
        reach = ["-h", address.host, "-p", str(address.port)]
    return BenchmarkProgram(Path(path), [*reach, *(["--dbnum", str(address.db)] if address.db else [])])
