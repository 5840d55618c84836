"""What the tests of the command line share: the server's address, and a stream with all that may stand in one."""

from collections.abc import Iterator

import pytest

from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.wire import encode_entry, encode_pack
from tests.conftest import Server
from tests.console.command import end_all


@pytest.fixture(scope="session")
def url(server: Server) -> str:
    """The address of this run's server."""
    return f"unix://{server.address.path}"


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    """A test that fails leaves nothing running."""
    yield
    end_all()


@pytest.fixture
def motley(link: Link, stream: str) -> str:
    """A stream that holds an event, one that would steer a terminal, a pack, a corrupt, a foreign and a newer entry."""
    good = encode_entry(Event({"id": 1}, type="order.placed", key="c-1"), producer="p", number=1)
    evil = encode_entry(
        Event({"id": 2, "say": "\x1b]0;owned\x07\u202e\nend"}, type="order.\x1b[31mplaced"),
        producer="p",
        number=2,
    )
    pack = encode_pack([Event({"row": n}, type="row") for n in range(3)], producer="p", first_number=3)
    corrupt = [*good[:3], b"\xc1\xff\x00"]
    newer = [b"h", good[1][:2] + b"\x7f" + good[1][3:], b"b", good[3]]
    for fields in (good, evil, pack, corrupt, newer, [b"level", b"info", b"raw", b"\xff\xfe"]):
        link.call("XADD", stream, "*", *fields)
    return stream
