"""Lasting: work that begins again where it was whenever a connection breaks or a server has trouble that passes."""

import threading
import time
from collections.abc import Callable, Sequence

from pipeline.backoff import RECONNECT
from pipeline.errors import ClosedError, MillstreamError, UnsupportedServerError, UsageError
from pipeline.server.connect import Connector
from pipeline.server.error_map import Reaction, row_of

LOG_IN_S = 30.0
"""A password that stands in a file may be refused for so long: it is being changed."""
_PASSING = (Reaction.WAIT, Reaction.ELSEWHERE, Reaction.TEACH)


def until_done(
    attempt: Callable[[], None],
    *,
    stop: threading.Event,
    done: Callable[[], int],
    trouble: Callable[[MillstreamError], None],
    over: Sequence[Connector],
) -> None:
    """Run an attempt, again and again until one comes to its end, or until the stop.

    Args:
        attempt: looks anew where it is to begin; leaves no connection open behind an error.
        done: how much has been done; while that grows, waits begin small.
        trouble: told of each failure that passes.
        over: the connectors it is done over.

    Raises:
        MillstreamError: what no waiting mends.
    """
    tries, before, denied_s = 0, done(), 0.0
    while True:
        try:
            return attempt()
        except MillstreamError as error:
            if isinstance(error, UsageError | ClosedError | UnsupportedServerError):
                raise
            if done() > before:
                tries, denied_s = 0, 0.0
            reaction = row_of(error).producer
            if reaction is Reaction.LOG_IN and any(one.may_log_in_anew for one in over):
                denied_s = denied_s or time.monotonic()
                if time.monotonic() - denied_s > LOG_IN_S:
                    raise
            elif reaction not in _PASSING:
                raise
            tries += 1
            before = done()
            trouble(error)
            if stop.wait(RECONNECT.wait_ms(tries) / 1_000):
                return None
