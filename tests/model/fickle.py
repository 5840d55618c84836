"""Fickle: links that carry one command at a time to its end, and that lose replies, or requests, when told to.

What was sent has been carried out when send() returns, so that nobody else's step falls in between.
"""

from collections import deque
from collections.abc import Callable

from pipeline.errors import NotConnectedError
from pipeline.server.connect import Command, Connector, Link
from pipeline.server.replies import Reply

REPLY_MS = 20_000


class FickleLink(Link):
    """A link that reads every reply at once, and hands it out when asked for it, or loses it."""

    lose_from: int | None = None
    """So many replies from now on still arrive, and none after them; below 0: the next request does not arrive."""

    meanwhile: tuple[int, Callable[[], None]] | None = None
    """Behind so many requests from now on, somebody else does something before the next."""

    def __init__(self, connection: Link) -> None:
        super().__init__(connection._connection, connection._shown, REPLY_MS)
        self._arrived: deque[Reply] = deque()

    def send(self, *commands: Command) -> None:
        """See Link."""
        if self.lose_from is not None and self.lose_from < 0:
            self.close()
            raise NotConnectedError("the request was lost")
        super().send(*map(_at_once, commands))
        for _ in commands:
            self._arrived.append(super().read_or_error(REPLY_MS))
        if self.meanwhile is not None:
            behind, do = self.meanwhile
            self.meanwhile = (behind - 1, do) if behind else None
            if not behind:
                do()

    def read_or_error(self, timeout_ms: int | None = None) -> Reply:
        """See Link."""
        self._usable()
        if self.lose_from is not None:
            if self.lose_from == 0:
                self.close()
                raise NotConnectedError("the reply was lost")
            self.lose_from -= 1
        return self._arrived.popleft()

    def received(self) -> bool:
        """See Link."""
        return bool(self._arrived)

    def ready(self, timeout_ms: int = 0, wake: int | None = None) -> bool:
        """See Link."""
        self._usable()
        return bool(self._arrived)


class FickleConnector(Connector):
    """Makes fickle links; the next one loses what `lose_from` says, and is interrupted as `meanwhile` says."""

    lose_from: int | None = None
    meanwhile: tuple[int, Callable[[], None]] | None = None

    def link(self, purpose: str = "", *, timeout_ms: int | None = None) -> FickleLink:
        """See Connector."""
        link = FickleLink(super().link(purpose, timeout_ms=timeout_ms))
        link.lose_from, self.lose_from = self.lose_from, None
        link.meanwhile, self.meanwhile = self.meanwhile, None
        return link


def _at_once(command: Command) -> Command:
    """The command without its wait at the server, which looks for who waited long enough ten times a second."""
    if isinstance(command, bytes) or "BLOCK" not in command:  # one that is packed already is an append
        return command
    at = command.index("BLOCK")
    return [*command[:at], *command[at + 2 :]]
