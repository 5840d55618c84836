"""Arrival: read late, an event says what it says when read at once; what is wrong is found when it is looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.window import Held
from pipeline.arrival import Arrival
from pipeline.codec import Codec
from pipeline.errors import DecodeError, UnknownFormatError
from pipeline.event import Event
from pipeline.keys import GroupRef, StreamKeys
from pipeline.wire import decode_entry, encode_again, encode_entry, encode_pack
from tests.pure.event_data import JSON_DATA, events, identical

AT = b"1700000000000-3"
REF = GroupRef(StreamKeys("s"), "g")


def arrived(fields: list[bytes], entry_id: bytes = AT) -> Arrival:
    """The entry as a reader holds it, made as every entry of a read is."""
    (held,) = Held.read(REF, [(entry_id, fields)], "t", 0)
    return held


def same(late: Event, early: Event) -> bool:
    """Whether two events say the same, each in all it can be asked for."""
    return (
        (late.id, late.given_id, late.producer, late.number) == (early.id, early.given_id, early.producer, early.number)
        and (late.type, late.key, late.headers, late.time_ms) == (early.type, early.key, early.headers, early.time_ms)
        and identical(late.data, early.data)
        and encode_again(late) == encode_again(early)
    )  # fmt: skip


@given(events(), st.integers(0, 2**64 - 1))
def test_an_event_read_late_is_the_event(event: Event, number: int) -> None:
    """Alone in its entry, whatever its header says."""
    fields = encode_entry(event, producer="p", number=number)
    arrival = arrived(fields)
    (early,) = decode_entry(AT, fields).events
    assert arrival.event_count() == arrival.count == 1
    assert not arrival.is_pack
    (late,) = arrival.all_events()
    assert same(late, early)


@given(events(JSON_DATA), st.sampled_from([Codec.JSON, Codec.FIELDS]))
def test_other_codecs_are_read_late_too(event: Event, codec: Codec) -> None:
    """They are decoded at once, as their first bytes do not tell enough."""
    if codec is Codec.FIELDS:
        event._data = {"a": "x"}
    fields = encode_entry(event, producer="p", number=1, codec=codec)
    arrival = arrived(fields)
    assert (arrival.count, arrival.event_count()) == (0, 1)
    assert same(arrival.event(0), decode_entry(AT, fields).events[0])


@given(st.lists(events(ids=False), min_size=1, max_size=6), st.booleans())
def test_the_events_of_a_pack_read_late_are_its_events(sent: list[Event], compress: bool) -> None:
    """Of one kind or of mixed kinds, in any order of looking."""
    fields = encode_pack(sent, producer="p", first_number=7, compress=compress)
    arrival = arrived(fields)
    early = decode_entry(AT, fields).events
    assert arrival.is_pack
    assert arrival.event_count() == len(sent)
    for index in reversed(range(len(sent))):
        assert same(arrival.event(index), early[index])


@pytest.mark.parametrize("count", [127, 128, 255, 256, 500])
def test_the_first_bytes_of_a_pack_tell_how_many_events_it_holds(count: int) -> None:
    """In each length that msgpack gives a number."""
    fields = encode_pack([Event(0)] * count, producer="p", first_number=1)
    assert arrived(fields).count == count


def test_a_foreign_entry_is_read_late_too() -> None:
    """Also with four names and values, as ours has."""
    fields = [b"h", b"not ours", b"b", b"x"]
    arrival = arrived(fields)
    assert same(arrival.event(0), decode_entry(AT, fields).events[0])
    assert list(arrival.fields) == fields


def test_nothing_is_decoded_before_it_is_looked_at() -> None:
    """A body that is corrupt does no harm to whoever does not look, and is a DecodeError to whoever does."""
    fields = encode_entry(Event({"a": 1}, type="t"), producer="p", number=1)
    event = arrived([*fields[:3], b"\xc1"]).event(0)
    assert (event.type, event.number) == ("t", 1)
    with pytest.raises(DecodeError):
        _ = event.data


def test_a_pack_whose_header_counts_wrong_is_found_out_by_a_look_at_any_event() -> None:
    """Each of them is a DecodeError, also those that are there."""
    fields = encode_pack([Event(1), Event(2)], producer="p", first_number=1, compress=False)
    more = fields[1].replace(b"\x02\xa1p", b"\x03\xa1p", 1)
    arrival = arrived([b"h", more, b"b", fields[3]])
    assert arrival.event_count() == 3
    for event in arrival.all_events():
        with pytest.raises(DecodeError, match="holds 2 events; its header says 3"):
            _ = event.data


def test_a_corrupt_header_is_found_where_it_is_looked_at() -> None:
    """Its first bytes are those of one event; what follows is cut off."""
    fields = encode_entry(Event(1, type="t"), producer="p", number=1)
    event = arrived([b"h", fields[1][:9], b"b", fields[3]]).event(0)
    assert event.data == 1
    with pytest.raises(DecodeError):
        _ = event.type


@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_what_a_newer_version_wrote_is_never_taken_for_known(at: int) -> None:
    """Version, kind, codec and compression are looked at before any handler runs."""
    fields = encode_entry(Event(1), producer="p", number=1)
    header = bytearray(fields[1])
    header[at] = 0x7F
    with pytest.raises(UnknownFormatError):
        arrived([b"h", bytes(header), b"b", fields[3]]).event_count()


def test_an_event_has_no_attributes_but_its_own() -> None:
    """Looking late does not make any name an attribute."""
    event = arrived(encode_entry(Event(1), producer="p", number=1)).event(0)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = event.colour  # type: ignore[attr-defined]
