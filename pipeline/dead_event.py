"""DeadEvent: one dead letter as it is kept, with why it died and the event; which ones are meant; why many died.

Reading never fails: a letter that somebody else wrote, or a newer version, is one without `letter`. Pure.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.declare import type_pattern
from pipeline.envelope import Again, DeadLetter, again_fields, read_dead
from pipeline.errors import DecodeError, UnknownFormatError, UsageError
from pipeline.event import Event
from pipeline.position import parse_entry_id
from pipeline.selection import ALL, Selection, parts_of

UNREADABLE = "not a dead letter of Millstream's"
MAX_CAUSES = 1_000
"""So many causes are told apart; what dies for another after that is counted together."""
_SHAPE_CHARS = 200
_VARYING = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|0x[0-9a-fA-F]+|[0-9]+"
    r"""|(?<!\w)'[^']*'(?!\w)|(?<!\w)"[^"]*"(?!\w)"""
)
_ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    """A dead letter of a group."""

    id: str
    """Its entry id among the dead letters: what `retry` and `drop` are told, and when it died."""
    letter: DeadLetter | None
    """Why it died, where, after how many runs; None: not written by Millstream, or by a newer version."""
    event: Event | None
    """The event; None where its bytes cannot be read. Of a pack that died whole, the first one."""
    fields: Sequence[bytes] = field(repr=False)
    """The entry as it was sent: names and values in turn. Of an event out of a pack, an entry of its own."""

    @property
    def died_ms(self) -> int:
        """When it died, by the server's clock, in ms since 1970."""
        return parse_entry_id(self.id)[0]

    @property
    def reason(self) -> str:
        """Why it died, in one line."""
        return self.letter.reason if self.letter is not None else UNREADABLE

    @property
    def error(self) -> str:
        """Name of the exception's class; WorkerKilled for what killed its workers; empty where nothing is known."""
        return self.letter.error if self.letter is not None else ""

    def again(self, why: str) -> list[list[bytes]]:
        """The entries of the group's own stream that make it run again: one, or one for each event of a pack."""
        letter = self.letter
        if letter is None:
            return []
        entry_id = letter.entry_id if _ENTRY_ID.fullmatch(letter.entry_id) else self.id
        parts = parts_of(self.id.encode(), self.fields, origin=entry_id.encode())
        return [
            again_fields(
                Again(
                    stream=letter.stream,
                    entry_id=entry_id,
                    index=part.index if len(parts) > 1 else letter.index,
                    first_failed_ms=letter.first_failed_ms,
                    why=why,
                ),
                part.fields,
            )
            for part in parts
        ]


def read_dead_event(entry_id: bytes, fields: Sequence[bytes]) -> DeadEvent:
    """A dead letter as it stands among the others."""
    shown, letter, sent = entry_id.decode(), None, list(fields)
    try:
        letter, sent = read_dead(fields)
    except (DecodeError, UnknownFormatError):
        pass  # shown as what it is: no letter of ours that this version can read
    origin = letter.entry_id if letter is not None and _ENTRY_ID.fullmatch(letter.entry_id) else shown
    event = parts_of(entry_id, sent, origin=origin.encode())[0].event if letter is not None else None
    return DeadEvent(id=shown, letter=letter, event=event, fields=sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadSelection:
    """Which dead letters are meant: those that all of what is given takes. Nothing given: all.

    Raises:
        UsageError: errors that are not a list of texts.
    """

    errors: Sequence[str] = ()
    """Names of exception classes, each with * for any part ("*Timeout*"); one of them is enough."""
    events: Selection = ALL
    """By type, key and what the data holds."""

    def __post_init__(self) -> None:
        if isinstance(self.errors, str) or not all(isinstance(word, str) for word in self.errors):
            raise UsageError(f"errors={self.errors!r}: a list of names of exception classes")
        object.__setattr__(self, "errors", tuple(self.errors))

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.errors or self.events)

    def takes(self, dead: DeadEvent) -> bool:
        """Whether this letter is meant. Of a pack that died whole, one of its events is enough."""
        if self.errors and not any(type_pattern(word).fits(dead.error) for word in self.errors):
            return False
        if not self.events:
            return True
        if dead.event is None:
            return False
        if self.events.takes(dead.event):
            return True
        parts = parts_of(dead.id.encode(), dead.fields, self.events)
        return len(parts) > 1 and any(part.chosen for part in parts)

    @property
    def shown(self) -> str:
        """The selection in words, for people; empty where all are meant."""
        said = [f"error {' or '.join(self.errors)}"] if self.errors else []
        return " and ".join([*said, *([self.events.shown] if self.events else [])])


@dataclass(slots=True)
class Cause:
    """What many dead letters have in common: the exception's class, and what it says but for what varies."""

    error: str
    shape: str
    """The reason with each number, id and quoted text as #."""
    count: int = 0
    first_id: str = ""
    last_id: str = ""
    example: str = ""
    """The reason of the last one, as it is."""

    def add(self, dead: DeadEvent) -> None:
        """Count one in; letters come in the order they died."""
        self.count += 1
        self.first_id = self.first_id or dead.id
        self.last_id, self.example = dead.id, dead.reason


def shape_of(reason: str) -> str:
    """What is alike in the reasons of many: its first line, each number, id and quoted text as #."""
    return _VARYING.sub("#", reason.split("\n", 1)[0])[:_SHAPE_CHARS]


def causes_of(found: Iterable[DeadEvent]) -> list[Cause]:
    """The dead letters grouped by cause, the most frequent first."""
    causes: dict[tuple[str, str], Cause] = {}
    for dead in found:
        which: tuple[str, str] = (dead.error, shape_of(dead.reason))
        if which not in causes and len(causes) >= MAX_CAUSES:
            which = ("", "other causes")
        causes.setdefault(which, Cause(*which)).add(dead)
    return sorted(causes.values(), key=lambda cause: (-cause.count, cause.error, cause.shape))


def as_facts(dead: DeadEvent) -> dict[str, Any]:
    """All that is known of why it died, by name."""
    letter = dead.letter
    names = [name for name in DeadLetter.__dataclass_fields__ if name != "reason"]
    return {"reason": dead.reason} | ({name: getattr(letter, name) for name in names} if letter else {})
