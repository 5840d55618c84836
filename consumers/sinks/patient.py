"""Patient: a sink whose target may be away for a while: that is not its events' fault.

What passes (unreachable, slow, full disk, 429) and what a person has to mend (password, right, table) is waited for,
first with the batch in hand, then by putting the batch off: no attempt is spent, and nothing becomes a dead letter.
"""

import errno
import threading
import time
from socket import gaierror
from types import TracebackType

from consumers.sinks.kind import Sink
from pipeline.backoff import Backoff
from pipeline.errors import SinkAway, SinkRefused
from pipeline.event import Event
from pipeline.observe.log import Limited, get_logger
from pipeline.outcome import Later, Outcomes
from pipeline.units import Duration, duration_ms, show_duration

PATIENCE = "8s"
"""How long a batch waits in hand, well within grace; then its events are put off."""
AGAIN = Backoff(initial_ms=200, longest_ms=2_000, jitter=0.5)
"""Between tries with a batch in hand."""
PUT_OFF = Backoff(initial_ms=5_000, longest_ms=60_000, jitter=0.5)
"""For how long a batch is put off: longer while nothing gets through."""
_PASSING = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOLCK,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN,
    errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN,
)  # fmt: skip
"""Of the disk, of what the process or the machine may have open, of the network: no event is the cause of these."""
_log = get_logger("sink")


class Patient:
    """A batch handler around a sink: waits while its target is away, then puts events off without counting it.

    Example:
        app.consumer("logs", group="archive", batch=500)(Patient(my_sink, "my_sink"))
    """

    def __init__(
        self, sink: Sink, name: str, *, patience: Duration = PATIENCE, batch_events: int = 500
    ) -> None:
        """name: what logs call it, without a password; patience: how long a batch waits in hand, below grace."""
        self.__qualname__ = name
        self.batch_events = batch_events
        """Events that the sink is best given at a time, for `batch=`."""
        self._sink = sink
        self._patience_s = duration_ms(patience, "patience") / 1_000
        self._say = Limited(_log)
        self._lock = threading.Lock()
        self._away_since_s: float | None = None
        self._put_off = 0

    def __call__(self, events: list[Event]) -> Outcomes | None:
        """Hand the events over; those that the target does not take in time are put off."""
        deadline_s, tries = time.monotonic() + self._patience_s, 0
        while True:
            try:
                outcomes = self._sink(events)
            except SinkAway as error:
                away = error
            except (OSError, TimeoutError) as error:
                if not _passes(error):
                    raise
                away = SinkAway(error.strerror or str(error) or type(error).__name__)
            else:
                return self._some_put_off(outcomes)
            tries += 1
            self._met(away, len(events))
            wait_s = max(AGAIN.wait_ms(tries) / 1_000, away.retry_after_s or 0)
            if time.monotonic() + wait_s > deadline_s:
                raise Later(self._put_off_s(away)) from None
            time.sleep(wait_s)

    def close(self) -> None:
        """Close the sink: what it holds is written."""
        self._sink.close()

    def __enter__(self) -> "Patient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _some_put_off(self, outcomes: Outcomes | None) -> Outcomes | None:
        """The outcomes, with those events put off that the target does not take just now."""
        away = (
            {} if outcomes is None else {i: e for i, e in outcomes.errors.items() if isinstance(e, SinkAway)}
        )
        if outcomes is None or not away:
            self._back()
            return outcomes
        self._met(next(iter(away.values())), len(away))
        for index, error in away.items():
            outcomes.later(index, self._put_off_s(error))
        return outcomes

    def _met(self, away: SinkAway, events: int) -> None:
        refused = isinstance(away, SinkRefused)
        with self._lock:
            if self._away_since_s is None:
                self._away_since_s = time.monotonic()
        self._say.warning(
            type(away).__name__,
            "the sink refuses: events wait until somebody mends it"
            if refused
            else "the sink takes nothing just now: events wait",
            sink=self.__qualname__,
            why=str(away),
            events=events,
        )

    def _back(self) -> None:
        if self._away_since_s is None:
            return
        with self._lock:
            since_s, self._away_since_s, self._put_off = self._away_since_s, None, 0
        if since_s is not None:
            away = show_duration((time.monotonic() - since_s) * 1_000)
            _log.info("the sink takes events again", sink=self.__qualname__, away_for=away)

    def _put_off_s(self, away: SinkAway) -> float:
        with self._lock:
            self._put_off += 1
            return max(PUT_OFF.wait_ms(self._put_off) / 1_000, away.retry_after_s or 0)


def _passes(error: OSError) -> bool:
    return isinstance(error, ConnectionError | TimeoutError | gaierror) or error.errno in _PASSING
