"""Persistent: asks the server over one link, made anew when it breaks, and waits out what passes by itself.

For work that a person started and that goes on for a while, such as a replay. What is asked must bear repeating: an
answer that was lost on the way is asked for again.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.backoff import Backoff
from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.server.connect import Connector, Link
from pipeline.server.error_map import Reaction, row_of

Answer = TypeVar("Answer")
WAITS = Backoff(initial_ms=100, longest_ms=1_000)


class Persistent:
    """One connection that outlives those it is made of."""

    def __init__(
        self,
        connector: Connector,
        purpose: str,
        *,
        patience_ms: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """patience_ms: how long trouble may last before it is raised; say: told of it, and, empty, of its end."""
        self._connector = connector
        self._purpose = purpose
        self.patience_ms = patience_ms
        self.say = say or (lambda trouble: None)
        self._link: Link | None = None
        self.repeated = False
        """The last answer came to a question that may have been carried out before: its answer was lost."""

    def ask(self, question: Callable[[Link], Answer]) -> Answer:
        """The answer, as soon as there is one.

        Raises:
            MillstreamError: what no waiting mends, at once; what passes (error_map), if it lasts for patience_ms.
        """
        since_s, failures, sent = 0.0, 0, False
        self.repeated = False
        while True:
            try:
                if self._link is None or self._link.closed:
                    self._link = self._connector.link(self._purpose)
                self.repeated = self.repeated or sent
                sent = True
                answer = question(self._link)
            except MillstreamError as error:
                reaction = row_of(error).producer
                if reaction not in (Reaction.WAIT, Reaction.ELSEWHERE):
                    raise
                if not isinstance(error, NotConnectedError):
                    sent = False  # it did nothing
                now_s = time.monotonic()
                since_s = since_s or now_s
                if (now_s - since_s) * 1_000 >= self.patience_ms:
                    raise
                if self._link is not None and reaction is Reaction.ELSEWHERE:
                    self._link.close()
                failures += 1
                self.say(str(error))
                time.sleep(WAITS.wait_ms(failures) / 1_000)
                continue
            if failures:
                self.say("")
            return answer

    def close(self) -> None:
        """Close the connection; the next question makes another."""
        if self._link is not None:
            self._link.close()
            self._link = None
