"""Halving: finds the events of a batch that a target refuses, where its answer does not name them.

A request that is refused for what it holds is sent again in two halves, until the event at fault is alone. Pure: what
sends is given, and says how it went by what it raises.
"""

from collections.abc import Callable, Sequence

from pipeline.errors import SinkAway, SinkError, SinkRefused
from pipeline.outcome import Outcomes


class RequestRefused(Exception):
    """The target will never take a request as it is; `words` are its own."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class RequestFailed(Exception):
    """The target failed at a request, which may or may not be the request's fault; `words` are its own."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


MANY = 10
"""So many events, all refused by a target that never took any: that is the target's fault."""


class Halving:
    """One sink's way of sending; remembers whether its target ever took anything."""

    def __init__(self) -> None:
        self._took_some = False

    def __call__(
        self, parts: Sequence[Sequence[int]], send: Callable[[Sequence[int]], object], outcomes: Outcomes
    ) -> None:
        """Send the events of each part, in halves where the target refuses or fails; puts down what went wrong.

        One that is refused alone is rejected, with the target's words. One that fails alone, while others do not, is
        retried, and this counts. Where nothing gets through at all, it is the target that is away: all wait.

        Args:
            parts: indexes of events, as many to a request as fit. send: hands over the events with some of the
                indexes; may put down outcomes of its own for them.

        Raises:
            SinkAway: the target takes nothing just now, and nothing was settled yet. SinkRefused: it refuses each of
                many events, and has never taken any.
        """
        refused = _in_halves(parts, send, outcomes, doubtful=not self._took_some)
        count = sum(map(len, parts))
        if len(refused) == count >= MANY and not self._took_some:
            raise _at_fault(count, refused)
        self._took_some = self._took_some or len(refused) < count


def _in_halves(
    parts: Sequence[Sequence[int]],
    send: Callable[[Sequence[int]], object],
    outcomes: Outcomes,
    *,
    doubtful: bool,
) -> list[str]:
    """Send them; the words of each refusal. doubtful: the target may be one that takes nothing at all."""
    words: list[str] = []
    waiting = [part for part in reversed(parts) if part]
    # As many as it takes to find a few that stand side by side.
    failures, most = 0, max(map(len, waiting), default=0).bit_length() + 4
    settled = False
    while waiting:
        if doubtful and len(words) == MANY:
            doubtful = False
            waiting = _without_one_taken(waiting, send, words)
            continue
        part = waiting.pop()
        try:
            send(part)
            settled, doubtful = True, False
        except RequestRefused as refused:
            if len(part) == 1:
                outcomes.reject(part[0], refused.words)
                words.append(refused.words)
                settled = True
            else:
                waiting += _halves(part)
        except RequestFailed as failed:
            failures += 1
            if failures > most and not settled:
                raise SinkAway(f"it fails at everything: {failed.words}") from None
            if len(part) == 1:
                outcomes.fail(part[0], SinkError(failed.words))
            else:
                waiting += _halves(part)
        except SinkAway as away:
            if not settled:
                raise
            for index in (*part, *(index for other in waiting for index in other)):
                outcomes.fail(index, away)
            return words
    return words


def _without_one_taken(
    waiting: Sequence[Sequence[int]], send: Callable[[Sequence[int]], object], words: Sequence[str]
) -> list[Sequence[int]]:
    """What still waits, without an event that the target takes: a few from all over are asked for.

    Raises:
        SinkRefused: it takes none of them either. So a schema that does not fit costs a few requests, not two for
        each event.
    """
    indexes = [index for part in reversed(waiting) for index in part]
    for index in indexes[:: -max(len(indexes) // MANY, 1)][:MANY]:
        try:
            send([index])
        except (RequestRefused, RequestFailed):
            continue
        left = ([other for other in part if other != index] for part in waiting)
        return [part for part in left if part]
    if indexes:
        raise _at_fault(len(words), words)
    return []


def _at_fault(count: int, words: Sequence[str]) -> SinkRefused:
    return SinkRefused(f"it takes none of {count:,} events: {words[0]}")


def _halves(part: Sequence[int]) -> list[Sequence[int]]:
    """The two halves, the second first: what is taken from the end comes in order."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]
