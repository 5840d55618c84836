"""What the web examples share: each request has an id and a place in a trace, and every line logged in it says both.

Copy it into an application; it needs structlog alone. The request id is the caller's X-Request-Id, or a new one; the
trace is the caller's W3C traceparent (https://www.w3.org/TR/trace-context/) with a span of our own, or a new one.
"""

import logging
import re
import secrets
from collections.abc import Callable
from typing import Any

import structlog

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")


def begin_request(header: Callable[[str], str | None], **more: str) -> str:
    """Bind request_id and traceparent, and more, to all that this request logs from now on; the request id."""
    request_id = header("x-request-id") or ""
    if not _REQUEST_ID.fullmatch(request_id):  # from outside: it is shown to people and sent back
        request_id = secrets.token_hex(16)
    found = _TRACEPARENT.fullmatch(header("traceparent") or "")
    trace_id, flags = found.groups() if found else (secrets.token_hex(16), "01")
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        request_id=request_id, traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-{flags}", **more
    )
    return request_id


class RequestFields(logging.Filter):
    """Gives records of the standard library what structlog has bound, and those of uvicorn's access log their parts.

    On a handler, not on a logger: a logger's filters do not see the records of its children.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add fields to the record; lets all pass."""
        fields: dict[str, Any] = structlog.contextvars.get_contextvars()
        if record.name == "uvicorn.access" and isinstance(record.args, tuple) and len(record.args) == 5:
            names = ("client", "method", "path", "http_version", "status")
            fields = fields | dict(zip(names, record.args, strict=True))
        for name, value in fields.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
