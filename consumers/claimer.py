"""Claimer: takes over entries whose consumer stopped renewing them.

Only the member on duty sweeps: at once while a member is missing or entries were handed back, else one full pass per
claim_after. Loses nothing if killed: what it took and did not handle stays pending under its name and goes idle again.
"""

import time

from consumers.dispatch import Dispatch
from consumers.state import MemberState, now_ms
from consumers.window import Held
from pipeline.keys import GroupRef
from pipeline.server.connect import Link
from pipeline.server.groups import Duty, Taken, take

BATCH_ENTRIES = 50
"""Most entries per claim: the server looks at ten times as many (https://redis.io/docs/latest/commands/xautoclaim/)."""
TICK_BUDGET_S = 0.2
"""A sweep leaves the duty thread to renewals after so long, in s."""


class Claimer:
    """Sweeps a group's pending entries, with a cursor of its own for each of its streams."""

    def __init__(self, state: MemberState, dispatch: Dispatch) -> None:
        self._state = state
        self._dispatch = dispatch
        self._cursors = dict.fromkeys(state.refs, "0-0")
        self._done: set[GroupRef] = set()
        self._passing = False
        self._pass_started_ms = -(10**9)
        self._mark = ""
        """The sweep mark when this pass began."""
        self._company = BATCH_ENTRIES
        """Fewer after suspects were met: what may not run here together is not taken together."""

    def run_once(self, link: Link, duty: Duty, *, missing: bool) -> str:
        """Go on with the sweep, or begin one if it is time; the sweep mark whose pass is complete, or ''."""
        state = self._state
        now = now_ms()
        state.sweeping = False
        if not state.clock.claims_allowed(now):
            return ""
        if not self._passing:
            waited = now - self._pass_started_ms >= state.claim_after_ms
            if not (waited or missing or duty.sweep_mark):
                return ""
            self._passing, self._pass_started_ms, self._mark = True, now, duty.sweep_mark
        deadline_s = time.monotonic() + TICK_BUDGET_S
        for ref in state.refs:
            while ref not in self._done:
                if not self._step(link, ref):
                    return ""
                if time.monotonic() > deadline_s:
                    state.sweeping = True
                    state.duty_wake.set()  # go on at once, after whatever else is due
                    return ""
        self._passing = False
        self._done.clear()
        self._company = BATCH_ENTRIES
        return self._mark

    def room(self) -> int:
        """How many entries may be taken over just now."""
        state = self._state
        with state.lock:
            limit = state.window.limit()
            free = state.window.most_events - state.window.events
            return free if limit is None else min(free, limit - len(state.window))

    def _step(self, link: Link, ref: GroupRef) -> bool:
        """One claim; False if the window is full or the clock cannot be trusted."""
        state = self._state
        free = self.room()
        if free <= 0 or state.stopping:
            state.sweeping = not state.stopping
            return False
        sent_ms = now_ms()
        taken = take(
            link,
            ref,
            state.consumer,
            min_idle_ms=state.claim_after_ms,
            cursor=self._cursors[ref],
            count=min(free, self._company),
            latest_ms=state.clock.latest_ms(sent_ms, claim_after_ms=state.claim_after_ms),
        )
        if not taken.clock_ok:
            # Ahead of what a steady clock could show; or just a slow answer, and the next try will tell.
            if state.clock.observe(taken.now_ms, sent_ms, now_ms(), claim_after_ms=state.claim_after_ms):
                state.say.warning(
                    "clock", "the server's clock jumped; nothing is claimed for one claim_after"
                )
            return False
        self._take_in(ref, taken)
        self._cursors[ref] = taken.cursor
        if taken.cursor == "0-0":
            self._done.add(ref)
        return True

    def _take_in(self, ref: GroupRef, taken: Taken) -> None:
        state = self._state
        fresh: list[Held] = []
        with state.lock:
            for entry_id, fields, deliveries in taken.entries:
                known = state.window.get(ref, entry_id)
                if (
                    known is not None
                ):  # our own, gone idle while this process stood still: it runs here already
                    known.token = taken.token
                    known.renewed_ms = now_ms()
                    continue
                held = Held(ref, entry_id, fields, token=taken.token, deliveries=deliveries, now_ms=now_ms())
                state.window.add(held)
                fresh.append(held)
            state.counts.taken_over_by_us += len(fresh)
            state.counts.trimmed_unread += len(taken.gone)
        if taken.gone:
            state.say.warning(
                "trimmed",
                "entries were trimmed from the stream before they were handled",
                stream=state.keys.stream,
                group=state.group,
                entries=len(taken.gone),
            )
        if not fresh:
            return
        self._dispatch.offer(fresh)
        limits = [held.limit for held in fresh if held.limit is not None]
        self._company = min(limits, default=BATCH_ENTRIES) if limits else self._company
        state.say.warning(
            "taken over by us",
            "entries of a consumer that stopped renewing them are taken over",
            stream=state.keys.stream,
            group=state.group,
            entries=len(fresh),
        )
