"""Safe text: nothing that came from outside can steer a terminal, and JSON stays exact."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.safe_text import json_text, safe, safe_bytes, safe_lines
from pipeline.json_view import json_view

ANY_TEXT = st.text(st.characters())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)


BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""What has the property Bidi_Control: https://www.unicode.org/Public/UNIDATA/PropList.txt."""


def steers(text: str) -> list[str]:
    """The characters of a text that a terminal, or a reader of lines, may act on."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI]


@given(ANY_TEXT)
def test_text_shows_no_character_that_steers(text: str) -> None:
    """C0, DEL, C1, bidirectional overrides, line separators and lone surrogates come as escapes."""
    assert steers(safe(text)) == []
    safe(text).encode()


@given(VALUES)
def test_json_is_one_safe_line_and_exact(value: object) -> None:
    """What is parsed is what was shown, whatever stands in it."""
    shown = json_text(value)
    assert steers(shown) == []
    assert json.loads(shown) == value
    indented = json_text(value, indent=2)
    assert steers(indented.replace("\n", "")) == []
    assert json.loads(indented) == value


@given(st.binary())
def test_bytes_show_as_safe_text(raw: bytes) -> None:
    """Those that are no UTF-8 too."""
    assert steers(safe_bytes(raw)) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc\r", r"a\tb\nc\r"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202edef", r"abc\u202edef"),
        ("naïve 日本 👍", "naïve 日本 👍"),
    ],
)
def test_escapes_read_as_a_programmer_writes_them(text: str, shown: str) -> None:
    """Short ones where there are; text of any language as it is."""
    assert safe(text) == shown


def test_a_traceback_keeps_its_lines_and_nothing_else() -> None:
    """Line ends are ours, what stands in the lines is not."""
    assert safe_lines("one\n\ttwo\x1b[2J") == ["one", r"    two\x1b[2J"]


def test_what_json_lacks_is_shown_all_the_same() -> None:
    """Bytes as text, or as base64 where they are none; infinities as text; keys as text."""
    assert json_view({b"k": b"text", 1: b"\xff", "n": float("inf")}) == {
        "k": "text",
        "1": {"base64": "/w=="},
        "n": "inf",
    }


@pytest.mark.parametrize("char", [*BIDI, *map(chr, (*range(32), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029))])
def test_each_control_character_is_escaped(char: str) -> None:
    """C0, DEL, C1, and every one of Unicode's bidi controls: as text, as JSON, as a part of both."""
    assert char not in safe(f"a{char}b") and safe(f"a{char}b").isascii()
    shown = json_text({f"k{char}": f"v{char}"})
    assert char not in shown
    assert json.loads(shown) == {f"k{char}": f"v{char}"}
