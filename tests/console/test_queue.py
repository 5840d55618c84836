"""millstream queue: push, pop, peek, status, and what is done for lists whose workers do not."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from consumers.list_queue import ListQueue
from pipeline.keys import ListKeys
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.list_pop import pop_tasks
from tests.conftest import OwnServer, Server
from tests.console.command import apart, here, started
from tests.until import until


@pytest.fixture
def name(stream: str) -> str:
    """A list that no other test uses."""
    return stream


@pytest.fixture
def queue(server: Server, name: str) -> Iterator[ListQueue]:
    """A worker of the list."""
    with ListQueue(name, server.url) as one:
        yield one


def test_what_is_pushed_is_popped(url: str, name: str, link: Link) -> None:
    """As it was given; pop prints the payload, and nothing else, and says by its exit code that none is left."""
    ran = here("queue", "push", name, '{"to": "ada"}', url=url)
    assert (ran.code, ran.out) == (0, f"1 task pushed to {name}, which holds 1\n")
    assert link.call("LRANGE", name, 0, -1) == [b'{"to": "ada"}']
    ran = here("queue", "pop", name, url=url)
    assert (ran.code, ran.out) == (0, '{"to": "ada"}\n')
    ran = here("queue", "pop", name, url=url)
    assert (ran.code, ran.out) == (3, "")
    assert "no task came" in ran.err


def test_functions_are_pushed_by_name(url: str, name: str, link: Link) -> None:
    """Arguments are JSON where they are any."""
    words = ("--function", "send", "--arg", "ada", "--arg", "3", "--arg", '{"a": 1}', "--kwarg", "cc=null")
    assert here("queue", "push", name, *words, url=url).code == 0
    assert json.loads(link.call("LPOP", name)) == {
        "function": "send", "args": ["ada", 3, {"a": 1}], "kwargs": {"cc": None},
    }  # fmt: skip


def test_lines_are_tasks(url: str, name: str, link: Link) -> None:
    """Of standard input, in their order and counted exactly; what is no payload is said by its number."""
    lines = b"".join(b'{"n": %d}\n' % n for n in range(1_200))
    ran = apart("queue", "push", name, "--lines", "-", "--json", url=url, stdin=lines)
    assert (ran.code, ran.json["pushed"], ran.json["length"]) == (0, 1_200, 1_200)
    assert link.call("LRANGE", name, -2, -1) == [b'{"n": 1}', b'{"n": 0}']
    ran = apart("queue", "push", name, "--payload", "json", url=url, stdin=b'{"n": 1}\n\nnonsense\n[2]')
    assert ran.code == 1
    assert ran.out == f"2 tasks pushed to {name}, which holds 1,202; 1 line not pushed\n"
    assert "warning: line 3 is not pushed" in ran.err
    ran = apart(
        "queue", "push", name, "--payload", "msgpack", "--lines", "/dev/stdin", url=url, stdin=b'{"n": 1}'
    )
    assert ran.code == 0
    assert link.call("LPOP", name) == b"\x81\xa1n\x01"


def test_slow_lines_are_pushed_as_they_come(url: str, name: str, link: Link) -> None:
    """Ctrl-C says how many were, and how many may be."""
    process = started("queue", "push", name, url=url, stdin=-1)
    assert process.stdin is not None
    process.stdin.write(b"a\n")
    process.stdin.flush()
    until(lambda: link.call("LLEN", name) == 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    said = err.decode()
    assert f"interrupted: 1 task pushed to {name}\n" in said or (
        f"interrupted: 0 tasks pushed to {name}; 1 more may be there" in said
    )


def test_delayed_tasks_are_shown_and_promoted(url: str, name: str, link: Link) -> None:
    """Status says when the next is due and how many are overdue; promote asks, and moves what is due."""
    assert (
        here("queue", "push", name, "soon", "--after", "10m", "--json", url=url).json["due_ms"] > time.time()
    )
    assert (
        "it is due 2030-01-01" in here("queue", "push", name, "far", "--at", "2030-01-01T09:00", url=url).out
    )
    due = ListKeys(name).due
    members = link.call("ZRANGE", due, 0, -1)
    link.call("ZADD", due, 1_000, members[0])
    shown = here("queue", "status", name, "--json", url=url).json
    assert (shown["delayed"], shown["overdue"]) == (2, 1)
    assert "1 delayed task overdue" in shown["note"]
    ran = here("queue", "promote", name, url=url)
    assert (ran.code, link.call("LLEN", name)) == (6, 0)
    assert "1 delayed task of" in ran.err
    ran = here("queue", "promote", name, "--execute", "--json", url=url)
    assert (ran.code, ran.json["moved"], link.call("LRANGE", name, 0, -1)) == (0, 1, [b"soon"])
    ran = here("queue", "promote", name, url=url)
    assert (ran.code, ran.out[:22]) == (0, "no delayed task of " + name[:3])
    ran = here(
        "queue",
        "push",
        name,
        "--format",
        "classic",
        "--scheduled",
        f"{name}-old",
        "--after",
        "1h",
        "x",
        url=url,
    )
    assert ran.code == 0
    ran = here(
        "queue",
        "push",
        name,
        "--format",
        "classic",
        "--scheduled",
        f"{name}-old",
        "--after",
        "2h",
        "x",
        url=url,
    )
    assert "an equal one was there: they are one task now" in ran.out


def test_priorities(url: str, name: str) -> None:
    """Shown, counted, and taken lowest first."""
    for priority, payload in ((5, "later"), (1, "first"), (5, "last")):
        words = ("--order", "priority", "--priority", str(priority))
        assert here("queue", "push", name, payload, *words, url=url).code == 0
    shown = here("queue", "peek", name, "--order", "priority", "--json", url=url).json
    assert [(row["place"], row["priority"], row["payload"]) for row in shown] == [
        (0, 1, "first"), (1, 5, "later"), (2, 5, "last"),
    ]  # fmt: skip
    status = here("queue", "status", name, "--order", "priority", url=url)
    assert "1: 1, 5: 2" in status.out
    assert here("queue", "pop", name, "--order", "priority", url=url).out == "first\n"


def test_peek_takes_nothing_and_shows_all(url: str, name: str, link: Link) -> None:
    """In the order of taking, escaped for a terminal, what cannot be decoded too; first what is in the hand."""
    link.call("LPUSH", ListKeys(name).hand, "handed")
    link.call("LPUSH", name, '{"function": "send", "args": []}', "\x1b[31mred", b"\xff\xfe")
    shown = here("queue", "peek", name, url=url)
    lines = shown.out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3"]
    assert "send" in lines[1]
    assert r"\x1b[31mred" in lines[2]
    rows = here("queue", "peek", name, "--start", "1", "--count", "3", "--json", url=url).json
    assert [(row["function"], bool(row["error"]), row["handed"]) for row in rows] == [
        ("send", False, False), ("", False, False), ("", True, False),
    ]  # fmt: skip
    assert rows[2]["payload"] == {"base64": "//4="}
    assert link.call("LLEN", name) == 3
    assert "no task waits" in here("queue", "peek", name, "--start", "9", url=url).err


def test_several_lists_are_popped_in_order(url: str, name: str, link: Link) -> None:
    """The first that has a task; as JSON with the list's name, decoded."""
    link.call("LPUSH", f"{name}-2", '{"n": 1}', b"\xff")
    link.call("LPUSH", name, "first")
    ran = here("queue", "pop", name, f"{name}-2", "--count", "5", "-o", "ndjson", url=url)
    assert [(row["list"], row["data"], bool(row["error"])) for row in ran.lines] == [
        (name, "first", False), (f"{name}-2", {"n": 1}, False), (f"{name}-2", None, True),
    ]  # fmt: skip
    assert here("queue", "pop", name, "--count", "5", "--json", url=url).json == []


def test_pop_waits(url: str, name: str, link: Link) -> None:
    """For as long as it is told to, or for ever; Ctrl-C ends it and leaves no task in a hand."""
    process = started("queue", "pop", name, "--wait", "--count", "2", url=url)
    until(lambda: b"cmd=blmove" in link.call("CLIENT", "LIST"))
    link.call("LPUSH", name, "late")
    assert process.stdout is not None
    assert process.stdout.readline() == b"late\n"
    until(lambda: b"cmd=blmove" in link.call("CLIENT", "LIST"))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    link.call("LPUSH", name, "later")
    assert link.call("LLEN", name) == 1


def test_a_reader_that_goes_away_costs_no_task(url: str, name: str, link: Link) -> None:
    """What could not be printed is back where it was."""
    link.call("LPUSH", name, *("x" * 70_000 for _ in range(20)), "first")
    read, write = os.pipe()
    process = started("queue", "pop", name, "--count", "21", url=url, stdout=write)
    os.close(write)
    os.read(read, 1_000)
    os.close(read)
    process.wait(10)
    printed = 21 - link.call("LLEN", name)
    assert 0 < printed <= 3
    until(lambda: link.call("EXISTS", ListKeys(name).popped) == 0)


def test_status_of_a_queue_at_work(url: str, name: str, link: Link, queue: ListQueue) -> None:
    """What waits, who holds what, since when, what failed; and of what is not known that it is not."""
    queue.push_many(["a", "b", "c"])
    task = queue.take("10s")
    assert task is not None
    failed = queue.take("10s")
    assert failed is not None
    failed.reject("no")
    until(lambda: link.call("XLEN", ListKeys(name).tasks.dead("workers")) == 1)
    shown = here("queue", "status", name, "--json", url=url).json
    facts = ("depth", "in_progress", "timed_out", "dead", "members", "hand", "popped", "oldest_waiting_ms")
    assert [shown[fact] for fact in facts] == [1, 1, 0, 1, 1, 0, 0, None]
    assert 0 <= shown["oldest_taken_age_ms"] < 60_000
    assert [(one["kind"], one["pending"]) for one in shown["workers"]] == [("member", 1)]
    text = here("queue", "status", name, url=url).out
    assert "unknown: a list carries no times" in text
    assert [
        row["list"] for row in here("queue", "status", "--json", url=url).json if row["list"] == name
    ] == [name]
    assert here("queue", name, "--json", url=url).json["depth"] == 1
    task.ack()


def test_status_is_watched(url: str, name: str, link: Link) -> None:
    """Again and again, as long as somebody looks."""
    words = ("queue", "status", name, "--watch", "--every", "100ms", "-o", "ndjson")
    process = started(*words, url=url)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["depth"] == 0
    link.call("LPUSH", name, "a")
    until(lambda: process.stdout is not None and json.loads(process.stdout.readline())["depth"] == 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


def test_status_of_what_old_workers_hold(url: str, name: str, link: Link) -> None:
    """Their processing list and their records, those that timed out by themselves."""
    now_s = int(time.time())
    link.call("LPUSH", f"{name}-processing", "a", "b")
    prefix = f"{name}-processing:"
    link.call("HSET", f"{prefix}1", "task", "a", "task_id", "1", "timestamp", now_s - 400, "timeout", 300)
    link.call("HSET", f"{prefix}2", "task", "b", "task_id", "2", "timestamp", now_s, "timeout", 300)
    old = ("--old-processing", f"{name}-processing", "--old-records", prefix)
    shown = here("queue", "status", name, *old, "--json", url=url).json
    assert (shown["old"]["processing"], shown["old"]["records"], shown["old"]["expired"]) == (2, 2, 1)
    assert (shown["in_progress"], shown["timed_out"]) == (2, 1)
    ran = here("queue", "recover", name, *old, url=url)
    assert (ran.code, link.call("LLEN", name)) == (6, 0)
    assert "holds 2 tasks; of 2 records 1 timed out" in ran.err
    ran = here("queue", "recover", name, *old, "--execute", url=url)
    assert (ran.code, link.call("LRANGE", name, 0, -1)) == (0, [b"a"])
    assert ran.out.startswith("1 task put back")
    ran = here("queue", "recover", name, url=url)
    assert ran.code == 2
    assert "--old-processing" in ran.error


def test_a_processing_list_that_nobody_named_is_pointed_to(own_server: OwnServer) -> None:
    """What old workers left there waits for somebody to say whose it is."""
    server = own_server()
    link = server.connector().link("test")
    assert here("queue", "status", "emails", "--json", url=server.url).json["note"] == ""
    link.call("LPUSH", "processing", "a", "b")
    note = here("queue", "status", "emails", "--json", url=server.url).json["note"]
    assert "2 tasks in 'processing'" in note
    assert "--old-processing processing" in note
    named = here("queue", "status", "emails", "--old-processing", "processing", "--json", url=server.url).json
    assert (named["note"], named["old"]["processing"]) == ("", 2)


def test_tasks_are_returned_to_old_workers(url: str, name: str, link: Link) -> None:
    """What lies in the hand and what a dead pop left, once somebody agrees; there has to be something."""
    ran = here("queue", "return", name, url=url)
    assert (ran.code, ran.out) == (0, "nothing is to be put back\n")
    link.call("LPUSH", name, "a", "b")
    link.call("LMOVE", name, ListKeys(name).hand, "RIGHT", "LEFT")
    ran = here("queue", "return", name, url=url)
    assert (ran.code, link.call("LLEN", name)) == (6, 1)
    assert "1 taken and not begun" in ran.err
    ran = here("queue", "return", name, "--execute", url=url)
    assert (ran.code, ran.out) == (0, f"1 task put back to {name}\n")
    assert link.call("LRANGE", name, 0, -1) == [b"b", b"a"]
    assert pop_tasks(link, ListOptions(name=name), "dead") == [b"a"]
    assert here("queue", "status", name, "--json", url=url).json["popped"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pop", "{name}", "--timeout", "-1"), "timeout"),
        (("push", "{name}", "x", "--at", "2001-01-01"), "in the past"),
        (("push", "{name}", "x", "--at", "noon"), "is not a time"),
        (("push", "{name}", "x", "--after", "soon"), "is not a duration"),
        (("push", "{name}", "x", "--after", "1s", "--at", "2030-01-01"), "not both"),
        (("push", "{name}", "x", "--payload", "yaml"), "'yaml' is not one of"),
        (("push", "{name}", "nonsense", "--payload", "json"), "JSON"),
        (("push", "{name}", "x", "--priority", "1"), "needs order='priority'"),
        (("push", "{name}", "x", "--function", "f"), "One of PAYLOAD, --lines and --function"),
        (("push", "{name}", "--lines", "/nowhere"), "No such file"),
        (("push", "{name}", "x", "--arg", "1"), "--arg and --kwarg are those of a --function"),
        (("push", "{name}", "--function", "f", "--kwarg", "x"), "write NAME=VALUE"),
        (("pop", "{name}", "--wait", "--timeout", "1s"), "one of them"),
        (("peek", "{name}", "--order", "random"), "'random' is not one of"),
        (("peek", ""), "a list name is text"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    url: str, name: str, link: Link, words: tuple[str, ...], said: str
) -> None:
    """And nothing is done."""
    ran = here("queue", *(word.replace("{name}", name) for word in words), url=url)
    assert ran.code in (1, 2, 3)
    assert said in ran.error
    assert link.call("EXISTS", name) == 0


@pytest.mark.parametrize("verb", ["push", "pop", "peek", "status"])
def test_a_key_of_another_type_is_named_with_the_verb_that_fits(
    url: str, name: str, link: Link, verb: str
) -> None:
    """A stream is for consumers, a sorted set wants --order priority."""
    link.call("XADD", name, "*", "a", "b")
    ran = here("queue", verb, name, *(["x"] if verb == "push" else []), url=url)
    assert "is a stream, not a list" in ran.out + ran.err
    assert "millstream tail" in ran.out + ran.err
    link.call("DEL", name)
    link.call("ZADD", name, 1, "x")
    ran = here("queue", verb, name, *(["x"] if verb == "push" else []), url=url)
    assert "--order priority" in ran.out + ran.err
    assert ran.code == (0 if verb == "status" else 1)


@pytest.mark.parametrize("there", [True, False])
def test_verbs_of_streams_name_the_stream_of_a_list(url: str, name: str, link: Link, there: bool) -> None:
    """Whoever looks for what the workers of a list hold is told where it is."""
    if there:
        link.call("LPUSH", name, "x")
    ran = here("pending", name, "workers", url=url)
    assert ran.code != 0
    assert f"what its workers took is the stream '{{{name}}}:tasks'" in ran.err


def test_what_cannot_be_pushed_and_where_nothing_is_to_be_done(url: str, name: str, link: Link) -> None:
    """Each said at once: a call of no function, a folder of lines, a server that is away, no old tasks."""
    ran = here("queue", "push", name, "--function", "", url=url)
    assert ran.code == 2 and "--function has no name" in ran.error
    ran = here("queue", "push", name, "--lines", "/", url=url)
    assert ran.code == 2 and "--lines /: it is a folder" in ran.error
    assert not link.call("EXISTS", name)
    for verb in (("push", name, "x"), ("pop", name, "--timeout", "1h")):
        assert here("queue", *verb, url="redis://127.0.0.1:1").code == 7
    ran = here(
        "queue", "recover", name, "--old-processing", f"{name}:p", "--old-records", f"{name}:p:", url=url
    )
    assert ran.code == 0 and ran.out.startswith(f"0 tasks put back to {name}"), ran.err
