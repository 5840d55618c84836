"""ResetPlan: what moving a group's position would do, counted before anything is done; and what it did. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPlan:
    """What a reset would do to a group: made by plan_reset(), carried out by reset_group()."""

    stream: str
    group: str
    position: str
    """The group reads on from the first entry after this one."""
    from_position: str
    """Where it stands now."""
    read_again_entries: int = 0
    """Entries that it has read and will read again."""
    read_again_events: int = 0
    """Events in them."""
    done: int = 0
    """Of these: what `once=` has recorded as done, and will skip."""
    skipped_entries: int = 0
    """Entries that it has not read, and never will."""
    skipped_events: int = 0
    """Events in them: never handled by this group."""
    skipped_first: str = ""
    skipped_last: str = ""
    """Which entries these are; empty where there are none."""
    pending_again: int = 0
    """Entries that it has read and not settled, and will read again."""
    pending_before: int = 0
    """Entries that it has read and not settled, and that lie before the position: they run all the same."""
    waiting: int = 0
    """Events that wait to run again (retried, replayed): they run all the same."""
    starts_at: str = ""
    """The stream's first entry, where older ones that are meant are gone; else empty."""
    older_known: bool = True
    """False: the server cannot tell whether there ever were older ones (below 7.0)."""
    members: int = 0
    """Live members: while there are any, the group is not reset."""
    entries_read: int | None = None
    """How many entries were ever added up to the position, so that the server's lag stays right; None: not known."""

    @property
    def changes(self) -> bool:
        """Whether the position would be another one."""
        return self.position != self.from_position


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetDone:
    """What a reset did."""

    position: str
    """The group reads on from the first entry after this one."""
    taken_out: int
    """Entries that were pending and are read again."""
    moved: int
    """Entries that were pending before the position, and now run from the group's own stream."""
