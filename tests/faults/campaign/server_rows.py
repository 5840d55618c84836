"""Rows in which the server suffers: killed, slow, out of memory, out of disk, flushed, empty, forgetful, refusing."""

import contextlib
import errno
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from pipeline.errors import ServerRefusedError
from pipeline.server.connect import Link
from tests.faults.campaign.checker import Demands
from tests.faults.campaign.field import Crew, Field, Load
from tests.faults.campaign.network_rows import LEDGER
from tests.faults.campaign.row import Row, Site
from tests.faults.campaign.server import now_s
from tests.faults.campaign.worker_rows import busy
from tests.until import until

FILE_BEHIND_S = 2.0
"""With appendfsync everysec a write that meets an fsync under way waits for up to so long, in the server's memory."""
DISK_BYTES = 64 << 20
CLOCK = Path(__file__).parents[2] / "clock_shift.c"

STEADY = Load(
    rate=500,
    crews=(
        Crew(group="audit", kinds=("plain", "async"), options={"work_ms": 4}),
        Crew(group="bill", kinds=("batch", "async"), obeys=True, options={"work_ms": 4}),
        Crew(group="ledger", kinds=("plain",), options={"concurrency": 1, "work_ms": 0.2}, ordered=True),
    ),
)
LONG_RUNS = Load(
    rate=300,
    options={"plans": {"slow": 0.04}},
    crews=(
        Crew(group="audit", kinds=("plain", "async"), options={"slow_s": 1.2, "concurrency": 24}),
        Crew(group="bill", kinds=("batch", "async"), obeys=True, options={"slow_s": 1.2, "concurrency": 24}),
    ),
)
"""Something is always running that only renewals keep."""
QUIET = Demands(repeats=False)


def kill_server(field: Field, rng: random.Random) -> None:
    """kill -9; back on the same data after a moment. What is not in the append-only file yet is gone."""
    field.until_confirmed(60)
    with field.fault("server killed", repeats=True, loses=True, risk_s=FILE_BEHIND_S):
        field.server.kill()
        field.pause(rng.uniform(0, 1.6))  # beyond every lease, now and then
        field.server.start()
    field.until_all_told()  # who waits longest before it tries again is not to meet the next kill, and the next


def kill_strict_server(field: Field, rng: random.Random) -> None:
    """The same, with every write on disk before it is answered: nothing is undone."""
    field.until_confirmed(60)
    with field.fault("server killed"):
        field.server.kill()
        field.pause(rng.uniform(0, 1.6))  # beyond every lease, now and then
        field.server.start()
    field.until_all_told()  # who waits longest before it tries again is not to meet the next kill, and the next


def slow_server(field: Field, rng: random.Random) -> None:
    """Pulses of SIGSTOP, and commands that take long."""
    for _ in range(3):
        with field.fault("server slow"):
            if rng.random() < 0.5:
                with field.server.stopped():
                    field.pause(rng.uniform(0.05, 0.8))
            else:
                field.server.sleep_inside(round(rng.uniform(0.05, 0.8), 2))
        field.until_confirmed(20)


def configure(field: Field, name: str, value: object) -> None:
    """CONFIG SET."""
    with field.server.link() as link:
        link.call("CONFIG", "SET", name, str(value))


def errors_of(field: Field, word: str) -> int:
    """How often the server has answered with this error."""
    with field.server.link() as link:
        info = link.call("INFO", "errorstats").decode()
    line = next((one for one in info.splitlines() if one.startswith(f"errorstat_{word}:")), "")
    return int(line.rpartition("=")[2] or 0)


def writes_refused(field: Field) -> int:
    """1 if the server refuses a write just now. (6.2 does not count what it refuses to scripts.)"""
    with field.server.link() as link:
        return int(isinstance(link.calls([("SET", "campaign", "x")])[0], ServerRefusedError))


def out_of_memory(field: Field, rng: random.Random) -> None:
    """No memory for a while; then memory that comes and goes between two batches of those that have piled up."""
    field.until_confirmed(40)
    refused = 0
    with field.fault("out of memory", lambda: refused):
        configure(field, "maxmemory", 1)
        refused = writes_refused(field)
        field.pause(rng.uniform(0.3, 0.8))
        configure(field, "maxmemory", 0)
        for _ in range(3):
            with field.server.link() as link:
                link.call("CONFIG", "SET", "maxmemory", 0)
                with field.server.stopped():
                    field.pause(0.2)
                for number in range(100):
                    link.call("CONFIG", "SET", "maxmemory", 1 - number % 2)
    field.until_confirmed(40)


def too_few_replicas(field: Field, rng: random.Random) -> None:
    """Every write is refused for a while, reads and settlements too."""
    field.until_confirmed(40)
    before = errors_of(field, "NOREPLICAS")
    with field.fault("too few replicas", lambda: errors_of(field, "NOREPLICAS") - before):
        configure(field, "min-replicas-to-write", 1)
        field.pause(rng.uniform(0.2, 1.6))
        configure(field, "min-replicas-to-write", 0)
    field.until_confirmed(40)


def fill_disk(field: Field, rng: random.Random) -> None:
    """The disk of the append-only file is full for a while: every write is refused, after a first one that is not."""
    field.until_confirmed(40)
    before = errors_of(field, "MISCONF")
    filler = field.server.data / "filler"
    with field.fault("disk full", lambda: errors_of(field, "MISCONF") - before):
        with filler.open("wb", buffering=0) as file:
            piece = b"x" * (1 << 16)
            while piece:
                try:
                    file.write(piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece = piece[: len(piece) // 2]
            until(lambda: errors_of(field, "MISCONF") > before, 30, what=field.said)
            field.pause(rng.uniform(0.2, 1.0))
            file.truncate(0)
        filler.unlink()
    field.until_confirmed(40, 90)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Site]:
    """A file system of 64 MB for the server's data."""
    data = folder / "small"
    with mounted(data):
        yield Site({"data": data})


@contextlib.contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A small tmpfs at this place while the block runs."""
    place.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", place], check=True, capture_output=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True, capture_output=True)


@cache
def no_mounts() -> str:
    """Why no file system can be mounted here; empty if it can."""
    if os.geteuid() != 0:
        return "a small file system cannot be mounted: not root"
    with tempfile.TemporaryDirectory(prefix="ms-mount-") as folder:
        try:
            with mounted(Path(folder) / "m"):
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            return f"a small file system cannot be mounted: {error}"


def flush(field: Field, rng: random.Random) -> None:
    """FLUSHALL: what was sent before may be gone, what is sent afterwards is handled."""
    field.until_confirmed(60)
    with field.fault("flushed", repeats=True, loses=True, risk_s=math.inf), field.server.link() as link:
        link.call("FLUSHALL")
    field.until_confirmed(60)


def restart_empty(field: Field, rng: random.Random) -> None:
    """kill -9, and back without its data."""
    field.until_confirmed(60)
    with field.fault("restarted empty", repeats=True, loses=True, risk_s=math.inf):
        field.server.kill()
        field.server.lose_data()
        field.server.start()
    field.until_all_told()


def destroy_group(field: Field, rng: random.Random) -> None:
    """XGROUP DESTROY of a group in which a worker has just died: it comes back just before what that one held."""
    field.until_confirmed(60)
    victim = rng.choice(field.killable())
    field.until_busy([victim])
    field.kill([victim])
    field.replace(victim)
    field.pause(rng.uniform(1.1, 1.6))  # where the group stands is saved every second
    with field.fault("group destroyed", repeats=True, risk_s=3.0), field.server.link() as link:
        link.call("XGROUP", "DESTROY", field.keys.stream, victim.group)
    field.until_joined()
    field.until_confirmed(60)


def step_clock(field: Field, rng: random.Random) -> None:
    """The server's clock is set forward, beyond every lease, and back again, and back beyond that."""
    for offset_ms in (rng.randrange(2_000, 15_000), 0, -rng.randrange(2_000, 15_000), 0):
        with field.server.link() as link:
            before_s = server_time_s(link) - now_s()
            with field.fault("clock stepped"):
                with (field.folder / "offset").open(
                    "r+b", buffering=0
                ) as file:  # in place: the server maps it
                    file.write(struct.pack("=q", offset_ms * 1_000))
                until(lambda link=link, before_s=before_s: abs(server_time_s(link) - now_s() - before_s) > 1)  # type: ignore[misc]
        field.pause(rng.uniform(0.2, 0.8))
    field.until_confirmed(40)


def server_time_s(link: Link) -> float:
    """TIME."""
    seconds, micros = link.call("TIME")
    return int(seconds) + int(micros) / 1e6


@contextlib.contextmanager
def clock_of_its_own(folder: Path) -> Iterator[Site]:
    """A server whose wall clock is the machine's and what stands in a file."""
    library, offset = folder / "clock_shift.so", folder / "offset"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, CLOCK], check=True, capture_output=True)
    offset.write_bytes(bytes(8))
    yield Site({"environment": {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(offset)}})


def no_clock() -> str:
    """Why the server's clock cannot be set here; empty if it can."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        return "a server's clock is set by a library made with cc, on Linux"
    return ""


def forget_scripts(field: Field, rng: random.Random) -> None:
    """SCRIPT FLUSH, again and again."""
    for _ in range(10):
        with field.fault("scripts forgotten"), field.server.link() as link:
            link.call("SCRIPT", "FLUSH")
        field.pause(rng.uniform(0, 0.05))
    field.until_confirmed(20)


def kill_clients(field: Field, rng: random.Random) -> None:
    """CLIENT KILL of everybody."""
    field.until_confirmed(30)
    killed = 0
    with field.fault("connections killed", lambda: killed), field.server.link() as link:
        killed = link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


ROWS = (
    Row(
        name="server-killed",
        says="kill -9 of the server (appendfsync everysec), which comes back on its data",
        storm=kill_server,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="server-killed-fsync-always",
        says="kill -9 of the server (appendfsync always): nothing may be undone",
        storm=kill_strict_server,
        load=STEADY,
        server={"fsync": "always"},
        demands=QUIET,
    ),
    Row(
        name="server-slow",
        says="SIGSTOP of the server for up to 0.8 s, and commands that hold it up for as long",
        storm=slow_server,
        load=Load(
            rate=500,
            crews=(
                Crew(group="audit", options={"claim_after": "3s"}),
                Crew(group="bill", kinds=("batch", "async"), obeys=True, options={"claim_after": "3s"}),
                LEDGER,
            ),
        ),
        demands=Demands(repeats=False, claim_after_s=3),
    ),
    Row(
        name="out-of-memory",
        says="maxmemory reached for a while, and then now and then between two batches",
        storm=out_of_memory,
        load=replace(STEADY, options={"batch_events": 8}, most_bytes=4_000),
        demands=QUIET,
    ),
    Row(
        name="too-few-replicas",
        says="all writes refused for a while (min-replicas-to-write), reads and settlements too",
        storm=too_few_replicas,
        load=LONG_RUNS,
        demands=QUIET,
    ),
    Row(
        name="disk-full",
        says="the disk of the append-only file is full for a while",
        storm=fill_disk,
        load=STEADY,
        demands=QUIET,
        site=small_disk,
        needs=lambda program: no_mounts(),
        most_rounds=10,
    ),
    Row(
        name="flushed",
        says="FLUSHALL: what is sent afterwards must be handled by every group",
        storm=flush,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="restarted-empty",
        says="kill -9 of the server, which comes back without its data",
        storm=restart_empty,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="group-destroyed",
        says="XGROUP DESTROY of a group, while what a dead worker held is pending",
        storm=destroy_group,
        load=Load(
            rate=500,
            crews=(
                busy("audit", ("plain", "async"), claim_after="6s"),
                busy("bill", ("batch", "async"), obeys=True, claim_after="6s"),
            ),
        ),
        demands=Demands(claim_after_s=6),
    ),
    Row(
        name="clock-stepped",
        says="the server's clock set forward by 2 to 15 s, back, and back beyond",
        storm=step_clock,
        site=clock_of_its_own,
        load=LONG_RUNS,
        demands=QUIET,
        needs=lambda program: no_clock(),
    ),
    Row(
        name="scripts-forgotten",
        says="SCRIPT FLUSH again and again",
        storm=forget_scripts,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="connections-killed",
        says="CLIENT KILL of all connections, again and again",
        storm=kill_clients,
        load=STEADY,
        demands=QUIET,
        rounds=5,
    ),
)
