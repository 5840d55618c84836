"""The bare loops do what they are compared for: every entry is there, every event is decoded, every ack is taken."""

import pytest

from benchmarks.limits import address, consume, packs
from benchmarks.limits.append import DEPTHS, append
from benchmarks.limits.arrived import arrived
from benchmarks.limits.event import bodies, event, events, expected, tally
from benchmarks.limits.latency import latency
from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.wire import encode_entry, encode_pack
from tests.conftest import Server


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_bare_append_appends_all_and_waits_for_all_replies(
    depth: tuple[int, int], server: Server, link: Link, stream: str
) -> None:
    """Also a last request that is not full."""
    with address.connected(f"unix://{server.address.path}") as sock:
        assert append(sock, stream, bodies(2_503), *depth) > 0
        assert arrived(sock, stream) == expected(2_503)
    assert link.call("XLEN", stream) == 2_503


def test_the_bare_append_says_what_the_server_refused(link: Link, stream: str) -> None:
    """A rate of refusals would be a fine one."""
    link.call("SET", stream, "mine")
    with pytest.raises(RuntimeError, match="WRONGTYPE"), link.bare() as sock:
        append(sock, stream, bodies(10), 5, 2)


def test_the_bare_consume_reads_and_acknowledges_all(link: Link, stream: str) -> None:
    """Nothing stays pending."""
    link.call("XGROUP", "CREATE", stream, "bare", "0", "MKSTREAM")
    with link.bare() as sock:
        append(sock, stream, bodies(2_500), 1_000, 3)
        seconds, ids = consume.consume(sock, stream, "bare", 2_500)
    assert seconds > 0
    assert tally(ids) == expected(2_500)
    assert link.call("XPENDING", stream, "bare")[0] == 0
    with pytest.raises(RuntimeError, match="ended after 0 of 1 entries"), link.bare() as sock:
        consume.consume(sock, stream, "bare", 1)
    assert link.closed


def test_bare_packs_are_written_and_read_whole(link: Link, stream: str) -> None:
    """Also a last one that is not full."""
    link.call("XGROUP", "CREATE", stream, "bare", "0", "MKSTREAM")
    with link.bare() as sock:
        packs.append_packs(sock, stream, events(2_530))
        assert arrived(sock, stream) == expected(2_530)
        _, ids = consume.consume(sock, stream, "bare", 26, packs.pack_ids)
    assert link.call("XLEN", stream) == 26
    assert tally(ids) == expected(2_530)


def test_what_millstream_wrote_is_read_back_by_bare_means(link: Link, stream: str) -> None:
    """Single events, packs, packs of records, and packs that were not worth compressing."""
    made = [Event(event(index)) for index in range(250)]
    link.call("XADD", stream, "*", *encode_entry(made[0], producer="p", number=1))
    link.call("XADD", stream, "*", *encode_pack(made[1:100], producer="p", first_number=2))
    link.call("XADD", stream, "*", *encode_pack(made[100:101], producer="p", first_number=2))
    typed = [Event(event(index), type=f"t{index}") for index in range(101, 250)]
    link.call("XADD", stream, "*", *encode_pack(typed, producer="p", first_number=102))
    with link.bare() as sock:
        assert arrived(sock, stream) == expected(250)


def test_bare_latency_times_every_event(server: Server, link: Link, stream: str) -> None:
    """From its XADD to its receipt."""
    link.call("XGROUP", "CREATE", stream, "bare", "0", "MKSTREAM")
    with address.connected(f"unix://{server.address.path}") as reader, link.bare() as sender:
        seconds, ids = latency(sender, reader, stream, "bare", 50, 5_000)
    assert len(seconds) == 50
    assert all(0 < taken_s < 5 for taken_s in seconds)
    assert tally(ids) == expected(50)
