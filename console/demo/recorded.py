"""RecordedProducer: a producer that writes down which of its events the server confirmed, by the receipts.

Loses only lines of the account if killed: events may be in the stream that it does not name, never the other way round.
"""

from collections import deque
from typing import Any

from console.demo.account import AccountWriter, Confirmed
from pipeline.errors import SendError
from pipeline.observe.log import get_logger
from producers.batch import Chunk
from producers.producer import Producer
from producers.receipt import Receipt


class RecordedProducer(Producer):
    """Sends with confirm="fsynced", and keeps the receipts until they say how the sends ended."""

    def __init__(self, url: str, account: AccountWriter, **options: Any) -> None:
        super().__init__(url, confirm="fsynced", **options)
        self._account = account
        self._under_way: deque[Receipt] = deque()
        self._last: Receipt | None = None
        self.failed = 0

    def send(self, *args: Any, **given: Any) -> Receipt:
        """As Producer.send(); the receipt is kept too."""
        receipt = super().send(*args, **given)
        self._under_way.append(receipt)
        return receipt

    def add(self, stream: str, chunk: Chunk, *, block_ms: float | None = None) -> None:
        """As Producer.add(), which sources and log shippers use; one receipt may stand for many chunks."""
        super().add(stream, chunk, block_ms=block_ms)
        if self._last is not chunk.receipt:
            self._last = chunk.receipt
            self._under_way.append(chunk.receipt)

    def record(self) -> None:
        """Write down the sends that have ended since the last call."""
        lines: list[Confirmed] = []
        for _ in range(len(self._under_way)):
            receipt = self._under_way.popleft()
            if not receipt.done:
                self._under_way.append(receipt)
                continue
            error = receipt.error
            if error is None:
                lines += map(Confirmed, receipt.event_ids, receipt.entry_ids)
            else:
                self.failed += 1
                get_logger("demo").warning("event not confirmed", error=str(error))
        if lines:
            self._account.write(lines)

    def finish(self, timeout_s: float) -> int:
        """Send what is left, write down how it ended, and close; 0 if every send was confirmed."""
        try:
            self.flush(timeout_s)
        except TimeoutError as error:
            get_logger("demo").error("not all was confirmed in time", error=str(error))
        self.record()
        left = len(self._under_way)
        try:
            self.close(0)
        except SendError as error:
            get_logger("demo").error("closed with failed sends", error=str(error))
        return 1 if self.failed or left else 0
