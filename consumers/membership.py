"""Membership: the heartbeat of a member in its group, and what it learns from each answer.

One member at a time is on duty: it sweeps, promotes, retires names and saves positions for the group. If it is killed,
its hold on the duty expires and the next heartbeat of another member takes it.
"""

from collections import Counter
from typing import Any

from consumers.state import MemberState, now_ms
from consumers.tokens import token_ms
from pipeline.breaker import Ended, trips
from pipeline.clock import MARGIN_MS
from pipeline.errors import WrongKeyTypeError
from pipeline.observe.log import get_logger
from pipeline.server.connect import Link
from pipeline.server.groups import NOTHING_ENDED, Duty, declare_filter, heartbeat, join, made, pause

HOLD_MS = 1_000
"""The duty is held so long after a heartbeat, in ms."""
FILTER_MS = 10_000
"""How often a member says which types it takes, and hears what its group does, in ms."""
_LOST = {
    "recreated": "consumer group was lost and is recreated where it was",
    "own lost": "what was due again for this group is lost: its retries on their way, replays and split packs",
}


class Membership:
    """This member's place in its group."""

    def __init__(self, state: MemberState, *, start: str) -> None:
        self._state = state
        self._start = start
        self._joined = False
        self._said_ms = 0
        self._log = get_logger("consumer")
        self.duty: Duty | None = None
        """The answer to the last heartbeat."""

    def join(self, link: Link) -> None:
        """Make sure the group exists: created at its start the first time, recreated where it was once it is lost."""
        state = self._state
        try:
            joined = join(
                link, state.keys, state.group, start=self._start, lost=self._joined, queue=state.list_options
            )
        except WrongKeyTypeError as error:  # of all the streams of an app, which
            raise WrongKeyTypeError(f"stream {state.keys.stream!r}: {error}") from None
        facts: dict[str, Any] = {"stream": state.keys.stream, "group": state.group}
        if joined.state != "own lost":
            facts |= {"position": joined.position, "entries_in_stream": joined.entries}
        if joined.state == "created":
            self._log.info("consumer group created", **facts)
        elif joined.state != "exists":
            state.say.warning(joined.state, _LOST[joined.state], **facts)
        self._joined = True
        self._declare_types(link)  # before anything is read
        self.run_once(link, swept="")

    def run_once(self, link: Link, *, swept: str, no_room: bool = False) -> Duty:
        """One heartbeat; swept: the sweep mark whose full pass is complete; no_room: let another member sweep."""
        state = self._state
        wants = now_ms() >= state.released_until_ms and not state.stopping and not no_room
        sent_ms = now_ms()
        ended = state.ended()
        duty = self._beat(link, 1 if wants else 0, swept, ended.since(state.told))
        state.told = ended
        state.token = duty.token
        state.claim_after_ms = duty.claim_after_ms
        if state.clock.observe(duty.now_ms, sent_ms, now_ms(), claim_after_ms=duty.claim_after_ms):
            state.say.warning("clock", "the server's clock jumped; nothing is claimed for one claim_after")
            state.restamp = True
        elif any(age_ms < -MARGIN_MS for _, age_ms in duty.members.values()):
            state.restamp = True  # it was set back before this member came
        self.duty = duty
        self._heed(link, duty)
        if now_ms() - self._said_ms >= FILTER_MS:
            self._declare_types(link)
        return duty

    def say_taken_over(self, link: Link) -> None:
        """Say what others have taken from us: not what went with a group that was lost, of which that was said."""
        state = self._state
        if not state.taken_over:
            return
        made_ms = token_ms(made(link, state.keys, state.group))
        with state.lock:
            lost, state.taken_over = state.taken_over, Counter()
        count = sum(entries for token, entries in lost.items() if token_ms(token) >= made_ms)
        if not count:
            return
        state.say.warning(
            "taken over",
            "entries were taken over by another consumer while they were held here: they may be handled twice",
            stream=state.keys.stream,
            group=state.group,
            entries=count,
        )

    def _heed(self, link: Link, duty: Duty) -> None:
        """Note whether the group is paused, and pause it if too many of its events died."""
        state, before, stands = self._state, self._state.pause, duty.pause
        why = trips(duty.ended, state.pause_above) if stands is None and not state.stopping else ""
        if why:
            _, stands = pause(link, state.keys, state.group, by=state.consumer, reason=why)
        state.pause = stands
        stream, group = state.keys.stream, state.group
        if stands is not None and before is None:
            self._log.warning(
                f"group is paused, nothing is read for it until `millstream group resume {stream} {group}`",
                stream=stream,
                group=group,
                reason=stands.reason,
                by=stands.by,
            )
        elif stands is None and before is not None:
            self._log.info("group is resumed", stream=stream, group=group)
            state.wake_all()

    def leave(self, link: Link, *, for_good: bool) -> None:
        """Give the duty up. for_good: nothing is left behind; else the others miss the name at once."""
        self._beat(link, -1 if for_good else -2, "")
        declare_filter(link, self._state.keys, self._state.group, self._state.consumer, "")

    def _declare_types(self, link: Link) -> None:
        state = self._state
        before, own = state.filter, state.filter.own
        state.filter = before.now(declare_filter(link, state.keys, state.group, state.consumer, own))
        self._said_ms = now_ms()
        if state.filter is not before and state.filter.others:
            self._log.warning(
                "another member of this group takes other types: what only it takes is left to it",
                stream=state.keys.stream,
                group=state.group,
                types=own,
                others=", ".join(state.filter.others),
            )

    def _beat(self, link: Link, wants: int, swept: str, ended: Ended = NOTHING_ENDED) -> Duty:
        state = self._state
        return heartbeat(
            link,
            state.keys,
            state.group,
            state.consumer,
            claim_after_ms=state.own_claim_after_ms,
            wants=wants,
            hold_ms=HOLD_MS,
            swept=swept,
            ended=ended,
        )
