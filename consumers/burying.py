"""Burying: makes dead letters of pending entries that somebody gave up, with the reason that they gave."""

import time
from collections.abc import Callable

from consumers.dispatch import HOST
from consumers.replay_pending import Left
from pipeline.envelope import DeadLetter, dead_fields
from pipeline.replayed import WORD
from pipeline.selection import Part
from pipeline.server.groups import Move

BURIED = "Buried"
"""Stands where a dead letter names the exception: no handler raised one."""


def burying(stream: str, group: str, reason: str) -> Callable[[Left], list[Move]]:
    """What becomes of a pending entry that is buried: its chosen events die, the others of a pack run again."""

    def moves_of(left: Left) -> list[Move]:
        return [
            Move("dead", dead_fields(_letter(left, part, stream, group, reason), part.fields), part.index)
            if part.chosen
            else left.split(part, stream)
            for part in left.parts
        ]

    return moves_of


def _letter(left: Left, part: Part, stream: str, group: str, reason: str) -> DeadLetter:
    before, now_ms = left.again, int(time.time() * 1_000)
    return DeadLetter(
        reason=reason,
        error=BURIED,
        attempts=(before.runs if before else 0) + left.deliveries,
        crashes=(before.crashes if before else 0) + left.deliveries,
        first_failed_ms=(before.first_failed_ms if before else 0) or now_ms,
        last_failed_ms=now_ms,
        host=HOST,
        consumer=left.consumer,
        group=group,
        stream=before.stream if before else stream,
        entry_id=left.origin,
        index=left.index_of(part),
        event_id=part.event.id if part.event is not None else "",
        replay=before.why if before and before.why.startswith(WORD) else "",
    )
