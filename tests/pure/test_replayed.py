"""Replayed: what a replayed event says of its replay survives the envelope, and is in its headers."""

import pytest

from pipeline.arrival import Arrival
from pipeline.codec import Codec
from pipeline.envelope import Again, again_fields, read_again
from pipeline.event import Event
from pipeline.replayed import Replayed, once_id, read_replayed
from pipeline.wire import decode_entry, encode_again, encode_entry

REPLAY = Replayed(id="00ff", at_ms=1_700_000_000_123, again=False, what="range 1-0 to 2-5, type order.*")


@pytest.mark.parametrize("again", [False, True])
def test_it_comes_back_as_it_was(again: bool) -> None:
    """Through Again.why."""
    one = Replayed(id="00ff", at_ms=1_700_000_000_123, again=again, what="range 1-0 to 2-5,\n type x")
    envelope, _ = read_again(again_fields(Again(stream="s", entry_id="1-0", why=one.why), [b"a", b"b"]))
    assert envelope is not None
    assert read_replayed(envelope.why) == one


@pytest.mark.parametrize(
    "why", ["", "retry", "split", "replay", "replay once 00ff now x", "replay 1 xyz once x"]
)
def test_other_reasons_are_no_replay(why: str) -> None:
    """None, and no error."""
    assert read_replayed(why) is None


def test_headers_say_which_when_and_what() -> None:
    """In words that can be read and compared; the time as ISO."""
    assert REPLAY.headers == {
        "replay-id": "00ff",
        "replay-time": "2023-11-14T22:13:20.123Z",
        "replay-of": "range 1-0 to 2-5, type order.*",
    }
    assert Replayed(id="1", at_ms=10**15 - 1, again=True, what="").headers["replay-time"].startswith("9999")


@pytest.mark.parametrize("codec", [Codec.MSGPACK, Codec.JSON, None])
def test_an_arrival_carries_them_beside_its_own(codec: Codec | None) -> None:
    """The handler sees both; what is written again has its own alone."""
    sent = Event({"a": "1"}, headers={"traceparent": "t"}, type="x")
    fields = [b"level", b"info"]
    if codec is not None:
        fields = encode_entry(sent, producer="p", number=1, codec=codec)
    arrival = Arrival()
    arrival.entry_id, arrival.first_id = b"9-9", b"1-0"
    arrival._header = arrival._items = arrival._entry = None
    arrival.set_fields(fields)
    arrival.add_headers(REPLAY.headers)
    event = arrival.event(0)
    own = {} if codec is None else {"traceparent": "t"}
    assert event.headers == own | REPLAY.headers
    assert event.id == ("1-0" if codec is None else "p-1")
    again = decode_entry(b"8-8", encode_again(event), origin=b"1-0").events[0]
    assert again.headers == own
    assert again.id == event.id


@pytest.mark.parametrize(("again", "goes_by"), [(False, "e-1"), (True, "e-1:5f3a")])
def test_what_is_done_once_is_done_once_more_by_a_replay_that_asks_for_it(again: bool, goes_by: str) -> None:
    """By an id of its own: a repeated run of that replay does it no third time."""
    replayed = Replayed(id="5f3a", at_ms=1, again=again, what="dead letters")
    assert once_id("e-1", replayed.why) == goes_by
    assert once_id("e-1", "retry") == once_id("e-1", "") == "e-1"
