"""ListCalls: how one list queue is asked things by an application: on lent connections, again while the server is away.

Safe for threads. A forked child begins with connections of its own.
"""

import os
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

from pipeline.backoff import Backoff
from pipeline.errors import ClosedError, MillstreamError, UnsupportedServerError
from pipeline.list_options import ListOptions
from pipeline.observe.log import get_logger
from pipeline.server.connect import Connector, Link
from pipeline.server.error_map import Reaction, row_of
from pipeline.server.link_pool import LinkPool

AGAIN = Backoff(initial_ms=50, longest_ms=1_000)
"""Between tries while the server is away or refuses for a cause that may pass."""
PASSING = (Reaction.WAIT, Reaction.ELSEWHERE)

T = TypeVar("T")
_log = get_logger("list")


class ListCalls:
    """Asks the server about one list queue."""

    def __init__(self, options: ListOptions, connector: Connector, away_ms: int, *, durable: bool) -> None:
        self.options = options
        self.away_ms = away_ms
        self.connector = connector
        self.closed = False
        self.on_fork: list[Callable[[], None]] = []
        """What else a forked child begins anew."""
        self._durable = durable
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self.links = LinkPool(self.connector, "list")
        self._told = False
        # Not closed with the queue: whoever waits at it just then would wait at another file by that number.
        self._wake = os.pipe()
        weakref.finalize(self, _close, self._wake)

    @property
    def wake(self) -> int:
        """A descriptor that can be read once the queue is closed: whoever waits ends."""
        return self._wake[0]

    def usable(self) -> None:
        """Begin anew in a forked child. Raises: ClosedError."""
        if self.closed:
            raise ClosedError(f"the list queue {self.options.name!r} is closed")
        if self._pid != os.getpid():
            self._begin()
            for begin in self.on_fork:
                begin()

    def asked(self, ask: Callable[[Link], T], until_s: float | None = None) -> T:
        """The answer; asked for again while the server is away or refuses for a cause that may pass, by default for as
        long as away_timeout says. Whatever is asked can be asked twice.

        Raises:
            MillstreamError: what does not pass, or lasts. ClosedError.
        """
        self.usable()
        if until_s is None:
            until_s = time.monotonic() + self.away_ms / 1_000
        tries = 0
        while True:
            try:
                with self.links.lent() as link:
                    self.tell()
                    return ask(link)
            except MillstreamError as error:
                if not self.passes(error) or time.monotonic() > until_s or self.closed:
                    raise
            tries += 1
            time.sleep(AGAIN.wait_ms(tries) / 1_000)

    def passes(self, error: MillstreamError) -> bool:
        """Whether it may pass: the server is away, or refuses just now, or a password in a file is being changed."""
        reaction = row_of(error).producer
        return reaction in PASSING or (reaction is Reaction.LOG_IN and self.connector.may_log_in_anew)

    def close(self) -> None:
        """Nothing more is asked; who waits ends."""
        self.closed = True
        if self._pid == os.getpid():
            os.write(self._wake[1], b".")
        self.links.close()

    def tell(self) -> None:
        """Say once how durable the server is."""
        if self._told:
            return
        capabilities = self.connector.capabilities()
        if self._durable and (capabilities.aof is False or capabilities.evicts):
            raise UnsupportedServerError(
                f"list queue {self.options.name!r} is to be durable, and {self.connector.shown} is not: "
                f"{capabilities.durability_line()}"
            )
        self._told = True
        say = _log.info if capabilities.aof and not capabilities.evicts else _log.warning
        say(f"connected to {self.connector.shown}: {capabilities.durability_line()}", list=self.options.name)


def _close(descriptors: tuple[int, int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
