"""Every row of the error table that no waiting mends: a clear end, in one line that says what to do; and passwords."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import AccessDeniedError, SendError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from producers.producer import Producer
from tests.conftest import OwnServer, Server
from tests.console.command import end_all, started
from tests.consuming import Consuming, consuming_on
from tests.until import until

KILL_ALL = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.fixture
def own(own_server: OwnServer) -> Server:
    """A server of this test."""
    return own_server()


@pytest.fixture
def mine(own: Server, stream: str) -> Iterator[Consuming]:
    """A stream on it."""
    with consuming_on(own.address, stream) as consuming:
        yield consuming


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """What a failed test started is ended."""
    yield
    end_all()


def record(consuming: Consuming) -> list[int]:
    """A group "g" and what it handles."""
    seen: list[int] = []
    consuming.app.consumer(consuming.stream, group="g")(lambda event: seen.append(event.data))
    return seen


def as_user(mine: Consuming, name: str, *rights: str) -> str:
    """An URL for a user with these rights."""
    mine.link.call("ACL", "SETUSER", name, "reset", "on", ">secret", *rights)
    return f"{mine.url}?username={name}&password=secret"


@pytest.mark.parametrize("key", ["stream", "groups", "members", "again", "retry", "dead"])
def test_a_key_of_another_type_ends_the_member_and_is_named(
    mine: Consuming, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    """Somebody has put a string where a stream or hash belongs: which key, and what it holds, in one line."""

    @mine.app.consumer(mine.stream, group="g", retry=1)
    def handle(event: Event) -> None:
        raise ValueError("to the dead letters")

    keys = StreamKeys(mine.stream)
    names = {
        "stream": mine.stream, "groups": keys.groups, "members": keys.members("g"),
        "again": keys.again("g"), "retry": keys.retry("g"), "dead": keys.dead("g"),
    }  # fmt: skip
    with mine.running(well=False) as running:
        mine.link.call("SET", names[key], "not ours")
        if key == "dead":
            mine.send(1)
        until(lambda: running.failure, 15, what="the member has ended")
        assert isinstance(running.failure, WrongKeyTypeError)
        assert f"{names[key]} holds a string" in str(running.failure)
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def test_a_stream_that_is_overwritten_while_a_read_waits_at_it_is_named(mine: Consuming) -> None:
    """Redis 7.0 answers that read as if the group were gone: what joining it again then meets is named as well."""
    record(mine)
    with mine.running(well=False) as running:
        (member,) = running.members
        until(lambda: member.state.reader_blocked, what="the read waits at the server")
        mine.link.call("SET", mine.stream, "not ours")
        until(lambda: running.failure, 15, what="the member has ended")
        assert f"{mine.stream} holds a string" in str(running.failure)


def test_a_send_to_a_key_of_another_type_fails_and_others_go_on(mine: Consuming) -> None:
    """The send fails with the cause, at once, and the producer lives."""
    mine.link.call("SET", mine.stream, "not ours")
    with Producer(mine.url) as producer:
        with pytest.raises(SendError, match="another type"):
            producer.send(mine.stream, 1).result(5)
        producer.send(f"{mine.stream}-2", 1).result(5)


def test_rights_taken_away_end_the_member_and_fail_the_send(
    mine: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    """NOPERM while it runs: no loop of tries."""
    record(mine)
    mine.app.url = as_user(mine, "worker", "+@all", "~*")
    with mine.running(well=False) as running, Producer(mine.app.url) as producer:
        producer.send(mine.stream, 1).result(5)
        mine.link.call("ACL", "SETUSER", "worker", "-xadd", "-xreadgroup")
        with pytest.raises(SendError, match="denies access"):
            producer.send(mine.stream, 2).result(5)
        until(lambda: running.failure, 10, what="the member has ended")
        assert isinstance(running.failure, AccessDeniedError)
        assert "xreadgroup" in str(running.failure).lower()
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def test_a_password_that_is_refused_ends_the_member(mine: Consuming) -> None:
    """It was changed, and ours was given for good: one try, no more."""
    record(mine)
    mine.app.url = as_user(mine, "worker", "+@all", "~*")
    with mine.running(well=False) as running:
        mine.link.call("ACL", "SETUSER", "worker", "resetpass", ">other")
        mine.link.call(*KILL_ALL)
        until(lambda: running.failure, 10, what="the member has ended")
        assert "refuses the user or password" in str(running.failure)


def test_a_password_in_a_file_is_read_anew(
    mine: Consuming, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's is changed first, the file a while later: producer and member wait for it, and nothing fails."""
    caplog.set_level(logging.INFO, logger="millstream")
    seen = record(mine)
    as_user(mine, "worker", "+@all", "~*")
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    mine.app.url = f"{mine.url}?username=worker&password_file={file}"
    with mine.running() as running, Producer(mine.app.url) as producer:
        producer.send(mine.stream, 1).result(5)
        until(lambda: seen == [1], what="it is at work")
        mine.link.call("ACL", "SETUSER", "worker", "resetpass", ">another")
        mine.link.call(*KILL_ALL)
        receipts = [producer.send(mine.stream, number) for number in range(2, 10)]
        until(lambda: "refuses the user or password" in caplog.text, 10, what="it is refused")
        file.write_text("another\n", encoding="utf-8")
        for receipt in receipts:
            receipt.result(15)
        until(lambda: sorted(seen) == list(range(1, 10)), 15, what="all is handled")
        assert running.failure is None
    assert "another" not in caplog.text


def test_a_command_that_goes_on_ends_with_its_code_and_one_line(mine: Consuming, own: Server) -> None:
    """consume: exit code 1, and one line that says which user was refused what."""
    url = as_user(mine, "worker", "+@all", "~*")
    mine.send(1)
    process = started("consume", mine.stream, "-g", "g", "--exec", "true", url=url)
    until(lambda: mine.exists() and not mine.pending(), 20, what="it is at work")
    until(lambda: mine.drained(), 20, what="it is at work")
    mine.link.call("ACL", "SETUSER", "worker", "-xreadgroup")
    assert process.wait(20) == 1
    said = process.stderr.read().decode() if process.stderr else ""
    errors = [line for line in said.splitlines() if line.startswith("error:") or "ERROR" in line]
    assert len(errors) == 1, said
    assert "denies access" in errors[0]


def test_produce_goes_on_when_memory_is_there_again(mine: Consuming, link: Link, tmp_path: Path) -> None:
    """A command that sends a whole file waits, says why, and ends well."""
    lines = tmp_path / "lines"
    lines.write_text("\n".join(f"line {number}" for number in range(500)), encoding="utf-8")
    mine.link.call("CONFIG", "SET", "maxmemory", 1)
    process = started("produce", mine.stream, str(lines), url=mine.url)
    assert process.stderr is not None
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
    reader.start()
    until(lambda: b"out of memory" in b"".join(said), 15, what="it says why it waits")
    mine.link.call("CONFIG", "SET", "maxmemory", 0)
    assert process.wait(20) == 0, b"".join(said)
    reader.join()
    assert len(mine.entries()) > 0
