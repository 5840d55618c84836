"""Envelopes: what a group writes before an event's fields comes back, and corrupt ones end in an error."""

from dataclasses import asdict
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.envelope import (
    MAX_BYTES,
    Again,
    DeadLetter,
    again_fields,
    dead_fields,
    read_again,
    read_dead,
    read_retry_body,
    retry_body,
)  # fmt: skip
from pipeline.errors import DecodeError, UnknownFormatError
from tests.pure.event_data import TEXT

FIELDS = st.lists(st.binary(max_size=10), max_size=4).map(
    lambda names: [part for name in names for part in (name, b"v")]
)
COUNTS = st.integers(0, 2**63)
IDS = st.tuples(COUNTS, COUNTS).map(lambda pair: f"{pair[0]}-{pair[1]}")
AGAINS = st.builds(
    Again,
    runs=COUNTS,
    crashes=COUNTS,
    stream=TEXT,
    entry_id=IDS,
    index=COUNTS,
    first_failed_ms=COUNTS,
    why=TEXT,
)
LETTERS = st.builds(
    DeadLetter, reason=TEXT, error=TEXT, message=TEXT, traceback=TEXT, attempts=COUNTS, crashes=COUNTS,
    first_failed_ms=COUNTS, last_failed_ms=COUNTS, host=TEXT, consumer=TEXT, group=TEXT, stream=TEXT, entry_id=IDS,
    index=COUNTS, event_id=TEXT, replay=TEXT,
)  # fmt: skip


@given(AGAINS, FIELDS)
def test_what_happened_so_far_comes_back_with_the_fields_unchanged(again: Again, fields: list[bytes]) -> None:
    """Whatever the fields are: nothing in them is looked at."""
    assert read_again(again_fields(again, fields)) == (again, fields)


@given(LETTERS, FIELDS)
def test_a_dead_letter_comes_back_with_the_fields_unchanged(letter: DeadLetter, fields: list[bytes]) -> None:
    """So that a corrupt entry can be looked at, and sent again."""
    assert read_dead(dead_fields(letter, fields)) == (letter, fields)


@pytest.mark.parametrize("count", [4_000, 4_002, 30_000])
def test_thousands_of_fields_come_back_unchanged(count: int) -> None:
    """What is added by a script stays below the 8,000 values that Lua passes on: a foreign entry may hold more."""
    fields = [b"%d" % number for number in range(count)]
    again, letter = Again(stream="s", entry_id="1-1"), DeadLetter(reason="r")
    assert len(again_fields(again, fields)) == len(dead_fields(letter, fields)) <= 4_002
    assert read_again(again_fields(again, fields)) == (again, fields)
    assert read_dead(dead_fields(letter, fields)) == (letter, fields)


@pytest.mark.parametrize(
    "rest", [[], [b"f"], [b"f", b"\xc1"], [b"f", b"\x91\x01"], [b"f", b"\x90", b"g", b""]]
)
def test_a_folded_envelope_that_is_not_followed_by_fields_is_corrupt(rest: list[bytes]) -> None:
    """Total, as all reading is."""
    letter = dead_fields(DeadLetter(reason="r"), [])[1]
    with pytest.raises(DecodeError):
        read_dead([b"dw", letter, *rest])


@given(FIELDS)
def test_the_body_of_a_retry_is_an_array_of_raw_strings(fields: list[bytes]) -> None:
    """promote.lua unpacks it and adds what is in it; the server's cmsgpack knows no bin type."""
    assert msgpack.unpackb(retry_body(fields), raw=True) == fields
    assert read_retry_body(retry_body(fields)) == fields


@pytest.mark.parametrize("fields", [[], [b"h", b"\xc1"], [b"b", b"1", b"a", b"2"], [b"a"]])
def test_fields_without_an_envelope_have_none(fields: list[bytes]) -> None:
    """They come back as they are."""
    assert read_again(fields) == (None, fields)
    assert read_dead(fields) == (None, fields)


def test_no_exception_text_keeps_a_letter_from_being_written() -> None:
    """Lone surrogates are shown as such, what is too long is cut: of a traceback the end is kept."""
    letter = DeadLetter(
        reason="r\ud800", message="ä" * 100_000, traceback="begin" + "x" * 100_000 + "end", error="e" * 5_000,
        host="h" * 5_000, consumer="c" * 5_000, group="g" * 5_000, stream="s" * 5_000, entry_id="1-1",
    )  # fmt: skip
    fields = dead_fields(letter, [])
    assert len(fields[1]) < MAX_BYTES
    read, _ = read_dead(fields)
    assert read is not None
    assert read.reason == "r\\ud800"
    assert read.traceback.startswith("…x")
    assert read.traceback.endswith("end")
    assert read.message.startswith("äää")
    assert read.message.endswith("ä…")
    again, _ = read_again(again_fields(Again(stream="s", entry_id="1-1", why="\ud800" * 9_000), []))
    assert again is not None
    assert len(again.why) < 2_000


GOOD = [1, 2, 3, "orders", "1-2", 0, 5, "retry"]


def test_a_newer_envelope_is_an_unknown_format() -> None:
    """It is left to a member that knows it."""
    with pytest.raises(UnknownFormatError):
        read_again([b"a", msgpack.packb([2, "quite different"])])
    with pytest.raises(UnknownFormatError):
        read_dead([b"d", msgpack.packb({"version": 2})])


_NO_VALUES: tuple[Any, ...] = (-1, None, b"x", [], True)
WRONG: list[Any] = [7, {}, [], ["1"], [True, *GOOD[1:]], GOOD[:-1], [*GOOD, 1]]
for _at in range(1, 8):
    WRONG += [[*GOOD[:_at], wrong, *GOOD[_at + 1 :]] for wrong in _NO_VALUES]


@pytest.mark.parametrize("envelope", WRONG)
def test_a_corrupt_again_envelope_is_a_decode_error(envelope: Any) -> None:
    """Each element, its type and range."""
    with pytest.raises(DecodeError):
        read_again([b"a", msgpack.packb(envelope)])


@pytest.mark.parametrize("entry_id", ["", "1", "1-", "a-b", "1-1-1", "-1-1", "1" * 21 + "-0", "١-١"])
def test_an_envelope_names_an_entry_id(entry_id: str) -> None:
    """An event's time may hang on it."""
    with pytest.raises(DecodeError, match="entry id"):
        read_again([b"a", msgpack.packb([*GOOD[:4], entry_id, *GOOD[5:]])])


@pytest.mark.parametrize("name", asdict(DeadLetter(reason="r")))
def test_a_corrupt_letter_is_a_decode_error(name: str) -> None:
    """Each element of the wrong type; and the reason has to be there."""
    letter = {"version": 1, **asdict(DeadLetter(reason="r"))}
    with pytest.raises(DecodeError):
        read_dead([b"d", msgpack.packb({**letter, name: None})])
    with pytest.raises(DecodeError):
        read_dead([b"d", msgpack.packb({"version": 1})])


def test_a_letter_may_tell_more_or_less() -> None:
    """Names of later versions are passed over, what is missing is empty."""
    letter = msgpack.packb({"version": 1, "reason": "r", "weather": "fine"})
    assert read_dead([b"d", letter, b"x", b"y"]) == (DeadLetter(reason="r"), [b"x", b"y"])


@given(st.binary(max_size=60))
def test_arbitrary_envelopes_do_no_harm(raw: bytes) -> None:
    """They end in one of two errors."""
    for read, name in ((read_again, b"a"), (read_dead, b"d")):
        try:
            read([name, raw])
        except (DecodeError, UnknownFormatError):
            pass
    try:
        read_retry_body(raw)
    except DecodeError:
        pass


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x91" * 2_000,
        b"\xdd\x7f\xff\xff\xff",
        msgpack.packb("x" * MAX_BYTES),
        b"\x82\xa7version\x01\xa7version\x01",
    ],
)
def test_envelopes_are_bounded(raw: bytes) -> None:
    """In bytes and in depth; and no key twice."""
    with pytest.raises(DecodeError):
        read_again([b"a", raw])
    with pytest.raises(DecodeError):
        read_dead([b"d", raw])
