"""DeadEvent: what is kept of an event that died, which ones are meant, and why many died."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dead_event import (
    MAX_CAUSES,
    UNREADABLE,
    DeadEvent,
    DeadSelection,
    causes_of,
    read_dead_event,
    shape_of,
)
from pipeline.envelope import DeadLetter, dead_fields, read_again
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.selection import Selection
from pipeline.wire import decode_entry, encode_entry, encode_pack


def dead(
    data: Any = 7,
    *,
    dead_id: str = "2000-0",
    fields: Sequence[bytes] | None = None,
    entry_id: str = "1000-3",
    index: int = 0,
    reason: str = "no customer 7",
    error: str = "LookupError",
    **event: Any,
) -> DeadEvent:
    """A dead letter, read as it is kept."""
    sent = encode_entry(Event(data, **event), producer="p", number=4) if fields is None else fields
    letter = DeadLetter(
        reason=reason, error=error, stream="orders", entry_id=entry_id, index=index, first_failed_ms=1_500
    )
    return read_dead_event(dead_id.encode(), dead_fields(letter, sent))


def test_a_dead_letter_has_its_event_as_it_was() -> None:
    """Id, time and data are those of the entry it was sent in, and so are its bytes."""
    one = dead({"n": 1}, type="order.placed", key="c-1")
    assert one.event is not None
    assert (one.event.id, one.event.time_ms, one.event.data) == ("p-4", 1_000, {"n": 1})
    assert (one.died_ms, one.reason, one.error) == (2_000, "no customer 7", "LookupError")
    assert one.fields == encode_entry(Event({"n": 1}, type="order.placed", key="c-1"), producer="p", number=4)


def test_it_runs_again_as_if_it_never_had() -> None:
    """All attempts before it, its origin and its first failure kept."""
    one = dead(index=2)
    (fields,) = one.again("replay 1 2 once x")
    again, sent = read_again(fields)
    assert again is not None
    assert (again.runs, again.crashes, again.index, again.first_failed_ms) == (0, 0, 2, 1_500)
    assert (again.stream, again.entry_id, again.why) == ("orders", "1000-3", "replay 1 2 once x")
    assert sent == one.fields


def test_a_pack_that_died_whole_runs_again_event_by_event() -> None:
    """Where it can be taken apart by now; else as it is."""
    pack = encode_pack([Event(n) for n in range(3)], producer="p", first_number=4)
    again = [read_again(fields) for fields in dead(fields=pack).again("")]
    assert [envelope.index for envelope, _ in again if envelope] == [0, 1, 2]
    events = [decode_entry(b"9-9", sent, origin=b"1000-3").events[0] for _, sent in again]
    assert [(event.id, event.data, event.time_ms) for event in events] == [
        (f"p-{4 + n}", n, 1_000) for n in range(3)
    ]
    corrupt = [*pack[:3], pack[3][:-1]]
    ((_, sent),) = [read_again(fields) for fields in dead(fields=corrupt).again("")]
    assert sent == corrupt


def test_a_letter_without_its_origin_goes_by_its_own_id() -> None:
    """An envelope that lacks it is read; what runs again must have an entry id."""
    (fields,) = dead(entry_id="").again("")
    again, _ = read_again(fields)
    assert again is not None
    assert again.entry_id == "2000-0"


@pytest.mark.parametrize(
    "fields", [[b"foreign", b"\xff"], [b"d", b"\xc1"], [b"d", b"\x81\xa7version\x7f"], [b"d"], []]
)
def test_what_is_no_letter_of_ours_is_read_as_that(fields: list[bytes]) -> None:
    """Somebody else's, corrupt, or of a newer version: shown, and never made to run."""
    one = read_dead_event(b"1-0", fields)
    assert (one.letter, one.event, one.reason, one.error) == (None, None, UNREADABLE, "")
    assert one.again("") == []
    assert not DeadSelection(errors=["?"]).takes(one)
    assert DeadSelection().takes(one)


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_reading_never_fails(fields: list[bytes]) -> None:
    """Whatever stands among the dead letters."""
    assert DeadSelection().takes(read_dead_event(b"1-0", fields))


@pytest.mark.parametrize(
    ("chosen", "takes"),
    [
        (DeadSelection(), True),
        (DeadSelection(errors=["LookupError"]), True),
        (DeadSelection(errors=["ValueError", "*up*"]), True),
        (DeadSelection(errors=["Lookup"]), False),
        (DeadSelection(events=Selection(types=["order.*"])), True),
        (DeadSelection(events=Selection(keys=["c-2"])), False),
        (DeadSelection(errors=["LookupError"], events=Selection(match='"n": 1')), True),
        (DeadSelection(errors=["ValueError"], events=Selection(match='"n": 1')), False),
    ],
)
def test_letters_are_chosen_by_error_and_event(chosen: DeadSelection, takes: bool) -> None:
    """All that is given must hold."""
    assert chosen.takes(dead({"n": 1}, type="order.placed", key="c-1")) is takes
    assert bool(chosen) is (chosen != DeadSelection())


def test_a_pack_that_died_whole_is_meant_if_one_of_its_events_is() -> None:
    """It cannot be taken apart while it is dead."""
    pack = dead(fields=encode_pack([Event(n) for n in range(3)], producer="p", first_number=1))
    assert DeadSelection(events=Selection(match="2")).takes(pack)
    assert not DeadSelection(events=Selection(match="7")).takes(pack)


def test_a_selection_says_what_it_takes() -> None:
    """For the plan that people are shown; and refuses what is no list."""
    assert DeadSelection().shown == ""
    chosen = DeadSelection(errors=["A", "B"], events=Selection(types=["x"]))
    assert chosen.shown == "error A or B and type x"
    with pytest.raises(UsageError, match="errors="):
        DeadSelection(errors="ValueError")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("no customer 7", "no customer 81", True),
        ("no customer 7", "no order 7", False),
        ("'abc'", "'x'", True),  # str(KeyError("abc"))
        ('no "a" here', 'no "b" here', True),
        ("order 6f2c1b1e-0d7e-4c1b-9a58-0c4f3b7e1a11", "order 00000000-0000-0000-0000-000000000000", True),
        ("can't read", "can't write", False),
        ("first\nsecond", "first\nother", True),
    ],
)
def test_reasons_are_alike_but_for_what_varies(one: str, other: str, alike: bool) -> None:
    """Numbers, ids, quoted texts."""
    assert (shape_of(one) == shape_of(other)) is alike


def test_letters_are_grouped_by_cause() -> None:
    """The most frequent first, with the first, the last, and an example."""
    found = [dead(dead_id=f"{n}-0", reason=f"no customer {n}") for n in range(1, 4)]
    found.insert(1, dead(dead_id="2-5", error="ValueError", reason="bad"))
    causes = causes_of(found)
    assert [(c.error, c.count, c.first_id, c.last_id, c.example) for c in causes] == [
        ("LookupError", 3, "1-0", "3-0", "no customer 3"),
        ("ValueError", 1, "2-5", "2-5", "bad"),
    ]
    assert causes_of([]) == []


def test_causes_are_bounded() -> None:
    """Thousands of different ones are counted together beyond a thousand."""
    causes = causes_of(dead(error=f"E{n:x}", reason="x" * (n % 50)) for n in range(MAX_CAUSES + 20))
    assert len(causes) == MAX_CAUSES + 1
    assert sum(cause.count for cause in causes) == MAX_CAUSES + 20
