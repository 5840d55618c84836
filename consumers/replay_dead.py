"""Replay of dead letters: they run again with all attempts before them, each moved in one step.

If killed, what was moved runs again, and the rest is dead still: the same replay, planned anew, finds just that.
"""

from collections.abc import Iterator
from dataclasses import replace

from consumers.dead_letters import DeadLetters
from consumers.persistent import Persistent
from consumers.replay_throttle import Throttle
from pipeline.dead_event import DeadEvent, DeadSelection
from pipeline.keys import StreamKeys
from pipeline.replay_plan import ReplayPlan
from pipeline.replayed import Replayed
from pipeline.selection import parts_of
from pipeline.server.connect import Connector
from pipeline.server.dead import revive_letters
from pipeline.server.overview import server_ms
from pipeline.server.replaying import done_before

CALL_LETTERS = 100
CALL_BYTES = 1 << 20


def counted(
    connector: Connector, server: Persistent, keys: StreamKeys, group: str, plan: ReplayPlan
) -> ReplayPlan:
    """The plan with its counts, its range as ids of dead letters."""
    entries = events = selected = done = 0
    with DeadLetters(keys.stream, group, connector=connector) as letters:
        first, last = letters.range(plan.first_id, plan.last_id)
        plan = replace(plan, first_id=first, last_id=last)
        chosen = _selection(plan)
        for dead in letters.between(first, last, DeadSelection()):
            count = len(parts_of(dead.id.encode(), dead.fields))
            entries += 1
            events += count
            if dead.letter is not None and chosen.takes(dead):
                selected += count
                if dead.event is not None:
                    event_id = dead.event.id
                    done += server.ask(lambda link, one=event_id: done_before(link, keys, group, [one]))  # type: ignore[misc]
    return replace(plan, entries=entries, events=events, selected=selected, done=done)


def run(
    connector: Connector,
    server: Persistent,
    keys: StreamKeys,
    group: str,
    plan: ReplayPlan,
    throttle: Throttle,
) -> None:
    """Move what was planned, and is dead still."""
    at_ms = server.ask(server_ms)
    why = Replayed(id=plan.id, at_ms=at_ms, again=plan.again, what=plan.what).why
    with DeadLetters(keys.stream, group, connector=connector) as letters:
        for part in _calls(letters.between(plan.first_id, plan.last_id, _selection(plan)), throttle.most()):
            throttle.before()
            entries = [(dead.id, dead.again(why)) for dead in part]
            answers = server.ask(
                lambda link, entries=entries: revive_letters(link, keys, group, entries)  # type: ignore[misc]
            )
            # Asked again after a lost answer, what is gone is what the first call moved.
            moved = [
                one for (_, one), answer in zip(entries, answers, strict=True) if answer or server.repeated
            ]
            size = sum(len(field) for one in moved for fields in one for field in fields)
            throttle.after(sum(map(len, moved)), size)


def _selection(plan: ReplayPlan) -> DeadSelection:
    return DeadSelection(errors=plan.errors, events=plan.selection)


def _calls(found: Iterator[DeadEvent], most: int) -> Iterator[list[DeadEvent]]:
    """The letters in lists for one call each; what is no letter of Millstream's is left where it is."""
    part: list[DeadEvent] = []
    size = 0
    for dead in found:
        if dead.letter is None:
            continue
        part.append(dead)
        size += sum(map(len, dead.fields))
        if len(part) >= min(most, CALL_LETTERS) or size >= CALL_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
