"""Fixtures of the state machine."""

from collections.abc import Iterator

import pytest

from tests.conftest import Server, started


@pytest.fixture(scope="package")
def model_server() -> Iterator[Server]:
    """A server of which the machine may flush scripts and limit memory."""
    with started() as running:
        yield running
