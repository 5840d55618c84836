"""Bridge sign: while a bridge is at work, a key beside the list says so, and one in the other direction does not begin.

Both at once would pass the same tasks round for ever, and whoever reads the stream would do them each time. The sign
expires, so a bridge that was killed holds nobody up for longer than SIGN_MS. It is a courtesy and no lock: a server
that is out of memory, or a user without the right, has none, and the bridge works all the same.
"""

import secrets
import threading

from pipeline.errors import MillstreamError, UsageError
from pipeline.list_options import ListOptions
from pipeline.server.connect import Connector, Link

SIGN_MS = 15_000
RENEW_S = 3.0


class BridgeSign:
    """The sign of one bridge between a list and a stream."""

    def __init__(
        self, connector: Connector, queue: ListOptions, stream: str, *, to_stream: bool, stop: threading.Event
    ) -> None:
        """connector: to the list's server. stop: set if one in the other direction is at work all the same."""
        self._connector = connector
        ways = [queue.keys.bridging("to", stream), queue.keys.bridging("from", stream)]
        self._own, self._other = ways if to_stream else ways[::-1]
        from_list, back = f"from list {queue.name!r} to stream {stream!r}", "the way back"
        running, begun = (back, from_list) if to_stream else (from_list, back)
        self._said = (
            f"a bridge is at work {running} and another is to be {begun}: tasks would go round for ever; "
            f"stop it first (one that was killed counts for {SIGN_MS // 1_000} s)"
        )
        self._token = secrets.token_hex(8)
        self._stop = stop
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._crossed = False

    def put_up(self) -> None:
        """Say that this bridge is at work, from now until close(); again in each attempt.

        Raises:
            UsageError: one in the other direction is. NotConnectedError: the server cannot be asked.
        """
        link = self._connector.link("sign")
        try:
            # Looked at first: a sign of ours, though for a moment, would stop the one that is at work.
            if self._answered(link, ("EXISTS", self._other)) == 1 or self._renewed(link):
                self._take_down(link)
                raise UsageError(self._said)
        finally:
            link.close()
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="millstream-sign", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """The bridge has ended.

        Raises:
            UsageError: it was stopped since one in the other direction came to be at work.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            try:
                link = self._connector.link("sign")
                try:
                    self._take_down(link)
                finally:
                    link.close()
            except MillstreamError:
                pass  # the server is away, as the bridge has said by itself: the sign expires
        if self._crossed:
            raise UsageError(self._said)

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                link = self._connector.link("sign")
                try:
                    self._crossed = self._renewed(link)
                finally:
                    link.close()
            except MillstreamError:
                continue  # the bridge has the same trouble, says so, and waits
            if self._crossed:
                self._stop.set()
                return

    def _renewed(self, link: Link) -> bool:
        """Put up the sign for another SIGN_MS; whether there is one of the other direction."""
        self._answered(link, ("SET", self._own, self._token, "PX", SIGN_MS))
        return self._answered(link, ("EXISTS", self._other)) == 1

    def _take_down(self, link: Link) -> None:
        """Remove the sign, unless another bridge in this direction has renewed it."""
        if self._answered(link, ("GET", self._own)) == self._token.encode():
            self._answered(link, ("DEL", self._own))

    def _answered(self, link: Link, command: tuple[str | int, ...]) -> object:
        """The answer; an error of the server is an answer, too."""
        return link.calls([command])[0]
