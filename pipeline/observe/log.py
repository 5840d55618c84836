"""Own log: what Millstream says about itself, on stderr, one event a line.

A structlog logger that follows the application's own structlog configuration where there is one, and else writes
plain lines through the standard library's logger "millstream". limited() keeps one cause to one line a second.
"""

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import MutableMapping
from typing import Any, Protocol

import structlog

LINE_MS = 1_000
"""At most one line of one cause in this time, in ms."""


class Logger(Protocol):
    """The methods of a logger that Millstream uses; keyword arguments become the line's fields."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


def get_logger(name: str) -> Logger:
    """A logger named `millstream.<name>`, on the standard library's logging, so that an application can filter it."""
    logger: Logger = structlog.wrap_logger(
        logging.getLogger(f"millstream.{name}"),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.filter_by_level, structlog.processors.format_exc_info, _one_line],
    )
    return logger


def _one_line(logger: object, method: str, fields: MutableMapping[str, Any]) -> str:
    """`what happened  name=value …`, control characters escaped: a log line stays one line."""
    event, trace = str(fields.pop("event", "")), fields.pop("exception", None)
    shown = [
        f"{name}={value!r}" if isinstance(value, str) else f"{name}={value}" for name, value in fields.items()
    ]
    line = "  ".join([event, " ".join(shown)]) if shown else event
    return f"{line}\n{trace}" if trace else line


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show Millstream's own lines on stderr with time and level: what the command line does at start."""
    logger = logging.getLogger("millstream")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


_all_limited: "weakref.WeakSet[Limited]" = weakref.WeakSet()


class Limited:
    """At most one line a second per cause; what was held back is counted in the next line's `held_back` field."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._causes: dict[str, tuple[float, int]] = {}
        _all_limited.add(self)

    def warning(self, cause: str, event: str, **fields: Any) -> None:
        """Say it at WARNING, unless the same cause was said within the last second."""
        now_ms = time.monotonic() * 1_000
        with self._lock:
            said_ms, held_back = self._causes.get(cause, (-float(LINE_MS), 0))
            if now_ms - said_ms < LINE_MS:
                self._causes[cause] = (said_ms, held_back + 1)
                return
            self._causes[cause] = (now_ms, 0)
        if held_back:
            fields["held_back"] = held_back
        self._log.warning(event, **fields)


def _after_fork() -> None:
    # A thread of the parent's may have held a lock just then: nobody would ever release it here.
    for limited in list(_all_limited):
        limited._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
