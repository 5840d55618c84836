"""Body: the records in the body of a request: JSON lines, a JSON array, or one JSON value. Pure.

All of a body is taken or nothing. Only types that a browser does not send to another site without asking it first are
taken (https://fetch.spec.whatwg.org/#cors-safelisted-request-header): no web page that somebody on this machine looks
at writes into a stream.
"""

from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

from producers.sources.network.refused import Refused
from producers.sources.parsers import parse_json

LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines",
         "application/jsonlines", "application/stream+json")  # fmt: skip
JSON = "application/json"
SHOWN_CHARACTERS = 60
"""Of a line that is refused."""


def records_of(body: bytes, content_type: str) -> list[Any]:
    """The records, in their order. `application/json` may hold lines as well: Fluent Bit says so of its json_lines.

    Raises:
        Refused: 415 for another content type; 400 for what is no JSON, with the number of the line, and for nothing.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in LINES and kind != JSON and not kind.endswith("+json"):
        said = f"Content-Type {kind[:80]!r}" if kind else "no Content-Type"
        raise Refused(415, f"{said}: send application/json or application/x-ndjson")
    if kind in LINES:
        records = list(_lines(body))
    else:
        try:
            value = _value(body)
        except ValueError as error:
            records = _lines_instead(body, error)
        else:
            records = value if isinstance(value, list) else [value]
    if not records:
        raise Refused(400, "no events in the body")
    return records


def _lines(body: bytes) -> Iterator[Any]:
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line or line.isspace():
            continue
        try:
            yield _value(line)
        except ValueError as error:
            shown = line[:SHOWN_CHARACTERS].decode("utf-8", "backslashreplace")
            raise Refused(400, f"line {number:,} is not JSON ({_why(error)}): {shown}") from None


def _lines_instead(body: bytes, error: ValueError) -> list[Any]:
    """What is not one value may be lines, if the first is a value."""
    first, newline, _ = body.lstrip().partition(b"\n")
    try:
        _value(first if newline else b"")
    except ValueError:
        where = f"line {error.lineno:,}, " if isinstance(error, JSONDecodeError) else ""
        raise Refused(400, f"the body is not JSON ({where}{_why(error)})") from None
    return list(_lines(body))


def _value(text: bytes) -> Any:
    return parse_json(text.decode().strip())


def _why(error: ValueError) -> str:
    if isinstance(error, JSONDecodeError):
        return f"character {error.colno:,}: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1:,} is not UTF-8"
    return str(error)[:200]
