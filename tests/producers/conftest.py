"""Fixtures of the tests of producers: one that sends to the server of the run, and where that is."""

from collections.abc import Iterator

import pytest

from producers.producer import Producer
from tests.conftest import Server


@pytest.fixture
def producer(server: Server) -> Iterator[Producer]:
    """A producer to the server of this run."""
    with Producer(server.address.shown) as producer:
        yield producer


@pytest.fixture
def url(server: Server) -> str:
    """Where the server of this run is."""
    return server.address.shown
