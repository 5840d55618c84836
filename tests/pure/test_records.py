"""Records: lines are put together as they belong, bounded, and however they come in pieces."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from producers.sources.lines import Lines, LineSplitter
from producers.sources.records import RULES, RecordOptions, Records, starting_with

PYTHON = """\
12:00:00 ERROR cannot book
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    book()
ValueError: no

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in <module>
    ^^^^
shop.errors.NotBooked: no
12:00:01 INFO next"""
GROUP = """\
12:00:00 ERROR several
  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 1, in <module>
  | ExceptionGroup: several (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: 1
    +------------------------------------
12:00:01 INFO next"""
JAVA = """\
12:00:00 ERROR cannot book
java.lang.IllegalStateException: no
\tat shop.Book.book(Book.java:7)
\t... 12 more
Caused by: java.io.IOException: gone
\tat shop.Wire.send(Wire.java:12)
12:00:01 INFO next"""
NET = """\
12:00:00 fail: cannot book
System.InvalidOperationException: no
   at Shop.Book() in /src/Book.cs:line 7
--- End of stack trace from previous location ---
   at Shop.Main()
12:00:01 info: next"""
PLAIN = "12:00:00 INFO one\n12:00:01 INFO two"


def records_of(text: str, options: RecordOptions, step: int = 7) -> list[str]:
    """All records of a text that comes in pieces."""
    splitter, records = LineSplitter(), Records(options)
    data = text.encode()
    found = Lines()
    for start in range(0, len(data), step):
        found.extend(records.feed(splitter.feed(data[start : start + step]), 0))
    found.extend(records.feed(splitter.rest(), 0))
    found.extend(records.rest())
    return [line.decode() for line in found.lines]


@pytest.mark.parametrize("text", [PYTHON, GROUP, JAVA, NET])
def test_a_traceback_belongs_to_the_message_before_it(text: str) -> None:
    """As Python, Java and .NET print it, causes and groups too."""
    message, _, after = text.rpartition("\n")
    assert records_of(text, RecordOptions(rule=RULES["traceback"])) == [message, after]


def test_lines_without_a_traceback_stay_as_they_are() -> None:
    """Each is a record."""
    for name in RULES:
        assert records_of(PLAIN, RecordOptions(rule=RULES[name])) == PLAIN.split("\n")


def test_a_pattern_says_where_records_begin() -> None:
    """Everything else goes on; what comes before the first is a record too."""
    rule = starting_with(r"^\d\d:\d\d")
    assert records_of("x\n12:00 a\nb\n\nc\n12:01 d", RecordOptions(rule=rule)) == [
        "x",
        "12:00 a\nb\n\nc",
        "12:01 d",
    ]
    with pytest.raises(UsageError, match="no regular expression"):
        starting_with("(")


def test_indented_lines_go_on() -> None:
    """Spaces or tabs; the last line of a traceback of Python is none."""
    assert records_of("a\n b\n\tc\nd", RecordOptions(rule=RULES["indent"])) == ["a\n b\n\tc", "d"]


@given(st.lists(st.sampled_from(["a", " b", "  c", "", "Traceback (most recent call last):"]), max_size=30),
       st.integers(1, 40), st.integers(1, 6), st.integers(1, 40), st.sampled_from(sorted(RULES)))  # fmt: skip
def test_no_line_is_lost_and_none_repeated(
    lines: list[str], step: int, max_lines: int, max_bytes: int, rule: str
) -> None:
    """However short records have to be; the bounds hold for all but a line that is larger itself."""
    options = RecordOptions(rule=RULES[rule], max_lines=max_lines, max_bytes=max_bytes)
    found = records_of("".join(line + "\n" for line in lines), options, step)
    assert [line for record in found for line in record.split("\n") if line] == [
        line for line in lines if line
    ]
    assert all(record.count("\n") < max_lines for record in found)
    assert all(len(record) <= max_bytes or "\n" not in record for record in found)


def test_each_record_ends_where_its_last_line_does() -> None:
    """And begins where the one before it ends: that is what a position may be."""
    splitter, records = LineSplitter(), Records(RecordOptions(rule=RULES["indent"]))
    records.begin(0)
    found = records.feed(splitter.feed(b"a\n b\nc\n d\n"), 0)
    assert (found.lines, found.ends) == ([b"a\n b"], [5])
    assert (records.pending, records.start, records.end) == (True, 5, 10)


def test_a_record_waits_for_its_next_line_so_long_and_no_longer() -> None:
    """Counted from its last one."""
    splitter, records = LineSplitter(), Records(RecordOptions(rule=RULES["indent"], wait_ms=1_000))
    records.feed(splitter.feed(b"a\n"), 0)
    records.feed(splitter.feed(b" b\n"), 900)
    assert not records.due(1_899)
    assert records.due(1_900)
    assert records.rest().lines == [b"a\n b"]
    assert not records.due(9_999)


def test_a_record_with_a_line_that_was_cut_says_so() -> None:
    """How many bytes all of it has."""
    splitter, records = LineSplitter(max_line_bytes=10), Records(RecordOptions(rule=RULES["indent"]))
    records.feed(splitter.feed(b"a\n" + b" " * 100 + b"\n"), 0)
    found = records.rest()
    assert found.cut == {0: 102}


def test_a_start_that_is_no_utf_8_is_found_as_its_bytes() -> None:
    """As a shell passes on what was typed for a log in another coding."""
    goes_on = starting_with(os.fsdecode(b"^\xc4nderung"))()
    assert not goes_on(b"\xc4nderung 7")
    assert goes_on("Änderung 7".encode())
