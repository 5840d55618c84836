"""Parsers: a line of text as the data of an event.

Pure. A line that is not what its parser expects is never an error: it becomes text, and the event's header
`unparsed` says why. Bytes that are not UTF-8 are kept as `\\xNN` in the text, and the header `decoded` says so.
"""

import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from pipeline.errors import UsageError
from producers.sources.syslog_line import parse_syslog
from producers.sources.weblogs import (
    looks_like_access,
    looks_like_nginx_error,
    parse_access,
    parse_nginx_error,
)

Parser: TypeAlias = Callable[[str], Any]
"""The data of a line; ValueError if the line is not of this kind."""

_PAIR = r'[\w.@/-]+=(?:"(?:[^"\\]|\\.)*"|[^\s"]*)'
_PAIRS = re.compile(rf"\s*{_PAIR}(?:\s+{_PAIR})*\s*")
_LOGFMT = re.compile(rf"\s*{_PAIR}(?:\s+(?:{_PAIR}|[\w.@/-]+))*\s*")
_TOKEN = re.compile(r'([\w.@/-]+)(?:=(?:"((?:[^"\\]|\\.)*)"|([^\s"]*)))?')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_JSON_START = ("{", "[")
_PRIORITY = re.compile(r"<\d{1,3}>(?:1 \S|[A-Z][a-z]{2} [ \d]\d |\d{4}-)")
_TAG = r"[^\s:\[\]]{1,64}"
_SYSLOG = re.compile(
    rf"[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d \S+ {_TAG}(?:\[\d+\])?: "
    rf"|\d{{4}}-\d\d-\d\dT\S{{9,25}} \S+ (?:{_TAG}\[\d+\]|kernel): "
)
"""With a time as programs write it too, only a process id makes a tag certain."""


def parse_text(line: str) -> str:
    """The line as it is."""
    return line


def parse_json(line: str) -> Any:
    """One JSON value. NaN and Infinity are no JSON, and a key written twice leaves open which value was meant."""
    try:
        return _DECODER.decode(line)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_logfmt(line: str) -> dict[str, Any]:
    """`level=info msg="two words" cached`: text by name; a name alone is True."""
    if not _LOGFMT.fullmatch(line):
        raise ValueError("not logfmt")
    return _pairs(line)


def parse_auto(line: str) -> Any:
    """What can be told for certain as data; everything else as text.

    That is JSON objects and arrays, lines of nothing but logfmt pairs, of access logs and nginx's error log, and of
    syslog with a priority, or with a tag where they have none.
    """
    start = line.lstrip()[:1]
    try:
        if start in _JSON_START:
            return parse_json(line)
        if start == "<":
            return parse_syslog(line) if _PRIORITY.match(line) else line
        if '"' in line and looks_like_access(line):
            return parse_access(line)
        if looks_like_nginx_error(line):
            return parse_nginx_error(line)
        if _SYSLOG.match(line):
            return parse_syslog(line)
        if "=" in line and _PAIRS.fullmatch(line):
            return _pairs(line)
    except ValueError:
        return line
    return line


PARSERS: dict[str, Parser] = {
    "auto": parse_auto,
    "text": parse_text,
    "json": parse_json,
    "logfmt": parse_logfmt,
    "access": parse_access,
    "nginx-error": parse_nginx_error,
    "syslog": parse_syslog,
}


def parser_named(name: str) -> Parser:
    """The parser that options and the command line call auto, text, json, logfmt, access, nginx-error or syslog.

    Raises:
        UsageError: no such parser.
    """
    try:
        return PARSERS[name]
    except KeyError:
        raise UsageError(f"data={name!r}: one of {', '.join(PARSERS)}") from None


def valid(text: str) -> str:
    """A text that can be sent: JSON may name half a character, and files may be called by bytes that are no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def parse_line(line: bytes, parser: Parser) -> tuple[Any, dict[str, str] | None]:
    """The data of a line, and the headers that say what is odd about it."""
    headers: dict[str, str] | None = None
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("utf-8", "backslashreplace")
        headers = {"decoded": "backslashreplace"}
    try:
        return parser(text), headers
    except (ValueError, RecursionError) as error:
        return text, {**(headers or {}), "unparsed": str(error)[:200]}


def _pairs(line: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for token in _TOKEN.finditer(line):
        name, quoted, plain = token.groups()
        if quoted is not None:
            plain = (
                _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), quoted)
                if "\\" in quoted
                else quoted
            )
        found[name] = True if plain is None else plain
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
