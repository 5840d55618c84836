"""OwnKeys: the keys of one run of the bench, by a name that nobody else has, and their removal."""

import uuid
from collections.abc import Iterator

from pipeline.server.connect import Connector, Link

PREFIX = "millstream-bench-"
SCAN_COUNT = 1_000


class OwnKeys:
    """Names for one run. Whatever is written goes beneath them, and is removed by them."""

    def __init__(self) -> None:
        self.name = f"{PREFIX}{uuid.uuid4().hex[:10]}"
        self._groups = 0

    def stream(self, what: str) -> str:
        """A stream of this run."""
        return f"{self.name}-{what}"

    def group(self) -> str:
        """A group that no measurement before has used."""
        self._groups += 1
        return f"g{self._groups}"

    def remove(self, connector: Connector) -> int:
        """Remove all keys of this run, by a connection of its own; the number removed.

        Twice: what a process that was killed had on its way may have been carried out while we looked.
        """
        link = connector.link("bench-remove")
        try:
            return self._sweep(link) + self._sweep(link)
        finally:
            link.close()

    def left(self, link: Link) -> Iterator[bytes]:
        """The keys of this run that there are, some perhaps more than once."""
        cursor: bytes | int = 0
        while True:
            # Ours stand beside the stream, {stream}:…, as well as in its place.
            cursor, keys = link.call("SCAN", cursor, "MATCH", f"*{self.name}*", "COUNT", SCAN_COUNT)
            yield from keys
            if int(cursor) == 0:
                return

    def _sweep(self, link: Link) -> int:
        removed = 0
        for key in self.left(link):
            removed += link.call("UNLINK", key)
        return removed
