"""Digest: sums errors up by kind, and says when it is time to tell of them. Pure: takes the time, returns decisions.

Of each kind (type, message without its numbers, exception) the first event is held: it is not acknowledged before it
was told. Those after it are only counted, and are done: what a stop or a crash costs is counts, not that there were
errors.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from consumers.sinks.documents import json_text, unique_id
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.severity import exception_of, level_of, message_of

MOST_KINDS = 200
"""What exceeds them counts as one kind, "others": memory and mails are bounded."""
MOST_TOLD = 10_000
"""Ids of events that were told of and are still to come back, so that they can be acknowledged."""
SHOWN_KINDS = 50
"""With an example each; the others are lines."""
MAX_EXAMPLE = 4_000
MAX_TITLE = 200
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+")
_OTHERS = ("", "others", "")


@dataclass(slots=True)
class Group:
    """The errors of one kind since the last mail."""

    title: str
    level: str
    type: str
    exception: str
    held_id: str
    due_ms: int
    first_ms: int
    last_ms: int
    example: str
    count: int = 1


class Digest:
    """What is to be told next."""

    def __init__(self, every_ms: int) -> None:
        self._every_ms = every_ms
        self._groups: dict[tuple[str, str, str], Group] = {}
        self._told: dict[str, None] = {}
        self._told_ms: int | None = None

    def add(self, event: Event, now_ms: int) -> bool:
        """Count an event; True if it is to be held until it was told of, False if it is done.

        Raises:
            DecodeError: the event is corrupt.
        """
        held_id = unique_id(event)
        if held_id in self._told:
            del self._told[held_id]
            return False
        data = json_view(event.data)
        raised = exception_of(data)
        exception = raised.type if raised is not None else ""
        title = _line(message_of(data)[0] or (data if isinstance(data, str) else json_text(data)))
        kind = (event.type, _NUMBERS.sub("#", title), exception)
        if kind not in self._groups and len(self._groups) >= MOST_KINDS:
            kind = _OTHERS
        group = self._groups.get(kind)
        if group is not None:
            if group.held_id == held_id:
                return True
            group.count += 1
            group.first_ms = min(group.first_ms, event.time_ms)
            group.last_ms = max(group.last_ms, event.time_ms)
            return False
        # What is old already has waited long enough: it came back after a crash, or was long in the stream.
        overdue = event.time_ms <= now_ms - self._every_ms
        example = raised.traceback if raised is not None and raised.traceback else json_text(data)
        self._groups[kind] = Group(
            title=title if kind is not _OTHERS else "others: more kinds than a mail holds",
            level=level_of(data),
            type=event.type,
            exception=exception,
            held_id=held_id,
            due_ms=now_ms if overdue else now_ms + self._every_ms,
            first_ms=event.time_ms,
            last_ms=event.time_ms,
            example=example[-MAX_EXAMPLE:],
        )
        return True

    def due_ms(self) -> int | None:
        """When it is time to tell: `every` after the first error, but never sooner than that after the last mail."""
        if not self._groups:
            return None
        due = min(group.due_ms for group in self._groups.values())
        return due if self._told_ms is None else max(due, self._told_ms + self._every_ms)

    def groups(self) -> list[Group]:
        """What is to be told, the most frequent first."""
        return sorted(self._groups.values(), key=lambda group: -group.count)

    def told(self, held_ids: Iterable[str], now_ms: int) -> None:
        """It was told. held_ids: in hand, and acknowledged now; the others are when they come back."""
        in_hand = set(held_ids)
        waiting = [g.held_id for g in self._groups.values() if g.held_id not in in_hand]
        self._told |= dict.fromkeys(waiting)
        for old in list(self._told)[: max(len(self._told) - MOST_TOLD, 0)]:
            del self._told[old]
        self._groups.clear()
        self._told_ms = now_ms


def subject_of(groups: list[Group]) -> str:
    """One line, whatever stands in the events."""
    total, kinds = sum(group.count for group in groups), len(groups)
    return f"{_counted(total, 'error')}: {groups[0].title[:100]}" + (
        f" and {kinds - 1} more" if kinds > 1 else ""
    )


def text_of(groups: list[Group]) -> str:
    """The mail's text: kinds with their counts and times, and an example of each; no control characters."""
    total = sum(group.count for group in groups)
    first, last = min(group.first_ms for group in groups), max(group.last_ms for group in groups)
    parts = [
        f"{_counted(total, 'error')} of {_counted(len(groups), 'kind')}, {_time(first)} to {_time(last)}\n"
    ]
    for number, group in enumerate(groups, 1):
        facts = ", ".join(
            fact
            for fact in (group.level, group.exception, f"type {group.type}" if group.type else "")
            if fact
        )
        parts.append(f"{number}. {group.count:,} x {group.title}" + (f"  ({_line(facts)})" if facts else ""))
        parts.append(
            f"   first {_time(group.first_ms)}, last {_time(group.last_ms)}, such as {_line(group.held_id)}"
        )
        if number <= SHOWN_KINDS:
            parts += [f"   | {_line(line, 500)}" for line in group.example.splitlines()]
        parts.append("")
    return "\n".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _line(text: str, most: int = MAX_TITLE) -> str:
    """The text as one line of printable characters; spaces at its beginning stay."""
    line = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode()).rstrip()
    return line if len(line) <= most else line[: most - 1] + "…"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
