"""An intake on a real server, asked over real sockets: what is answered, what is in the stream, what is counted."""

import concurrent.futures
import gzip
import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.server.replies import parse_entries
from pipeline.wire import decode_entry
from producers.sources.network import http_server
from producers.sources.network.intake import Intake, Took
from tests.conftest import OwnServer, Server
from tests.proxy import Proxy
from tests.until import until

NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}


class Listening:
    """An intake that runs in a thread."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.thread = threading.Thread(target=self._run)
        self.failed: BaseException | None = None

    def _run(self) -> None:
        try:
            self.intake.run()
        except BaseException as error:
            self.failed = error
            raise

    def port(self, way: str) -> int:
        """Where it listens."""
        return self.intake.addresses[way].port

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, answer and headers of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port("http"), timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            raw = answer.read()
            return (
                answer.status,
                json.loads(raw) if raw else {},
                {k.lower(): v for k, v in answer.getheaders()},
            )
        finally:
            connection.close()

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and answer."""
        return self.ask("POST", "/", body, headers)[:2]

    def connect(self, way: str) -> socket.socket:
        """A TCP connection to it."""
        return socket.create_connection(("127.0.0.1", self.port(way)), timeout=10)

    def end(self) -> Took:
        """Stop it, and what it took."""
        self.intake.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()
        assert self.failed is None
        return self.intake.took


Listen = Callable[..., Listening]


@contextmanager
def listening(*args: Any, **options: Any) -> Iterator[Listening]:
    """An intake that listens, until the end of the test."""
    started = Listening(Intake(*args, **options))
    started.thread.start()
    try:
        until(started.intake.listening.is_set, what="it listens")
        yield started
    finally:
        started.intake.stop()
        started.thread.join(30)


@pytest.fixture
def listen(server: Server, stream: str) -> Iterator[Listen]:
    """Starts intakes of this test's stream: listen(http="0")."""
    with ExitStack() as stack:

        def start(**options: Any) -> Listening:
            return stack.enter_context(listening(stream, **{"url": server.address.shown, **options}))

        yield start


def events(link: Link, stream: str) -> list[Event]:
    """What is in the stream, packs as their events."""
    found: list[Event] = []
    for entry_id, fields in parse_entries(link.call("XRANGE", stream, "-", "+")):
        found += decode_entry(entry_id, fields or []).events
    return found


def datas(link: Link, stream: str) -> list[Any]:
    """Their data."""
    return [event.data for event in events(link, stream)]


def test_what_is_answered_200_is_in_the_stream(listen: Listen, link: Link, stream: str) -> None:
    """Lines, an array, one object, compressed or not; type and key from the data, the trace from the request."""
    intake = listen(http="0", type=lambda data: f"of.{data['n']}", key=lambda data: f"k{data['n']}")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert intake.post(b'{"n": 1}\n{"n": 2}\n', NDJSON) == (200, {"events": 2})
    assert intake.post(b'[{"n": 3}, {"n": 4}]', JSON) == (200, {"events": 2})
    assert intake.post(b'{"n": 5}', JSON | {"traceparent": trace}) == (200, {"events": 1})
    many = b"".join(b'{"n": %d}\n' % n for n in range(6, 5_001))
    assert intake.post(gzip.compress(many), NDJSON | {"Content-Encoding": "gzip"}) == (200, {"events": 4_995})
    found = events(link, stream)
    assert [event.data["n"] for event in found] == list(range(1, 5_001))
    assert [(event.type, event.key) for event in found[:2]] == [("of.1", "k1"), ("of.2", "k2")]
    assert found[4].headers["traceparent"] == trace
    assert (intake.end().confirmed, intake.intake.took.by["http"]) == (5_000, 5_000)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "why"),
    [
        ("POST", "/", b'{"a": 1}\n{"a"\n', NDJSON, 400, "line 2 is not JSON"),
        ("POST", "/", b"", JSON, 400, "the body is not JSON"),
        ("POST", "/", b"{}", {"Content-Type": "text/plain"}, 415, "Content-Type 'text/plain'"),
        ("POST", "/", b"{}", JSON | {"Content-Encoding": "br"}, 415, "one of gzip, deflate, zstd"),
        ("POST", "/", b"{}", JSON | {"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
        ("POST", "/", b"x" * 2_001, JSON, 413, "larger than 2.0 kB (max_body)"),
        ("POST", "/", gzip.compress(b" " * 2_001, mtime=0), JSON | {"Content-Encoding": "gzip"}, 413, "larger than"),
        ("POST", "/", b'"\\ud800"', JSON, 400, "surrogate"),
        ("POST", "/", b"123456789012345678901234567890", JSON, 400, "64"),
        ("POST", "/", b"{}", JSON | {"Idempotency-Key": "x" * 201}, 400, "Idempotency-Key: at most 200 printable"),
        ("GET", "/", None, {}, 405, "GET /: POST events"),
        ("POST", "/health", b"{}", JSON, 405, "GET or HEAD"),
        ("POST", "/logs", b"{}", JSON, 404, "nothing at /logs"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_taken_is_refused_whole_and_says_why(
    listen: Listen, link: Link, stream: str, method: str, path: str, body: bytes | None, headers: dict[str, str],
    status: int, why: str,
) -> None:  # fmt: skip
    """And the next request is taken."""
    intake = listen(http="0", max_body=2_000)
    answered, answer, answer_headers = intake.ask(method, path, body, headers)
    assert (answered, why in answer["error"]) == (status, True), answer
    assert status != 405 or answer_headers["allow"] in ("POST", "GET, HEAD")
    assert intake.post(b"1", JSON)[0] == 200
    assert datas(link, stream) == [1]
    took = intake.end()
    assert (took.confirmed, took.refused_requests, took.lost) == (1, 1, 0)


def test_a_body_that_says_nothing_of_its_length_is_bounded_too(listen: Listen) -> None:
    """Chunks are counted as they come."""
    intake = listen(http="0", max_body=100_000)
    connection = http.client.HTTPConnection("127.0.0.1", intake.port("http"), timeout=30)
    connection.putrequest("POST", "/")
    for name, value in (JSON | {"Transfer-Encoding": "chunked"}).items():
        connection.putheader(name, value)
    connection.endheaders()
    for _ in range(3):
        connection.send(b"c350\r\n" + b" " * 50_000 + b"\r\n")
    assert connection.getresponse().status == 413
    connection.close()


def test_only_who_brings_the_token_may_send(listen: Listen, link: Link, stream: str) -> None:
    """Its health may be asked by all."""
    intake = listen(http="0", token="open sesame")
    for wrong in ({}, {"Authorization": "Bearer open"}, {"Authorization": "Basic open sesame"}):
        status, answer, headers = intake.ask("POST", "/", b"1", JSON | wrong)
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="millstream"')
        assert "sesame" not in str(answer)
    assert intake.post(b"1", JSON | {"Authorization": "bearer open sesame"})[0] == 200
    assert intake.ask("GET", "/health")[:2] == (200, {"status": "ok"})
    assert intake.ask("HEAD", "/health")[:2] == (200, {})
    assert datas(link, stream) == [1]


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Request-Id"])
def test_a_repeat_with_the_same_key_and_body_is_there_once(
    listen: Listen, link: Link, stream: str, name: str
) -> None:
    """Another body with that key is another request: some proxies give many requests one id."""
    intake = listen(http="0")
    for _ in range(3):
        assert intake.post(b"1\n2\n", NDJSON | {name: "r-1"}) == (200, {"events": 2})
    assert intake.post(b"3\n", NDJSON | {name: "r-1"})[0] == 200
    assert intake.post(b"1\n2\n", NDJSON | {name: "r-2"})[0] == 200
    assert datas(link, stream) == [1, 2, 3, 1, 2]


def test_while_the_server_is_away_requests_are_to_be_sent_again(own_server: OwnServer, stream: str) -> None:
    """503 with Retry-After, and not as long as the sender waits; once it is back, a repeat is there once."""
    mine = own_server()
    with (
        Proxy(mine.address) as proxy,
        listening(stream, http="0", url=proxy.url, answer_within="2s") as intake,
    ):
        assert intake.post(b"1", JSON | {"Idempotency-Key": "a"})[0] == 200
        proxy.refuse = True
        proxy.cut()
        status, answer, headers = intake.ask("POST", "/", b"2", JSON | {"Idempotency-Key": "b"})
        assert (status, headers["retry-after"]) == (503, "2")
        assert "not confirmed" in answer["error"]
        until(lambda: intake.ask("GET", "/health")[0] == 503, what="it says that it is not well")
        proxy.refuse = False

        def again() -> bool:
            return intake.post(b"2", JSON | {"Idempotency-Key": "b"})[0] == 200

        until(again, 20, what="it is taken")
        assert again()
        assert intake.end().lost == 0
    link = mine.connector().link("look")
    assert datas(link, stream) == [1, 2]
    link.close()


def test_many_senders_at_once(listen: Listen, link: Link, stream: str) -> None:
    """Each of their events is there once."""
    intake = listen(http="0")

    def send(sender: int) -> list[int]:
        return [intake.post(json.dumps([[sender, n], [sender, -n]]).encode(), JSON)[0] for n in range(1, 11)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {status for found in pool.map(send, range(8)) for status in found} == {200}
    assert sorted(datas(link, stream)) == sorted(
        [s, sign * n] for s in range(8) for n in range(1, 11) for sign in (1, -1)
    )


def test_json_lines_over_tcp(listen: Listen, link: Link, stream: str) -> None:
    """In any pieces; what is no JSON is text; the last line may lack its end if it is whole all the same."""
    intake = listen(tcp="0", type="t", max_line=1_000)
    with intake.connect("tcp") as one, intake.connect("tcp") as other:
        one.sendall(b'{"n": 1}\r\n\n{"n"')
        other.sendall(b'{"n": 2}\nnot json\n' + b"x" * 1_001 + b'\n{"n": 3}')
        until(lambda: len(events(link, stream)) == 3)
        one.sendall(b": 4}\n")
        until(lambda: len(events(link, stream)) == 4)
    until(lambda: len(events(link, stream)) == 5)
    found = events(link, stream)
    assert sorted(str(event.data) for event in found) == [
        "not json",
        *(f"{{'n': {n}}}" for n in (1, 2, 3, 4)),
    ]
    (text,) = [event for event in found if event.data == "not json"]
    assert "unparsed" in text.headers and {event.type for event in found} == {"t"}
    took = intake.end()
    assert (took.confirmed, took.unparsed, took.too_long, took.unfinished, took.lost) == (5, 1, 1, 0, 0)


def test_json_that_no_event_can_hold_is_text(listen: Listen, link: Link, stream: str) -> None:
    """A number of 100 bits, half a character, also where type and key come from it; no line is lost."""
    intake = listen(tcp="0", type=lambda data: str(data["user"]), key=lambda data: str(data["user"]))
    lines = ['{"user": "\\ud800"}', '{"user": "u", "n": 123456789012345678901234567890}']
    with intake.connect("tcp") as one:
        one.sendall("".join(f"{line}\n" for line in lines).encode())
        until(lambda: len(events(link, stream)) == 2)
    found = events(link, stream)
    assert [event.data for event in found] == lines
    assert [(event.type, event.key) for event in found] == [("\\ud800", "\\ud800"), ("u", "u")]
    assert all("unparsed" in event.headers for event in found)
    took = intake.end()
    assert (took.confirmed, took.unparsed, took.lost) == (2, 2, 0)


def test_what_a_broken_connection_leaves_unfinished_is_counted(
    listen: Listen, link: Link, stream: str
) -> None:
    """Half a line is no event, whether its sender closed or was cut off; half a counted message neither."""
    intake = listen(tcp="0", syslog="0")
    received = intake.intake._lines.received
    with intake.connect("tcp") as closed:
        closed.sendall(b'{"n": 1}\n{"n": 2')
    until(lambda: received.unfinished == 1)
    reset = intake.connect("tcp")
    reset.sendall(b'{"n": 3}\n{"n": 4}')
    until(lambda: len(events(link, stream)) == 2)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    until(lambda: received.unfinished == 2)
    with intake.connect("syslog") as counted:
        counted.sendall(b"9 <13>whole20 <13>half")
    until(lambda: intake.intake._messages.received.unfinished == 1)
    took = intake.end()
    assert (took.confirmed, took.unfinished) == (3, 3)
    assert datas(link, stream)[:2] == [{"n": 1}, {"n": 3}]


def test_lines_without_an_end_are_bounded_together(listen: Listen, link: Link, stream: str) -> None:
    """However many connections begin one: whoever goes beyond is turned away, and the others go on."""
    intake = listen(tcp="0")
    connections = intake.intake._lines
    connections._max_held_bytes = 250_000
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(intake.connect("tcp")) for _ in range(3))
        for one in (first, second):
            one.sendall(b'"' + b"x" * 100_000)
        until(lambda: connections._held_bytes == 200_002)
        third.sendall(b'"' + b"x" * 100_000)
        until(lambda: connections.received.turned_away == 1)
        until(lambda: connections._held_bytes == 200_002)
        first.sendall(b'"\n')
        until(lambda: len(events(link, stream)) == 1)
        assert connections._held_bytes == 100_001
    until(lambda: connections._held_bytes == 0)
    took = intake.end()
    assert (took.confirmed, took.turned_away, took.unfinished, took.lost) == (1, 1, 2, 0)


@pytest.mark.campaign
@pytest.mark.slow
def test_while_there_is_no_room_a_connection_is_not_read(own_server: OwnServer, stream: str) -> None:
    """Its sender waits, and loses nothing: all is there when the server is back, in order."""
    mine = own_server()
    lines = 22_000
    with Proxy(mine.address) as proxy, listening(stream, tcp="0", url=proxy.url) as intake:
        proxy.refuse = True
        proxy.cut()
        with intake.connect("tcp") as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            text = b"".join(b'{"n": %d, "text": "%b"}\n' % (n, b"x" * 4_000) for n in range(lines))
            sending = threading.Thread(target=sender.sendall, args=(text,))
            sender.settimeout(60)
            sending.start()
            received = intake.intake._lines.received
            until(lambda: received.frames > 10_000, 30, what="the buffer fills")
            stood: list[int] = []

            def stands() -> bool:
                stood.append(received.frames)
                return len(stood) > 20 and len(set(stood[-20:])) == 1

            until(stands, 30, what="no more is read", every_s=0.02)
            assert sending.is_alive()
            assert received.frames < lines
            proxy.refuse = False
            sending.join(60)
            assert not sending.is_alive()
        until(lambda: received.frames == lines, 30)
        took = intake.end()
        assert (took.confirmed, took.lost) == (lines, 0)
    link = mine.connector().link("look")
    assert [data["n"] for data in datas(link, stream)] == list(range(lines))
    link.close()


def test_syslog_over_both(listen: Listen, link: Link, stream: str) -> None:
    """Data, type and time of each; what is none is text."""
    intake = listen(syslog="0")
    now = datetime.now(UTC).replace(microsecond=0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(
            f'<165>1 {now.isoformat()} h app 7 ID [x@1 a="b"] over udp\n'.encode(),
            ("127.0.0.1", intake.port("syslog")),
        )
        until(lambda: len(events(link, stream)) == 1)
        udp.sendto(b"neither", ("127.0.0.1", intake.port("syslog")))
        until(lambda: len(events(link, stream)) == 2)
    with intake.connect("syslog") as tcp:
        tcp.sendall(b"<11>Feb  5 17:32:18 h app[7]: by line\n19 <12>1 - h - - - - x")
    until(lambda: len(events(link, stream)) == 4)
    first, text, line, counted = events(link, stream)
    assert first.data == {
        "level": "notice", "facility": "local4", "host": "h", "app": "app", "process": "7", "message_id": "ID",
        "data": {"x@1": {"a": "b"}}, "message": "over udp",
    }  # fmt: skip
    assert (first.type, first.time) == ("syslog", now)
    assert text.data == "neither" and "unparsed" in text.headers
    assert (line.data["message"], line.data["level"]) == ("by line", "error")
    assert counted.data == {"level": "warning", "facility": "user", "host": "h", "message": "x"}
    assert intake.end().by == {"http": 0, "tcp": 0, "syslog": 2, "udp": 2}


def test_stopping_takes_what_has_come_and_no_more(listen: Listen, link: Link, stream: str) -> None:
    """Requests in hand are answered, lines that arrived are sent, although their connections are still open."""
    intake = listen(http="0", tcp="0")
    open_connection = intake.connect("tcp")
    open_connection.sendall(b"".join(b"%d\n" % n for n in range(20_000)))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(intake.post, json.dumps(list(range(20_000, 60_000))).encode(), JSON)
        until(lambda: intake.intake._app._held_bytes or answer.done(), what="the request is in hand")
        took = intake.end()
        assert answer.result(10) == (200, {"events": 40_000})
    assert (took.confirmed, took.lost) == (60_000, 0)
    assert sorted(datas(link, stream)) == list(range(60_000))
    with pytest.raises(ConnectionError):
        intake.connect("tcp")
    open_connection.close()


def test_lines_that_could_not_be_sent_are_counted_as_lost(own_server: OwnServer, stream: str) -> None:
    """Stopped while the server is away: grace is waited for, and then it is said."""
    mine = own_server()
    with Proxy(mine.address) as proxy, listening(stream, tcp="0", url=proxy.url, grace="1s") as intake:
        proxy.refuse = True
        proxy.cut()
        with intake.connect("tcp") as sender:
            sender.sendall(b"1\n2\n3\n")
        until(lambda: intake.intake._lines.received.frames == 3)
        took = intake.end()
    assert (took.confirmed, took.lost) == (0, 3)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "listens to at least one of http, tcp and syslog"),
        ({"http": "nowhere"}, "http='nowhere' is not HOST:PORT"),
        ({"tcp": "0", "max_line": "much"}, "max_line='much' is not a size"),
        ({"tcp": "0", "grace": "long"}, "grace='long'"),
        ({"tcp": "0", "max_line": 0}, "max_line=0: at least 1 byte"),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_is_refused_at_once(server: Server, options: dict[str, Any], why: str) -> None:
    """Before anything listens."""
    with pytest.raises(UsageError, match=why):
        Intake("logs", url=server.address.shown, **options)


def test_an_address_that_is_taken_is_named(server: Server) -> None:
    """With what the system says."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"tcp=127.0.0.1:{port}: cannot listen there: Address already in use"
        ):
            Intake("logs", tcp=str(port), url=server.address.shown).run()


def test_without_the_extra_http_says_what_to_install(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP and syslog need nothing."""
    monkeypatch.setattr(http_server, "HAS_DRIVER", False)
    with pytest.raises(UsageError, match=r"pip install 'millstream\[intake\]'"):
        Intake("logs", http="0", url=server.address.shown)
    Intake("logs", tcp="0", url=server.address.shown)
