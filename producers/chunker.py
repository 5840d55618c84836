"""Chunker: cuts what one call sends into chunks under one receipt. Pure but for the clock.

A chunk is what is queued, sent and settled as one: as large as one call to the server may be, and small enough that the
buffer has room for several.
"""

from collections.abc import Mapping

from producers.batch import Chunk
from producers.encoder import Encoder, Pack
from producers.receipt import ReceiptOfMany
from producers.sender import Sender, now_ms

BUFFER_PARTS = 100
"""So many chunks at least are to find room in the buffer: so it can be filled to about a hundredth."""


class Chunker:
    """The chunks of one call, in order."""

    def __init__(self, sender: Sender, encoder: Encoder, events: int, given: Mapping[int, str]) -> None:
        options = sender.options
        self.chunks: list[Chunk] = []
        self.first = encoder.reserve(events) if events else 0
        """The number of the first event."""
        self._sender = sender
        self._now_ms = now_ms()
        self._receipt = ReceiptOfMany(self.first, events, dict(given) or None)
        self._index = 0
        self._most_bytes = min(options.batch_bytes, options.buffer_bytes // BUFFER_PARTS)
        # Where the oldest makes room for the newest, each event goes by itself.
        self.most = (
            1
            if options.when_full == "drop_oldest"
            else max(min(options.batch_events, options.buffer_events // BUFFER_PARTS), 1)
        )
        """Most entries of a chunk."""

    def add_plain(self, values: list[bytes]) -> None:
        """Add at most `most` events that have an entry each: header and body in turn."""
        size = sum(map(len, values)) + len(values)
        entries = len(values) // 2
        if size > self._most_bytes and entries > 1:
            middle = entries // 2 * 2
            self.add_plain(values[:middle])
            self.add_plain(values[middle:])
            return
        chunk = self._chunk()
        chunk.values = values
        chunk.entries = chunk.events = entries
        chunk.size_bytes = size
        self._index += entries

    def add_fields(self, fields: list[bytes], *, plain: bool, dedupe: str = "") -> None:
        """Add an event that has an entry to itself, as the fields of that entry."""
        chunk = self._chunk()
        chunk.plain = plain
        chunk.add(fields[1::2] if plain else fields, sum(map(len, fields)), dedupe=dedupe)
        self._index += 1

    def add_pack(self, pack: Pack) -> None:
        """Add a pack."""
        chunk = self._chunk()
        chunk.add(pack.fields[1::2], pack.size_bytes, events=pack.events)
        self._index += pack.events

    def _chunk(self) -> Chunk:
        chunk = self._sender.chunk("", self._now_ms, index=self._index)
        chunk.receipts.append(self._receipt)
        self._receipt.add_ending(chunk.ending)
        self.chunks.append(chunk)
        return chunk
