"""ship_logs: a structlog processor that ships every line to a stream and passes it on unchanged.

Stands on the LogShipper: the thread that logs takes a copy of the line and goes on.
"""

import sys
import time
from collections.abc import MutableMapping, Sequence
from logging import Logger
from typing import Any

from pipeline.keys import StreamKeys
from pipeline.observe.log import Limited, get_logger
from pipeline.options import LogOptions, log_options
from producers.logs import once
from producers.logs.line import DEFAULT_MASK, METHOD_NAMES, Taker, level_name, level_of
from producers.logs.shipper import LogShipper, shipper_for

_limited = Limited(get_logger("logs"))
_time_s = time.time


class ShipLogs:
    """What ship_logs() makes."""

    def __init__(self, shipper: LogShipper, level: int, mask: Sequence[str]) -> None:
        self.shipper = shipper
        self._level = level
        self._taker = Taker(mask)

    def __call__(self, logger: Any, method_name: str, event_dict: Any) -> Any:
        """Take the line; never waits for Redis, never raises."""
        # Every step here is one of the application's own thread: what can be put off is done by the shipper's.
        try:
            level, name = METHODS.get(method_name) or method(method_name)
            if level >= self._level:
                body = None
                if event_dict.__class__ is dict:
                    fields = event_dict
                    if "level" not in fields or "logger" not in fields:
                        fields = with_defaults(fields, name, logger)
                    body = self._taker.flat(fields)
                if body is None:
                    self._ship(logger, level, event_dict)
                else:
                    self.shipper.put((level, _time_s(), body))
                    if once.watched and isinstance(logger, Logger):
                        once.will_come_back(logger, level, self.shipper.stream, event_dict.get("event", ""))
        except Exception as error:  # noqa: BLE001 - a log call must not fail because of what it logs
            self.shipper.drop(1)
            _limited.warning("take", "log line cannot be taken", error=repr(error))
        return event_dict

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until what was logged so far is sent, for at most so many seconds; whether it is."""
        return self.shipper.flush(timeout * 1_000)

    def _ship(self, logger: Any, level: int, event_dict: Any) -> None:
        """Take a line of any kind."""
        stream = self.shipper.stream
        if isinstance(event_dict, MutableMapping):
            record = event_dict.get("_record")
            if record is not None and once.shipped(record, stream):
                return
            fields = {
                name: value
                for name, value in event_dict.items()
                if name != "exc_info" and not str(name).startswith("_")
            }
            exc_info = event_dict.get("exc_info")
            if exc_info is True or exc_info == 1:
                exc_info = sys.exc_info()
        else:  # behind a renderer: a text is all there is
            fields, exc_info = {"event": event_dict}, None
        fields = with_defaults(fields, level_name(level), logger)
        self.shipper.put(self._taker.line(fields, level, exc_info))
        if once.watched and isinstance(logger, Logger):
            once.will_come_back(logger, level, stream, fields.get("event", ""))


def method(name: str) -> tuple[int, str]:
    """The level of a log method, and its name."""
    level = level_of(name)
    return level, level_name(level)


METHODS = {name: method(name) for name in METHOD_NAMES}


def with_defaults(fields: dict[str, Any], level: str, logger: Any) -> dict[str, Any]:
    """The fields with `level`, and with the logger's name as `logger` if it has one, where they are missing."""
    if "level" not in fields:
        fields = {**fields, "level": level}
    if "logger" not in fields:
        name = getattr(logger, "name", None)
        if isinstance(name, str):
            fields = {**fields, "logger": name}
    return fields


def ship_logs(
    stream: str,
    *,
    url: str | None = None,
    level: str = "info",
    mask: Sequence[str] = DEFAULT_MASK,
    namespace: str = "",
    options: LogOptions | None = None,
    **given: Any,
) -> ShipLogs:
    """A structlog processor: `structlog.configure(processors=[…, ship_logs("logs"), JSONRenderer()])`.

    Put it before the renderer. Each line becomes an event of type `log.<level>` whose data are the line's fields;
    an exception is a dict of type, message and traceback. What comes behind it sees the line as it was.

    Args:
        url: where the server is; without it MILLSTREAM_URL, then REDIS_URL. Looked at when the first line is logged.
        level: lines below it are not shipped. mask: fields whose values are not shipped, at any depth.
        options: LogOptions; each may also be given by name (`queue_bytes="64MB"`, `gather="100ms"`).

    Raises:
        UsageError: a stream name or an option that cannot be accepted. Nothing is raised later.
    """
    StreamKeys(f"{namespace}:{stream}" if namespace else stream)
    shipper = shipper_for(stream, url, namespace, options or log_options(**given))
    return ShipLogs(shipper, level_of(level), mask)
