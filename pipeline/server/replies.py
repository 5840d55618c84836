"""Replies: the shapes the server answers in (RESP2), parsed in this one place."""

from collections.abc import Sequence
from typing import Any, TypeAlias

Reply: TypeAlias = Any
"""bytes, int, None, a list of replies, or (only from Link.calls) a MillstreamError."""

Fields: TypeAlias = list[bytes]
"""Field, value, field, value … of one entry, as the server keeps them (repeated names included)."""

RawEntry: TypeAlias = tuple[bytes, Fields | None]
"""(entry id, fields); fields are None where the entry was trimmed but is still pending."""


def parse_entries(reply: Reply) -> list[RawEntry]:
    """Entries of XRANGE, XCLAIM or one stream of XREADGROUP. Below 7.0 a trimmed entry is None: left out here."""
    return [(entry[0], entry[1]) for entry in reply or () if entry]


def parse_read(reply: Reply) -> dict[bytes, list[RawEntry]]:
    """XREAD / XREADGROUP: stream key to entries; empty when nothing came."""
    return {stream: parse_entries(entries) for stream, entries in reply or ()}


def pairs(reply: Sequence[Any]) -> dict[str, Any]:
    """Name, value, name, value … as a dict (XINFO, HGETALL, CONFIG GET, HELLO)."""
    return {text(reply[i]): reply[i + 1] for i in range(0, len(reply) - 1, 2)}


def text(reply: Reply) -> str:
    """A reply as text; bytes that are not UTF-8 show as escapes."""
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)


def info_fields(reply: Reply) -> dict[str, str]:
    """INFO: `name:value` lines as a dict."""
    return dict(
        line.split(":", 1) for line in text(reply).splitlines() if ":" in line and not line.startswith("#")
    )
