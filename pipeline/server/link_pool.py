"""LinkPool: connections to one server, each lent to one thread at a time."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator

from pipeline.errors import MillstreamError
from pipeline.server.connect import Connector, Link


class LinkPool:
    """As many connections as threads use at the same time, made when they are first needed. A forked child has none."""

    def __init__(self, connector: Connector, purpose: str) -> None:
        self._connector = connector
        self._purpose = purpose
        self._free: deque[Link] = deque()  # its steps are atomic: a signal handler may borrow one, too
        self._pid = os.getpid()
        self._closed = False

    @contextlib.contextmanager
    def lent(self) -> Iterator[Link]:
        """A connection, for the block. One that is left in the midst of something is closed.

        Raises:
            MillstreamError: there is no free one, and the server cannot be reached.
        """
        link = self.borrow()
        try:
            yield link
        except (
            MillstreamError
        ):  # an answer: the next reply belongs to the next command; a broken one is closed
            self.give_back(link)
            raise
        except BaseException:  # nobody knows what is still to come on it
            link.close()
            raise
        self.give_back(link)

    def borrow(self) -> Link:
        """A connection of the caller's until give_back()."""
        if self._pid != os.getpid():
            self._free, self._pid = deque(), os.getpid()
        while self._free:
            with contextlib.suppress(IndexError):  # another thread took the last
                link = self._free.pop()
                if not link.closed:
                    return link
        return self._connector.link(self._purpose)

    def give_back(self, link: Link) -> None:
        """The connection is free, with no reply to come; a closed one is dropped."""
        if self._closed or self._pid != os.getpid():
            link.close()
        elif not link.closed:
            self._free.append(link)

    def close(self) -> None:
        """Close those that are free, and those that are lent when they are given back."""
        self._closed = True
        while self._free:
            with contextlib.suppress(IndexError):
                self._free.pop().close()
