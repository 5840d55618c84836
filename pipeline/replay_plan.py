"""ReplayPlan: what a replay would do, counted before anything is done; and what it did. Pure."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.selection import ALL, Selection

Source: TypeAlias = Literal["range", "pending", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """What a replay would hand to its group: made by Replay.plan_range() and its like, carried out by Replay.run()."""

    id: str
    """The replay's own id: in the headers of its events, and what resumes it."""
    source: Source
    """Where the events come from: a range of the stream, the group's pending entries, its dead letters."""
    first_id: str
    """The first entry id of the range; of dead letters, their own ids."""
    last_id: str
    """The last one, included."""
    selection: Selection = ALL
    again: bool = False
    """Events that `once=` would skip run again, too."""
    entries: int = 0
    """Entries there, each of which may hold many events."""
    events: int = 0
    """Events in them."""
    selected: int = 0
    """Of these, the ones to be handed over: those that the selection takes."""
    unread: int = 0
    """Of the selected: what the group has not read yet, and will handle twice (range)."""
    running: int = 0
    """Of the selected: what the group has read and not settled, and may run twice (range; pending with force)."""
    done: int = 0
    """Of the selected: what `once=` has recorded as done: skipped, or with `again` run once more."""
    starts_at: str = ""
    """The stream's first entry, where older ones of the range are gone; else empty."""
    older_known: bool = True
    """False: the server cannot tell whether there ever were older ones (below 7.0)."""
    members: int = 0
    """Live members of the group."""
    begun_ms: int = 0
    """When it was begun, by the server's clock; 0: it was not yet."""
    handed_over: int = 0
    """Of the selected: what an interrupted run of this replay had handed over (resume)."""
    idle_ms: int = 0
    """Only what was left alone for so long (pending)."""
    ids: tuple[str, ...] = ()
    """Only these entries (pending)."""
    errors: tuple[str, ...] = ()
    """Only what died of these exceptions (dead)."""

    @property
    def what(self) -> str:
        """What is replayed, in words: the header `replay-of` of its events."""
        said = f"{self.source} {self.first_id} to {self.last_id}" if self.source == "range" else self.source
        if self.errors:
            said += f", error {' or '.join(self.errors)}"
        return f"{said}, {self.selection.shown}" if self.selection else said


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayProgress:
    """How far a replay has come, told while it runs."""

    handed_over: int
    """Events handed over so far, those of interrupted runs included."""
    planned: int
    """Of so many."""
    waiting: int
    """Entries that the group has before it in its own stream: more than some thousands are waited for."""
    held_up: bool = False
    """The replay waits for the group to work them off."""
    trouble: str = ""
    """What the server refuses just now, or why it cannot be reached: waited out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayDone:
    """What a replay did."""

    id: str
    handed_over: int
    """Events handed over, those of interrupted runs included."""
    fewer: int
    """So many fewer than planned: trimmed, deleted, settled or dropped by others meanwhile."""
