"""History: what producers were told, what every group did, what was done to them, and what was left at the end.

Pure. All times are of the machine's monotonic clock, in s: one clock for all processes, which no fault of ours moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CONFIRMED, FAILED, UNKNOWN = "confirmed", "failed", "unknown"
DONE = "done"


@dataclass(frozen=True, slots=True)
class Sent:
    """An event that a producer was asked to send, and what it was told. Its name is written into the event."""

    name: str
    source: str
    """The producer that sent it: one thread of one process, so that its sends have an order."""
    number: int
    """Its place in that order."""
    plan: str
    """What it asks its handlers to do: ok, fail, later, reject, kill, slow."""
    asked_s: float
    told: str = UNKNOWN
    """confirmed, failed (not in the stream) or unknown (which is also what a killed producer was told)."""
    told_s: float | None = None
    plainly: bool = False
    """By a plain client, which does not know what became of it when its connection breaks."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler with one event."""

    group: str
    pid: int
    name: str
    """The name in the event; empty if it has none: somebody else sent it."""
    entry_id: str
    """The entry it was first appended in."""
    index: int
    """Its place in that entry, if it is a pack."""
    held_id: str
    """The entry the worker held it by."""
    again: bool
    """Whether that is one of the group's own stream."""
    intact: bool
    """Whether its checksum is right."""
    attempt: int
    begun_s: float
    ended_s: float | None = None
    outcome: str = ""
    """done, failed, later, rejected, cancelled; empty if it never ended."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter of a group."""

    group: str
    name: str
    entry_id: str
    error: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the system."""

    kind: str
    from_s: float
    until_s: float
    pids: frozenset[int] | None = None
    """Processes that it hit; None for all."""
    effect: int = 1
    """How much it hit (entries held, replies swallowed, bytes cut off): 0 shows nothing."""
    repeats: bool = False
    """It explains that what those processes ran runs again."""
    deadly: bool = False
    """Those processes ended by it."""
    risk_s: float = 0.0
    """What was confirmed, or settled, for so long before it may be undone by it; inf: everything before."""
    loses: bool = False
    """What is undone by it may be gone; else it only runs again."""
    names: frozenset[str] | None = None
    """The events that it may have undone; None: any of the time at risk."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A process that got no processor for a while, though nothing was done to it: the machine is busy."""

    pid: int
    """0 for the server."""
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What was pending in a group's part of the stream, asked for and answered at these times."""

    group: str
    from_s: float
    until_s: float
    pending: Mapping[str, str]
    """Entry id to consumer."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a group had not settled at the end."""

    names: frozenset[str] = frozenset()
    """Events that are pending, due again or unread."""
    others: int = 0
    """Entries of nobody's that are."""
    undeleted: int = 0
    """Entries of a list's tasks that are settled and still there."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """An entry that no producer of ours wrote, and what every group is to make of it."""

    entry_id: str
    wanted: str
    """handled, dead or kept (pending for a newer version, never dead)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All of it."""

    groups: Sequence[str]
    sent: Mapping[str, Sent]
    runs: Sequence[Run]
    appended: Sequence[tuple[str, str, int]]
    """(name, entry id, index) of what is in the stream at the end, in its order."""
    letters: Sequence[Letter] = ()
    faults: Sequence[Fault] = ()
    stalls: Sequence[Stall] = ()
    samples: Sequence[Sample] = ()
    left: Mapping[str, Left] = field(default_factory=dict)
    hostile: Sequence[Hostile] = ()
    kept: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By group, entry ids that are pending at the end."""
    rejecting: frozenset[str] = frozenset()
    """Groups whose handlers do as an event asks; the others handle all alike."""
    ordered: frozenset[str] = frozenset()
    """Groups of one worker with one slot: first runs come in the order of the stream."""
    load_from_s: float = 0.0
    load_until_s: float = 0.0
    ended_badly: Sequence[str] = ()
    """Processes that nobody killed and that did not end well, each in words."""
