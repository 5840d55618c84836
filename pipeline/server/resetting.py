"""Resetting: moves a group's position, one bounded script call after another (lua/reset.lua).

Stands on a Link. If the caller is killed after the first call, the position has moved, and what was pending is taken
over or read again by the group's members, as after any crash.
"""

from dataclasses import dataclass

from pipeline.errors import MillstreamError, UsageError
from pipeline.keys import StreamKeys, escape
from pipeline.reset_plan import ResetPlan
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS, nonce
from pipeline.server.overview import named
from pipeline.server.replies import text
from pipeline.server.scripts import script


@dataclass(frozen=True, slots=True)
class Moved:
    """Answer to move_position()."""

    begun_ms: int
    """When the position was moved, by the server's clock: what was delivered later is somebody else's."""
    taken_out: int
    """Entries taken out of pending by this call."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be taken out."""
        return self.taken_out < MAX_IDS


def move_position(link: Link, plan: ResetPlan, begun_ms: int | None = None) -> Moved:
    """Move the group to plan.position, and take out of pending up to MAX_IDS entries that are read again from there.

    begun_ms: of the answer to the first call, for those that follow.

    Raises:
        MillstreamError: members are alive, or the group stands elsewhere than when it was planned: nothing was done.
        NoSuchStreamError, NoSuchGroupError: it is gone.
    """
    keys = StreamKeys(plan.stream)
    try:
        status, value, taken = link.run(
            script("reset"),
            [keys.stream, keys.groups, keys.members(plan.group), keys.never],
            [
                plan.group,
                escape(plan.group),
                plan.position,
                plan.from_position,
                "" if plan.entries_read is None else plan.entries_read,
                "" if begun_ms is None else begun_ms,
                nonce(),
                MAX_IDS,
            ],
        )
    except MillstreamError as error:
        raise named(error, plan.stream, plan.group) from None
    if status == b"members":
        raise in_use(plan.stream, plan.group, value)
    if status == b"elsewhere":
        raise UsageError(
            f"group {plan.group!r} of stream {plan.stream!r} has read on, from {plan.from_position} to {text(value)}, "
            "since the reset was planned: plan it anew"
        )
    return Moved(int(value), taken)


def in_use(stream: str, group: str, live: int) -> MillstreamError:
    """The error for a group that cannot be reset just now."""
    members = "a member" if live == 1 else f"{live:,} members"
    return MillstreamError(
        f"group {group!r} of stream {stream!r} has {members} alive, or silent for less than claim_after: stop it first"
    )
