"""Safe text: what came from events, keys and names, with nothing in it that could steer a terminal.

Control characters (C0, DEL, C1), what steers the direction of text (Unicode's Bidi_Control, and the deprecated format
characters beside it), line separators and lone surrogates are shown as escapes, so that one event stays one line and a
crafted name cannot recolour, overwrite or reorder what stands around it.
"""

import json
import re

from pipeline.json_view import json_view

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def safe(text: object) -> str:
    """The text on one line, unsafe characters escaped: \\n, \\x1b, \\u202e."""
    return _UNSAFE.sub(_shown, str(text))


def safe_lines(text: str) -> list[str]:
    """A text of several lines (a traceback), each of them safe; tabs become spaces."""
    return [safe(line.expandtabs(4)) for line in text.split("\n")]


def safe_bytes(raw: bytes) -> str:
    """Bytes as text where they are UTF-8, their other bytes escaped as \\xNN."""
    return safe(raw.decode("utf-8", "backslashreplace"))


def json_text(value: object, *, indent: int | None = None) -> str:
    """The value as JSON that is safe to print as it is, and exact when parsed.

    JSON already escapes C0; the other unsafe characters can only stand inside strings, where an escape is the same.
    """
    separators = (", ", ": ") if indent is None else (",", ": ")
    dumped = json.dumps(
        json_view(value), ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
    )
    if indent is not None:  # the line ends between values are ours
        return "\n".join(_UNSAFE.sub(_escaped, line) for line in dumped.split("\n"))
    return _UNSAFE.sub(_escaped, dumped)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
