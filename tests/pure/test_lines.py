"""Lines and parsers: whatever comes in, each line is there once, bounded, and never an error."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from producers.sources.lines import Lines, LineSplitter
from producers.sources.parsers import (
    PARSERS,
    parse_auto,
    parse_json,
    parse_line,
    parse_logfmt,
    parse_text,
    parser_named,
)


@given(st.lists(st.binary(max_size=30)), st.data())
def test_lines_come_out_as_they_went_in_however_they_are_cut_up(
    lines: list[bytes], data: st.DataObject
) -> None:
    """Each with the offset behind it; the last one without an end waits for rest()."""
    text = b"\n".join(lines)
    splitter = LineSplitter()
    found: list[bytes] = []
    ends: list[int] = []
    position = 0
    while position < len(text):
        size = data.draw(st.integers(1, 20))
        part = splitter.feed(text[position : position + size])
        found, ends, position = found + part.lines, ends + part.ends, position + size
    rest = splitter.rest()
    expected = io.BytesIO(text).read().split(b"\n")
    expected = expected[:-1] if not expected[-1] else expected
    assert found + rest.lines == [line.removesuffix(b"\r") for line in expected]
    for line, end in zip(expected, ends, strict=False):
        assert text[:end].endswith(line + b"\n")
    assert splitter.offset == len(text)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 50))
def test_of_a_line_that_is_too_long_the_beginning_is_kept(sizes: list[int], step: int) -> None:
    """And nothing is held beyond the limit meanwhile."""
    text = b"".join(b"x" * size + b"\n" for size in sizes)
    splitter = LineSplitter(max_line_bytes=10)
    found: list[bytes] = []
    cut: dict[int, int] = {}
    for start in range(0, len(text), step):
        part = splitter.feed(text[start : start + step])
        cut.update({len(found) + index: size for index, size in part.cut.items()})
        found += part.lines
        assert sum(map(len, splitter._parts)) <= 10
    assert [len(line) for line in found] == [min(size, 10) for size in sizes]
    assert cut == {index: size for index, size in enumerate(sizes) if size > 10}


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ('{"a": 1}', {"a": 1}),
        ("[1, 2]", [1, 2]),
        ('level=info msg="two \\"words\\"" n=1', {"level": "info", "msg": 'two "words"', "n": "1"}),
        ("a= b=x=y", {"a": "", "b": "x=y"}),
        ("2026-11-23 12:00:00 started user=7", "2026-11-23 12:00:00 started user=7"),
        ("[main] started", "[main] started"),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ('{"a": NaN}', '{"a": NaN}'),
        ('msg="never closed', 'msg="never closed'),
        ("", ""),
    ],
)
def test_auto_tells_data_from_text(line: str, data: object) -> None:
    """JSON objects and arrays, lines of nothing but pairs, and text."""
    assert parse_auto(line) == data


def test_logfmt_takes_names_without_values() -> None:
    """They are True."""
    assert parse_logfmt("level=info cached") == {"level": "info", "cached": True}
    with pytest.raises(ValueError, match="logfmt"):
        parse_logfmt("just words")


@given(st.binary(max_size=200))
def test_no_line_is_an_error(line: bytes) -> None:
    """Whatever the parser expects: it is text then, and a header says why."""
    for parser in PARSERS.values():
        data, headers = parse_line(line, parser)
        assert data is not None or line.strip() == b"null"
        assert headers is None or set(headers) <= {"decoded", "unparsed"}


def test_bytes_that_are_no_utf_8_are_kept_as_escapes() -> None:
    """Nothing of them is lost, and the header says so."""
    assert parse_line(b"caf\xe9 \x00", parse_text) == ("caf\\xe9 \x00", {"decoded": "backslashreplace"})


def test_a_hole_before_a_line_takes_none_of_its_room() -> None:
    """As in a file that was truncated beneath a writer that does not append: the line is there, and said to be cut."""
    for step, limit in ((1_000, 8_000), (10_000, 8_000), (1 << 20, 8_000), (1_000, 20), (1 << 20, 20)):
        text = b"a\n" + bytes(500_000) + b"behind the hole\nb\n" + bytes(6_000) + b"c\n\0d\n"
        splitter, found = LineSplitter(max_line_bytes=limit), Lines()
        for start in range(0, len(text), step):
            found.extend(splitter.feed(text[start : start + step]))
        whole = [b"a", b"behind the hole", b"b", b"c", b"\0d"]
        assert found.lines == whole
        assert found.cut == {1: 500_015, 3: 6_001}


def test_json_nested_too_deep_is_text() -> None:
    """And no crash."""
    line = b"[" * 100_000
    data, headers = parse_line(line, parse_json)
    assert data == line.decode()
    assert headers is not None


def test_a_parser_that_does_not_exist_is_named() -> None:
    """With those that do."""
    with pytest.raises(UsageError, match="auto, text, json, logfmt"):
        parser_named("xml")
