"""LogHandler: a handler of the standard library's logging that ships every record to a stream.

Stands on the LogShipper: the thread that logs takes a copy of the record and goes on. Records of Millstream's own
loggers and threads are not shipped: a line about a line that could not be shipped would never end.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from structlog.contextvars import get_contextvars

from pipeline.header import MAX_TIME_MS
from pipeline.keys import StreamKeys
from pipeline.options import LogOptions, log_options
from producers.logs import once
from producers.logs.line import Taker, level_name, shown
from producers.logs.mask import DEFAULT_MASK, Pattern
from producers.logs.shipper import shipper_for

NEVER_S = MAX_TIME_MS / 1_000
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "_millstream_shipped",
}


class LogHandler(logging.Handler):
    """Ships records: `logging.getLogger().addHandler(LogHandler("logs"))`.

    Each record becomes an event of type `log.<level>` with the message as `event`, `level`, `logger`, `where`, the
    fields of `extra=`, what is bound to structlog's contextvars, and the exception as a dict of type, message and
    traceback. Arguments as those of ship_logs(); level is the handler's own. `logging.config.dictConfig` takes it as
    `{"class": "millstream.LogHandler", "stream": "logs", …}`.

    Raises:
        UsageError: a stream name or an option that cannot be accepted. Nothing is raised later.
    """

    def __init__(
        self,
        stream: str,
        *,
        url: str | None = None,
        level: int | str = logging.NOTSET,
        mask: Sequence[str] = DEFAULT_MASK,
        mask_patterns: Sequence[Pattern] = (),
        namespace: str = "",
        options: LogOptions | None = None,
        **given: Any,
    ) -> None:
        super().__init__(level.upper() if isinstance(level, str) else level)
        StreamKeys(f"{namespace}:{stream}" if namespace else stream)
        self._taker = Taker(mask, mask_patterns)
        self.shipper = shipper_for(stream, url, namespace, options or log_options(**given))
        once.watch()

    def emit(self, record: logging.LogRecord) -> None:
        """Take the record; never waits for Redis, never raises because of it."""
        if once.is_ours(record):
            return
        try:
            stream = self.shipper.stream
            if once.came_back(record, stream) or once.shipped(record, stream):
                return
            fields, level, created_s = _fields(record), int(record.levelno), record.created
            if not 0 <= created_s < NEVER_S:  # who makes records may write anything there
                created_s = time.time()
            body = None if record.exc_info else self._taker.flat(fields)
            if body is None:
                line = self._taker.line(fields, level, record.exc_info, created_s)
            else:
                line = (level, created_s, body)
            self.shipper.put(line)
        except Exception:  # noqa: BLE001 - as every handler of the standard library has it
            self.handleError(record)

    def flush(self) -> None:
        """Wait until what was logged so far is sent, for at most `exit` (2 s)."""
        if getattr(self, "shipper", None) is not None:
            self.shipper.flush(self.shipper.options.exit_ms)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if isinstance(record.msg, dict):  # structlog's wrap_for_formatter
        fields.update((name, value) for name, value in record.msg.items() if not str(name).startswith("_"))
    else:
        try:
            fields["event"] = record.getMessage()
        except Exception:  # noqa: BLE001 - a format that does not fit its arguments is still a line
            fields["event"] = f"{shown(record.msg, str)} {shown(record.args)}"
    fields.setdefault("level", level_name(record.levelno))
    fields.setdefault("logger", record.name)
    fields["where"] = f"{record.module}.{record.funcName}:{record.lineno}"
    given = record.__dict__
    if not _STANDARD.issuperset(given):
        for name, value in given.items():
            if name not in _STANDARD and not name.startswith("_"):
                fields.setdefault(name, value)
    if record.stack_info:
        fields["stack"] = record.stack_info
    for name, value in get_contextvars().items():
        fields.setdefault(name, value)
    return fields
