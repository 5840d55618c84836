"""Filters: which event types a group takes, as its members declare it and as it stands in S:groups.

A member's own filter is a JSON array of patterns ("[]": all types). The group's is what its members declare together,
one line each: during a rolling deploy an old member must not acknowledge a type that only the new ones take. Pure.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.declare import takes_type

ALL = "[]"
"""The filter of a member that takes every type."""


def filter_text(types: Iterable[tuple[str, ...]]) -> str:
    """The filter of a member whose handlers take these types."""
    patterns: set[str] = set()
    for each in types:
        if not each:
            return ALL
        patterns.update(each)
    return json.dumps(sorted(patterns))


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """What a group takes, as one of its members knows it."""

    text: str = ""
    """As it stands in S:groups; empty: not known."""
    own: str = ALL
    """The member's own filter."""
    _others: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "_others", tuple(map(_patterns, self.others)))

    @property
    def others(self) -> list[str]:
        """The filters of other members that are not this member's own."""
        return [line for line in self.text.split("\n") if line and line != self.own]

    @property
    def mixed(self) -> bool:
        """Whether the group's members take different types."""
        return bool(self._others)

    def wanted_elsewhere(self, event_type: str) -> bool:
        """Whether another member takes events of this type, which this member's handlers do not."""
        return any(takes_type(patterns, event_type) for patterns in self._others)

    def now(self, text: str) -> "GroupFilter":
        """The same member's view of another text."""
        return self if text == self.text else GroupFilter(text, self.own)


def shown_types(text: str) -> str:
    """A group's filter for people: what each kind of its members takes; empty where nothing is known."""
    return " | ".join(", ".join(_patterns(line)) or "all" for line in text.split("\n") if line)


def _patterns(line: str) -> tuple[str, ...]:
    """A filter's patterns; one that cannot be read is a newer version's, and taken to want everything."""
    try:
        patterns = json.loads(line)
    except (ValueError, RecursionError):
        return ()
    if type(patterns) is not list or not all(type(one) is str for one in patterns):
        return ()
    return tuple(patterns)
