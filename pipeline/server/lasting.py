"""Lasting: work that begins again where it was whenever a connection breaks or a server has trouble that passes."""

import threading
from collections.abc import Callable

from pipeline.backoff import RECONNECT
from pipeline.errors import ClosedError, MillstreamError, UnsupportedServerError, UsageError
from pipeline.server.error_map import Reaction, row_of


def until_done(
    attempt: Callable[[], None],
    *,
    stop: threading.Event,
    done: Callable[[], int],
    trouble: Callable[[MillstreamError], None],
) -> None:
    """Run an attempt, again and again until one comes to its end, or until the stop.

    Args:
        attempt: looks anew where it is to begin; leaves no connection open behind an error.
        done: how much has been done; while that grows, waits begin small.
        trouble: told of each failure that passes.

    Raises:
        MillstreamError: what no waiting mends.
    """
    tries, before = 0, done()
    while True:
        try:
            return attempt()
        except MillstreamError as error:
            if isinstance(error, UsageError | ClosedError | UnsupportedServerError):
                raise
            if row_of(error).producer not in (Reaction.WAIT, Reaction.ELSEWHERE, Reaction.TEACH):
                raise
            tries = 1 if done() > before else tries + 1
            before = done()
            trouble(error)
            if stop.wait(RECONNECT.wait_ms(tries) / 1_000):
                return None
