"""Wire: events as entries and back, alone and in packs, and what a writer refuses."""

import copy
import os
import pickle
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import Codec, encode_msgpack
from pipeline.errors import DecodeError, EncodeError, EventTooLargeError, UsageError
from pipeline.event import Event
from pipeline.header import MAX_TIME_MS, TIME_BYTES
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.packed import PackedEvents
from pipeline.wire import (
    Entry,
    decode_entry,
    encode_again,
    encode_body,
    encode_entry,
    encode_pack,
    encode_packed,
)
from tests.pure.event_data import DATA, FLAT_DICTS, JSON_DATA, TEXT, as_read, events, identical

AT = b"1700000000000-3"
AT_MS = 1_700_000_000_000


def same(read: Event, sent: Event, number: int, data: Any = None) -> bool:
    """Whether a reader got what was sent under this number."""
    return (
        read.id == (sent.id or f"p-{number}")
        and (read.producer, read.number) == ("p", number)
        and read.given_id == sent.given_id
        and (read.type, read.key, read.headers) == (sent.type, sent.key, sent.headers)
        and read.time_ms == (AT_MS if sent.known_time_ms is None else sent.known_time_ms)
        and identical(read.data, as_read(sent.data) if data is None else data)
    )


def only(entry: Entry) -> Event:
    """The event of an entry that holds one."""
    (event,) = entry.events
    return event


@given(events(), st.integers(0, 2**64 - 1))
def test_an_event_comes_back_from_msgpack_as_it_was_sent(event: Event, number: int) -> None:
    """With its id, type, key, time and headers; its time is the entry's where none was given."""
    fields = encode_entry(event, producer="p", number=number)
    entry = decode_entry(AT, fields)
    assert (entry.entry_id, entry.count, entry.is_pack, entry.is_foreign) == (AT.decode(), 1, False, False)
    assert entry.size_bytes == sum(map(len, fields))
    assert same(only(entry), event, number)


@given(events(JSON_DATA))
def test_an_event_comes_back_from_json_as_it_was_sent(event: Event) -> None:
    """What JSON has."""
    assert same(
        only(decode_entry(AT, encode_entry(event, producer="p", number=1, codec=Codec.JSON))), event, 1
    )


@given(events(FLAT_DICTS))
def test_an_event_comes_back_from_fields_as_text(event: Event) -> None:
    """Also where its data has names such as h and b."""
    for data in (event.data, {"h": "x", "b": "y", **event.data}):
        sent = Event(data, type=event.type, key=event.key, id=event.id, headers=event.headers)
        read = only(decode_entry(AT, encode_entry(sent, producer="p", number=1, codec=Codec.FIELDS)))
        assert same(read, sent, 1, data=read.data)
        assert list(read.data) == list(data)
        assert all(type(value) is str for value in read.data.values())


@given(st.lists(events(ids=False), min_size=1, max_size=8), st.booleans())
def test_a_pack_gives_back_its_events_in_order(sent: list[Event], compress: bool) -> None:
    """Whatever they share or do not share, numbered one after the other."""
    fields = encode_pack(sent, producer="p", first_number=41, compress=compress)
    entry = decode_entry(AT, fields)
    assert (entry.count, entry.is_pack, entry.is_foreign) == (len(sent), True, False)
    assert all(
        same(read, event, 41 + i) for i, (read, event) in enumerate(zip(entry.events, sent, strict=True))
    )
    assert entry.events is entry.events


@given(DATA, st.integers(1, 40), st.none() | st.integers(0, 10**13), TEXT, TEXT)
def test_events_that_share_all_but_data_are_packed_as_bare_data(
    data: Any, count: int, time_ms: int | None, type_: str, key: str
) -> None:
    """The body is then nothing but an array of their data."""
    sent = [Event(data, type=type_, key=key, time_ms=time_ms) for _ in range(count)]
    fields = encode_pack(sent, producer="p", first_number=0, compress=False)
    assert fields[3] == encode_msgpack([data] * count)
    read = decode_entry(AT, fields).events
    assert all(same(event, sent[0], i) for i, event in enumerate(read))


def test_bodies_encoded_beforehand_give_the_same_bytes() -> None:
    """A producer encodes an event when it is sent, and packs it later."""
    sent = [Event({"n": n}, type="t", key=str(n)) for n in range(20)]
    bodies = [encode_body(event) for event in sent]
    assert encode_pack(sent, producer="p", first_number=5, bodies=bodies) == encode_pack(
        sent, producer="p", first_number=5
    )
    assert encode_entry(sent[3], producer="p", number=8, body=bodies[3]) == encode_entry(
        sent[3], producer="p", number=8
    )


@given(
    st.lists(
        st.tuples(DATA, st.sampled_from(["log.info", "log.error"]), st.none() | st.integers(-300, 10**6)),
        min_size=1,
    )
)
def test_events_whose_data_are_packed_already_are_what_a_pack_makes_of_them(
    given_events: list[tuple[Any, str, int | None]],
) -> None:
    """In one go, or by an Event of each; one without a time has its entry's."""
    datas, types, since = zip(*given_events, strict=True)
    times_ms = [None if ms is None else 1_700_000_000_000 + ms for ms in since]
    packed = PackedEvents([encode_msgpack(data) for data in datas], types, times_ms, {"host": "a"})
    at_once = decode_entry(b"1-1", encode_packed(packed, producer="p", first_number=3)).events
    by_events = decode_entry(b"1-1", encode_pack(packed, producer="p", first_number=3)).events
    sent = [
        Event(data, type=type_, time_ms=ms, headers={"host": "a"})
        for data, type_, ms in zip(datas, types, times_ms, strict=True)
    ]
    for one, other, event, number in zip(at_once, by_events, sent, range(3, 10**6), strict=False):
        assert one.number == other.number == number
        time_ms = 1 if event.known_time_ms is None else event.time_ms
        assert (one.type, one.time_ms, one.headers) == (event.type, time_ms, event.headers)
        assert identical(one.data, as_read(event.data))
        assert identical(other.data, as_read(event.data))
        assert (other.type, other.time_ms, other.headers) == (event.type, time_ms, event.headers)
    assert len(at_once) == len(by_events) == len(sent) == len(packed)
    assert [event.type for event in packed[1:]] == list(types[1:])


@given(events(), st.sampled_from([Codec.MSGPACK, Codec.JSON, Codec.FIELDS]), st.data())
def test_an_event_that_runs_again_is_the_same_event(event: Event, codec: Codec, draw: st.DataObject) -> None:
    """Id, time, data: in another entry, later, and again after that."""
    if codec is not Codec.MSGPACK:
        event = draw.draw(events(JSON_DATA if codec is Codec.JSON else FLAT_DICTS))
    first = only(decode_entry(AT, encode_entry(event, producer="p", number=7, codec=codec)))
    second = only(decode_entry(b"1800000000000-0", encode_again(first)))
    third = only(decode_entry(b"1900000000000-0", encode_again(second)))
    assert second == first == third
    assert (second.producer, second.number, second.given_id) == (first.producer, first.number, first.given_id)
    assert identical(second.data, first.data)
    assert encode_again(second) == encode_again(first)


@given(st.lists(events(ids=False), min_size=1, max_size=6))
def test_an_event_of_a_pack_runs_again_alone_as_the_same_event(sent: list[Event]) -> None:
    """Each of them."""
    for event in decode_entry(AT, encode_pack(sent, producer="p", first_number=1)).events:
        again = decode_entry(b"1800000000000-0", encode_again(event))
        assert (again.is_pack, again.count) == (False, 1)
        assert only(again) == event
        assert identical(only(again).data, event.data)


def test_what_a_handler_does_to_an_event_is_not_sent_again() -> None:
    """The retry gets the data that was sent, from an entry of its own and out of a pack."""
    single = decode_entry(AT, encode_entry(Event({"n": [1]}, headers={"a": "b"}), producer="p", number=1))
    pack = decode_entry(
        AT, encode_pack([Event({"n": [1]}, headers={"a": "b"})] * 2, producer="p", first_number=1)
    )
    for event in (*single.events, *pack.events):
        event.data["n"].append(2)
        event.headers["a"] = "c"
        again = only(decode_entry(AT, encode_again(event)))
        assert (again.data, again.headers) == ({"n": [1]}, {"a": "b"})


def test_events_of_a_pack_do_not_share_headers() -> None:
    """One handler's change is not another's."""
    first, second = decode_entry(
        AT, encode_pack([Event(1, headers={"a": "b"})] * 2, producer="p", first_number=1)
    ).events
    first.headers["a"] = "c"
    assert second.headers == {"a": "b"}


def test_a_body_that_cannot_be_decoded_is_carried_unchanged() -> None:
    """An event whose data is corrupt can be moved like any other; reading its data says so each time."""
    fields = [b"h", encode_entry(Event(type="t"), producer="p", number=1)[1], b"b", b"\xc1garbage"]
    event = only(decode_entry(AT, fields))
    assert (event.type, event.id) == ("t", "p-1")
    for _ in range(2):
        with pytest.raises(DecodeError):
            _ = event.data
    assert "<corrupt>" in repr(event)
    assert encode_again(event)[2:] == [b"b", b"\xc1garbage"]


FOREIGN = [b"user", b"alice", b"raw", b"\xff", b"n", b"1", b"n", b"2"]


def test_an_entry_millstream_did_not_write_is_one_event_of_its_fields() -> None:
    """Its id and time are the entry's."""
    entry = decode_entry(AT, list(FOREIGN))
    event = only(entry)
    assert (entry.count, entry.is_pack, entry.is_foreign) == (1, False, True)
    assert event.data == {"user": "alice", "raw": b"\xff", "n": ["1", "2"]}
    assert (event.id, event.time_ms, event.type, event.key, event.headers) == (AT.decode(), AT_MS, "", "", {})
    assert (event.given_id, event.producer) == ("", "")


def test_a_foreign_event_that_runs_again_keeps_id_and_time_by_its_origin() -> None:
    """Its fields are carried unchanged; the envelope tells the first entry's id."""
    event = only(decode_entry(AT, list(FOREIGN)))
    event.data["user"] = "mallory"
    again = encode_again(event)
    assert again == FOREIGN
    entry = decode_entry(b"1800000000000-0", again, origin=AT)
    assert entry.entry_id == "1800000000000-0"
    assert (only(entry).id, only(entry).time_ms, only(entry).data["user"]) == (AT.decode(), AT_MS, "alice")


def test_an_entry_copied_as_it_is_keeps_its_time_by_its_origin() -> None:
    """Replay copies fields unread."""
    fields = encode_entry(Event(1), producer="p", number=1)
    assert only(decode_entry(b"1800000000000-0", fields, origin=AT)).time_ms == AT_MS


@pytest.mark.parametrize(
    "fields", [[], [b"h", b""], [b"h", b"plain text"], [b"h", b"\x97\x01"], [b"b", b"\xc1\x97"], [b"", b""]]
)
def test_an_entry_without_the_magic_byte_is_foreign(fields: list[bytes]) -> None:
    """Whatever else it looks like."""
    entry = decode_entry(AT, fields)
    assert entry.is_foreign
    assert len(only(entry).data) == len(fields) // 2


@given(st.permutations([b"h", b"b", b"trace"]))
def test_fields_may_come_in_any_order_and_others_are_passed_over(names: list[bytes]) -> None:
    """Writers whose maps have no order, and what a later version may add; carried when it runs again."""
    h, body = encode_entry(Event({"a": 1}, type="t"), producer="p", number=1)[1::2]
    values = {b"h": h, b"b": body, b"trace": b"x"}
    entry = decode_entry(AT, [part for name in names for part in (name, values[name])])
    assert not entry.is_foreign
    assert same(only(entry), Event({"a": 1}, type="t"), 1)
    again = encode_again(only(entry))
    assert b"trace" in again
    assert only(decode_entry(AT, again)) == only(entry)


def test_an_event_that_was_read_can_be_sent_on() -> None:
    """To another stream: under a new number, at its own time, with the id it was given."""
    read = only(
        decode_entry(AT, encode_entry(Event({"a": 1}, id="order-7", type="t"), producer="p", number=1))
    )
    on = only(decode_entry(b"1800000000000-0", encode_entry(read, producer="q", number=5)))
    assert on == read
    assert (on.producer, on.number, on.given_id) == ("q", 5, "order-7")
    foreign = only(decode_entry(AT, [b"a", b"1"]))
    on = only(decode_entry(b"1800000000000-0", encode_entry(foreign, producer="q", number=5)))
    assert (on.id, on.time_ms, on.data) == ("q-5", AT_MS, {"a": "1"})
    (packed,) = decode_entry(AT, encode_pack([foreign], producer="q", first_number=2)).events
    assert (packed.id, packed.data) == ("q-2", {"a": "1"})


def test_entry_ids_beyond_any_date_are_the_last_date() -> None:
    """Who appends with ids of their own may choose any; nothing breaks."""
    event = only(
        decode_entry(
            b"18446744073709551615-18446744073709551615", encode_entry(Event(), producer="p", number=1)
        )
    )
    assert event.time_ms == MAX_TIME_MS
    assert event.time == datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)
    assert only(decode_entry(AT, encode_again(event))).time_ms == MAX_TIME_MS
    with pytest.raises(DecodeError, match="not an entry id"):
        _ = only(decode_entry(b"now", encode_entry(Event(), producer="p", number=1))).time_ms


NOISE = random.Random(7).randbytes(1 << 21)


def test_an_event_that_is_too_large_is_refused_before_it_is_sent() -> None:
    """What, measured, allowed, which option. Up to the last byte it is sent, and runs again."""
    room = (
        DEFAULT_LIMITS.max_entry_bytes
        - sum(map(len, encode_entry(Event(NOISE[:70_000]), producer="p", number=1)))
        + 70_000
    )
    fields = encode_entry(Event(NOISE[:room]), producer="p", number=1)
    assert sum(map(len, fields)) == DEFAULT_LIMITS.max_entry_bytes
    again = encode_again(only(decode_entry(AT, fields)))
    assert only(decode_entry(AT, again)).data == NOISE[:room]
    with pytest.raises(EventTooLargeError) as refusal:
        encode_entry(Event(NOISE[: room + 1]), producer="p", number=1)
    assert (
        str(refusal.value)
        == "an event of 1,048,577 bytes exceeds max_entry_bytes=1,048,576 (ProducerOptions)"
    )
    for codec in (Codec.JSON, Codec.FIELDS):
        with pytest.raises(EventTooLargeError, match="exceeds max_entry_bytes"):
            encode_entry(Event({"a": "x" * (1 << 20)}), producer="p", number=1, codec=codec)


def test_a_header_that_is_too_long_is_refused_before_it_is_sent() -> None:
    """Up to the limit it is sent, and runs again with its time written out."""
    longest = Event(key="k" * (DEFAULT_LIMITS.max_header_bytes - TIME_BYTES - 14))
    fields = encode_entry(longest, producer="p", number=1)
    assert len(fields[1]) == DEFAULT_LIMITS.max_header_bytes - TIME_BYTES
    again = encode_again(only(decode_entry(AT, fields)))
    assert only(decode_entry(AT, again)).key == longest.key
    with pytest.raises(EventTooLargeError, match="headers of 65,528 bytes exceed max_header_bytes=65,536"):
        encode_entry(Event(key=longest.key + "k"), producer="p", number=1)


def test_an_event_of_a_pack_must_fit_an_entry_of_its_own() -> None:
    """It may have to run again alone."""
    with pytest.raises(EventTooLargeError, match="event 1 of the pack: an event of 1,050,"):
        encode_pack([Event("a"), Event(b"x" * 1_050_000)], producer="p", first_number=1)
    with pytest.raises(EventTooLargeError, match="event 1 of the pack: type, key, id and headers of 70,"):
        encode_pack([Event("a"), Event(headers={"a": "x" * 70_000})], producer="p", first_number=1)


def test_a_pack_that_is_too_large_is_refused_before_it_is_sent() -> None:
    """In bytes, in bytes of its content, in values, in events."""

    def refused(events: list[Event], match: str, limits: Limits = DEFAULT_LIMITS) -> None:
        with pytest.raises(EventTooLargeError, match=match):
            encode_pack(events, producer="p", first_number=1, limits=limits)

    refused(
        [Event(NOISE[:600_000]), Event(NOISE[600_000:1_200_000])],
        "a pack of 2 events of 1,200,.* exceeds max_entry_bytes",
    )
    refused(
        [Event("x" * 1_000_000)] * 17,
        "a pack of 17 events and 17,000,.* bytes exceeds max_body_bytes=16,777,216",
    )
    refused(
        [Event([0] * 1_000_000)] * 2,
        "a pack of 2 events: the body holds more than max_values=1,048,576 values",
    )
    refused([Event(1)] * 501, "a pack of 501 events exceeds max_pack_events=500")


@pytest.mark.parametrize("size", [10, 2_000, 30_000])
def test_the_most_repetitive_pack_is_read_again(size: int) -> None:
    """500 identical events: zstd would make 15 MB of them 1,404 bytes, which no reader would accept."""
    sent = [Event({"message": "x" * size, "n": 1})] * 500
    fields = encode_pack(sent, producer="p", first_number=1)
    assert sum(map(len, fields)) < 100_000
    read = decode_entry(AT, fields).events
    assert len(read) == 500
    assert read[499].data == sent[0].data


def test_an_event_that_only_its_neighbours_made_small_runs_again_compressed() -> None:
    """Another writer may have packed an event that does not fit an entry of its own."""
    generous = replace(DEFAULT_LIMITS, max_entry_bytes=1 << 23)
    sent = [Event({"m": NOISE[:5_000].hex() * 300})]
    fields = encode_pack(sent, producer="p", first_number=1, limits=generous)
    (event,) = decode_entry(AT, fields).events
    again = encode_again(event)
    assert sum(map(len, again)) < 20_000
    assert only(decode_entry(AT, again)) == event


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(type="\ud800"), "type, key, id or a header cannot be sent"),
        (Event(headers={"a": "\ud800"}), "type, key, id or a header cannot be sent"),
        (Event({"a": {1}}), r"data\['a'\]: a set cannot be sent; send a list"),
    ],
)
def test_what_cannot_be_sent_is_refused(event: Event, message: str) -> None:
    """Alone, beforehand, and in a pack, which says which."""
    with pytest.raises(EncodeError, match=message):
        encode_entry(event, producer="p", number=1)
    with pytest.raises(EncodeError, match=message):
        encode_body(event)
    with pytest.raises(EncodeError, match="event 1 of the pack: " + message):
        encode_pack([Event(1), event], producer="p", first_number=1)


def test_packs_hold_events_without_ids_of_their_own() -> None:
    """Deduplication goes by entry; and there is no empty pack."""
    with pytest.raises(UsageError, match="send it singly"):
        encode_pack([Event(1), Event(2, id="order-7")], producer="p", first_number=1)
    with pytest.raises(UsageError, match="at least one"):
        encode_pack([], producer="p", first_number=1)


def test_only_what_was_read_runs_again() -> None:
    """An event an application made has no entry."""
    with pytest.raises(UsageError, match="came from a stream"):
        encode_again(Event(1))


def test_events_cross_to_another_process_with_all_they_carry() -> None:
    """Worker processes get events by pickle, decoded or not; our own processes, nobody else's bytes."""
    sent = [Event({"a": 1}, type="t", headers={"x": "y"}), Event({"a": 2})]
    read = [
        *decode_entry(AT, encode_pack(sent, producer="p", first_number=1)).events,
        only(decode_entry(AT, encode_entry(sent[0], producer="p", number=1))),
        only(decode_entry(AT, list(FOREIGN))),
    ]
    for event in read:
        for copied in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):  # noqa: S301 - see above
            assert copied == event
            assert encode_again(copied) == encode_again(event)


def test_reading_a_header_decodes_no_data() -> None:
    """A thousand entries of 1 MB are looked at without decoding one."""
    fields = encode_entry(Event([0] * 1_000_000), producer="p", number=1)
    began = os.times().user
    for _ in range(1_000):
        assert decode_entry(AT, fields).events[0].id == "p-1"
    assert os.times().user - began < 1
