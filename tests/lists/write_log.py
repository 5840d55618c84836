"""What a server wrote: its append-only file, carried out again on another server, whose answers say what was popped.

The only account of a pop whose answer went to a process that was killed: the file holds `RPOP emails`, and the same
commands in the same order pop the same tasks. No MONITOR, which shows no answers to blocking commands.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hiredis
import redis

from tests.conftest import Server

IN_FLIGHT = 1_000
"""Commands sent to the other server before their answers are read."""


@dataclass(frozen=True)
class Unit:
    """What the server did as one: a command, or all that a script or transaction wrote."""

    writes: tuple[tuple[tuple[bytes, ...], Any], ...]
    """Commands with their answers."""

    def touches(self, prefix: str) -> bool:
        """Whether it names a key that begins so."""
        start = prefix.encode()
        return any(word.startswith(start) for command, _ in self.writes for word in command[1:4])


def keep_all(client: Any) -> None:
    """Have a server keep every write in its file, as it came. To be called while it is empty."""
    client.config_set("auto-aof-rewrite-percentage", 0)


def units_of(server: Server, other: Server) -> list[Unit]:
    """All that was written on a server that was empty at first, in order; `other` is an empty one."""
    units: list[list[tuple[bytes, ...]]] = []
    group: list[tuple[bytes, ...]] | None = None
    for command in _commands(_file_of(server.folder)):
        name = command[0].upper()
        if name == b"MULTI":
            group = []
        elif name == b"EXEC":
            assert group is not None
            units.append(group)
            group = None
        elif group is not None:
            group.append(command)
        else:
            units.append([command])
    with redis.Redis(unix_socket_path=other.address.path, socket_timeout=60) as client:
        assert client.dbsize() == 0
        answers = _carried_out(client, [command for unit in units for command in unit])
        return [Unit(tuple((command, next(answers)) for command in unit)) for unit in units]


def _file_of(folder: Path) -> Path:
    """Before Redis 7 one file; since then a folder of a base, empty here, and what came after it."""
    single = folder / "appendonly.aof"
    if single.exists():
        return single
    (incremental,) = (folder / "appendonlydir").glob("*.incr.aof")
    return incremental


def _commands(file: Path) -> Iterator[tuple[bytes, ...]]:
    reader = hiredis.Reader()
    reader.feed(file.read_bytes())
    while (command := reader.gets()) is not False:
        yield tuple(command)


def _carried_out(client: Any, commands: list[tuple[bytes, ...]]) -> Iterator[Any]:
    """The answers, in order."""
    for start in range(0, len(commands), IN_FLIGHT):
        pipeline = client.pipeline(transaction=False)
        for command in commands[start : start + IN_FLIGHT]:
            pipeline.execute_command(*command)
        yield from pipeline.execute(raise_on_error=False)
