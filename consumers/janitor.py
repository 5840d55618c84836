"""Janitor: saves the group's position, removes the names of members that are gone and hold nothing, and mends dates.

Killed, it leaves an older saved position (a lost group would then start a little earlier) and a name too many.
"""

from consumers.state import MemberState, now_ms
from pipeline.server.connect import Link
from pipeline.server.groups import Duty, names_idle, restamp, retire, save_position

SAVE_MS = 1_000
"""How often the position is saved, in ms."""
MOST_NAMES = 100
"""Names that no member goes by are looked at so many at a time."""


class Janitor:
    """Housekeeping for a group, by the member on duty."""

    def __init__(self, state: MemberState) -> None:
        self._state = state
        self._saved_ms = -(10**9)
        self._looked_ms = now_ms()

    def run_once(self, link: Link, duty: Duty) -> None:
        """Save the position if it is time; retire members whose claim_after has passed without a heartbeat."""
        state = self._state
        now = now_ms()
        if now - self._saved_ms >= SAVE_MS:
            save_position(link, state.keys, state.group)
            self._saved_ms = now
        if state.restamp:
            state.restamp = False
            for ref in state.refs:
                restamp(link, ref)
        for name, (claim_after_ms, age_ms) in duty.members.items():
            if age_ms > claim_after_ms and name != state.consumer:
                retire(link, state.keys, state.group, name)
        if now - self._looked_ms > 2 * state.claim_after_ms:
            self._looked_ms = now
            self._retire_unlisted(link, duty)

    def _retire_unlisted(self, link: Link, duty: Duty) -> None:
        """Names of killed members that are not even listed any more: the list was flushed, or deleted."""
        state = self._state
        idle = [names_idle(link, ref) for ref in state.refs]
        unlisted = {
            name
            for names in idle
            for name, (held, idle_ms) in names.items()
            if not held and idle_ms > 2 * state.claim_after_ms and name not in duty.members
        }
        for name in sorted(unlisted - {state.consumer})[:MOST_NAMES]:
            retire(link, state.keys, state.group, name)

    def missing(self, duty: Duty) -> bool:
        """Whether a member has been silent for longer than heartbeats explain."""
        return any(
            age_ms > 1_200 for name, (_, age_ms) in duty.members.items() if name != self._state.consumer
        )
