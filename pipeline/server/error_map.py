"""Error map: the server's error answers, what each means, and what producers, members and the command line do about it.

The table ERRORS is the one place that says it. Inside a script an answer may arrive wrapped ("ERR Error running script
…: OOM command not allowed", on 6.2), so the code is looked for in the text and not only at its start. Source of the
codes: `shared.*err` of each server's server.c.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pipeline.errors import (
    AccessDeniedError,
    MillstreamError,
    NoSuchGroupError,
    NotConnectedError,
    ServerRefusedError,
    UnsupportedServerError,
    WrongKeyTypeError,
)

LogLevel = Literal["debug", "info", "warning", "error"]


class Reaction(Enum):
    """What is done about an error. The command did nothing, save where the connection broke."""

    WAIT = "the same is tried again, with backoff, for as long as it lasts (a send: until its timeout)"
    ELSEWHERE = "the connection is given up and the primary looked for anew; then as WAIT"
    REJOIN = "the group is created again where it was"
    TEACH = "the script is loaded, and runs"
    LOG_IN = "a password that is kept in a file is read anew; if that does not help, as END"
    FAIL = "what was asked for has failed; everything else goes on"
    END = "the member ends, and its process with it: one line, exit code 1 (78 for a supervisor: no restart helps)"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One row of the table."""

    code: str
    """First word of the server's answer; in lower case what no server says, but we find."""
    means: str
    producer: Reaction
    member: Reaction
    level: LogLevel
    """Of its log line, at most one a second and cause."""
    kind: type[MillstreamError] = ServerRefusedError

    @property
    def passing(self) -> bool:
        """Whether the cause may go away by itself, and the same command may then succeed."""
        return self.producer in (Reaction.WAIT, Reaction.ELSEWHERE)


_WAIT, _ELSEWHERE, _FAIL, _END = Reaction.WAIT, Reaction.ELSEWHERE, Reaction.FAIL, Reaction.END
_LOG_IN = Reaction.LOG_IN

# A one-shot verb of the command line fails with any of these, in one line: 7 for those of the connection, else 1. Verbs
# that go on (run, consume, produce) are members and producers.
ERRORS: dict[str, ErrorRow] = {
    row.code: row
    for row in (
        ErrorRow("OOM", "the server is out of memory (maxmemory)", _WAIT, _WAIT, "warning"),
        ErrorRow("LOADING", "the server is still loading its data", _WAIT, _WAIT, "info"),
        ErrorRow("MISCONF", "the server cannot save to disk and refuses writes", _WAIT, _WAIT, "error"),
        ErrorRow("READONLY", "this server is a replica", _ELSEWHERE, _ELSEWHERE, "warning"),
        ErrorRow(
            "NOREPLICAS", "too few replicas are connected (min-replicas-to-write)", _WAIT, _WAIT, "warning"
        ),
        ErrorRow("MASTERDOWN", "the replica has lost its primary", _ELSEWHERE, _ELSEWHERE, "warning"),
        ErrorRow("BUSY", "the server is busy with a script", _WAIT, _WAIT, "warning"),
        ErrorRow("CLUSTERDOWN", "the cluster is down", _ELSEWHERE, _WAIT, "warning"),
        ErrorRow("TRYAGAIN", "the cluster is moving this slot", _WAIT, _WAIT, "debug"),
        ErrorRow("MOVED", "the key's slot is served by another node", _ELSEWHERE, _ELSEWHERE, "warning"),
        ErrorRow("ASK", "the key's slot is moving to another node", _WAIT, _WAIT, "debug"),
        ErrorRow("CROSSSLOT", "the keys belong to different slots of the cluster", _FAIL, _END, "error"),
        ErrorRow("UNBLOCKED", "the server ended a blocking read", _WAIT, _ELSEWHERE, "debug"),
        ErrorRow(
            "NOGROUP", "the consumer group is gone", _FAIL, Reaction.REJOIN, "warning", NoSuchGroupError
        ),
        ErrorRow("NOSCRIPT", "the server does not know a script", Reaction.TEACH, Reaction.TEACH, "debug"),
        ErrorRow(
            "WRONGTYPE",
            "the key holds another type of value than Millstream keeps there",
            _FAIL,
            _END,
            "error",
            WrongKeyTypeError,
        ),
        ErrorRow("NOPERM", "the server denies access", _FAIL, _END, "error", AccessDeniedError),
        ErrorRow("NOAUTH", "the server denies access", _LOG_IN, _LOG_IN, "error", AccessDeniedError),
        ErrorRow("WRONGPASS", "the server denies access", _LOG_IN, _LOG_IN, "error", AccessDeniedError),
        ErrorRow("MAXCLIENTS", "the server has as many clients as it may", _WAIT, _WAIT, "warning"),
        ErrorRow("ERR", "the server refused", _FAIL, _WAIT, "warning"),
        ErrorRow(
            "broken", "the server cannot be reached, or the connection broke", _ELSEWHERE, _ELSEWHERE,
            "warning", NotConnectedError,
        ),
        ErrorRow("denied", "user, password or certificate", _LOG_IN, _LOG_IN, "error", AccessDeniedError),
        ErrorRow("unfit", "the server lacks what is needed", _FAIL, _END, "error", UnsupportedServerError),
    )
}  # fmt: skip
"""Code to row. BUSYGROUP is not here: only the script that creates groups meets it, and takes it for done."""

_BY_KIND = {
    NoSuchGroupError: "NOGROUP",
    WrongKeyTypeError: "WRONGTYPE",
    NotConnectedError: "broken",
    AccessDeniedError: "denied",
    UnsupportedServerError: "unfit",
}
UNKNOWN = "ERR"
"""The row of what no other row names: nobody knows whether it passes."""
# How NOPERM reads when a command within a script was denied: 7.0 and later, 6.2 for commands, 6.2 for keys.
_DENIED_IN_SCRIPT = re.compile("ACL failure in script|The user executing the script can't")
_KNOWN = re.compile(
    r"\b(%s)\b" % "|".join([*(code for code in ERRORS if code.isupper() and code != UNKNOWN), "BUSYGROUP"])
)


def row_of(error: MillstreamError) -> ErrorRow:
    """The row that says what to do about an error."""
    code = error.code or next((_BY_KIND[kind] for kind in type(error).__mro__ if kind in _BY_KIND), UNKNOWN)
    return ERRORS.get(code, ERRORS[UNKNOWN])


def error_code(text: str) -> str:
    """The code of an error answer: its first word, or a known code inside a wrapped one."""
    if _DENIED_IN_SCRIPT.search(text):
        return "NOPERM"
    first = text.split(" ", 1)[0].rstrip(":")
    if first == "UNBLOCKED" and "key no longer exists" in text:
        return "NOGROUP"  # the stream was deleted, or overwritten, while a read waited at it
    if _KNOWN.fullmatch(first):
        return first
    if "running script" in text or "user_script" in text:
        inner = _KNOWN.search(text)
        if inner:
            return inner[1]
    if "max number of clients" in text:
        return "MAXCLIENTS"
    return first if first.isupper() else UNKNOWN


def server_error(text: str, doing: str = "") -> MillstreamError:
    """The error for an error answer; `doing` says what was asked, such as "XADD on 'orders'"."""
    code = error_code(text)
    row = ERRORS.get(code, ERRORS[UNKNOWN])
    prefix = f"{doing}: " if doing else ""
    if row.kind is ServerRefusedError:
        return ServerRefusedError(f"{prefix}{row.means}: {text}", code=code, passing=row.passing)
    if row.kind is NoSuchGroupError:
        error: MillstreamError = NoSuchGroupError(f"{prefix}{text}")
    elif row.kind is WrongKeyTypeError:
        error = WrongKeyTypeError(f"{prefix}{row.means} ({text})")
    else:
        error = row.kind(f"{prefix}{row.means}: {text}")
    error.code = code
    return error
