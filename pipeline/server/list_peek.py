"""List peek: the tasks of a list queue as they stand, in the order in which they will be taken; none is."""

import re
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DecodeError, MillstreamError
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.list_pop import of_list
from pipeline.server.scripts import Arg
from pipeline.task import decode_task, function_of

MOST_PEEKED = 10_000
"""Tasks of one call, at most."""
_UNIQUE = re.compile(rb"[0-9a-fA-F]{16}:")
"""What members of the format `unique` begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTask:
    """One task that waits."""

    place: int
    """0 for the one that is taken next."""
    payload: bytes
    """As it was pushed."""
    data: Any
    """The payload decoded; None where error says why it cannot be."""
    error: str
    """Why it cannot be decoded; empty if it can."""
    priority: float | None
    """Its score in the sorted set; None in a list."""
    handed: bool
    """Already taken off the list for a waiting worker, who has not begun it."""

    @property
    def function(self) -> str:
        """The function it asks for; empty if it asks for none."""
        return function_of(self.data)


def peek_tasks(link: Link, options: ListOptions, *, count: int, start: int = 0) -> list[ListTask]:
    """Up to `count` tasks (at most 10,000) from place `start` on.

    Raises:
        WrongKeyTypeError: the key holds something else.
    """
    count = min(count, MOST_PEEKED)
    if count < 1:
        return []
    hand = options.keys.hand
    handed, length = link.calls([("LRANGE", hand, -start - count, -start - 1), ("LLEN", hand)])
    # What is handed comes first, so what stands in the list lies so much further on.
    rest = count - len(handed) if isinstance(length, int) else 0
    members = link.calls([_range(options, max(start - length, 0), rest)])[0] if rest > 0 else []
    for reply in (length, members):
        if isinstance(reply, MillstreamError):
            raise of_list(reply, options, link)
    found = [
        _task(options, start + at, payload, None, handed=True) for at, payload in enumerate(handed[::-1])
    ]
    begin = start + len(found)
    if not options.is_sorted:
        ordered = members if options.take == "left" else members[::-1]
        return found + [_task(options, begin + at, one, None, handed=False) for at, one in enumerate(ordered)]
    for at in range(0, len(members), 2):
        score = float(members[at + 1])
        found.append(_task(options, begin + at // 2, _payload(options, members[at]), score, handed=False))
    return found


def _range(options: ListOptions, start: int, count: int) -> tuple[Arg, ...]:
    """The command for so many tasks of the key itself."""
    key, last = options.keys.list, start + count - 1
    if options.is_sorted:
        return ("ZRANGE", key, start, last, "WITHSCORES")
    if options.take == "left":
        return ("LRANGE", key, start, last)
    return ("LRANGE", key, -1 - last, -1 - start)


def _payload(options: ListOptions, member: bytes) -> bytes:
    """A member without the id that makes it unlike others of the same payload."""
    return member[17:] if options.format == "unique" and _UNIQUE.match(member) else member


def _task(
    options: ListOptions, place: int, payload: bytes, priority: float | None, *, handed: bool
) -> ListTask:
    data, error = None, ""
    try:
        data = decode_task(payload, options.codec)
    except DecodeError as why:
        error = str(why)
    return ListTask(place=place, payload=payload, data=data, error=error, priority=priority, handed=handed)
