"""Heartbeat: renews what is held for longer than a third of claim_after, and learns what was taken over.

Runs on the duty thread, so it goes on while handlers are busy or block the event loop. If the process is killed,
nothing renews any more and others take the entries over after claim_after.
"""

from consumers.dispatch import Dispatch
from consumers.state import MemberState, now_ms
from consumers.window import Held
from pipeline.keys import GroupRef
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS, renew


class Heartbeat:
    """Keeps a member's entries from going idle."""

    def __init__(self, state: MemberState, dispatch: Dispatch) -> None:
        self._state = state
        self._dispatch = dispatch

    def run_once(self, link: Link) -> int:
        """Renew what is due; how many entries were asked for."""
        state = self._state
        self._dispatch.fail_overdue()
        with state.lock:
            due = [h for h in state.window.due_for_renewal(now_ms(), state.claim_after_ms) if not h.returning]
        by_token: dict[tuple[GroupRef, str], list[Held]] = {}
        for held in due:
            by_token.setdefault((held.ref, state.tokens.newest(held.token)), []).append(held)
        lost: list[Held] = []
        for (ref, token), group in by_token.items():
            for start in range(0, len(group), MAX_IDS):
                lost += self._renew(link, ref, token, group[start : start + MAX_IDS])
        if lost:
            self._dispatch.give_up(lost)
        return len(due)

    def _renew(self, link: Link, ref: GroupRef, token: str, held: list[Held]) -> list[Held]:
        state = self._state
        asked_ms = now_ms()
        token, gone = renew(link, ref, state.consumer, token, [one.entry_id for one in held])
        lost: list[Held] = []
        with state.lock:
            for one in held:
                if one.entry_id in gone:
                    # What is in the settler's hands may have been settled meanwhile: that is not a loss.
                    if one.unfinished and state.window.get(ref, one.entry_id) is one:
                        state.lose(one)
                        lost.append(one)
                else:
                    one.renewed_ms = asked_ms
                    one.token = token  # the call checked that they are ours
        return lost
