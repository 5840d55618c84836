"""ListPush: pushes tasks to a list queue, each once, however often the call has to be repeated.

Stands on ListCalls and lua/list_push.lua. Each thread that pushes at the same time is a producer of its own, with
numbers of its own: a number is used for one push only, and for its repeats. If the process is killed, what it was about
to push is in the list or is not.
"""

import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from consumers.list_calls import AGAIN, ListCalls
from pipeline.due import Due
from pipeline.errors import MillstreamError, NotConnectedError, SendError, SendUnknownError, WrongKeyTypeError
from pipeline.server.list_pop import of_list
from pipeline.server.list_push import Pushed, push


@dataclass(slots=True)
class Pusher:
    """A producer that one thread at a time uses."""

    id: str
    number: int = 0
    """Of its last push."""


class ListPush:
    """The pushing side of one list queue."""

    def __init__(self, calls: ListCalls) -> None:
        self._calls = calls
        self._free: deque[Pusher] = deque()
        calls.on_fork.append(self._free.clear)  # a child is other producers

    def push(self, payloads: Sequence[bytes], due: Due | None, priority: float | None) -> Pushed:
        """Push up to 500 tasks in one step.

        Raises:
            SendUnknownError: not answered in time, they may be there or not. SendError: they are not.
            UsageError: this queue cannot hold them. MillstreamError: what the server refused for good.
        """
        self._calls.usable()
        try:
            pusher = self._free.pop()
        except IndexError:
            pusher = Pusher(secrets.token_hex(8))
        pusher.number += 1
        try:
            return self._pushed(pusher, payloads, due, priority)
        finally:
            self._free.append(pusher)

    def _pushed(
        self, pusher: Pusher, payloads: Sequence[bytes], due: Due | None, priority: float | None
    ) -> Pushed:
        calls, options = self._calls, self._calls.options
        until_s = time.monotonic() + calls.away_ms / 1_000
        tries, doubtful = 0, False

        while True:
            try:
                with calls.links.lent() as link:
                    calls.tell()
                    try:
                        return push(
                            link, options, pusher.id, pusher.number, payloads, due=due, priority=priority
                        )
                    except NotConnectedError:
                        doubtful = True  # it may have been carried out
                        raise
                    except WrongKeyTypeError as error:
                        raise of_list(error, options, link) from None
            except MillstreamError as error:
                passing = calls.passes(error)
                if passing and time.monotonic() < until_s and not calls.closed:
                    pass
                elif doubtful:
                    raise SendUnknownError(
                        f"list {options.name!r}: no answer to a push within {calls.away_ms / 1_000:g} s "
                        f"(away_timeout): its tasks may be there or not: {error}"
                    ) from error
                elif passing:
                    raise SendError(
                        f"list {options.name!r}: nothing was pushed within {calls.away_ms / 1_000:g} s "
                        f"(away_timeout): {error}"
                    ) from error
                else:
                    raise
            tries += 1
            time.sleep(AGAIN.wait_ms(tries) / 1_000)
