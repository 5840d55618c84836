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
    """One sink's way of sending; remembers whether its target takes anything."""

    def __init__(self) -> None:
        self._took_some = False
        """Ever."""
        self._alive = False
        """It took something since it last failed: what it fails at then may be an event's fault."""

    def __call__(
        self, parts: Sequence[Sequence[int]], send: Callable[[Sequence[int]], object], outcomes: Outcomes
    ) -> None:
        """Send the events of each part, in halves where the target refuses or fails; puts down what went wrong.

        One that is refused alone is rejected, with the target's words. One that fails alone is retried, which counts
        if the target has taken something since it last failed; else it is the target that is away.

        Args:
            parts: indexes of events, as many to a request as fit. send: hands over the events with some of the
                indexes; may put down outcomes of its own for them.

        Raises:
            SinkAway: the target takes nothing just now, and nothing was settled yet. SinkRefused: it refuses each of
                many events, and has never taken any.
        """
        call = _Call(send, outcomes, doubtful=not self._took_some)
        try:
            call.run(parts)
        except SinkAway:
            self._alive = False
            raise
        count = sum(map(len, parts))
        if len(call.refused) == count >= MANY and not self._took_some:
            raise _at_fault(count, call.refused)
        for index, words in call.failed:
            outcomes.fail(index, SinkError(words) if call.took_some or self._alive else SinkAway(words))
        self._alive = call.took_some or (self._alive and not call.failed)
        self._took_some = self._took_some or call.took_some


class _Call:
    """One batch being sent."""

    def __init__(
        self, send: Callable[[Sequence[int]], object], outcomes: Outcomes, *, doubtful: bool
    ) -> None:
        """doubtful: the target may be one that takes nothing at all."""
        self._send = send
        self._outcomes = outcomes
        self._doubtful = doubtful
        self._waiting: list[Sequence[int]] = []
        self.took_some = False
        self.refused: list[str] = []
        """The target's words for each event that was rejected."""
        self.failed: list[tuple[int, str]] = []
        """Events at which it failed, and its words."""

    def run(self, parts: Sequence[Sequence[int]]) -> None:
        """Send all; SinkAway or SinkRefused if nothing is settled by it."""
        self._waiting = [part for part in reversed(parts) if part]
        # As many as it takes to find a few that stand side by side.
        failures, most = 0, max(map(len, self._waiting), default=0).bit_length() + 4
        while self._waiting:
            if self._doubtful and not self.took_some and len(self.refused) == MANY:
                self._doubtful = False
                self._find_one_taken()
                continue
            part = self._waiting.pop()
            try:
                self._send(part)
                self.took_some = True
            except RequestRefused as refused:
                if len(part) == 1:
                    self._outcomes.reject(part[0], refused.words)
                    self.refused.append(refused.words)
                else:
                    self._waiting += _halves(part)
            except RequestFailed as failed:
                failures += 1
                if failures > most and not self._settled:
                    raise SinkAway(f"it fails at everything: {failed.words}") from None
                if len(part) == 1:
                    self.failed.append((part[0], failed.words))
                else:
                    self._waiting += _halves(part)
            except SinkAway as away:
                if not self._settled:
                    raise
                for index in (*part, *(index for other in self._waiting for index in other)):
                    self._outcomes.fail(index, away)
                return

    @property
    def _settled(self) -> bool:
        return self.took_some or bool(self.refused)

    def _find_one_taken(self) -> None:
        """Ask for a few events from all over, until the target takes one.

        Raises:
            SinkRefused: it takes none of them either. So a schema that does not fit costs a few requests, not two for
            each event.
        """
        indexes = [index for part in reversed(self._waiting) for index in part]
        for index in indexes[:: -max(len(indexes) // MANY, 1)][:MANY]:
            try:
                self._send([index])
            except (RequestRefused, RequestFailed):
                continue
            self.took_some = True
            left = ([other for other in part if other != index] for part in self._waiting)
            self._waiting = [part for part in left if part]
            return
        if indexes:
            raise _at_fault(len(self.refused), self.refused)


def _at_fault(count: int, words: Sequence[str]) -> SinkRefused:
    return SinkRefused(f"it takes none of {count:,} events: {words[0]}")


def _halves(part: Sequence[int]) -> list[Sequence[int]]:
    """The two halves, the second first: what is taken from the end comes in order."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]
