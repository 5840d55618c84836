"""Once: keeps a line from being shipped twice where ship_logs() and LogHandler stand in one application.

A line of structlog's reaches the handler in the same thread, within the same call, as a record of the logger that
structlog wraps; a record of the standard library's reaches structlog's formatter with itself in the event dict.
Nothing is left on the record itself: formatters write down whatever they find there.
"""

import json
import logging
import threading
import time

OURS = "millstream"
TOGETHER_S = 1.0
"""A record that comes later than this after structlog's line is another one."""

watched = False
"""Whether there is a LogHandler at all."""

_here = threading.local()
_NONE: tuple[None, None, None, tuple[str, ...]] = (None, None, None, ())


def watch() -> None:
    """There is a LogHandler from now on."""
    global watched
    watched = True


def is_ours(record: logging.LogRecord) -> bool:
    """Whether it is a record of Millstream's own loggers or threads: a line about lines that fail would never end."""
    return record.name.partition(".")[0] == OURS or (record.threadName or "").startswith(f"{OURS}-")


def shipped(record: logging.LogRecord, stream: str) -> bool:
    """Whether this thread has just shipped the record to the stream; from now on it has."""
    # By what it says of itself: formatters pass copies on, without the arguments.
    this = (record.created, record.thread, record.name, record.levelno, record.lineno)
    msg, args = record.msg, record.args
    last, last_msg, last_args, streams = getattr(_here, "record", _NONE)
    # Where a clock stands still, or who makes records writes seconds, many records have the same moment.
    if last != this or last_msg is not msg or not (args is last_args or not args or not last_args):
        _here.record = (this, msg, args, (stream,))
        return False
    if stream in streams:
        return True
    _here.record = (this, msg, args or last_args, (*streams, stream))
    return False


def will_come_back(logger: object, level: int, stream: str, event: object) -> None:
    """structlog's line was shipped, and goes on to a logger of the standard library, whose handlers will see it."""
    if isinstance(logger, logging.Logger) and logger.isEnabledFor(level):
        _here.line = (logger.name, level, stream, str(event), time.monotonic())


def came_back(record: logging.LogRecord, stream: str) -> bool:
    """Whether the record is the line that this thread has just shipped. Where in doubt it is not: twice is not lost."""
    line = getattr(_here, "line", None)
    if line is None:
        return False
    name, level, shipped_to, event, then = line
    if (name, level, shipped_to) != (
        record.name,
        record.levelno,
        stream,
    ) or time.monotonic() - then > TOGETHER_S:
        return False
    del _here.line
    if isinstance(record.msg, dict):
        return bool(record.msg.get("event") == event)
    text = str(record.msg)
    return (
        event in text
        or json.dumps(event)[1:-1] in text
        or json.dumps(event, ensure_ascii=False)[1:-1] in text
    )
