"""Exchange: one producer's connection: writes batches, and reads their answers in the order they were written.

Stands on a link. Decides nothing: answers go to whoever holds the outbox. After a failure it is disconnected, and
what was in flight is forgotten here; the batches themselves live in the outbox.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.errors import AccessDeniedError, MillstreamError, NotConnectedError, ServerRefusedError
from pipeline.options import ProducerOptions
from pipeline.server.append import Answer, Appended, AppendOptions, OneAppend, append_command, parse_append
from pipeline.server.connect import Command, Connector, Link
from pipeline.server.scripts import script
from producers.batch import Batch, Batches
from producers.confirm import Level
from producers.encoder import Encoder
from producers.outbox import MAX_IDLE_STREAMS

DAY_MS = 86_400_000
LONGEST_SLEEP_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back for one batch: the script's answer, and whether the confirm level was reached behind it."""

    batches: Batches
    batch: Batch
    answer: Answer
    reached: bool | None
    """None: not known, the connection broke before."""
    level_error: MillstreamError | None


class _Flight(NamedTuple):
    """Requests written together, whose answers come in the same order."""

    batches: Sequence[tuple[Batches, Batch]]
    loads: bool
    waits: bool
    sent_ms: float


class Exchange:
    """Connected or not. Used by the sender's thread, and while that sleeps by a thread that sends, under its lock."""

    def __init__(
        self, connector: Connector, encoder: Encoder, options: ProducerOptions, level: Level
    ) -> None:
        self.connector = connector
        self._encoder = encoder
        self._options = options
        self._level = level
        self._append = AppendOptions(
            expiry_ms=max(DAY_MS, 2 * options.send_timeout_ms),
            dedupe_for_ms=options.dedupe_for_ms,
            max_stream_entries=options.max_stream_entries,
        )
        self._renew_ms = (self._append.expiry_ms - 2 * options.send_timeout_ms) / 2
        """So long the server's record of a stream is left alone, in ms: it always lasts for twice the send timeout."""
        self._appends: dict[str, OneAppend] = {}
        """What appends one event to a stream, by its name."""
        self._renew_at_ms: dict[str, float] = {}
        """When it is next renewed, where that was asked for over this connection, and not refused."""
        # Read in the caller's thread: its first use imports modules, and a fork in the midst of an import in another
        # thread leaves the child with half a module.
        self._script = script("append")
        self._link: Link | None = None
        self._flights: deque[_Flight] = deque()
        self._load = True
        self._load_error: MillstreamError | None = None
        self._wait: tuple[str | int, ...] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None

    @property
    def in_flight(self) -> int:
        """How many answers are awaited; with a level, of how many requests."""
        return len(self._flights)

    @property
    def answer_by_ms(self) -> float:
        """When the next answer is overdue."""
        flight = self._flights[0]
        return flight.sent_ms + self.connector.timeout_ms + (self._level.timeout_ms if flight.waits else 0)

    def connect(self) -> None:
        """Connect, and check that this server can give the confirm level: it may be another than last time.

        Raises:
            NotConnectedError: unreachable. AccessDeniedError, UnsupportedServerError: it is no use trying on.
        """
        self.connector.forget_capabilities()
        link = self.connector.link("producer")
        try:
            server = self.connector.capabilities()
            self._level.check(server, replicas_too=False)
        except MillstreamError:
            link.close()
            raise
        self._link = link
        self._wait = self._level.command(server) if self._level.waits else None
        self._load = True

    def disconnect(self) -> None:
        """Close the connection; what is in flight has no answer any more."""
        link, self._link = self._link, None
        self._flights.clear()
        self._renew_at_ms.clear()
        if link is not None:
            link.close()

    def write(self, taken: Sequence[tuple[Batches, Batch]], now_ms: float) -> None:
        """Put batches on the wire, in this order, and behind them what waits for the confirm level."""
        commands: list[Command] = []
        loads, self._load = self._load, False
        if loads:
            commands.append(("SCRIPT", "LOAD", self._script.text))
        for batches, batch in taken:
            commands.append(self._command(batches, batch, now_ms))
        if self._wait is not None:
            commands.append(self._wait)
        # In flight before it is written: a write that breaks may have reached the server in part. One wait for a level
        # stands behind all batches written together; else each is answered, and makes room for the next, by itself.
        if self._wait is not None:
            self._flights.append(_Flight(taken, loads, True, now_ms))
        else:
            self._flights += [
                _Flight([one], loads and not index, False, now_ms) for index, one in enumerate(taken)
            ]
        self._open().post(*commands)

    @property
    def open_to_one(self) -> bool:
        """Whether write_one() may be used: connected, the script is known, and no level is waited for."""
        return self._link is not None and not self._load and self._wait is None

    def write_one(self, batches: Batches, batch: Batch, now_ms: float) -> None:
        """write() of a batch that holds one entry of one event."""
        stream = batches.keys.stream
        append = self._appends.get(stream)
        if append is None:
            if len(self._appends) >= MAX_IDLE_STREAMS:
                self._appends.clear()
            append = self._appends[stream] = OneAppend(batches.keys, self._encoder.producer, self._append)
        header, body = batch.chunks[0].values
        command = append.command(batch.number, batch.base, header, body, renew=self._renews(stream, now_ms))
        self._flights.append(_Flight(((batches, batch),), False, False, now_ms))
        self._open().post(command)

    @property
    def unsent(self) -> bool:
        """Whether the socket has not taken all that was written."""
        return self._link is not None and self._link.unsent

    def spoil(self, error: BaseException) -> None:
        """Have whoever waits for answers find the connection broken."""
        if self._link is not None:
            self._link.spoil(error)

    def ready(self, timeout_ms: float | None, wake: int) -> bool:
        """Whether the next answer, or the end of the connection, is there within the time; `wake` ends the wait."""
        wait_ms = LONGEST_SLEEP_MS if timeout_ms is None else int(max(timeout_ms, 0)) + 1
        return self._open().ready(wait_ms, wake=wake)

    def ended(self, timeout_ms: float, wake: int) -> bool:
        """Whether the connection ends within the time, whatever answers come; `wake` ends the wait."""
        return self._open().ended(int(timeout_ms), wake=wake)

    def read(self) -> tuple[list[Answered], NotConnectedError | None]:
        """The answers to what was written first, and all others that came with them; if the connection broke, that.

        What was answered before it broke counts: else a connection that breaks again and again would never get on.
        """
        answered: list[Answered] = []
        try:
            self._read_flight(answered)
            while self._flights and not self._flights[0].waits and self._open().received():
                self._read_flight(answered)
        except NotConnectedError as error:
            return answered, error
        return answered, None

    def _read_flight(self, answered: list[Answered]) -> None:
        """Add the answers to what was written first, as far as they come."""
        link, flight = self._open(), self._flights[0]
        answers: list[Answer] = []
        reached, level_error, known = True, None, not flight.waits
        try:
            if flight.loads:
                reply = link.read_or_error()
                self._load_error = reply if isinstance(reply, MillstreamError) else None
            for batches, _ in flight.batches:
                answers.append(self._answer(batches, parse_append(link.read_or_error())))
            if flight.waits:
                reply = link.read_or_error(self.connector.timeout_ms + self._level.timeout_ms)
                reached, known = self._level.reached(reply), True
                level_error = reply if isinstance(reply, MillstreamError) else None
            self._flights.popleft()
        finally:
            answered += [
                Answered(batches, batch, answer, reached if known else None, level_error)
                for (batches, batch), answer in zip(flight.batches, answers, strict=False)
            ]

    def _answer(self, batches: Batches, answer: Answer) -> Answer:
        if not isinstance(answer, Appended):  # then nothing was renewed
            self._renew_at_ms.pop(batches.stream, None)
        if isinstance(answer, ServerRefusedError) and answer.code == "NOSCRIPT":
            self._load = True
            if isinstance(self._load_error, AccessDeniedError):
                return self._load_error
        return answer

    def _command(self, batches: Batches, batch: Batch, now_ms: float) -> bytes:
        ids: dict[int, str] = {}
        values: list[Sequence[bytes]] = []
        entries = 0
        plain = all(chunk.plain for chunk in batch.chunks)
        for chunk in batch.chunks:
            if chunk.bodies:
                self._encoder.gather(chunk, self._options.pack)
            for index, event_id in chunk.dedupe.items():
                ids[entries + index] = event_id
            if plain == chunk.plain:
                values.append(chunk.values)
            else:
                bodies = iter(chunk.values)
                values += [[b"h", header, b"b", body] for header, body in zip(bodies, bodies, strict=True)]
            entries += chunk.entries
        return append_command(
            batches.keys,
            self._encoder.producer,
            number=batch.number,
            base=batch.base,
            values=values,
            entries=entries,
            plain=plain,
            renew=self._renews(batches.stream, now_ms),
            ids=ids,
            source=batch.source,
            before=batch.before,
            after=batch.after,
            position_expiry_ms=batch.expiry_ms,
            options=self._append,
        )

    def _renews(self, stream: str, now_ms: float) -> bool:
        """Whether what the server remembers of this producer is to be renewed with the batch that is sent now."""
        if now_ms < self._renew_at_ms.get(stream, 0.0):
            return False
        if len(self._renew_at_ms) >= MAX_IDLE_STREAMS:
            self._renew_at_ms.clear()
        self._renew_at_ms[stream] = now_ms + self._renew_ms
        return True

    def _open(self) -> Link:
        if self._link is None:
            raise NotConnectedError(f"not connected to {self.connector.shown}")
        return self._link
