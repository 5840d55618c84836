"""Patient: a sink that is away costs no event an attempt; what it refuses for good is that event's alone."""

import errno
import logging
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.sinks.by_url import SINKS, kind_of, sink
from consumers.sinks.patient import Patient
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.outcome import Later, Outcomes
from tests.consuming import Consuming
from tests.until import until


class Target:
    """A sink that does what each call is told; then it takes everything."""

    def __init__(self, *answers: Exception | Callable[[list[Event]], Outcomes | None]) -> None:
        self.answers = list(answers)
        self.taken: list[int] = []
        self.calls = 0
        self.closed = 0

    def __call__(self, events: list[Event]) -> Outcomes | None:
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        outcomes = answer(events) if answer is not None else None
        bad = outcomes.errors if outcomes is not None else {}
        self.taken += [event.data["n"] for i, event in enumerate(events) if i not in bad]
        return outcomes

    def close(self) -> None:
        self.closed += 1


def events(count: int) -> list[Event]:
    """Numbered events."""
    return [Event({"n": n}, id=str(n)) for n in range(count)]


@pytest.mark.parametrize(
    "error",
    [
        SinkAway("503"),
        SinkRefused("401"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        ConnectionRefusedError("nobody there"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_waits_in_hand_for_a_target_that_comes_back(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, and both is said."""
    target = Target(error, error)
    with caplog.at_level(logging.INFO, "millstream"):
        assert Patient(target, "t:x")(events(3)) is None
    assert (target.taken, target.calls) == ([0, 1, 2], 3)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, "one line a second of one cause, and one at the end"
    assert "events wait" in said[0]
    assert "t:x" in said[0]
    assert "takes events again" in said[1]


def test_a_target_that_stays_away_puts_the_batch_off() -> None:
    """After its patience; for longer while nothing gets through, and as long as the target asks for."""
    target = Target(*[SinkAway("down")] * 1_000)
    patient = Patient(target, "t", patience=0)
    waits = []
    for _ in range(6):
        with pytest.raises(Later) as caught:
            patient(events(1))
        waits.append(caught.value.delay_ms)
    assert 2_500 <= waits[0] <= 5_000
    assert 30_000 <= waits[-1] <= 60_000
    target.answers[:] = [SinkAway("429", retry_after_s=90)]
    began_s = time.monotonic()
    with pytest.raises(Later) as caught:
        Patient(target, "t", patience="8s")(events(1))
    assert caught.value.delay_ms >= 90_000
    assert time.monotonic() - began_s < 5, "it is not waited for in hand when that is hopeless"


def test_an_error_that_is_no_absence_is_raised_at_once() -> None:
    """What a handler raises is retried and counted, as ever."""
    target = Target(ValueError("a bug"), OSError(errno.EACCES, "Permission denied"))
    for error in (ValueError, PermissionError):
        with pytest.raises(error):
            Patient(target, "t")(events(1))
    assert target.calls == 2


def test_one_event_that_is_put_off_spends_no_attempt() -> None:
    """Its SinkAway becomes Later; what is rejected stays rejected."""

    def answer(_: list[Event]) -> Outcomes:
        outcomes = Outcomes()
        outcomes.fail(1, SinkAway("too many requests", retry_after_s=3_600))
        outcomes.reject(2, "no")
        return outcomes

    outcomes = Patient(Target(answer), "t")(events(4))
    assert outcomes is not None
    later = outcomes.errors[1]
    assert isinstance(later, Later)
    assert later.delay_ms >= 3_600_000
    assert str(outcomes.errors[2]) == "no"


def test_a_sink_that_is_away_makes_no_dead_letter(consuming: Consuming) -> None:
    """On a real server: away, then refusing one event, then well. No attempt is spent by the absence."""

    def refuse_three(batch: list[Event]) -> Outcomes:
        outcomes = Outcomes()
        for index, event in enumerate(batch):
            if event.data["n"] == 3:
                outcomes.reject(index, "the target says: no threes")
        return outcomes

    target = Target(SinkAway("down"), SinkAway("down"), refuse_three)
    consuming.app.consumer(consuming.stream, group="g", batch=10, retry=1)(Patient(target, "t", patience=0))
    consuming.send(*({"n": n} for n in range(10)))
    with consuming.running():
        for calls in (1, 2):
            until(lambda calls=calls: target.calls == calls and consuming.waiting() == 10)  # type: ignore[misc]
            consuming.advance(120_000)
        consuming.until_drained()
    assert sorted(target.taken) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    (dead,) = consuming.dead()
    assert dead[0].reason == "the target says: no threes"


def test_too_many_open_files_cost_no_event_an_attempt(tmp_path: Path) -> None:
    """The process's limit is not the events' fault: they wait."""
    with sink(f"jsonl:{tmp_path}/out.jsonl", patience=0) as target:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            with pytest.raises(Later):
                target(events(1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert target([Event({"n": 1}, id="1", time_ms=1)]) is not None


def test_every_sink_that_is_listed_is_there() -> None:
    """Its module declares it, and what it says of options is true of their defaults."""
    for scheme, listed in SINKS.items():
        kind = kind_of(listed.example)
        assert listed.example.partition(":")[0].partition("+")[0] == scheme
        for option in kind.options:
            assert option.help
            if option.default is not None:
                option.value(option.default)


def test_a_sink_is_closed_with_its_block() -> None:
    """Whatever happens in it."""
    target = Target()
    with pytest.raises(ZeroDivisionError), Patient(target, "t"):
        _ = 1 / 0
    assert target.closed == 1


def test_an_unknown_sink_names_those_there_are() -> None:
    """And the near one."""
    with pytest.raises(
        UsageError, match=r"no sink 'json:'; there are: console:, jsonl:.*did you mean jsonl:"
    ):
        sink("json:x")
