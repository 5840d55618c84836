"""Selection: which events are meant, by type, key and what their data holds; and the events of an entry, one by one.

Shared by all that acts on a selection of history: replay, and the verbs of pending entries and dead letters. Pure.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from pipeline.declare import takes_type
from pipeline.errors import DecodeError, UnknownFormatError, UsageError
from pipeline.event import Event
from pipeline.json_view import json_view
from pipeline.wire import decode_entry, encode_again


class Selectable(Protocol):
    """What a selection looks at: an event, or a view of one."""

    @property
    def type(self) -> str:
        """Its type."""

    @property
    def key(self) -> str:
        """Its key."""

    @property
    def data(self) -> Any:
        """Its data; DecodeError where it is corrupt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events are meant: those that all of what is given takes. Nothing given: all, corrupt ones too.

    Raises:
        UsageError: not text, or a `match` that is empty or no regular expression.
    """

    types: Sequence[str] = ()
    """Event types, each with * for any part; one of them is enough. "" means events without a type."""
    keys: Sequence[str] = ()
    """Event keys, exact; one of them is enough. "" means events without a key."""
    match: str = ""
    """Text that the data holds; between slashes (`/order-(7|8)/`) a regular expression. Case matters.

    Looked for in the data as one line: text as it is, all else as JSON, as `millstream tail` shows it. Default: any.
    """

    def __post_init__(self) -> None:
        for name, words in (("types", self.types), ("keys", self.keys)):
            if isinstance(words, str) or not all(isinstance(word, str) for word in words):
                raise UsageError(f"{name}={words!r}: a list of texts")
            object.__setattr__(self, name, tuple(words))
        if self.match != "":
            check_match(self.match)

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.types or self.keys or self.match)

    def takes(self, event: Selectable) -> bool:
        """Whether this event is meant. One that cannot be read is, only if nothing is left out."""
        if not self:
            return True
        try:
            return (
                takes_type(tuple(self.types), event.type)
                and (not self.keys or event.key in self.keys)
                and (not self.match or _pattern(self.match).search(data_line(event.data)) is not None)
            )
        except DecodeError:
            return False

    @property
    def shown(self) -> str:
        """The selection in words, for people and for headers: `type order.* and key c-7`; empty where all are meant."""
        said = [
            f"{what} {' or '.join(word or '(none)' for word in words)}"
            for what, words in (("type", self.types), ("key", self.keys))
            if words
        ]
        if self.match:
            said.append(f"match {self.match}")
        return " and ".join(said)

    def as_facts(self) -> dict[str, Any]:
        """What from_facts() makes the same selection of: plain lists and texts."""
        return {"types": list(self.types), "keys": list(self.keys), "match": self.match}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Selection":
        """The selection that as_facts() was made of.

        Raises:
            UsageError: not what as_facts() gives.
        """
        try:
            return cls(types=facts["types"], keys=facts["keys"], match=facts["match"])
        except (KeyError, TypeError) as error:
            raise UsageError(f"this is no selection: {facts!r}") from error


ALL = Selection()


@dataclass(frozen=True, slots=True)
class Part:
    """One event of an entry; or the entry as a whole, where it cannot be taken apart."""

    index: int
    """Place of the event in its entry: 0 unless that is a pack."""
    event: Event | None
    """None: the entry is corrupt, or of a format that this version does not know."""
    chosen: bool
    """The selection takes it."""
    fields: Sequence[bytes]
    """What holds this event alone, to be written again; the entry's own where it holds no other."""


def parts_of(
    entry_id: bytes, fields: Sequence[bytes], selection: Selection = ALL, *, origin: bytes | None = None
) -> list[Part]:
    """The events of an entry, each with what holds it alone, and whether the selection takes it.

    Args:
        fields: without an envelope (envelope.read_again, read_dead).
        origin: the id of the entry the event was first appended in, where this one holds it again.
    """
    own = list(fields)
    try:
        entry = decode_entry(entry_id, own, origin=origin)
        if not entry.is_pack:
            event = entry.events[0]
            return [Part(0, event, selection.takes(event), own)]
        return [
            Part(index, event, selection.takes(event), encode_again(event))
            for index, event in enumerate(entry.events)
        ]
    except (DecodeError, UnknownFormatError):
        return [Part(0, None, not selection, own)]


def check_match(match: str, option: str = "match") -> str:
    """The text itself, if it can be looked for.

    Raises:
        UsageError: empty, or between slashes and no regular expression; the message names the option.
    """
    if not isinstance(match, str) or not match:
        raise UsageError(f"{option}={match!r}: a text to look for, or a regular expression between slashes")
    try:
        _pattern(match)
    except re.error as error:
        raise UsageError(f"{option}={match!r} is no regular expression: {error}") from None
    return match


def data_line(data: Any) -> str:
    """The data as one line: text as it is, all else as JSON."""
    if isinstance(data, str):
        return data
    return json.dumps(json_view(data), ensure_ascii=False, separators=(", ", ": "))


@cache
def _pattern(match: str) -> re.Pattern[str]:
    if len(match) > 2 and match.startswith("/") and match.endswith("/"):
        return re.compile(match[1:-1])
    return re.compile(re.escape(match))
