"""Claimer: takes over entries whose consumer stopped renewing them.

Only the member on duty sweeps: at once while a member is missing or entries were handed back, else one full pass per
claim_after. Each claim is sent together with what settles the entries of earlier ones, so that the little that may be
held of a dead worker's entries (poison ladder) is always on the move: some with the handlers, the rest on its way.
Loses nothing if killed: what it took and did not handle stays pending under its name and goes idle again.
"""

import time
from collections.abc import Sequence

from consumers.dispatch import Dispatch
from consumers.settler import Settlement, Settler
from consumers.state import MemberState, now_ms
from consumers.window import Held
from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.keys import GroupRef
from pipeline.server.connect import Link
from pipeline.server.groups import Duty, Taken, parse_taken, take_words
from pipeline.server.scripts import script

BATCH_ENTRIES = 50
"""Most entries per claim: the server looks at ten times as many (https://redis.io/docs/latest/commands/xautoclaim/)."""
LEAST_ENTRIES = 10
"""With less room than this, a claim waits for more, if more will come soon: one claim costs as much as the next."""
SOON_MS = 50
"""Room that came so long after the last claim is used, however little it is, in ms."""
SLICE_S = 0.2
"""A sweep leaves the duty thread to renewals after so long, in s."""
MOST_AGAIN = 20_000
"""With more than this in the group's own stream, no more packs are split into it: it is worked off first."""


class Claimer:
    """Sweeps a group's pending entries, with a cursor of its own for each of its streams."""

    def __init__(self, state: MemberState, dispatch: Dispatch, settler: Settler) -> None:
        self._state = state
        self._dispatch = dispatch
        self._settler = settler
        self._cursors = dict.fromkeys(state.refs, "0-0")
        self._done: set[GroupRef] = set()
        self._passing = False
        self._pass_started_ms = -(10**9)
        self._mark = ""
        """The sweep mark when this pass began."""
        self._company = BATCH_ENTRIES
        """Fewer after suspects were met: what may not run here together is not taken together."""
        self._claimed_ms = 0
        """When the last claim was answered."""
        self._taken = 0
        """Entries taken since full() was last asked."""
        self._splitting = False
        """The last claim brought packs that were split: events went to the group's own stream."""
        self._reader_told = False

    def run_once(self, link: Link, duty: Duty, *, missing: bool) -> str:
        """Go on with the sweep, or begin one if it is time; the sweep mark whose pass is complete, or ''."""
        state = self._state
        now = now_ms()
        if state.stopping or not state.clock.claims_allowed(now):
            state.sweeping = False
            return ""
        if not self._passing:
            waited = now - self._pass_started_ms >= state.claim_after_ms
            if not (waited or missing or duty.sweep_mark):
                return ""
            self._passing, self._pass_started_ms, self._mark = True, now, duty.sweep_mark
            self._reader_told = False
        deadline_s = time.monotonic() + SLICE_S
        for ref in state.refs:
            while ref not in self._done:
                if not self._step(link, ref):
                    return ""
                if time.monotonic() > deadline_s:
                    state.sweeping = True
                    state.duty_wake.set()  # go on at once, after whatever else is due
                    return ""
        state.sweeping = self._passing = self._splitting = False
        self._done.clear()
        self._company = BATCH_ENTRIES
        return self._mark

    def full(self) -> bool:
        """Whether what is held leaves no room, and would for longer than since the last time this was asked."""
        taken, self._taken = self._taken, 0
        return self._room(()) <= 0 and taken < len(self._state.window)

    def _room(self, settlements: Sequence[Settlement]) -> int:
        """How many entries may be taken over once these settlements are carried out; 0 if waiting brings more."""
        state = self._state
        leaving = sum(len(settlement.held) for settlement in settlements)
        with state.lock:
            limit, held = state.window.limit(), len(state.window) - leaving
            room = state.window.room(-leaving)
        if limit is not None:
            room = min(room, limit - reader_share(limit) - held)
        if 0 < room < min(LEAST_ENTRIES, held) and now_ms() - self._claimed_ms < SOON_MS:
            return 0
        return min(room, self._company)

    def _step(self, link: Link, ref: GroupRef) -> bool:
        """One claim; False if the window is full, the clock cannot be trusted, or the member stops."""
        state = self._state
        if self._splitting and link.call("XLEN", state.keys.again(state.group)) > MOST_AGAIN:
            state.sweeping = False  # the reader is to have all the room; the next heartbeat looks again
            return False
        self._dispatch.collect()
        self._settler.teach(link)
        settlements = self._settler.prepare() if state.sweeping else []
        with state.lock:
            room = state.claiming = 0 if state.stopping else max(self._room(settlements), 0)
        if not room:
            if settlements:
                self._settler.settle(link, settlements)
            state.sweeping = not state.stopping
            return bool(settlements)
        try:
            sent_ms = now_ms()
            taken, refused = self._claim(link, ref, room, sent_ms, settlements)
            self._claimed_ms = now_ms()
            fresh = self._hold(ref, taken)
        finally:
            state.claiming = 0
        self._hand_on(link, fresh)
        if not state.reader_blocked:
            state.reader_wake.set()  # there may be room for it
        if refused is not None:
            raise refused
        if not taken.clock_ok:
            state.sweeping = False
            # Ahead of what a steady clock could show; or just a slow answer, and the next try will tell.
            if state.clock.observe(
                taken.now_ms, sent_ms, self._claimed_ms, claim_after_ms=state.claim_after_ms
            ):
                state.say.warning(
                    "clock", "the server's clock jumped; nothing is claimed for one claim_after"
                )
            return False
        self._cursors[ref] = taken.cursor
        if taken.cursor == "0-0":
            self._done.add(ref)
        return True

    def _claim(
        self, link: Link, ref: GroupRef, room: int, sent_ms: int, settlements: Sequence[Settlement]
    ) -> tuple[Taken, MillstreamError | None]:
        """Settle and claim in one go: what the claim brought, and why a settlement was refused."""
        state = self._state
        keys, args = take_words(
            ref,
            state.consumer,
            min_idle_ms=state.claim_after_ms,
            cursor=self._cursors[ref],
            count=room,
            latest_ms=state.clock.latest_ms(sent_ms, claim_after_ms=state.claim_after_ms),
        )
        try:
            link.send(*(settlement.command for settlement in settlements), script("take").command(keys, args))
        except NotConnectedError:
            self._settler.put_back(settlements)
            raise
        refused: MillstreamError | None = None
        try:
            self._settler.absorb(link, settlements)
        except NotConnectedError:
            raise
        except MillstreamError as error:
            refused = error  # what the claim brought is ours all the same
        reply = link.read_or_error()
        if isinstance(reply, MillstreamError):
            if getattr(reply, "code", "") != "NOSCRIPT":
                raise reply
            reply = link.run(script("take"), keys, args)
        return parse_taken(reply), refused

    def _hold(self, ref: GroupRef, taken: Taken) -> list[Held]:
        """Take what a claim brought into the window; what was not in it before."""
        state = self._state
        fresh: list[Held] = []
        now = now_ms()
        if taken.entries:
            state.tokens.claimed(taken.token_before, taken.token)
            state.token = taken.token
        with state.lock:
            for entry_id, fields, deliveries in taken.entries:
                known = state.window.get(ref, entry_id)
                if (
                    known is not None
                ):  # our own, gone idle while this process stood still: it runs here already
                    known.token = taken.token
                    known.renewed_ms = now
                    continue
                fresh.append(
                    Held(ref, entry_id, fields, token=taken.token, deliveries=deliveries, now_ms=now)
                )
            state.window.add_all(fresh)
            state.counts.taken_over_by_us += len(fresh)
            state.counts.trimmed_unread += len(taken.gone)
        self._taken += len(fresh)
        if taken.gone:
            state.say.warning(
                "trimmed",
                "entries were trimmed from the stream before they were handled",
                stream=state.keys.stream,
                group=state.group,
                entries=len(taken.gone),
            )
        return fresh

    def _hand_on(self, link: Link, fresh: list[Held]) -> None:
        """Give what was taken to the handlers, or back, if the member stops."""
        state = self._state
        if not fresh:
            return
        state.say.warning(
            "taken over by us",
            "entries of a consumer that stopped renewing them are taken over",
            stream=state.keys.stream,
            group=state.group,
            entries=len(fresh),
        )
        if state.stopping:
            self._dispatch.hand_back(fresh)
            return
        state.sweeping = True
        self._dispatch.offer(fresh)
        limits = [held.limit for held in fresh if held.limit is not None]
        self._company = min(limits, default=BATCH_ENTRIES) if limits else self._company
        self._splitting = any(held.moves and held.moves[0].kind == "again" for held in fresh)
        if limits and state.reader_blocked and state.reader_client and not self._reader_told:
            # It waits for more new entries than may be held beside these. Refused: the block ends by itself.
            self._reader_told = True
            link.calls([("CLIENT", "UNBLOCK", state.reader_client)])


def reader_share(limit: int) -> int:
    """How many of the entries that may be held are left to new ones while a sweep goes on."""
    return limit // 10
