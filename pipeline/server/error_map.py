"""Error map: the server's error answers, by their code, as Millstream's errors.

Inside a script an answer may arrive wrapped ("ERR Error running script …: OOM command not allowed", on 6.2), so the
code is looked for in the text and not only at its start. Source of the codes: reference of each server's `shared.*err`.
"""

import re

from pipeline.errors import (
    AccessDeniedError,
    MillstreamError,
    NoSuchGroupError,
    ServerRefusedError,
    WrongKeyTypeError,
)

# What may pass by itself: the same command may succeed later, and did nothing now.
_PASSING = {
    "OOM": "the server is out of memory (maxmemory)",
    "LOADING": "the server is still loading its data",
    "MISCONF": "the server cannot save to disk and refuses writes",
    "READONLY": "this server is a replica",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write)",
    "MASTERDOWN": "the replica has lost its primary",
    "BUSY": "the server is busy with a script",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving this slot",
    "UNBLOCKED": "the server ended a blocking read",
    "MOVED": "the key's slot is served by another node",
    "ASK": "the key's slot is moving to another node",
}
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")
# How NOPERM reads when a command within a script was denied: 7.0 and later, 6.2 for commands, 6.2 for keys.
_DENIED_IN_SCRIPT = re.compile("ACL failure in script|The user executing the script can't")
_KNOWN = re.compile(
    r"\b(%s)\b" % "|".join([*_PASSING, *_DENIED, "NOGROUP", "WRONGTYPE", "NOSCRIPT", "BUSYGROUP"])
)


def error_code(text: str) -> str:
    """The code of an error answer: its first word, or a known code inside a wrapped one."""
    if _DENIED_IN_SCRIPT.search(text):
        return "NOPERM"
    first = text.split(" ", 1)[0].rstrip(":")
    if _KNOWN.fullmatch(first):
        return first
    if "running script" in text or "user_script" in text:
        inner = _KNOWN.search(text)
        if inner:
            return inner[1]
    if text.startswith("ERR max number of clients"):
        return "MAXCLIENTS"
    return first if first.isupper() else "ERR"


def server_error(text: str, doing: str = "") -> MillstreamError:
    """The error for an error answer; `doing` says what was asked, such as "XADD on 'orders'"."""
    code = error_code(text)
    prefix = f"{doing}: " if doing else ""
    if code == "NOGROUP":
        return NoSuchGroupError(f"{prefix}{text}")
    if code == "WRONGTYPE":
        return WrongKeyTypeError(
            f"{prefix}the key holds another type of value than Millstream keeps there ({text})"
        )
    if code in _DENIED:
        return AccessDeniedError(f"{prefix}the server denies access: {text}")
    if code in _PASSING:
        return ServerRefusedError(f"{prefix}{_PASSING[code]}: {text}", code=code, passing=True)
    return ServerRefusedError(f"{prefix}the server refused: {text}", code=code, passing=code == "MAXCLIENTS")
