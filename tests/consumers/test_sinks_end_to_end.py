"""Sinks from a real stream to their targets: nothing lost, one refused event dead alone, and nothing paid for a target
that is away.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.sinks.by_url import sink
from pipeline.event import Event
from pipeline.webhook import verify_webhook
from pipeline.wire import encode_entry
from tests.conftest import Server
from tests.console.command import here, started
from tests.consuming import PRODUCER, Consuming, consuming_on
from tests.http_fake import HttpFake, Reply, Request, fake
from tests.sink_targets import Down, OpenSearchLike, Target, targets
from tests.sinking import CANARY, TIME_MS, log_events, received
from tests.until import until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TROUBLES = (Reply(503, "starting", {"Retry-After": "0"}), Reply(cut_at=0))


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port: int = place.getsockname()[1]
    return port


def send(consuming: Consuming, events: list[Event]) -> None:
    """Append events as they are."""
    for number, event in enumerate(events):
        consuming.send_raw(encode_entry(event, producer=PRODUCER, number=number))


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_a_target_that_is_down_costs_nothing_and_a_refused_event_is_dead_alone(
    consuming: Consuming, target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections refused, then 503, and no answer at all; then all is delivered, with the first attempt."""
    target = next(one for one in targets() if one.name == target.name)
    (tmp_path / "token").write_text(CANARY)
    port = free_port()
    handler = sink(target.url(f"127.0.0.1:{port}", f"&token_file={tmp_path}/token"))
    consuming.app.consumer(consuming.stream, group="g", batch=100)(handler)
    events = log_events(range(300))
    events[123] = target.bad(123)
    send(consuming, events)
    caplog.set_level(logging.INFO, "millstream")
    with consuming.running(), contextlib.ExitStack() as stack:
        until(lambda: "takes nothing just now" in caplog.text, what="the sink has found nobody")
        server = stack.enter_context(fake(Down(target.like, *TROUBLES), port=port))
        consuming.until_drained()
        assert len(consuming.dead()) == 1
    handler.close()
    (letter, _) = consuming.dead()[0]
    assert letter.event_id == f"{PRODUCER}-123"
    assert target.words in letter.reason
    assert letter.attempts == 1
    expected = {f"{PRODUCER}-{number}" for number in range(300)} - {letter.event_id}
    assert set(target.has(target.like)) == expected
    if target.once:
        assert len(target.has(target.like)) == 299
    assert all(request.headers["authorization"] == f"Bearer {CANARY}" for request in server.requests)
    assert CANARY not in caplog.text + repr(letter) + repr(handler) + handler.__qualname__


def test_a_wrong_token_costs_nothing_until_somebody_mends_it(
    consuming: Consuming, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """401 to everything: events wait, the log says why; the right token in its file, and they are delivered."""
    like, token = OpenSearchLike(), tmp_path / "token"
    token.write_text(CANARY)

    def answer(request: Request) -> Reply:
        if request.headers["authorization"] != "Bearer right":
            return Reply(
                401, {"error": {"type": "security_exception", "reason": "missing credentials"}, "status": 401}
            )
        return like(request)

    with fake(answer) as server:
        consuming.app.consumer(consuming.stream, group="g", batch=100)(
            sink(f"opensearch+http://{server.place}?index=logs&token_file={token}")
        )
        send(consuming, log_events(range(50)))
        with consuming.running():
            until(lambda: "until somebody mends it" in caplog.text, what="it is said")
            token.write_text("right")
            consuming.until_drained()
    assert len(like.documents) == 50
    assert consuming.dead() == []
    assert "it refuses our user, password or token (401:" in caplog.text
    assert CANARY not in caplog.text


def test_events_of_two_streams_with_one_id_stay_two(server: Server, stream: str) -> None:
    """A producer numbers each stream on its own: what knows an event again must know its stream."""
    for target in targets():
        with (
            consuming_on(server.address, f"{stream}-a") as first,
            consuming_on(server.address, f"{stream}-b") as second,
        ):
            with fake(target.like) as running:
                for one in (first, second):
                    group = f"g-{target.name}"
                    app = type(one.app)(one.url)
                    app.consumer(one.stream, group=group, batch=10)(sink(target.url(running.place)))
                    if not one.entries():
                        one.send_raw(encode_entry(log_events([1])[0], producer=PRODUCER, number=1))
                    with one.running(app):
                        one.until_drained(group)
        assert len(target.has(target.like)) == 2, target.name


def test_errors_of_a_stream_are_mailed_once(consuming: Consuming) -> None:
    """What is held waits among the retries without spending an attempt, and is acknowledged with the mail."""
    from tests.consumers.test_sink_smtp import Mailbox, MailServer

    box = Mailbox()
    mails = MailServer(box)
    try:
        url = f"smtp://127.0.0.1:{mails.port}?to=ops@example.com&from=app@example.com&tls=none&every=1h"
        consuming.app.consumer(consuming.stream, group="g", batch=100, start="start")(sink(url))
        levels = ("info", "error", "error", "debug", "critical")
        send(
            consuming,
            [
                received(Event({"event": f"{level} it is", "level": level}, time_ms=TIME_MS + 10**9), number)
                for number, level in enumerate(levels)
            ],
        )
        with consuming.running():
            until(lambda: consuming.waiting() == 2 and not consuming.pending(), what="two kinds are held")
            consuming.send_raw(
                encode_entry(
                    Event({"event": "old", "level": "error"}, time_ms=1_000), producer=PRODUCER, number=99
                )
            )
            until(lambda: box.mails, what="an error that is old already is told of at once, with the others")
            assert consuming.waiting() == 2
            consuming.advance(4_000_000)
            consuming.until_drained()
    finally:
        mails.stop()
    (mail,) = box.mails
    assert mail["Subject"] == "[millstream] 4 errors: error it is and 2 more"
    assert consuming.dead() == []


@pytest.fixture
def receiver() -> Iterator[tuple[HttpFake, dict[str, Any]]]:
    """A webhook receiver that is busy at first, and never takes number 7."""
    taken: dict[str, Any] = {}

    def answer(request: Request) -> Reply:
        results = []
        for event in verify_webhook(request.headers, request.body, SECRET):
            if event.data["n"] == 7:
                results.append({"id": event.id, "status": 422, "reason": "seven is full"})
            else:
                taken[event.id] = event
        return Reply(207, {"results": results}) if results else Reply(204)

    with fake(Down(answer, *TROUBLES)) as server:
        yield server, taken


def test_consume_hands_events_to_a_webhook(
    receiver: tuple[HttpFake, dict[str, Any]], consuming: Consuming, tmp_path: Path, server: Server
) -> None:
    """From the command line: secrets come from a file and a variable, and are in no process list and no log."""
    running, taken = receiver
    (tmp_path / "secret").write_text(SECRET)
    consuming.send(*({"n": n} for n in range(50)), type="order.placed")
    url = f"webhook+http://{running.place}/hook?secret_file={tmp_path}/secret&token=${{HOOK_TOKEN}}"
    process = started(
        "consume",
        consuming.stream,
        "-g",
        "g",
        "--sink",
        url,
        url=server.url,
        environment={"HOOK_TOKEN": CANARY},
    )
    until(lambda: len(taken) == 49, 20, what=lambda: f"{len(taken)} of 49 are there")
    until(lambda: len(consuming.dead()) == 1)
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() if Path("/proc/self/cmdline").exists() else b""
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err.decode()
    assert (consuming.dead()[0][0].reason, consuming.dead()[0][0].attempts) == ("422: seven is full", 1)
    assert consuming.waiting() == 0
    assert all(request.headers["authorization"] == f"Bearer {CANARY}" for request in running.requests)
    for secret in (CANARY.encode(), SECRET.encode(), SECRET.removeprefix("whsec_").encode()):
        assert secret not in shown + out + err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("opensearch+http://h:1/", "index=… is missing"),
        ("opensearch://h?index=a", "opensearch+https://HOST, or opensearch+http://HOST without encryption"),
        ("jsonl+http://x", "there is no sink 'jsonl+http:'"),
        ("lokii+https://h", "did you mean loki:?"),
        (f"clickhouse+http://u:{CANARY}@h/?table=t&tabel=x", "there is no option 'tabel'"),
    ],
)
def test_a_sink_that_cannot_be_meant_is_said_in_one_line(url: str, said: str, consuming: Consuming) -> None:
    """Exit code 2, and no group is made."""
    ran = here("consume", consuming.stream, "-g", "g", "--sink", url, url=consuming.url)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.error
    assert CANARY not in ran.err


def test_many_batches_are_there_once(consuming: Consuming) -> None:
    """With several at a time and a target that breaks off every fifth answer."""
    like = OpenSearchLike()

    def answer(request: Request) -> Reply:
        reply = like(request)
        return Reply(200, reply.body, cut_at=7) if len(server.requests) % 5 == 0 else reply

    with fake(answer) as server:
        consuming.app.consumer(consuming.stream, group="g", batch=50, concurrency=4)(
            sink(f"opensearch+http://{server.place}?index=logs")
        )
        send(consuming, log_events(range(2_000)))
        consuming.run_until_drained()
    assert len(like.documents) == 2_000
    assert consuming.dead() == []


@pytest.mark.campaign
def test_a_consumer_that_is_killed_again_and_again_leaves_each_event_once(
    consuming: Consuming, server: Server
) -> None:
    """kill -9 in the midst of batches: what it had sent and not acknowledged is sent again, and is there already."""
    like, answers = OpenSearchLike(), threading.Semaphore(0)

    def answer(request: Request) -> Reply:
        answers.acquire(timeout=10)
        return like(request)

    with fake(answer) as running:
        send(consuming, log_events(range(2_000)))
        url = f"opensearch+http://{running.place}?index=logs"
        command = (
            "consume",
            consuming.stream,
            "-g",
            "g",
            "--claim-after",
            "1s",
            "--batch",
            "50",
            "--sink",
            url,
        )
        for round_number in range(1, 4):
            process = started(*command, url=server.url)
            for _ in range(4):
                answers.release()
            until(lambda n=round_number: len(running.requests) >= 4 * n, 20)  # type: ignore[misc]
            process.kill()
            process.communicate(timeout=20)
        process = started(*command, url=server.url)
        for _ in range(2_000):
            answers.release()
        consuming.until_drained(timeout_s=30)
        process.terminate()
        process.communicate(timeout=20)
    assert len(like.documents) == 2_000
    assert sum(len(request.lines) for request in running.requests) > 2 * 2_000
    assert consuming.dead() == []
