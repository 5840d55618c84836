"""Fixtures of the tests of scripts: a group on the run's server, and one on a server that may run out of memory."""

from collections.abc import Iterator

import pytest

from pipeline.server.connect import Link
from tests.conftest import Server, started
from tests.server.grouped import Grouped


@pytest.fixture
def grouped(link: Link, stream: str) -> Grouped:
    """A group "g" that exists, on a stream of this test."""
    grouped = Grouped(link, stream)
    grouped.join()
    return grouped


@pytest.fixture(scope="session")
def tight_server() -> Iterator[Server]:
    """A server whose memory limit tests may set, one test at a time."""
    with started() as running:
        yield running


@pytest.fixture
def tight(tight_server: Server, stream: str) -> Iterator[Grouped]:
    """A group "g" on the server whose memory limit may be set."""
    connector = tight_server.connector()
    link = connector.link("test")
    grouped = Grouped(link, stream)
    grouped.join()
    yield grouped
    link.close()
    connector.close()
