"""Promoter: moves retries whose time has come to the group's `again` stream.

Any number of members may run it, but only the one on duty does. Killed, it leaves what is due to the next.
"""

from consumers.state import MemberState, now_ms
from pipeline.server.connect import Link
from pipeline.server.groups import promote

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
            count, self.next_due_ms = promote(link, self._state.keys, self._state.group, count=BATCH)
            promoted += count
            if count < BATCH:
                return promoted

    def due(self) -> bool:
        """Whether something is due now, as far as is known."""
        wait_ms = self.wait_ms()
        return wait_ms is not None and wait_ms <= 0

    def wait_ms(self) -> float | None:
        """How long until something is due, as far as is known; None if nothing waits."""
        server_ms = self._state.clock.now_ms(now_ms())
        known = [due for due in (self.next_due_ms, self._state.retry_due_ms) if due is not None]
        return min(known) - server_ms if known and server_ms is not None else None
