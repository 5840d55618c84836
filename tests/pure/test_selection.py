"""Selection: by type, key and text, and by nothing at all; packs are looked at event by event."""

import json

import pytest

from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.selection import ALL, Selection, parts_of
from pipeline.wire import decode_entry, encode_entry, encode_pack

ID = b"1700000000000-5"


@pytest.mark.parametrize(
    ("given", "takes"),
    [
        ({}, True),
        ({"types": ["order.*"]}, True),
        ({"types": ["order"]}, False),
        ({"types": ["refund.*", "*.placed"]}, True),
        ({"types": [""]}, False),
        ({"keys": ["c-7"]}, True),
        ({"keys": ["c-*"]}, False),
        ({"keys": ["c-8", "c-7"]}, True),
        ({"match": '"id": 7'}, True),
        ({"match": "Möbel"}, True),
        ({"match": "möbel"}, False),
        ({"match": "/(?i)möbel/"}, True),
        ({"match": "3.5"}, False),
        ({"match": "/3.5/"}, True),
        ({"match": "/^{.*}$/"}, True),
        ({"match": "//"}, False),
        ({"types": ["order.*"], "keys": ["c-8"]}, False),
        ({"types": ["order.*"], "keys": ["c-7"], "match": "/7/"}, True),
    ],
)
def test_an_event_is_taken_by_all_that_is_given(given: dict[str, object], takes: bool) -> None:
    """A type may have *, a key is exact, a text is found as it stands, between slashes it is a pattern."""
    event = Event({"id": 7, "what": "Möbel", "price": "3,50"}, type="order.placed", key="c-7")
    assert Selection(**given).takes(event) is takes  # type: ignore[arg-type]


def test_text_is_searched_as_it_is() -> None:
    """Data that is text has no quotes around it; bytes are text where they can be."""
    assert Selection(match="/^GET .* 500$/").takes(Event("GET /x 500"))
    assert Selection(match='/^"GET/').takes(Event(b"GET /x"))


def test_what_has_no_type_can_be_selected() -> None:
    """The empty type and key mean those without."""
    assert Selection(types=[""], keys=[""]).takes(Event(1))
    assert not Selection(types=[""]).takes(Event(1, type="t"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"match": "/(/"}, "no regular expression"),
        ({"types": "order.*"}, "a list of texts"),
        ({"keys": [7]}, "a list of texts"),
        ({"match": 7}, "a text to look for"),
    ],
)
def test_a_wrong_selection_is_refused(given: dict[str, object], said: str) -> None:
    """By the name of its option."""
    with pytest.raises(UsageError, match=said) as refused:
        Selection(**given)  # type: ignore[arg-type]
    assert next(iter(given)) in str(refused.value)


def test_a_selection_comes_back_as_it_was() -> None:
    """Through JSON, too."""
    for one in (ALL, Selection(types=["a", "b.*"], keys=["k"], match="/x/")):
        assert Selection.from_facts(json.loads(json.dumps(one.as_facts()))) == one
    wrongs: list[dict[str, object]] = [{}, {"types": None, "keys": [], "match": ""}]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="no selection"):
            Selection.from_facts(wrong)


def test_a_selection_is_shown_in_words() -> None:
    """Nothing where all are meant."""
    assert ALL.shown == ""
    shown = Selection(types=["order.*", ""], keys=["c-7"], match="/x/").shown
    assert shown == "type order.* or (none) and key c-7 and match /x/"


def test_of_a_pack_single_events_are_selected() -> None:
    """Each can be written again on its own, and is then the event it was."""
    events = [Event({"n": n}, type="even" if n % 2 == 0 else "odd", key=f"k{n}") for n in range(5)]
    fields = encode_pack(events, producer="p", first_number=10)
    parts = parts_of(ID, fields, Selection(types=["odd"]))
    assert [(part.index, part.chosen) for part in parts] == [(n, n % 2 == 1) for n in range(5)]
    for part in parts:
        again = decode_entry(b"9-9", list(part.fields), origin=ID)
        assert not again.is_pack
        assert again.events[0] == part.event
        assert again.events[0].id == f"p-{10 + part.index}"


def test_a_single_event_keeps_its_bytes() -> None:
    """Nothing is written anew that need not be."""
    fields = encode_entry(Event(1, type="t"), producer="p", number=1)
    (part,) = parts_of(ID, fields, Selection(types=["t"]))
    assert part.chosen
    assert part.fields == fields
    assert part.event is not None
    assert part.event.time_ms == 1_700_000_000_000


@pytest.mark.parametrize("fields", [[b"h", b"\xc1\xff", b"b", b""], [b"odd"]])
def test_what_cannot_be_read_is_meant_only_where_all_is(fields: list[bytes]) -> None:
    """It goes on as it is."""
    (part,) = parts_of(ID, fields)
    assert (part.index, part.event, part.chosen, part.fields) == (0, None, True, fields)
    assert not parts_of(ID, fields, Selection(types=["*"]))[0].chosen


def test_corrupt_data_does_not_match() -> None:
    """Its type can still be read, and selected by."""
    good = encode_entry(Event({"a": 1}, type="t"), producer="p", number=1)
    fields = [*good[:3], b"\xc1"]
    assert parts_of(ID, fields, Selection(types=["t"]))[0].chosen
    assert not parts_of(ID, fields, Selection(match="a"))[0].chosen
