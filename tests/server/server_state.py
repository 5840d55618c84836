"""ServerState: what tests of scripts ask of the server itself, and do to it, over the link they use."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.server.connect import Link


class ServerState:
    """A base of what drives scripts over a link."""

    link: Link

    def server_ms(self) -> int:
        """The server's clock."""
        seconds, micros = self.link.call("TIME")
        return int(seconds) * 1_000 + int(micros) // 1_000

    @contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """The server refuses whatever needs memory. Only on a server of the test's own."""
        self.link.call("CONFIG", "SET", "maxmemory", 1)
        try:
            yield
        finally:
            self.link.call("CONFIG", "SET", "maxmemory", 0)
