"""Syslog lines: what a syslog daemon sends or writes to its files, as data.

Pure. Three forms: RFC 5424 (`<34>1 2026-11-26T02:28:19Z host app 812 ID47 [x@1 a="b"] text`), RFC 3164
(`<34>Nov 26 02:28:19 host app[812]: text`, in files without what stands in brackets), and what rsyslog writes today
(`2026-11-26T02:28:19.123+00:00 host app[812]: text`). What a time without a year or a zone means is for times.py.
Sources: https://www.rfc-editor.org/rfc/rfc5424 · https://www.rfc-editor.org/rfc/rfc3164
"""

import re
from typing import Any

LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
"""By severity, 0 to 7."""
FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
MAX_PRIORITY = 191

_PRIORITY = re.compile(r"<(0|[1-9]\d{0,2})>")
_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)"
_STAMP = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d\d:\d\d:\d\d"
_RFC5424 = re.compile(
    rf"(?P<version>[1-9]\d{{0,2}}) (?P<time>-|{_ISO}) (?P<host>\S{{1,255}}) (?P<app>\S{{1,48}}) "
    r"(?P<process>\S{1,128}) (?P<message_id>\S{1,32}) "
)
_BSD = re.compile(rf"(?P<time>{_STAMP}|{_ISO}) (?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"(?P<host>[\w.:-]{1,255}) (?P<rest>.*)", re.DOTALL)
_TAG = re.compile(r"(?P<app>[^\s:\[\]]{1,64})(?:\[(?P<process>[^\s\]]{0,64})\])?: ?", re.DOTALL)
_TAG_FIRST = re.compile(r"[^\s:\[\]]{1,64}(?:\[[^\s\]]{0,64}\])?:(?: |$)")
_NAME = re.compile(r"[!#-<>-\\^-~]{1,32}")
_VALUE = re.compile(r'"((?:[^"\\\]]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\\]])')
_BOM = "\ufeff"


def parse_syslog(line: str) -> dict[str, Any]:
    """The parts of a line that are there: level, facility, time (text), host, app, process, message_id, data, message.

    Of a line with a priority and nothing else that is known, all the rest is the message, as RFC 3164 (4.3.3) has it.

    Raises:
        ValueError: none of the three forms.
    """
    found: dict[str, Any] = {}
    at = 0
    priority = _PRIORITY.match(line)
    if priority is not None:
        number = int(priority[1])
        if number > MAX_PRIORITY:
            raise ValueError(f"priority {number} is above {MAX_PRIORITY}")
        found["level"], found["facility"] = LEVELS[number & 7], FACILITIES[number >> 3]
        at = priority.end()
        header = _RFC5424.match(line, at)
        if header is not None:
            return _structured(found, header, line)
    parts = _BSD.match(line, at)
    if parts is None:
        if priority is None:
            raise ValueError("not a syslog line")
        found["message"] = line[at:]
        return found
    found["time"] = parts["time"]
    rest = parts["rest"]
    # Daemons on the same machine leave the host out: then the tag, which ends in a colon, stands in its place.
    host = None if priority is not None and _TAG_FIRST.match(rest) else _HOST.match(rest)
    if host is not None:
        found["host"], rest = host["host"], host["rest"]
    tag = _TAG.match(rest)
    if priority is None and (host is None or tag is None):
        raise ValueError("not a syslog line")
    if tag is not None:
        found["app"] = tag["app"]
        if tag["process"]:
            found["process"] = tag["process"]
        rest = rest[tag.end() :]
    found["message"] = rest
    return found


def _structured(found: dict[str, Any], header: re.Match[str], line: str) -> dict[str, Any]:
    """An RFC 5424 line behind its header."""
    if header["version"] != "1":
        raise ValueError(f"syslog version {header['version']}, not 1")
    for name in ("time", "host", "app", "process", "message_id"):
        if header[name] != "-":
            found[name] = header[name]
    data, at = _elements(line, header.end())
    if data:
        found["data"] = data
    message = line[at:]
    if message and message[0] != " ":
        raise ValueError("no space before the message")
    found["message"] = message[1:].removeprefix(_BOM)
    return found


def _elements(line: str, at: int) -> tuple[dict[str, dict[str, str]], int]:
    """The structured data from here on, and where it ends."""
    if line.startswith("-", at):
        return {}, at + 1
    elements: dict[str, dict[str, str]] = {}
    while line.startswith("[", at):
        name = _NAME.match(line, at + 1)
        if name is None:
            raise ValueError("structured data without a name")
        values = elements.setdefault(name[0], {})
        at = name.end()
        while line.startswith(" ", at):
            key = _NAME.match(line, at + 1)
            value = key and line.startswith("=", key.end()) and _VALUE.match(line, key.end() + 1)
            if not key or not value:
                raise ValueError('structured data that is not name="value"')
            values[key[0]] = _ESCAPED.sub(r"\1", value[1])
            at = value.end()
        if not line.startswith("]", at):
            raise ValueError("structured data that does not end")
        at += 1
    if not elements:
        raise ValueError("no structured data, nor -")
    return elements, at
