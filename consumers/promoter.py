"""Promoter: moves retries whose time has come to the group's `again` stream.

Any number of members may run it, but only the one on duty does. Killed, it leaves what is due to the next.
"""

from consumers.state import MemberState, now_ms
from pipeline.server.connect import Link
from pipeline.server.groups import Promoted, promote

BATCH = 200
"""Most deliveries per call, so that no call holds the server up."""


class Promoter:
    """Promotes a group's due retries."""

    def __init__(self, state: MemberState) -> None:
        self._state = state
        self.next_due_ms: float | None = None
        """When the next one is due, by the server's clock; None if nothing is known to wait."""

    def run_once(self, link: Link) -> int:
        """Promote what is due; how many deliveries."""
        promoted = 0
        self._state.retry_due_ms = None
        while True:
            done = promote(link, self._state.keys, self._state.group, count=BATCH)
            self.next_due_ms = done.next_due_ms
            promoted += done.taken - len(done.lost)
            self._say_half(done)
            if done.taken < BATCH and not done.found:
                return promoted

    def _say_half(self, done: Promoted) -> None:
        """Of each retry the server keeps the due time and the event, in two keys: say if one was taken away."""
        state = self._state
        facts = {"stream": state.keys.stream, "group": state.group}
        if done.lost:
            state.counts.lost_retries += len(done.lost)
            state.say.warning(
                "retries lost",
                "retries are lost: the server has only their due times, their events were deleted or evicted",
                **facts,
                entry_id=done.lost[0].split(":")[0],
                events=len(done.lost),
            )
        if done.found:
            state.say.warning(
                "due times lost",
                "the due times of retries were deleted or evicted: they run now",
                **facts,
                events=done.found,
            )

    def due(self) -> bool:
        """Whether something is due now, as far as is known."""
        wait_ms = self.wait_ms()
        return wait_ms is not None and wait_ms <= 0

    def wait_ms(self) -> float | None:
        """How long until something is due, as far as is known; None if nothing waits."""
        server_ms = self._state.clock.now_ms(now_ms())
        known = [due for due in (self.next_due_ms, self._state.retry_due_ms) if due is not None]
        return min(known) - server_ms if known and server_ms is not None else None
