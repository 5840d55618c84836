"""Fixtures of the tests of guarantees."""

from collections.abc import Iterator

import pytest

from tests.conftest import Server
from tests.consuming import Consuming, consuming_on


@pytest.fixture
def consuming(server: Server, stream: str) -> Iterator[Consuming]:
    """A stream of this test on the run's server, and a Pipeline on it."""
    with consuming_on(server.address, stream) as consuming:
        yield consuming
