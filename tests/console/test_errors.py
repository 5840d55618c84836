"""Errors: one clear line on stderr and the exit code that belongs to it, and nothing of it on stdout."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from tests.conftest import OwnServer
from tests.console.command import Ran, apart, command, environ, here, started
from tests.until import until

NOBODY = "redis://user:secret@127.0.0.1:1/0"


def test_without_an_address_all_ways_to_give_one_are_named() -> None:
    """Exit code 7, as for a server that cannot be reached."""
    ran = here("stream", "ls")
    assert (ran.code, ran.out) == (7, "")
    for way in ("--url", "MILLSTREAM_URL", "REDIS_URL", "embedded://"):
        assert way in ran.error


@pytest.mark.parametrize(
    "args",
    [
        ("streams",),
        ("stream", "show", "s"),
        ("groups",),
        ("group", "create", "s", "g"),
        ("consumers", "s", "g"),
        ("pending", "s", "g"),
        ("dead", "s", "g"),
        ("tail", "s", "-f"),
        ("top",),
        ("replay", "s", "g", "--from", "start"),
        ("replay", "pending", "s", "g"),
        ("stream", "trim", "s", "--keep", "1h"),
    ],
    ids=" ".join,
)
def test_a_server_that_is_not_there_is_exit_code_7(args: tuple[str, ...]) -> None:
    """Every verb says so in the same way, and never shows the password."""
    ran = here(*args, url=NOBODY)
    assert (ran.code, ran.out) == (7, "")
    assert "127.0.0.1:1" in ran.error
    assert "secret" not in ran.err
    assert "hint: is a server running there?" in ran.err


def test_a_database_that_is_not_there_is_not_taken_for_redis() -> None:
    """Exit code 7 too; nobody is told to look for Redis, nor of an option that was not given."""
    pytest.importorskip("psycopg", reason="psycopg (extra `postgres`) is not installed")
    ran = here("postgres", "create", "postgresql://app@127.0.0.1:1/shop", url=NOBODY)
    assert (ran.code, ran.out) == (7, "")
    assert "cannot reach PostgreSQL" in ran.error
    assert "not about Redis" in ran.err
    assert "millstream server" not in ran.err
    ran = here("postgres", "create", "nonsense", url=NOBODY)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith("not an address of PostgreSQL")


def test_a_wrong_password_is_said_without_showing_it(own_server: OwnServer) -> None:
    """Neither a wrong one nor a missing one is a server that cannot be reached."""
    server = own_server()
    path = server.address.path
    connector = server.connector()
    link = connector.link("setup")
    link.call("CONFIG", "SET", "requirepass", "right")
    try:
        wrong = here("streams", url=f"unix://{path}?password=verywrong")
        assert wrong.code == 1
        assert "password" in wrong.error
        assert "verywrong" not in wrong.err
        missing = here("streams", url=f"unix://{path}")
        assert missing.code == 1
        assert "Authentication required" in missing.error
        assert "hint: put user and password into MILLSTREAM_URL" in missing.err
        assert here("streams", url=f"unix://{path}?password=right").code == 0
    finally:
        link.call("CONFIG", "SET", "requirepass", "")
        link.close()
        connector.close()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("streams", "--url", "http://somewhere"), "url begins with 'http'"),
        (("streams", "-o", "xml"), "'xml' is not one of"),
        (("tail",), "missing argument"),
        (("tail", "lone{brace"), "braces"),
        (("tail", "s", "--since", "yesterdayish"), "--since='yesterdayish' is not a position"),
        (("tail", "s", "--since", "1h", "--as-group", "g"), "give one of them"),
        (("stream", "trim", "s"), "--keep DURATION or --before POSITION"),
        (("stream", "trim", "s", "--keep", "soon"), "--keep='soon' is not a duration"),
        (("stream", "trim", "s", "--keep", "1h", "--before", "end"), "--keep DURATION or --before POSITION"),
        (("consumer", "rm", "s", "g"), "--leftover"),
        (("group", "show", "s", "new\nline"), "control characters"),
        (("pending", "show", "s", "g", "nonsense"), "not an entry id"),
        (("dead", "show", "s", "g", "nonsense"), "not an entry id"),
        (("replay", "s", "g"), "missing option '--from'"),
        (("postgres", "ddl", "--inbox", "bad name;"), "--inbox='bad name;': small letters"),
        (("produce", "s", "--outbox", "postgresql:///x", "--table", "A"), "--table='A': small letters"),
        (("streams", "--nope"), "no such option"),
    ],
    ids=lambda value: " ".join(value).replace("\n", " ") if isinstance(value, tuple) else "",
)
def test_what_cannot_be_meant_is_exit_code_2(args: tuple[str, ...], said: str, url: str) -> None:
    """Known before anything connects, mostly; the line names the option."""
    ran = here(*args, **({} if "--url" in args else {"url": url}))
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.error


@pytest.mark.parametrize(
    "args",
    [
        ("stream", "show", "{}"),
        ("groups", "{}"),
        ("consumers", "{}", "g"),
        ("pending", "{}", "g"),
        ("dead", "{}", "g"),
        ("tail", "{}"),
        ("top", "{}"),
        ("group", "rm", "{}", "g"),
        ("stream", "trim", "{}", "--keep", "1h"),
        ("replay", "{}", "g", "--from", "start"),
        ("replay", "pending", "{}", "g"),
    ],
    ids=" ".join,
)
def test_a_stream_that_is_not_there_is_exit_code_3(args: tuple[str, ...], stream: str, url: str) -> None:
    """And it is not made by looking at it."""
    ran = here(*(arg.format(stream) for arg in args), url=url)
    assert (ran.code, ran.out) == (3, "")
    assert f"there is no stream {stream!r}" in ran.error
    assert here("streams", "--match", stream, "--json", url=url).json == []


@pytest.mark.parametrize(
    "args",
    [
        ("group", "show", "{}", "g"),
        ("consumers", "{}", "g"),
        ("pending", "{}", "g"),
        ("dead", "{}", "g"),
        ("tail", "{}", "--as-group", "g"),
        ("group", "rm", "{}", "g", "--execute"),
        ("replay", "{}", "g", "--from", "start", "--execute"),
        ("replay", "pending", "{}", "g"),
    ],
    ids=" ".join,
)
def test_a_group_that_is_not_there_is_exit_code_3(
    args: tuple[str, ...], stream: str, url: str, link: Link
) -> None:
    """The line names both stream and group."""
    link.call("XADD", stream, "*", "a", "b")
    ran = here(*(arg.format(stream) for arg in args), url=url)
    assert (ran.code, ran.out) == (3, "")
    assert f"stream {stream!r} has no group 'g'" in ran.error


@pytest.mark.parametrize(
    "args",
    [
        ("stream", "show", "{}"),
        ("groups", "{}"),
        ("stream", "create", "{}"),
        ("group", "create", "{}", "g"),
        ("consumers", "{}", "g"),
        ("pending", "{}", "g"),
        ("tail", "{}"),
        ("tail", "{}", "-f"),
        ("stream", "trim", "{}", "--keep", "1h"),
        ("replay", "{}", "g", "--from", "start"),
    ],
    ids=" ".join,
)
def test_a_key_of_another_type_is_named(args: tuple[str, ...], stream: str, url: str, link: Link) -> None:
    """Exit code 1, and the key is left as it is."""
    link.call("SET", stream, "mine")
    ran = here(*(arg.format(stream) for arg in args), url=url)
    assert (ran.code, ran.out) == (1, "")
    assert f"stream {stream!r}" in ran.error
    assert "WRONGTYPE" in ran.error
    assert link.call("GET", stream) == b"mine"


def test_a_value_from_the_environment_is_blamed_on_its_variable(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Who typed nothing wrong must learn where it comes from."""
    monkeypatch.setenv("MILLSTREAM_STREAM_TRIM_KEEP", "soon")
    assert "MILLSTREAM_STREAM_TRIM_KEEP" in here("stream", "trim", "s", url=url).err
    monkeypatch.setenv("MILLSTREAM_OUTPUT", "xml")
    assert "MILLSTREAM_OUTPUT" in here("streams", url=url).err


def test_options_are_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, url: str, motley: str
) -> None:
    """One variable per option, named after verb and option; those of all verbs without a verb."""
    monkeypatch.setenv("MILLSTREAM_URL", url)
    monkeypatch.setenv("MILLSTREAM_OUTPUT", "ndjson")
    monkeypatch.setenv("MILLSTREAM_TAIL_TYPE", "row")
    assert [event["type"] for event in here("tail", motley).lines] == ["row"] * 3


def test_v_shows_the_traceback_beside_the_line() -> None:
    """For whoever has to find out why; nobody else is shown one."""
    ran = here("streams", "-v", url=NOBODY)
    assert ran.code == 7
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-2].startswith("error: cannot reach")


def test_names_cannot_steer_the_terminal_through_an_error(url: str) -> None:
    """What was typed comes back escaped."""
    ran = here("tail", "x\x1b]0;owned\x07", url=url)
    assert "\x1b" not in ran.err
    assert "\x07" not in ran.err


def test_a_reader_that_leaves_ends_it_quietly(motley: str, url: str, link: Link) -> None:
    """`| head` is no error: nothing on stderr, whether it leaves early or at the very end."""
    for _ in range(20):
        link.calls([("XADD", motley, "*", "fill", "x" * 5_000)] * 20)
    process = subprocess.Popen(
        command("tail", motley, "--since", "start"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ(url),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(10) == 0
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said_in_one_line(motley: str, url: str) -> None:
    """Results that cannot be written are a failure."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("tail", motley),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environ(url),
            timeout=30,
            check=False,
        )
    ran = Ran(done.returncode, "", done.stderr.decode())
    assert ran.code == 1
    assert "No space left on device" in ran.error


def test_ctrl_c_is_exit_code_130_and_says_nothing(motley: str, url: str) -> None:
    """Whoever pressed it knows."""
    process = started("tail", motley, "-f", url=url)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, b"")


def test_consent_is_asked_for_on_a_terminal(stream: str, url: str, link: Link) -> None:
    """The plan comes first; anything but yes changes nothing."""
    link.call("XADD", stream, "*", "a", "b")

    def asked(answer: bytes) -> tuple[int, str]:
        ours, theirs = os.openpty()
        process = started("stream", "trim", stream, "--before", "end", url=url, stdin=theirs, stderr=theirs)
        os.close(theirs)
        said = b""

        def question() -> bool:
            nonlocal said
            said += os.read(ours, 1_000)
            return b"[y/N]" in said

        until(question)
        os.write(ours, answer)
        code = process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
        os.close(ours)
        return code, said.decode()

    code, said = asked(b"n\n")
    assert code == 6
    assert "1 of the 1 entry" in said
    assert link.call("XLEN", stream) == 1
    assert asked(b"y\n")[0] == 0
    assert link.call("XLEN", stream) == 0


def test_without_a_terminal_consent_is_exit_code_6(stream: str, url: str, link: Link) -> None:
    """The plan is shown, nothing is changed, --execute is named."""
    link.call("XADD", stream, "*", "a", "b")
    link.call("XGROUP", "CREATE", stream, "g", "0")
    for args in (("group", "rm", stream, "g"), ("replay", stream, "g", "--from", "start")):
        ran = apart(*args, url=url)
        assert (ran.code, ran.out) == (6, "")
        assert "--execute" in ran.error
    assert link.call("XLEN", stream) == 1
