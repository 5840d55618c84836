"""millstream queue bridge: from a list to a stream and back, on one server and between two."""

import json
import signal

import pytest

from pipeline.server.connect import Link
from tests.conftest import OwnServer
from tests.console.command import apart, here, started
from tests.lists.bridging import events, listed, numbers, push
from tests.until import until


def test_once_moves_all_and_says_how_many(url: str, link: Link, stream: str) -> None:
    """And back again; counts as JSON; type and key from fields."""
    name = f"{stream}:l"
    push(link, name, range(700))
    moved = here("queue", "bridge", name, "--to", stream, "--once", "--key", "{function}", "--json", url=url)
    assert moved.code == 0, moved.err
    assert moved.json == {"list": name, "stream": stream, "moved": 700, "kept": 0, "restarts": 0}
    found = events(link, stream)
    assert (found[0].type, found[0].key) == ("send_email", "send_email")
    back = here("queue", "bridge", name, "--from", stream, "--once", url=url)
    assert back.code == 0 and back.out == f"700 events pushed from stream {stream} to list {name}\n"
    assert numbers(link, stream) == listed(link, name) == list(range(700))


def test_lines_of_log_shippers_are_events(url: str, link: Link, stream: str) -> None:
    """JSON lines by RPUSH, as Vector and Filebeat write them."""
    name = f"{stream}:l"
    for level in ("info", "error"):
        link.call("RPUSH", name, json.dumps({"level": level, "message": "m", "host": "web-1"}))
    ran = here(
        "queue", "bridge", name, "--to", stream, "--once", "--push", "right", "--payload", "json",
        "--type", "log.{level}", "--key", "{host}", url=url,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert [(event.type, event.key) for event in events(link, stream)] == [
        ("log.info", "web-1"),
        ("log.error", "web-1"),
    ]


def test_what_cannot_be_decoded_is_said(url: str, link: Link, stream: str) -> None:
    """Kept and counted; with --bad stop an error that says so, in one line."""
    name = f"{stream}:l"
    link.call("LPUSH", name, "{no json")
    stopped = here(
        "queue", "bridge", name, "--to", stream, "--once", "--payload", "json", "--bad", "stop", url=url
    )
    assert stopped.code == 1 and "not valid JSON" in stopped.error and link.call("LLEN", name) == 1
    ran = here("queue", "bridge", name, "--to", stream, "--once", "--payload", "json", url=url)
    assert ran.code == 0 and "(1 as they are, since no event can be made of them)" in ran.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", ["--to", "--from"])
def test_it_goes_on_until_a_signal(url: str, link: Link, stream: str, number: int, way: str) -> None:
    """Also in the midst of a wait; exit code 0, and what was done is said."""
    name = f"{stream}:l"
    process = started("queue", "bridge", name, way, stream, url=url)
    if way == "--to":
        push(link, name, range(10))
        until(lambda: link.call("XLEN", stream) == 10, 20)
    else:
        link.call("XADD", stream, "*", "level", "info")
        until(lambda: link.call("LLEN", name) == 1, 20)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert out.startswith(b"10 tasks moved" if way == "--to" else b"1 event pushed")
    assert b"Traceback" not in err


def test_between_two_servers(url: str, link: Link, own_server: OwnServer, stream: str) -> None:
    """--url is the list's server."""
    old = own_server()
    to_old = old.connector().link("test")
    push(to_old, "l", range(300))
    to = ("queue", "bridge", "l", "--to", stream, "--to-url", url, "--once")
    wrong = here(*to, "--confirm", "perhaps", url=old.address.shown)
    assert wrong.code == 2 and "perhaps" in wrong.error
    ran = apart(*to, url=old.address.shown)
    assert ran.code == 0, ran.err
    ran = apart("queue", "bridge", "l2", "--from", stream, "--from-url", url, "--once", url=old.address.shown)
    assert ran.code == 0, ran.err
    assert numbers(link, stream) == listed(to_old, "l2") == list(range(300))
    to_old.close()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "either --to STREAM"),
        (("--to", "a", "--from", "b"), "either --to STREAM"),
        (("--to", "emails"), "one key"),
        (("--from", "emails"), "one key"),
        (("--to", "s", "--since", "end"), "--since is for --from"),
        (("--from", "s", "--bad", "stop"), "--bad is for --to"),
        (("--from", "s", "--type", "x"), "--type is for --to"),
        (("--from", "s", "--confirm", "fsynced"), "--confirm is for --to"),
        (("--from", "s", "--to-url", "redis://x"), "--to-url is for --to"),
        (("--from", "s", "--since", "tuesday"), "not a position"),
        (("--to", "s", "--rate", "0/s"), "rate"),
        (("--to", "s", "--payload", "xml"), "xml"),
        (("--to", "{x"), "braces"),
    ],
)
def test_what_cannot_be_meant_is_refused(args: tuple[str, ...], said: str, url: str) -> None:
    """Before anything connects, with exit code 2."""
    ran = here("queue", "bridge", "emails", *args, url="redis://127.0.0.1:1")
    assert ran.code == 2 and said in ran.error, ran.err


def test_a_key_of_another_type_and_a_server_that_is_not_there(url: str, link: Link, stream: str) -> None:
    """One line each, and their exit codes."""
    link.call("SET", f"{stream}:l", "text")
    ran = here("queue", "bridge", f"{stream}:l", "--to", stream, "--once", url=url)
    assert ran.code == 1 and stream in ran.error
    assert here("queue", "bridge", "l", "--to", stream, url="redis://127.0.0.1:1").code == 7
    away = here("queue", "bridge", "l", "--to", stream, "--to-url", "redis://127.0.0.1:1", "--once", url=url)
    assert away.code == 7, away.err
    assert here("queue", "bridge", "l", "--from", f"{stream}-none", "--once", url=url).code == 3
