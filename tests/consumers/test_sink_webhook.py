"""Webhook: what a receiver gets, verified as it would, and what it may answer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from consumers.sinks.http import Answer
from consumers.sinks.webhook import cloudevent, read_results
from pipeline.errors import SinkAway, SinkError, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.outcome import Outcomes, Reject
from pipeline.webhook import verify_webhook
from tests.http_fake import HttpFake, Reply, Request, fake
from tests.sinking import CANARY, handed, log_events, made, received, rejected

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


class Receiver:
    """A receiver that verifies what it gets, and goes by the ids of events."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], Event] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        """What it says of single events, by id."""

    def __call__(self, request: Request) -> Reply:
        """Take the events."""
        results = []
        for event in verify_webhook(request.headers, request.body, SECRET):
            if event.id in self.answers:
                results.append({"id": event.id, **self.answers[event.id]})
            else:
                self.events[event.source, event.id] = event
        return Reply(207, {"results": results}) if results else Reply(204)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with the secret."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    return tmp_path / "secret"


def url(server: HttpFake, secret: Path, more: str = "") -> str:
    """The sink's URL."""
    return f"webhook+http://{server.place}/events?secret_file={secret}{more}"


def test_a_receiver_gets_the_events_it_can_verify(secret: Path) -> None:
    """In requests of up to `batch` events, as CloudEvents."""
    receiver = Receiver()
    with fake(receiver) as server:
        assert handed(url(server, secret, "&batch=40&query=a%3D1%26b"), log_events(range(100))).errors == {}
        assert [len(request.json) for request in server.requests] == [40, 40, 20]
        first = server.requests[0]
    assert (first.path, dict(first.query)) == ("/events", {"a": "1", "b": ""})
    assert first.headers["content-type"] == "application/cloudevents-batch+json"
    assert len(receiver.events) == 100
    event = receiver.events["shop", "p-7"]
    assert (event.type, event.key, event.data) == ("log", "k7", log_events([7])[0].data)


def test_one_event_a_request(secret: Path) -> None:
    """batch=1: a CloudEvent by itself, with its own id as that of the request."""
    receiver = Receiver()
    with fake(receiver) as server:
        assert handed(url(server, secret, "&batch=1"), log_events(range(3))).errors == {}
        assert [request.json["id"] for request in server.requests] == ["p-0", "p-1", "p-2"]
        assert [request.headers["webhook-id"] for request in server.requests] == ["p-0", "p-1", "p-2"]
        assert server.requests[0].headers["content-type"] == "application/cloudevents+json"


def test_the_same_request_again_has_the_same_id(secret: Path) -> None:
    """Another time, and so another signature."""
    with fake(Receiver()) as server:
        for _ in range(2):
            handed(url(server, secret), log_events(range(3)))
        ids = {request.headers["webhook-id"] for request in server.requests}
        handed(url(server, secret), log_events(range(4)))
        assert len(ids) == 1
        assert server.requests[2].headers["webhook-id"] not in ids


def test_what_a_receiver_says_of_single_events(secret: Path) -> None:
    """409: there already; 422: never; 500: the attempt counts; 503: later, as long as it says."""
    receiver = Receiver()
    receiver.answers = {
        "p-1": {"status": 409}, "p-2": {"status": 422, "reason": "no such\ncustomer"}, "p-3": {"status": 500},
        "p-4": {"status": 503, "retry_after": 7}, "p-5": {"status": 429}, "p-6": {"status": 200},
        "p-7": {"status": 404, "reason": "unknown order"},
    }  # fmt: skip
    with fake(receiver) as server:
        outcomes = handed(url(server, secret), log_events(range(10)))
    assert {index: (type(error), str(error)) for index, error in outcomes.errors.items()} == {
        2: (Reject, "422: no such customer"), 3: (SinkError, "500"), 4: (SinkAway, "503"), 5: (SinkAway, "429"),
        7: (Reject, "404: unknown order"),
    }  # fmt: skip
    waits = {i: e.retry_after_s for i, e in outcomes.errors.items() if isinstance(e, SinkAway)}
    assert waits == {4: 7.0, 5: None}
    assert len(receiver.events) == 3


@pytest.mark.parametrize(
    "body", ["", "OK", "{}", "[]", '{"results": []}', '{"results": [{"id": "x", "status": 400}]}']
)
def test_an_answer_that_names_no_event_of_ours_is_success(body: str) -> None:
    """A receiver need not say anything."""
    outcomes = Outcomes()
    read_results(Answer(200, {}, body.encode()), {0: "a"}, outcomes)
    assert outcomes.errors == {}


@pytest.mark.parametrize(
    "results",
    [3, {"a": 1}, [3], [{}], [{"id": "a"}], [{"status": 200}], [{"id": "a", "status": "400"}],
     [{"id": 3, "status": 200}], [{"id": "a", "status": True}]],
)  # fmt: skip
def test_results_that_cannot_be_understood_settle_nothing(results: Any) -> None:
    """A receiver that tries to say something must not be misunderstood."""
    with pytest.raises(SinkAway, match="cannot be understood"):
        read_results(Answer(207, {}, json.dumps({"results": results}).encode()), {0: "a"}, Outcomes())


@pytest.mark.parametrize("wait", [True, "7", -1, None, 10**9])
def test_a_wait_is_bounded(wait: Any) -> None:
    """To an hour, and to what is a wait."""
    outcomes = Outcomes()
    body = json.dumps({"results": [{"id": "a", "status": 503, "retry_after": wait}]}).encode()
    read_results(Answer(207, {}, body), {0: "a"}, outcomes)
    away = outcomes.errors[0]
    assert isinstance(away, SinkAway)
    assert away.retry_after_s == (3_600.0 if wait == 10**9 else None)


def test_a_request_that_is_refused_whole_is_halved(secret: Path) -> None:
    """A receiver that knows nothing of results: 400 finds the event."""
    receiver = Receiver()
    with fake(lambda r: Reply(400, "n=13 is bad luck") if b'"n":13' in r.body else receiver(r)) as server:
        outcomes = handed(url(server, secret), log_events(range(50)))
    assert rejected(outcomes) == {13: "400: n=13 is bad luck"}
    assert len(receiver.events) == 49


def test_a_receiver_that_is_gone_waits_for_somebody(secret: Path) -> None:
    """410 says: send nothing more."""
    with fake(lambda _: Reply(410, "gone")) as server, pytest.raises(SinkRefused, match="410: gone"):
        handed(url(server, secret), log_events([1]))


def test_a_secret_may_change_while_we_run(secret: Path) -> None:
    """Read anew for each request; two of them, one a line, sign both."""
    with fake(lambda _: Reply(204)) as server:
        sink = made(url(server, secret))
        sink(log_events([1]))
        secret.write_text(f"{OTHER}\n{SECRET}\n")
        sink(log_events([2]))
        secret.write_text(f"{CANARY}\n")
        with pytest.raises(SinkRefused, match="see secret or secret_file") as raised:
            sink(log_events([3]))
        secret.write_text("")
        with pytest.raises(SinkRefused, match="the secret is empty"):
            sink(log_events([3]))
        sink.close()
        old, both = server.requests
    assert CANARY not in str(raised.value)
    assert len(both.headers["webhook-signature"].split()) == 2
    for known in (OTHER, SECRET):
        verify_webhook(both.headers, both.body, known)
    verify_webhook(old.headers, old.body, SECRET)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "secret=… is missing"),
        ("secret=x&batch=0", "batch='0': at least 1"),
        ("secret=x&query=a%20b", "query='a b': percent-encoded"),
        ("secret=x&hmac=1", "there is no option 'hmac'"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: str, said: str) -> None:
    """Unsigned requests are not sent."""
    with pytest.raises(UsageError, match=said):
        made(f"webhook+https://example.com/?{more}")


def test_an_address_without_its_kind_is_told_how() -> None:
    """--sink https://…"""
    with pytest.raises(UsageError, match=r"did you mean webhook\+https:\?"):
        made("https://example.com/?a=b")


def test_any_event_is_a_cloudevent() -> None:
    """Also bytes, and bytes within."""

    def parsed(data: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(cloudevent(received(Event(data, time_ms=0), 1)))
        return found

    assert parsed(b"\xff")["data_base64"] == "/w=="
    assert parsed({"a": b"\xff"})["data"] == {"a": {"base64": "/w=="}}
    assert parsed(1)["source"] == "millstream"
