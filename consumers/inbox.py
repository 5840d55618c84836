"""Inbox: what the group has done already is not handed to a handler with `once=` again.

Records are asked for over a connection of its own, so that the reader's requests and replies stay in step. They are
written by the script that settles (lua/move.lua), which looks once more: two members may have the same event in hand at
the same time. Killed, it leaves nothing: what was not settled is not in the inbox.
"""

import threading
from collections.abc import Callable, Sequence

from consumers.delivery import held_of
from consumers.state import MemberState
from consumers.window import Held
from pipeline.declare import ConsumerSpec
from pipeline.event import Event
from pipeline.outcome import DONE, Kind, Outcome
from pipeline.replayed import once_id
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS, Move

IN_HAND_MS = 1_000
"""An event that this member has in hand already, in another entry, is looked at again after this, in ms."""
IN_HAND = Outcome(Kind.LATER, delay_ms=IN_HAND_MS, reason="the same event is being handled, in another entry")
PRUNE_FROM = 1_000
Asked = tuple[Event, ConsumerSpec]


class Inbox:
    """The inbox of one member's group."""

    def __init__(self, state: MemberState, connect: Callable[[], Link]) -> None:
        self._state = state
        self._connect = connect
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._in_hand: dict[str, Held] = {}
        """By record: the entry whose event is being handled."""

    def sift(self, asked: Sequence[Asked]) -> dict[int, Outcome]:
        """What becomes of those events, by id(), that are not to be handed over: DONE before, or IN_HAND.

        For the others the record is noted, to be written when they are settled.

        Raises:
            MillstreamError: the server cannot be asked just now; nothing was noted.
        """
        keys = [self._key(event) for event, _ in asked]
        decided: dict[int, Outcome] = {}
        with self._lock:
            known = self._known(keys)
            with self._state.lock:
                for (event, spec), key in zip(asked, keys, strict=True):
                    held = held_of(event)
                    other = self._in_hand.get(key)
                    if key in known:
                        decided[id(event)] = DONE
                        self._state.counts.skipped += 1
                    elif other is not None and other is not held and self._holds(other):
                        decided[id(event)] = IN_HAND
                    else:
                        self._in_hand[key] = held
                        words = (spec.options.once_for_ms, held.shown_id)
                        held.moves = (*held.moves, Move("done", words, event._index, (key,)))
                if len(self._in_hand) > PRUNE_FROM + 2 * self._state.window.events:
                    self._in_hand = {key: held for key, held in self._in_hand.items() if self._holds(held)}
        return decided

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._link is not None:
                self._link.close()

    def _key(self, event: Event) -> str:
        held = held_of(event)
        goes_by = once_id(event.id, held.again.why if held.again else "")
        return self._state.keys.done(self._state.group, goes_by)

    def _holds(self, held: Held) -> bool:
        return self._state.window.get(held.ref, held.entry_id) is held

    def _known(self, keys: Sequence[str]) -> set[str]:
        """Which of these records there are."""
        if self._link is None or self._link.closed:
            self._link = self._connect()
        found: set[str] = set()
        for start in range(0, len(keys), MAX_IDS):
            few = keys[start : start + MAX_IDS]
            values = self._link.call("MGET", *few)
            found.update(key for key, value in zip(few, values, strict=True) if value is not None)
        return found
