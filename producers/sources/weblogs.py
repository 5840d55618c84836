"""Web logs: lines of the access logs of nginx and Apache, and of nginx's error log, as data.

Pure. `common` and `combined` are those of Apache (https://httpd.apache.org/docs/2.4/logs.html) and nginx
(https://nginx.org/en/docs/http/ngx_http_log_module.html); what stands behind them is kept as `rest`.
"""

import re
from typing import Any

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_ACCESS = re.compile(
    rf"(\S+) (\S+) (\S+(?: \S+)?) \[([^\]]{{20,40}})\] {_QUOTED} (\d{{3}}|-) (\d+|-)"
    rf"(?: {_QUOTED} {_QUOTED})?(?: (.+))?",
    re.DOTALL,
)
_REQUEST = re.compile(r"([A-Z][A-Z_-]*) (\S+)(?: (HTTP/\d(?:\.\d)?))?")
_NGINX_ERROR = re.compile(
    r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[(\w+)\] (\d+)#(\d+): (?:\*(\d+) )?(.*)", re.DOTALL
)
_CONTEXT = re.compile(
    r', (client|server|request|subrequest|upstream|host|referrer): ("(?:[^"\\]|\\.)*"|[^,"]*)(?=, \w+: |$)'
)
_BYTES = re.compile(r"(?:\\x[0-9A-Fa-f]{2})+")
_ESCAPED = re.compile(r'\\(["\\])')


def parse_access(line: str) -> dict[str, Any]:
    """A line of an access log: client, user, time (text), method, path, protocol, status, bytes, referer, agent.

    What the server writes as - is left out. A request line that is none is `request` as a whole.

    Raises:
        ValueError: neither common nor combined.
    """
    match = _ACCESS.fullmatch(line)
    if match is None:
        raise ValueError("not a line of an access log")
    client, ident, user, time, request, status, size, referer, agent, rest = match.groups()
    found: dict[str, Any] = {"client": client}
    _put(found, "ident", ident)
    _put(found, "user", user)
    found["time"] = time
    parts = _REQUEST.fullmatch(request)
    if parts is None:
        _put(found, "request", request)
    else:
        found["method"] = parts[1]
        _put(found, "path", parts[2])
        if parts[3]:
            found["protocol"] = parts[3]
    if status != "-":
        found["status"] = int(status)
    if size != "-":
        found["bytes"] = int(size[:18])
    _put(found, "referer", referer)
    _put(found, "agent", agent)
    _put(found, "rest", rest)
    return found


def parse_nginx_error(line: str) -> dict[str, Any]:
    """A line of nginx's error log: time (text), level, process, thread, connection, message, client, server, request, …

    Raises:
        ValueError: it is none.
    """
    match = _NGINX_ERROR.fullmatch(line)
    if match is None:
        raise ValueError("not a line of nginx's error log")
    time, level, process, thread, connection, message = match.groups()
    found: dict[str, Any] = {"time": time, "level": level, "process": int(process), "thread": int(thread)}
    if connection:
        found["connection"] = int(connection[:18])
    context = _CONTEXT.search(message)
    found["message"] = message[: context.start()] if context else message
    for name, value in _CONTEXT.findall(message):
        found[name] = _plain(value[1:-1] if value.startswith('"') else value)
    return found


def looks_like_access(line: str) -> bool:
    """Whether it has the brackets and the quote where an access log has them: told quickly."""
    at = line.find(" [", 0, 300)
    return at > 0 and line[at + 4 : at + 5] == "/" and line.find('] "', at, at + 50) > 0


def looks_like_nginx_error(line: str) -> bool:
    """Likewise."""
    return line[4:5] == "/" and line[7:8] == "/" and line[19:21] == " ["


def _put(found: dict[str, Any], name: str, value: str | None) -> None:
    if value and value != "-":
        found[name] = _plain(value)


def _plain(value: str) -> str:
    """Without the escapes of nginx (\\xHH) and Apache (those, and a backslash before quotes)."""
    if "\\" not in value:
        return value
    value = _BYTES.sub(
        lambda match: bytes.fromhex(match[0].replace("\\x", "")).decode("utf-8", "backslashreplace"), value
    )
    return _ESCAPED.sub(r"\1", value)
