"""ship_logs: a structlog processor that ships every line to a stream and passes it on unchanged.

Stands on the LogShipper: the thread that logs takes a copy of the line and goes on.
"""

import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

from pipeline.keys import StreamKeys
from pipeline.observe.log import Limited, get_logger
from pipeline.options import LogOptions, log_options
from producers.logs import once
from producers.logs.line import DEFAULT_MASK, Taker, level_name, level_of
from producers.logs.shipper import LogShipper, shipper_for

_limited = Limited(get_logger("logs"))


class ShipLogs:
    """What ship_logs() makes."""

    def __init__(self, shipper: LogShipper, level: int, mask: Sequence[str]) -> None:
        self.shipper = shipper
        self._level = level
        self._taker = Taker(mask)

    def __call__(self, logger: Any, method_name: str, event_dict: Any) -> Any:
        """Take the line; never waits for Redis, never raises."""
        level = level_of(method_name)
        try:
            if level >= self._level:
                self._ship(logger, level, event_dict)
        except Exception as error:  # noqa: BLE001 - a log call must not fail because of what it logs
            self.shipper.dropped += 1
            _limited.warning("take", "log line cannot be taken", error=repr(error))
        return event_dict

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until what was logged so far is sent, for at most so many seconds; whether it is."""
        return self.shipper.flush(timeout * 1_000)

    def _ship(self, logger: Any, level: int, event_dict: Any) -> None:
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
        fields.setdefault("level", level_name(level))
        name = getattr(logger, "name", None)
        if isinstance(name, str):
            fields.setdefault("logger", name)
        self.shipper.put(self._taker.line(fields, level, exc_info))
        once.will_come_back(logger, level, stream, str(fields.get("event", "")))


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
