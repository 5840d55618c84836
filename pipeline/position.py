"""Position: a place in a stream, as people write it and as entry ids compare.

Written: an entry id, "start", "end", "-15m" (that long ago), or an ISO time. An entry id is `ms-seq`; ids are
compared as pairs of integers. Source: https://redis.io/docs/latest/develop/data-types/streams/#entry-ids
"""

import re
from datetime import datetime

from pipeline.errors import UsageError
from pipeline.units import duration_ms

EntryId = tuple[int, int]
MAX_SEQ = 2**64 - 1
_ENTRY_ID = re.compile(rb"(\d{1,20})(?:-(\d{1,20}))?")


def parse_entry_id(entry_id: str | bytes) -> EntryId:
    """(ms, seq) of `ms-seq`; `ms` alone means seq 0.

    Raises:
        UsageError: not an entry id.
    """
    raw = entry_id.encode("utf-8", "surrogatepass") if isinstance(entry_id, str) else entry_id
    match = _ENTRY_ID.fullmatch(raw)
    if match is None or int(match[1]) > MAX_SEQ or int(match[2] or 0) > MAX_SEQ:
        raise UsageError(f"{entry_id!r} is not an entry id (ms-seq, such as 1700000000000-0)")
    return int(match[1]), int(match[2] or 0)


def show_entry_id(entry_id: EntryId) -> str:
    """`ms-seq`."""
    return f"{entry_id[0]}-{entry_id[1]}"


def before(entry_id: str | bytes) -> str:
    """The greatest entry id below this one; 0-0 has none and stays."""
    ms, seq = parse_entry_id(entry_id)
    if seq:
        return f"{ms}-{seq - 1}"
    return f"{ms - 1}-{MAX_SEQ}" if ms else "0-0"


def after(entry_id: str | bytes) -> str:
    """The smallest entry id above this one."""
    ms, seq = parse_entry_id(entry_id)
    return f"{ms + 1}-0" if seq == MAX_SEQ else f"{ms}-{seq + 1}"


def position_id(text: str, now_ms: int, option: str = "position") -> str:
    """The entry id a written position stands for: "0-0" for start, "$" for end, else `ms-seq`.

    now_ms is the server's clock, since entry ids are made from it. A bare `ms` and an ISO time without an offset
    (taken as local time) mean the first entry at or after that time.

    Raises:
        UsageError: none of the five forms; the message names the option.
    """
    word = text.strip()
    if word in ("start", "0", "0-0"):
        return "0-0"
    if word in ("end", "$"):
        return "$"
    if word.startswith("-") and len(word) > 1:
        return f"{max(now_ms - duration_ms(word[1:], option), 0)}-0"
    if re.fullmatch(r"\d{5,20}(-\d{1,20})?", word):
        return show_entry_id(parse_entry_id(word))
    try:
        return f"{round(datetime.fromisoformat(word).timestamp() * 1_000)}-0"
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option}={text!r} is not a position: write start, end, -15m, an ISO time such as 2026-11-23T14:00, "
            "or an entry id such as 1700000000000-0"
        ) from None
