"""The sinks over HTTP, each against what stands for its target: all of them come through the same troubles."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.sinks.patient import Patient
from pipeline.errors import DecodeError, SinkAway, SinkError, SinkRefused
from pipeline.outcome import Later, Outcomes, Reject
from tests.http_fake import HttpFake, Reply, fake
from tests.sink_targets import Down, Target, targets
from tests.sinking import CANARY, TIME_MS, corrupt, handed, log_events, made


@pytest.fixture(params=targets(), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    """One after the other, each new for each test."""
    name = request.param.name
    return next(one for one in targets() if one.name == name)


@pytest.fixture
def server(target: Target) -> Iterator[HttpFake]:
    """It, listening."""
    with fake(target.like) as running:
        yield running


def ids(numbers: range) -> list[str]:
    """Those of log_events()."""
    return [f"p-{number}" for number in numbers]


def test_a_batch_arrives(target: Target, server: HttpFake) -> None:
    """Each event once, in one request."""
    assert handed(target.url(server.place), log_events(range(100))).errors == {}
    assert sorted(target.has(target.like)) == sorted(ids(range(100)))
    assert len(server.requests) == 1
    assert target.name == "webhook" or server.requests[0].headers["content-encoding"] == "gzip"


def test_the_same_batch_again_is_there_once(target: Target, server: HttpFake) -> None:
    """The answer to the first was lost."""
    server.answer = Down(target.like)
    for _ in range(2):
        assert handed(target.url(server.place), log_events(range(10))).errors == {}
    if target.name != "otlp":  # which has no ids to know them by
        assert sorted(target.has(target.like)) == sorted(ids(range(10)))


def test_events_that_come_again_in_another_batch(target: Target, server: HttpFake) -> None:
    """Are there once, where the target can tell."""
    for numbers in (range(10), range(5, 15)):
        assert handed(target.url(server.place), log_events(numbers)).errors == {}
    assert set(target.has(target.like)) == set(ids(range(15)))
    if target.once:
        assert len(target.has(target.like)) == 15


def test_one_event_that_is_refused_pays_alone(target: Target, server: HttpFake) -> None:
    """It is rejected in the target's words; one that cannot be read fails by itself; the rest arrives."""
    events = log_events(range(50))
    events[17] = target.bad(17)
    events[31] = corrupt(31)
    outcomes = handed(target.url(server.place), events)
    assert {index: type(error) for index, error in outcomes.errors.items()} == {17: Reject, 31: DecodeError}
    assert target.words in str(outcomes.errors[17])
    assert set(target.has(target.like)) == set(ids(range(50))) - {"p-17", "p-31"}


def test_a_batch_of_which_nothing_can_be_read_asks_for_nothing(target: Target, server: HttpFake) -> None:
    """No empty request."""
    assert set(handed(target.url(server.place), [corrupt(), corrupt(1)]).errors) == {0, 1}
    assert server.requests == []


@pytest.mark.parametrize(
    ("reply", "kind", "retry_after_s"),
    [
        (Reply(429, "slow down"), SinkAway, None),
        (Reply(503, "<html>no upstream</html>", {"Retry-After": "3"}), SinkAway, 3.0),
        (Reply(502), SinkAway, None),
        (Reply(401, "who are you?"), SinkRefused, None),
        (Reply(403, "not you"), SinkRefused, None),
        (Reply(404, "no such page"), SinkRefused, None),
        (Reply(301, "", {"Location": "http://elsewhere/"}), SinkRefused, None),
        (Reply(200, "<html>please log in</html>"), SinkAway, None),
        (Reply(200, b"\x00\xff\xfe{{{"), SinkAway, None),
        (Reply(200, '{"errors": tru', cut_at=10), SinkAway, None),
        (Reply(cut_at=0), SinkAway, None),
    ],
    ids=str,
)
def test_what_is_not_the_events_fault_costs_them_nothing(
    target: Target,
    server: HttpFake,
    reply: Reply,
    kind: type[SinkAway],
    retry_after_s: float | None,
    tmp_path: Path,
) -> None:
    """They wait; no token is shown in what is said."""
    (tmp_path / "token").write_text(CANARY)
    server.answer = lambda _: reply
    if target.name == "webhook" and reply.status == 200 and reply.cut_at is None:
        assert (
            handed(target.url(server.place), log_events(range(3))).errors == {}
        )  # may be all that it ever says
        return
    with pytest.raises(SinkAway) as raised:
        handed(target.url(server.place, f"&token_file={tmp_path}/token"), log_events(range(3)))
    assert type(raised.value) is kind
    assert raised.value.retry_after_s == retry_after_s
    assert CANARY not in str(raised.value)
    assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"


def test_an_event_at_which_the_target_crashes_is_retried(target: Target, server: HttpFake) -> None:
    """500 may be the event's fault: it pays with attempts, and alone."""
    server.answer = lambda request: (
        Reply(500, "panic: nil") if b"k7" in request.body else target.like(request)
    )
    outcomes = handed(target.url(server.place), log_events(range(20)))
    assert {index: type(error) for index, error in outcomes.errors.items()} == {7: SinkError}
    assert set(target.has(target.like)) == set(ids(range(20))) - {"p-7"}


def test_a_slow_target_is_waited_for_up_to_the_timeout(target: Target, server: HttpFake) -> None:
    """Then it is away."""
    go = threading.Event()
    server.answer = lambda _: Reply(hold=go)
    with pytest.raises(SinkAway, match="within the timeout"):
        handed(target.url(server.place, "&timeout=100ms"), log_events(range(3)))
    go.set()


def test_a_target_that_comes_back_gets_everything(target: Target) -> None:
    """Refused connections, then 503, a broken answer, 429: the batch waits in hand, and is taken."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    sink = Patient(made(target.url(f"127.0.0.1:{port}")), "it", patience="100ms")
    with pytest.raises(Later):
        sink(log_events(range(5)))
    sink.close()
    troubles = (Reply(503, "", {"Retry-After": "0"}), Reply(cut_at=0), Reply(429, "busy"))
    with fake(Down(target.like, *troubles), port=port) as server:
        with Patient(made(target.url(server.place)), "it", patience="8s") as patient:
            assert (patient(log_events(range(5))) or Outcomes()).errors == {}
    assert sorted(target.has(target.like)) == ids(range(5))


def test_times_are_kept_to_the_millisecond(target: Target, server: HttpFake) -> None:
    """In each target's own form."""
    handed(target.url(server.place), log_events([0]))
    body = server.requests[0].body.decode()
    iso, ns = '"2026-11-26T02:00:00.123Z"', f'"{TIME_MS}'
    exact = iso.replace("123Z", "123000Z") if target.name == "webhook" else iso
    assert (ns if target.name in ("loki", "otlp") else exact) in body
