"""The load of the benchmarks: about 161 bytes, and a checksum that tells a lost event from a repeated one."""

import msgpack  # type: ignore[import-untyped]
import pytest

from benchmarks.limits.append import HEADER, requests
from benchmarks.limits.event import Tally, bodies, event, events, expected, index_of, tally
from benchmarks.limits.latency import percentiles
from benchmarks.limits.packs import pack_header
from pipeline.header import PACK, SINGLE, ZSTD, read_header
from pipeline.limits import DEFAULT_LIMITS


def test_the_load_is_a_log_event_of_nine_fields_and_161_bytes() -> None:
    """On average; and different for each index, and the same each time."""
    packed = bodies(10_000)
    assert 160 < sum(map(len, packed)) / len(packed) < 163
    assert len(set(packed)) == len(packed)
    assert list(event(7)) == "event level logger method path status duration_ms request_id user".split()
    assert bodies(3, 5) == [msgpack.packb(one) for one in events(8)[5:]]


def test_an_id_leads_back_to_its_event() -> None:
    """So that the time an event was sent is found without carrying it in the event."""
    assert [index_of(event(index)["request_id"]) for index in (0, 1, 99_999, 2**40)] == [0, 1, 99_999, 2**40]


def test_what_arrived_in_any_order_adds_up_to_what_was_sent() -> None:
    """From any first index, and in parts."""
    ids = [one["request_id"] for one in events(1_000, 17)]
    assert tally(reversed(ids)) == expected(1_000, 17)
    assert tally(ids[:300]) + tally(ids[300:]) == expected(1_000, 17)
    assert tally([]) == expected(0) == Tally()


@pytest.mark.parametrize("wrong", [0, 1, 2], ids=["one lost", "one twice", "one twice for another"])
def test_what_is_lost_or_repeated_does_not_add_up(wrong: int) -> None:
    """Also where their number is right."""
    ids = [one["request_id"] for one in events(1_000)]
    arrived = [ids[1:], [*ids, ids[5]], [*ids[1:], ids[5]]][wrong]
    assert tally(arrived) != expected(1_000)


def test_the_bare_header_is_one_of_ours() -> None:
    """The limit is that of the same bytes."""
    assert read_header(HEADER, DEFAULT_LIMITS)[:4] == (SINGLE, 1, 0, 1)
    assert read_header(pack_header(100), DEFAULT_LIMITS)[:4] == (PACK, 1, ZSTD, 100)
    assert 24 <= len(HEADER) <= 29


def test_commands_are_joined_to_requests_of_so_many() -> None:
    """The last may be smaller, and none is left out."""
    made = requests("s", [b"x", b"yy", b"zzz"], 2)
    entry = b"*7\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\nh\r\n$29\r\n" + HEADER + b"\r\n$1\r\nb\r\n"
    assert made == [entry + b"$1\r\nx\r\n" + entry + b"$2\r\nyy\r\n", entry + b"$3\r\nzzz\r\n"]


def test_percentiles_are_of_what_was_measured() -> None:
    """The nearest rank: a value that occurred, and for 100 the largest."""
    values = [float(value) for value in range(1, 1_001)]
    assert percentiles(reversed(values)) == {50: 500, 90: 900, 99: 990, 99.9: 999, 100: 1_000}  # type: ignore[arg-type]
    assert percentiles([3.0]) == dict.fromkeys((50, 90, 99, 99.9, 100), 3.0)
