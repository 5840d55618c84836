"""Breaker: when a group whose events mostly die is to be paused, so that a bad deploy does not empty its stream.

Pure: counts in, a decision out. What counts is what ended: events that are done, and dead letters. Those that a handler
rejected (Reject) ended well: it decided about them. Retries have not ended.
"""

from dataclasses import dataclass

LAST_EVENTS = 100
"""Judged is about so many events of a group that ended last, in all its members together."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Events that ended lately."""

    count: int = 0
    """Done, rejected or dead."""
    died: int = 0
    """Of those, the dead letters that nobody rejected."""

    def since(self, before: "Ended") -> "Ended":
        """What has ended since then; both count from the same beginning."""
        died = max(self.died - before.died, 0)
        return Ended(max(self.count - before.count, died), died)


def trips(ended: Ended, above: float) -> str:
    """Why the group is to pause, in words; empty if it is not.

    Args:
        above: the share of LAST_EVENTS that must have died, and one more: 0.5 is more than half. 1 is never reached.
    """
    if ended.died <= above * max(ended.count, LAST_EVENTS):
        return ""
    return (
        f"{ended.died:,} of the last {ended.count:,} events that ended became dead letters "
        f"(more than pause_above={above:g})"
    )
