"""Record: a line or a syslog message as what is sent: data, headers and time. Pure and total: nothing is refused."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from producers.sources.parsers import parse_json, parse_line, parse_text
from producers.sources.syslog_line import parse_syslog
from producers.sources.times import Untimed, time_field

SYSLOG_TYPE = "syslog"

_time_of = time_field("time")


class Record(NamedTuple):
    """What one line makes of itself."""

    data: Any
    headers: dict[str, str] | None
    time: datetime | None = None


def json_record(line: bytes) -> Record:
    """A line of JSON; what is none is text, and the header `unparsed` says why."""
    data, headers = parse_line(line, parse_json)
    return Record(data, headers)


def text_record(line: bytes, why: str) -> Record:
    """A line as text, because no event can hold what it says."""
    data, headers = parse_line(line, parse_text)
    return Record(data, {**(headers or {}), "unparsed": why[:200]})


def syslog_record(message: bytes, now: datetime) -> Record:
    """A syslog message, and its time as times.py reads it; what is none is text."""
    data, headers = parse_line(message, parse_syslog)
    if not isinstance(data, dict) or "time" not in data:
        return Record(data, headers)
    try:
        time_ms = _time_of(data, int(now.timestamp() * 1_000))
    except Untimed:
        time_ms = None
    if time_ms is None:
        return Record(data, headers)  # what it says stays in the data, as it was written
    del data["time"]
    return Record(data, headers, datetime.fromtimestamp(time_ms / 1_000, UTC))
