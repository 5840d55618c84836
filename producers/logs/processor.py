"""ship_logs: a structlog processor that ships every line to a stream and passes it on unchanged.

Stands on the LogShipper: the thread that logs takes a copy of the line and goes on.
"""

import sys
from collections.abc import MutableMapping, Sequence
from gc import is_tracked
from time import time as time_s
from typing import Any, Protocol, cast

from pipeline.codec import EXACT, SCALARS, pack_exact
from pipeline.keys import StreamKeys
from pipeline.observe.log import Limited, get_logger
from pipeline.options import LogOptions, log_options
from producers.logs import once
from producers.logs.line import METHOD_LEVELS, SMALL_BYTES, Taker, level_name, level_number, level_of
from producers.logs.mask import DEFAULT_MASK, Pattern
from producers.logs.shipper import LogShipper, shipper_for

_limited = Limited(get_logger("logs"))


class ShipLogs(Protocol):
    """What ship_logs() makes: a processor, and how its lines are sent."""

    shipper: LogShipper

    def __call__(self, logger: Any, method_name: str, event_dict: Any) -> Any:
        """Take the line; never waits for Redis, never raises."""

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until what was logged so far is sent, for at most so many seconds; whether it is."""


class _Lines:
    """Takes the lines of one processor."""

    def __init__(self, shipper: LogShipper, level: int, taker: Taker) -> None:
        self.shipper = shipper
        self._level = level
        self._taker = taker
        self._all_open = self._taker.all_open

    def processor(self) -> ShipLogs:
        """What is called for each line."""
        # Every step here is one of the application's own thread: what can be put off, the shipper's thread does, what a
        # call of its own would be elsewhere (Taker.flat(), LogShipper.put()) is written out, and a function is called
        # in half the time that an object with __call__ takes.
        shipper, least, all_open, level_known = self.shipper, self._level, self._all_open, METHOD_LEVELS.get
        other, ship = self._other, self._ship

        def take(logger: Any, method_name: str, event_dict: Any) -> Any:
            try:
                level = level_known(method_name) or level_of(method_name)
                if level < least:
                    return event_dict
                if (
                    event_dict.__class__ is dict
                    and "level" in event_dict
                    and "logger" in event_dict
                    and all_open(event_dict)
                    and (not is_tracked(event_dict) or SCALARS.issuperset(map(type, event_dict.values())))
                ):
                    try:
                        body = pack_exact(event_dict, None, EXACT)
                    except TypeError:
                        body = None
                else:
                    body = other(logger, level, event_dict)
                if body is None or len(body) > SMALL_BYTES:
                    ship(logger, level, event_dict)
                    return event_dict
                intake = shipper.intake
                intake.append((level, time_s(), body))
                if len(intake) > shipper.room:
                    shipper.settle()
                if once.watched:
                    once.will_come_back(logger, level, shipper.stream, event_dict.get("event", ""))
            except Exception as error:  # noqa: BLE001 - a log call must not fail because of what it logs
                shipper.drop(1)
                _limited.warning("take", "log line cannot be taken", error=repr(error))
            return event_dict

        made = cast("ShipLogs", take)
        made.shipper, made.flush = shipper, self.flush  # type: ignore[method-assign]
        return made

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until what was logged so far is sent, for at most so many seconds; whether it is."""
        return self.shipper.flush(timeout * 1_000)

    def _other(self, logger: Any, level: int, event_dict: Any) -> bytes | None:
        """The body of a line that lacks `level` or `logger`, if it is a small flat one otherwise."""
        if event_dict.__class__ is not dict or "_record" in event_dict:
            return None
        return self._taker.flat(with_defaults(event_dict, level, logger))

    def _ship(self, logger: Any, level: int, event_dict: Any) -> None:
        """Take a line of any kind."""
        stream = self.shipper.stream
        if isinstance(event_dict, MutableMapping):
            record = event_dict.get("_record")
            if record is not None and (once.is_ours(record) or once.shipped(record, stream)):
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
        fields = with_defaults(fields, level, logger)
        self.shipper.put(self._taker.line(fields, level, exc_info))
        if once.watched:
            once.will_come_back(logger, level, stream, fields.get("event", ""))


def with_defaults(fields: dict[str, Any], level: int, logger: Any) -> dict[str, Any]:
    """The fields with `level`, and with the logger's name as `logger` if it has one, where they are missing."""
    if "level" not in fields:
        fields = {**fields, "level": level_name(level)}
    if "logger" not in fields:
        name = getattr(logger, "name", None)
        if isinstance(name, str):
            fields = {**fields, "logger": name}
    return fields


def ship_logs(
    stream: str,
    *,
    url: str | None = None,
    level: int | str = "info",
    mask: Sequence[str] = DEFAULT_MASK,
    mask_patterns: Sequence[Pattern] = (),
    namespace: str = "",
    options: LogOptions | None = None,
    **given: Any,
) -> ShipLogs:
    """A structlog processor: `structlog.configure(processors=[…, ship_logs("logs"), JSONRenderer()])`.

    Put it before the renderer. Each line becomes an event of type `log.<level>` whose data are the line's fields;
    an exception is a dict of type, message and traceback. What comes behind it sees the line as it was.

    Args:
        url: where the server is; without it MILLSTREAM_URL, then REDIS_URL. Looked at when the first line is logged.
        level: lines below it are not shipped.
        mask: fields whose values are not shipped, at any depth.
        mask_patterns: regular expressions, or names of ready ones (assignment, bearer, card, email, jwt, url_password):
            what they find in any text is not shipped; of one with a group, what the group holds.
        options: LogOptions; each may also be given by name (`queue_bytes="64MB"`, `gather="100ms"`).

    Raises:
        UsageError: a stream name or an option that cannot be accepted. Nothing is raised later.
    """
    StreamKeys(f"{namespace}:{stream}" if namespace else stream)
    taker = Taker(mask, mask_patterns)
    shipper = shipper_for(stream, url, namespace, options or log_options(**given))
    return _Lines(shipper, level_number(level), taker).processor()
