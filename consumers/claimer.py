"""Claimer: takes over entries whose consumer stopped renewing them.

Only the member on duty sweeps: at once while a member is missing or entries were handed back, else one full pass per
claim_after. Each claim is sent together with what settles the entries of earlier ones, so that the little that may be
held of a dead worker's entries (poison ladder) is always on the move: some with the handlers, the rest on its way.
Loses nothing if killed: what it took and did not handle stays pending under its name and goes idle again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from consumers.dispatch import Dispatch
from consumers.settler import Settlement, Settler
from consumers.state import MemberState, now_ms
from consumers.window import Held
from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.keys import GroupRef
from pipeline.ladder import company
from pipeline.server.connect import Link
from pipeline.server.groups import Command, Duty, Taken, parse_taken, take_words
from pipeline.server.scripts import Arg, script

BATCH_ENTRIES = 50
"""Most entries per claim: the server looks at ten times as many (https://redis.io/docs/latest/commands/xautoclaim/)."""
LEAST_ENTRIES = 10
"""With less room than this, a claim waits for more, if more will come soon: one claim costs as much as the next."""
SOON_MS = 50
"""Room that came so long after the last claim is used, however little it is, in ms."""
SLICE_S = 0.2
"""A sweep leaves the duty thread to renewals after so long, in s."""
MOST_AGAIN = 20_000
"""With more than this in the group's own stream, no more packs are split into it until the next heartbeat looks."""


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
        self._reader_told = False

    def run_once(self, link: Link, duty: Duty, *, missing: bool) -> str:
        """Go on with the sweep, or begin one if it is time; the sweep mark whose pass is complete, or ''."""
        state = self._state
        now = now_ms()
        if state.resting or not state.clock.claims_allowed(now):
            state.sweeping = False
            return ""
        if not self._passing:
            waited = now - self._pass_started_ms >= state.claim_after_ms
            if not (waited or missing or duty.sweep_mark):
                return ""
            self._passing, self._pass_started_ms, self._mark = True, now, duty.sweep_mark
            self._reader_told = False
        if not state.seeing.acquire(blocking=False):
            return ""  # the reader looks for what it never saw: what is claimed just now would be seen twice
        try:
            with state.lock:
                state.settled = set()
            until_s = time.monotonic() + SLICE_S
            for ref in state.refs:
                if ref not in self._done and not self._go_on(link, ref, until_s):
                    return ""
        finally:
            with state.lock:
                state.settled = None
            state.seeing.release()
        state.again_suspects = state.again_suspects or state.splitting
        state.sweeping = state.splitting = self._passing = False
        self._done.clear()
        self._company = BATCH_ENTRIES
        return self._mark

    def full(self) -> bool:
        """Whether what is held leaves no room, and would for longer than since the last time this was asked."""
        taken, self._taken = self._taken, 0
        window = self._state.window
        return self._room() <= 0 and (taken < len(window) or window.asked_for == 0)

    def _go_on(self, link: Link, ref: GroupRef, until_s: float) -> bool:
        """Claim from one stream; True once its pass is complete, False if it is to be gone on with later."""
        state = self._state
        claim = self._take_off(link, ref)
        while claim is not None:
            taken, refused = self._land(link, claim)
            landed, claim = claim, None
            if taken.clock_ok:
                self._cursors[ref] = taken.cursor
                if taken.cursor == "0-0":
                    self._done.add(ref)
            if taken.clock_ok and not refused and ref not in self._done and time.monotonic() < until_s:
                claim = self._take_off(link, ref, taken)  # the server works on it while this one is handed on
            try:
                self._hand_on(self._hold(ref, taken, coming=claim.room if claim else 0))
            except BaseException:
                if claim is not None:  # its answer is still to come
                    link.close()
                    self._settler.put_back(claim.settlements)
                raise
            if refused is not None:
                raise refused
            if not taken.clock_ok:
                self._doubt_clock(landed, taken)
                return False
            if ref in self._done:
                return True
            if not state.reader_blocked:
                state.reader_wake.set()  # there may be room for it
            if claim is None:
                if time.monotonic() >= until_s:
                    state.sweeping = not state.splitting
                    state.duty_wake.set()  # go on at once, after whatever else is due
                    return False
                claim = self._take_off(link, ref)
        return False

    def _room(self, leaving: int = 0, taken: Taken | None = None) -> int:
        """How many entries may be taken over just now; 0 or less if none, or if more may soon.

        leaving: so many are settled before; taken: these came and are not in the window yet.
        """
        state = self._state
        coming = len(taken.entries) if taken else 0
        with state.lock:
            limit, held = state.window.limit(), len(state.window) + coming - leaving
            room = state.window.room(coming - leaving)
            if not state.window.measured:  # nothing shows yet whether they are packs
                room = min(state.window.most_events - state.window.events, LEAST_ENTRIES)
        if taken:
            limit = _least(limit, *(company(deliveries - 1) for deliveries in {e[2] for e in taken.entries}))
        if limit is not None and state.splitting:
            room = min(room, smaller_share(limit), limit - held)
        elif limit is not None:
            room = min(room, limit - smaller_share(limit) - held)
        if 0 < room < min(LEAST_ENTRIES, held) and now_ms() - self._claimed_ms < SOON_MS:
            return 0
        return min(room, self._company)

    def _take_off(self, link: Link, ref: GroupRef, taken: Taken | None = None) -> "Claim | None":
        """Send a claim, if there is room for one, together with what settles the entries of earlier ones.

        taken: what the last claim brought, which is not in the window yet.
        """
        state = self._state
        if taken and (ref.again or state.splitting):
            return None  # in whose company they may run, or what becomes of them, is to be seen first
        if state.splitting and not ref.again and self._again_is_long(link):
            self._done.clear()  # the next heartbeat looks again, there first
            return None
        while True:
            self._dispatch.collect()
            with state.lock:
                room = 0 if state.resting or state.waiting else max(self._room(len(state.settling), taken), 0)
                state.claiming = room + len(taken.entries) if taken else room
            if taken and not room:
                return None
            self._settler.teach(link)
            settlements = self._settler.prepare() if state.sweeping or state.splitting else []
            if room:
                break
            state.sweeping = not state.resting and not state.splitting
            if not settlements:
                return None
            self._settler.settle(link, settlements)
        sent_ms = now_ms()
        keys, args = take_words(
            ref,
            state.consumer,
            min_idle_ms=state.claim_after_ms,
            cursor=self._cursors[ref],
            count=room,
            latest_ms=state.clock.latest_ms(sent_ms, claim_after_ms=state.claim_after_ms),
        )
        claim = Claim(keys, args, room, sent_ms, settlements, self._unblocking())
        try:
            link.send(*claim.commands())
        except NotConnectedError:
            self._settler.put_back(settlements)
            raise
        return claim

    def _unblocking(self) -> Command | None:
        """What ends the reader's wait for more new entries than may be held beside suspects; once per pass."""
        state = self._state
        if self._reader_told or not state.reader_blocked or not state.reader_client:
            return None
        if state.window.limit() is None and not state.splitting:
            return None
        self._reader_told = True
        return ("CLIENT", "UNBLOCK", state.reader_client)  # refused: the block ends by itself

    def _land(self, link: Link, claim: "Claim") -> tuple[Taken, MillstreamError | None]:
        """Take in the answers to a claim: what it brought, and why a settlement was refused."""
        state = self._state
        refused: MillstreamError | None = None
        try:
            self._settler.absorb(link, claim.settlements)
        except NotConnectedError:
            raise
        except MillstreamError as error:
            refused = error  # what the claim brought is ours all the same
        if claim.unblocking is not None:
            link.read_or_error()
        reply = link.read_or_error()
        if isinstance(reply, MillstreamError):
            state.claiming = 0
            if getattr(reply, "code", "") != "NOSCRIPT":
                raise reply
            reply = link.run(script("take"), claim.keys, claim.args)
        taken = parse_taken(reply)
        self._claimed_ms = now_ms()
        if taken.entries:
            state.tokens.claimed(taken.token_before, taken.token)
            state.token = taken.token
        return taken, refused

    def _doubt_clock(self, claim: "Claim", taken: Taken) -> None:
        """The server's clock is ahead of what a steady one could show; or the answer was just slow."""
        state = self._state
        state.sweeping = False
        if state.clock.observe(
            taken.now_ms, claim.sent_ms, self._claimed_ms, claim_after_ms=state.claim_after_ms
        ):
            state.say.warning("clock", "the server's clock jumped; nothing is claimed for one claim_after")

    def _hold(self, ref: GroupRef, taken: Taken, *, coming: int) -> list[Held]:
        """Take what a claim brought into the window; what was not in it before. coming: with the next claim."""
        state = self._state
        fresh: list[Held] = []
        now = now_ms()
        with state.lock:
            state.claiming = coming
            for entry_id, fields, deliveries in taken.entries:
                if state.settled is not None and (ref, entry_id) in state.settled:
                    continue  # settled after this claim, as it was pending then: its outcome stands
                known = state.window.get(ref, entry_id)
                if known is not None and known.returning and deliveries <= known.deliveries:
                    # Handed back before this claim, as the count shows; the other answer is still to come.
                    state.window.remove(known)
                    known.taken_over = True  # should that answer be lost, it is not handed back once more
                    state.releasing.discard(known)
                    state.passed.pop(known, None)
                elif (
                    known is not None
                ):  # our own, gone idle while this process stood still: it runs here already
                    known.token = taken.token
                    known.renewed_ms = now
                    continue
                fresh.append(
                    Held(
                        ref, entry_id, fields, token=taken.token, deliveries=deliveries, now_ms=now,
                        noted=taken.noted.get(entry_id, 0),
                    )
                )  # fmt: skip
            state.window.add_all(fresh)
            state.given.difference_update((ref, held.entry_id) for held in fresh)
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

    def _hand_on(self, fresh: list[Held]) -> None:
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
        if state.resting:
            self._dispatch.hand_back(fresh)
            return
        state.sweeping = not state.splitting
        self._dispatch.offer(fresh)
        limit = _least(*(held.limit for held in fresh))
        self._company = self._company if limit is None else min(limit, BATCH_ENTRIES)
        state.splitting = any(held.moves and held.moves[0].kind == "again" for held in fresh)
        state.sweeping = not state.splitting

    def _again_is_long(self, link: Link) -> bool:
        """Whether what packs were split into is to be worked off before more are."""
        length: int = link.call("XLEN", self._state.keys.again(self._state.group))
        return length > MOST_AGAIN


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that was sent, and what was sent with it."""

    keys: list[str]
    args: list[Arg]
    room: int
    """Most entries it brings."""
    sent_ms: int
    settlements: Sequence[Settlement]
    unblocking: Command | None

    def commands(self) -> list[Command]:
        """All of it, in the order of the answers."""
        commands = [settlement.command for settlement in self.settlements]
        if self.unblocking is not None:
            commands.append(self.unblocking)
        commands.append(script("take").command(self.keys, self.args))
        return commands


def smaller_share(limit: int) -> int:
    """How many of the entries that may be held are left to new ones while a sweep goes on; or to the sweep, while what
    it brings are packs, whose events the reader reads."""
    return limit // 10


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
