"""Http and halving: what answers and failures of a target mean, and which of them are an event's fault."""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from consumers.sinks.halving import Halving, RequestFailed, RequestRefused
from consumers.sinks.http import COMPRESS, HTTP_OPTIONS, MAX_ANSWER_BYTES, Answer, Http, retry_after_s, taken
from consumers.sinks.sink_url import read_sink_url
from pipeline.errors import SinkAway, SinkError, SinkRefused, UsageError
from pipeline.outcome import Outcomes, Reject
from tests.http_fake import HttpFake, Reply, Request, fake

OPTIONS = (*HTTP_OPTIONS, COMPRESS)
CANARY = "Can4ry-s3cret"


def ok(request: Request) -> Reply:
    """Everything is fine."""
    return Reply(200, "fine")


@pytest.fixture
def target() -> Iterator[HttpFake]:
    """A target that takes everything."""
    with fake(ok) as server:
        yield server


def http(place: str, query: str = "", scheme: str = "test+http") -> Http:
    """A client of a target."""
    return Http(read_sink_url(f"{scheme}://{place}?{query}", OPTIONS), 80)


def post(place: str, query: str = "", body: bytes = b"{}") -> Answer:
    """One request."""
    client = http(place, query)
    try:
        return client.post("/p", body, "application/json")
    finally:
        client.close()


def test_connections_are_kept_alive(target: HttpFake) -> None:
    """Two requests, one connection."""
    client = http(target.place)
    answers = [client.post("/p?q=1", b"{}", "application/json") for _ in range(2)]
    client.close()
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"fine")] * 2
    assert len({request.connection for request in target.requests}) == 1
    first = target.requests[0]
    assert (first.path, first.query, first.headers["user-agent"]) == ("/p", {"q": "1"}, "millstream")


def test_a_connection_that_the_target_closed_meanwhile_is_opened_anew(target: HttpFake) -> None:
    """As it does when a connection was idle for long."""
    target.answer = lambda _: Reply(200, "fine", {"Connection": "close"})
    client = http(target.place)
    for _ in range(2):
        assert client.post("/p", b"{}", "application/json").status == 200
    client.close()


@pytest.mark.parametrize("how", ["none", "gzip", "zstd"])
def test_long_bodies_are_compressed(target: HttpFake, how: str) -> None:
    """And arrive as they were; short ones are sent as they are."""
    for body in (b"x" * 5_000, b"short"):
        post(target.place, f"compress={how}", body)
        assert target.requests[-1].body == body
    long, short = target.requests
    assert long.headers.get("content-encoding", "none") == how
    assert "content-encoding" not in short.headers
    assert int(long.headers["content-length"]) < 5_000 or how == "none"


def test_who_we_are_is_read_anew_for_each_request(target: HttpFake, tmp_path: Path) -> None:
    """A token that is renewed while we run."""
    file = tmp_path / "token"
    client = http(target.place, f"token_file={file}")
    for token in ("first", "second"):
        file.write_text(token + "\n")
        client.post("/p", b"{}", "application/json")
    assert [request.headers["authorization"] for request in target.requests] == [
        "Bearer first",
        "Bearer second",
    ]
    file.write_text("\n")
    with pytest.raises(SinkRefused, match="the token is empty"):
        client.post("/p", b"{}", "application/json")
    file.unlink()
    with pytest.raises(SinkRefused, match="cannot read the password from"):
        client.post("/p", b"{}", "application/json")
    client.close()
    post(target.place.replace("127", "me:pass%20word@127"))
    assert target.requests[-1].headers["authorization"] == "Basic bWU6cGFzcyB3b3Jk"


@pytest.mark.parametrize("status", [200, 201, 204, 207])
def test_what_was_taken(status: int) -> None:
    """Any 2xx."""
    taken(Answer(status))


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (400, RequestRefused, "400: no such field"),
        (413, RequestRefused, "413: no such field"),
        (422, RequestRefused, "422: no such field"),
        (500, RequestFailed, "500: no such field"),
        (501, RequestFailed, "501"),
        (408, SinkAway, "408"),
        (425, SinkAway, "425"),
        (429, SinkAway, "429: no such field"),
        (502, SinkAway, "502"),
        (503, SinkAway, "503"),
        (504, SinkAway, "504"),
        (529, SinkAway, "529"),
        (401, SinkRefused, "user, password or token"),
        (403, SinkRefused, "user, password or token"),
        (404, SinkRefused, "host, port and path"),
        (405, SinkRefused, "host, port and path"),
        (410, SinkRefused, "host, port and path"),
        (402, SinkRefused, "it refuses every request"),
        (415, SinkRefused, "it refuses every request"),
        (301, SinkRefused, "it redirects"),
        (307, SinkRefused, "it redirects"),
        (100, SinkRefused, "it refuses every request"),
    ],
)
def test_what_each_status_means(status: int, error: type[Exception], said: str) -> None:
    """Whose fault it is, in the target's words."""
    with pytest.raises(error, match=said) as raised:
        taken(Answer(status, {}, b"no such\n field"))
    assert type(raised.value) is error


def test_words_of_a_target_are_one_short_line() -> None:
    """Whatever it sends."""
    answer = Answer(400, {}, b"\x1b[31m" + "ü\u202e".encode() + b"\xff\n" + b"x" * 10_000)
    assert answer.words.startswith("[31mü \ufffd x")
    assert len(answer.words) == 500
    assert answer.words.isprintable()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("999999", 3_600.0),
        ("Thu, 26 Nov 2026 02:00:30 GMT", 30.0),
        ("Thu, 26 Nov 2020 02:00:30 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-3", None),
    ],
)
def test_retry_after_is_understood(text: str, seconds: float | None) -> None:
    """Seconds or a date, bounded."""
    now = datetime(2026, 11, 26, 2, 0, tzinfo=UTC)
    assert retry_after_s(Answer(503, {"retry-after": text}), now) == seconds


def test_retry_after_comes_with_the_error(target: HttpFake) -> None:
    """For who waits."""
    target.answer = lambda _: Reply(503, "busy", {"Retry-After": "17"})
    with pytest.raises(SinkAway) as raised:
        taken(post(target.place))
    assert raised.value.retry_after_s == 17.0


def test_a_redirect_is_not_followed(target: HttpFake) -> None:
    """Our token goes nowhere else, and what may be secret in the address is not shown."""
    with fake(ok) as other:
        there = f"http://u:{CANARY}@{other.place}/login?{CANARY}"
        target.answer = lambda _: Reply(302, "", {"Location": there})
        with pytest.raises(
            SinkRefused, match=f"redirects \\(302\\) to 'http://{other.place}/login'"
        ) as raised:
            taken(post(target.place, f"token={CANARY}"))
    assert other.requests == []
    assert CANARY not in str(raised.value)


def test_a_target_that_is_down_is_away(target: HttpFake) -> None:
    """Nobody listens."""
    place = target.place
    target.close()
    with pytest.raises(SinkAway, match=f"cannot reach http://{place}: .*refused"):
        post(place)


def test_a_name_that_nobody_knows_is_away() -> None:
    """DNS may come back."""
    with pytest.raises(SinkAway, match="its name is not known"):
        post("no-such-host.invalid:80")


def test_a_target_that_does_not_answer_is_away(target: HttpFake) -> None:
    """Within the timeout; whether it took the events is not known, and is said."""
    go = threading.Event()
    target.answer = lambda _: Reply(hold=go)
    with pytest.raises(SinkAway, match="within the timeout; whether it took the events is not known"):
        post(target.place, "timeout=100ms")
    go.set()


def test_a_target_that_answers_drop_by_drop_is_away() -> None:
    """The timeout is for the whole answer."""
    listening = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not done.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                break
        connection.close()

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(SinkAway, match="within the timeout"):
            post(f"127.0.0.1:{listening.getsockname()[1]}", "timeout=200ms")
    finally:
        done.set()
        thread.join()
        listening.close()


@pytest.mark.parametrize("cut_at", [0, 5])
def test_an_answer_that_is_cut_off_is_away(target: HttpFake, cut_at: int) -> None:
    """Before the status line, or in the body."""
    target.answer = lambda _: Reply(200, "a long answer", cut_at=cut_at)
    with pytest.raises(SinkAway, match="broke off its answer; whether it took the events is not known"):
        post(target.place)


def test_what_is_no_http_at_all_is_away() -> None:
    """Another protocol at that port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listening.accept()
        connection.recv(65_536)
        connection.sendall(b"220 mail.example ESMTP\r\n")
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(SinkAway, match="broke off its answer"):
        post(f"127.0.0.1:{listening.getsockname()[1]}")
    thread.join()
    listening.close()


def test_an_endless_answer_is_not_read_to_its_end(target: HttpFake) -> None:
    """Bounded, and the connection is given up."""
    target.answer = lambda _: Reply(200, b"x" * (MAX_ANSWER_BYTES + 1_000_000))
    client = http(target.place)
    for _ in range(2):
        answer = client.post("/p", b"{}", "application/json")
        assert len(answer.body) == MAX_ANSWER_BYTES
        with pytest.raises(SinkAway, match="cannot be understood"):
            answer.json()
    client.close()
    assert len({request.connection for request in target.requests}) == 2


def test_certificates_are_checked(tmp_path: Path) -> None:
    """Against the system's authorities, or those of ca=."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with fake(ok, context=context) as target:
        stranger = http(target.place, scheme="test+https")
        with pytest.raises(SinkRefused, match=r"no secure connection to https://.*certificate.*see ca="):
            stranger.post("/p", b"{}", "application/json")
        stranger.close()
        known = http(target.place, f"ca={ca}", scheme="test+https")
        assert known.post("/p", b"{}", "application/json").body == b"fine"
        known.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("test+http://", "one host after test\\+http://"),
        ("test+http://a,b/", "one host after"),
        ("test+http://a/?ca=/etc/hosts", "ca= is for https"),
        ("test+https://a/?ca=/etc/hosts", "ca='/etc/hosts' cannot be used: it holds no certificate"),
        ("test+https://a/?ca=/no/such", "No such file"),
        (f"test+http://u:{CANARY}@a/?token={CANARY}", "a user with password, or a token, not both"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(url: str, said: str) -> None:
    """Before anything is sent; no secret is shown."""
    with pytest.raises(UsageError, match=said) as raised:
        Http(read_sink_url(url, OPTIONS), 80)
    assert CANARY not in str(raised.value)


def test_without_urllib3_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `http`."""
    monkeypatch.setattr("consumers.sinks.http.HAS_DRIVER", False)
    with pytest.raises(UsageError, match=r"pip install 'millstream\[http\]'"):
        http("a:1")


class Counted:
    """Sends that go as a function of the indexes says."""

    def __init__(self, go: Any) -> None:
        self.go = go
        self.sent: list[list[int]] = []

    def __call__(self, part: Sequence[int]) -> None:
        self.sent.append(list(part))
        self.go(part)


def halved(count: int, go: Any) -> tuple[Outcomes, Counted]:
    """The outcomes of sending so many events."""
    outcomes, send = Outcomes(), Counted(go)
    Halving()([range(count)], send, outcomes)
    return outcomes, send


def test_the_events_that_are_refused_are_found() -> None:
    """In some two requests per level for each; every other event is sent in the end, each once alone of them."""

    def go(part: Sequence[int]) -> None:
        if {3, 77} & set(part):
            raise RequestRefused(f"no: {part[0]}")

    outcomes, send = halved(100, go)
    assert {index: str(error) for index, error in outcomes.errors.items()} == {3: "no: 3", 77: "no: 77"}
    assert all(isinstance(error, Reject) for error in outcomes.errors.values())
    assert len(send.sent) < 30
    through = [index for part in send.sent if not {3, 77} & set(part) for index in part]
    assert sorted(through) == sorted(set(range(100)) - {3, 77})


def test_an_event_at_which_the_target_fails_pays_alone() -> None:
    """Its attempt counts; the others are through."""

    def go(part: Sequence[int]) -> None:
        if 0 in part or 1 in part:
            raise RequestFailed("500: oops")

    outcomes, _ = halved(500, go)
    assert {index: (type(error), str(error)) for index, error in outcomes.errors.items()} == {
        0: (SinkError, "500: oops"), 1: (SinkError, "500: oops"),
    }  # fmt: skip


def test_a_target_that_fails_at_everything_is_away() -> None:
    """After a few tries, not after two for each event."""

    def go(part: Sequence[int]) -> None:
        raise RequestFailed("500: oops")

    send = Counted(go)
    with pytest.raises(SinkAway, match="it fails at everything: 500: oops"):
        Halving()([range(500)], send, Outcomes())
    assert len(send.sent) < 20
    few, _ = halved(2, go)
    assert {index: type(error) for index, error in few.errors.items()} == {0: SinkAway, 1: SinkAway}


def test_an_event_pays_for_a_failure_only_while_the_target_takes_others() -> None:
    """However few come at a time: an event that the target cannot bear is convicted, an outage convicts none."""
    sending, down = Halving(), {"down": False}

    def go(part: Sequence[int]) -> None:
        if down["down"] or 7 in part:
            raise RequestFailed("500: oops")

    def one(index: int) -> type[BaseException] | None:
        outcomes = Outcomes()
        sending([[index]], go, outcomes)
        return type(outcomes.errors[index]) if outcomes.errors else None

    assert one(7) is SinkAway
    assert [one(index) for index in (1, 7, 7, 2, 7)] == [None, SinkError, SinkAway, None, SinkError]
    one(1)
    down["down"] = True
    assert [one(index) for index in (1, 2, 1, 2, 1)] == [SinkError, SinkAway, SinkAway, SinkAway, SinkAway]


def test_what_was_settled_before_the_target_went_away_is_not_sent_again() -> None:
    """The rest waits."""

    def go(part: Sequence[int]) -> None:
        if part[0] >= 5:
            raise SinkAway("503", 4.0)
        if 2 in part:
            raise RequestRefused("bad")

    outcomes, _ = halved(10, go)
    kinds = {index: type(error) for index, error in outcomes.errors.items()}
    assert kinds == {2: Reject} | dict.fromkeys(range(5, 10), SinkAway)
    away = next(error for error in outcomes.errors.values() if isinstance(error, SinkAway))
    assert away.retry_after_s == 4.0


def test_a_target_that_refuses_each_of_many_events_and_never_took_one_is_at_fault() -> None:
    """A schema that does not fit would make dead letters of a whole stream; of few, nobody can tell."""

    def go(part: Sequence[int]) -> None:
        raise RequestRefused("no such field")

    sending = Halving()
    with pytest.raises(SinkRefused, match="it takes none of 10 events: no such field"):
        sending([range(10)], go, Outcomes())
    few = Outcomes()
    sending([range(9)], go, few)
    assert len(few.errors) == 9
    sending([[0]], lambda part: None, Outcomes())
    many = Outcomes()
    sending([range(10)], go, many)
    assert len(many.errors) == 10


def test_a_schema_that_does_not_fit_is_found_by_a_few_requests() -> None:
    """Not by two for each of 5,000 rows."""

    def go(part: Sequence[int]) -> None:
        raise RequestRefused("no such field")

    send = Counted(go)
    with pytest.raises(SinkRefused, match="it takes none of 10 events: no such field"):
        Halving()([range(2_500), range(2_500, 5_000)], send, Outcomes())
    assert len(send.sent) < 60


@pytest.mark.parametrize(
    "bad", [set(range(600)), set(range(400, 1_000)), set(range(0, 1_000, 2)), set(range(999)), set(range(11))]
)
def test_many_bad_events_of_a_target_that_takes_others_are_all_found(bad: set[int]) -> None:
    """Also where they come first: an event that is taken is sent once."""
    taken_once: list[int] = []

    def go(part: Sequence[int]) -> None:
        if bad & set(part):
            raise RequestRefused("too old")
        taken_once.extend(part)

    outcomes = Outcomes()
    Halving()([range(500), range(500, 1_000)], go, outcomes)
    assert set(outcomes.errors) == bad
    assert sorted(taken_once) == sorted(set(range(1_000)) - bad)


def test_a_target_that_is_away_at_once_takes_nothing() -> None:
    """The whole batch waits."""

    def go(part: Sequence[int]) -> None:
        raise SinkAway("429")

    with pytest.raises(SinkAway, match="429"):
        halved(10, go)
    assert halved(0, go)[1].sent == []
