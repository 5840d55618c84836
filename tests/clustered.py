"""Clustered: a server in cluster mode that serves all slots by itself: scripts may use keys of one slot only."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import BINARY
from tests.faults.campaign.server import FaultyServer

LAST_PORT = 65_535 - 10_000
"""The cluster bus listens 10,000 above."""


@contextlib.contextmanager
def one_node_cluster(folder: Path) -> Iterator[FaultyServer]:
    """A cluster of one node, with its data beneath the folder."""
    port = _free_port()
    data = folder / "data"
    data.mkdir(parents=True)
    (data / "nodes.conf").write_text(
        f"{'a' * 40} 127.0.0.1:{port}@{port + 10_000} myself,master - 0 0 0 connected 0-16383\n"
        "vars currentEpoch 0 lastVoteEpoch 0\n"
    )
    options = {"cluster-enabled": "yes"}
    with FaultyServer(
        folder, program=BINARY, data=data, listen=("127.0.0.1", port), options=options
    ) as server:
        yield server


def _free_port() -> int:
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
        if port <= LAST_PORT:
            return port
