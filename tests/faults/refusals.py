"""Refusals: ways to have a real server refuse, each as a server does it in the field, and its mending."""

import contextlib
import shlex
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.errors import MillstreamError
from pipeline.server.connect import Link
from pipeline.server.replies import info_fields
from pipeline.server.server_binary import find_binary
from tests.conftest import BINARY, Server
from tests.until import until

Refusal = Callable[[Server, Link], AbstractContextManager[object]]
"""While its block runs, the server refuses; the link is one that the server knows already."""


def settings(**values: object) -> Refusal:
    """The server refuses while these settings hold."""

    @contextlib.contextmanager
    def refusing(server: Server, link: Link) -> Iterator[None]:
        names = {name.replace("_", "-"): str(value) for name, value in values.items()}
        before = {name: link.call("CONFIG", "GET", name)[1] for name in names}
        for name, value in names.items():
            link.call("CONFIG", "SET", name, value)
        try:
            yield
        finally:
            for name in names:
                link.call("CONFIG", "SET", name, before[name])

    return refusing


@contextlib.contextmanager
def replica(server: Server, link: Link) -> Iterator[None]:
    """It is made the replica of a primary that is not there."""
    link.call("REPLICAOF", "127.0.0.1", 1)
    try:
        yield
    finally:
        link.call("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def stale_replica(server: Server, link: Link) -> Iterator[None]:
    """And it does not serve stale data."""
    with settings(replica_serve_stale_data="no")(server, link), replica(server, link):
        yield


@contextlib.contextmanager
def cannot_save(server: Server, link: Link) -> Iterator[None]:
    """Its snapshot fails: a folder stands where the file belongs."""
    link.call("CONFIG", "SET", "save", "3600 1000000")
    blocked = server.folder / "dump.rdb"
    blocked.mkdir()

    def saved() -> bool:
        link.calls([("BGSAVE",)])
        return info_fields(link.call("INFO", "persistence"))["rdb_last_bgsave_status"] == "ok"

    until(lambda: not saved(), 10, every_s=0.05, what="saving fails")
    try:
        yield
    finally:
        blocked.rmdir()
        until(saved, 10, every_s=0.05, what="saving works again")
        link.call("CONFIG", "SET", "save", "")


@contextlib.contextmanager
def busy(server: Server, link: Link) -> Iterator[None]:
    """A script that loops."""
    connector = server.connector(timeout_ms=60_000)
    looping = connector.link("loops")
    link.call("CONFIG", "SET", "lua-time-limit", 50)
    looping.send(("EVAL", "while true do end", 0))
    until(lambda: isinstance(link.calls([("EXISTS", "x")])[0], MillstreamError), what="it is busy")
    try:
        yield
    finally:
        link.call("SCRIPT", "KILL")
        looping.close()
        connector.close()


@contextlib.contextmanager
def full(server: Server, link: Link) -> Iterator[None]:
    """All connections but one are killed, and no other is let in."""
    link.call("CONFIG", "SET", "maxclients", 1)
    link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    try:
        yield
    finally:
        link.call("CONFIG", "SET", "maxclients", 1_000)


REFUSALS: dict[str, Refusal] = {
    "OOM": settings(maxmemory=1),
    "MISCONF": cannot_save,
    "READONLY": replica,
    "MASTERDOWN": stale_replica,
    "NOREPLICAS": settings(min_replicas_to_write=1),
    "BUSY": busy,
    "MAXCLIENTS": full,
}


@contextlib.contextmanager
def loads_slowly(each_us: int) -> Iterator[str]:
    """A server program that takes so long for each key or command that it loads, in µs."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-slow-"))
    try:
        program = folder / "server"
        program.write_text(
            f'#!/bin/sh\nexec {shlex.quote(str(find_binary(BINARY)))} "$@" --key-load-delay {each_us}\n',
            encoding="utf-8",
        )
        program.chmod(0o700)
        yield str(program)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def restarting(server: Server) -> Iterator[None]:
    """The server is restarted while the block runs: it loads its data."""
    thread = threading.Thread(target=server.restart)
    thread.start()
    try:
        yield
    finally:
        thread.join()
