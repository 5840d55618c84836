"""Fixtures of the fault suite: seeded, on real servers, with real processes."""

import random
from collections.abc import Iterator
from itertools import count

import pytest

from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.wire import encode_entry
from tests.conftest import Server
from tests.consuming import Consuming, consuming_on


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The same draws in every run of a test."""
    return random.Random(request.node.name)


class Feed:
    """Appends events and remembers their ids: what is in `sent` is in the stream."""

    def __init__(self, link: Link, stream: str) -> None:
        self._link = link
        self._stream = stream
        self._numbers = count(1)
        self.sent: list[str] = []

    def over(self, link: Link) -> "Feed":
        """The same feed over another link."""
        self._link = link
        return self

    def add(self, events: int) -> list[str]:
        """Append so many events; their ids."""
        added: list[str] = []
        while len(added) < events:
            numbers = [next(self._numbers) for _ in range(min(500, events - len(added)))]
            commands: list[tuple[str | bytes, ...]] = [
                ("XADD", self._stream, "*", *encode_entry(Event({"n": n}), producer="feed", number=n))
                for n in numbers
            ]
            self._link.send(*commands)
            for number in numbers:
                self._link.read()
                added.append(f"feed-{number}")
        self.sent += added
        return added


@pytest.fixture
def feed(link: Link, stream: str) -> Feed:
    """A feed of the run's server."""
    return Feed(link, stream)


@pytest.fixture
def consuming(server: Server, stream: str) -> Iterator[Consuming]:
    """A stream of this test on the run's server."""
    with consuming_on(server.address, stream) as consuming:
        yield consuming
