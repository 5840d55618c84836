"""The command line and lists: run, consume, and what is shown of the tasks that workers of ours hold."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.consumer import Consumer
from pipeline.event import Event
from pipeline.options import Retry
from tests.conftest import Server
from tests.console.command import end_all, here, started
from tests.lists.conftest import Listing
from tests.until import until

APP = """
from millstream import Pipeline
app = Pipeline(namespace="prod")
@app.consumer(list={name!r}, function="send")
def send(to: str) -> None:
    with open("sent.txt", "a") as file:
        file.write(to + "\\n")
"""


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    """A test that fails leaves nothing running."""
    yield
    end_all()


@pytest.fixture
def url(server: Server) -> str:
    """The address of this run's server."""
    return f"unix://{server.address.path}"


def test_run_works_off_a_list(listing: Listing, url: str, tmp_path: Path) -> None:
    """It says which list; --stream names it too, as it is called everywhere, whatever the app's namespace."""
    (tmp_path / "shop.py").write_text(APP.format(name=listing.list))
    listing.push('{"function": "send", "args": ["ada"]}')
    process = started("run", "shop:app", "--stream", listing.list, url=url, cwd=tmp_path)
    until((tmp_path / "sent.txt").exists)
    listing.until_gone()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"consuming  list='{listing.list}' group='workers'" in err.decode()


def test_consume_hands_the_tasks_of_a_list_on(listing: Listing, url: str, tmp_path: Path) -> None:
    """To a command, with the task as it was pushed; the group is workers."""
    out = tmp_path / "out.txt"
    listing.push("plain text")
    process = started(
        "consume", "--list", listing.list, "--exec", f"sh -c 'cat >> {out}; echo $EVENT_GROUP >> {out}'",
        url=url, cwd=tmp_path,
    )  # fmt: skip
    until(lambda: out.exists() and "workers" in out.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    event = json.loads(out.read_text().removesuffix("workers\n"))
    assert (event["data"], event["headers"]) == ("plain text", {"list": listing.list})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((), "say what is read: a STREAM, or a list by --list"),
        (("orders", "--list", "emails"), "say what is read"),
        (("orders",), "say who reads: -g GROUP"),
        (("orders", "-g", "g", "--order", "lifo"), "--order says how a list is laid out"),
        (("--list", "emails", "--start", "end"), "a list has no history"),
        (("--list", "{emails"), "braces come as one pair"),
    ],
)
def test_what_consume_cannot_read_is_refused(given: tuple[str, ...], says: str, url: str) -> None:
    """With one line, and before anything is started."""
    ran = here("consume", *given, url=url)
    assert ran.code == 2
    assert says in ran.error


def test_what_workers_hold_of_a_list_is_shown_decoded(listing: Listing, url: str) -> None:
    """Payloads as they were pushed: in the stream, pending, and dead; the group says which list it is of."""
    running = listing.block_list(concurrency=1)
    listing.push('{"function": "send", "args": ["ada"]}', "second")
    with listing.running():
        assert running.wait(10)
        until(lambda: listing.taken() == 2)
        tail = here("tail", listing.stream, "--since", "1h", "--json", url=url)
        assert [line["data"] for line in tail.json] == [{"function": "send", "args": ["ada"]}, "second"]
        assert tail.json[0]["type"] == "send"
        (row, _) = here("pending", "ls", listing.stream, "workers", "--json", url=url).json
        shown = here("pending", "show", listing.stream, "workers", row["entry_id"], url=url)
        assert '"args": ["ada"]' in shown.out.replace("\n", "").replace("  ", "")
        facts = here("group", "show", listing.stream, "workers", "--json", url=url).json
        assert (facts["of_list"], facts["running"], facts["unread"]) == (listing.list, 2, 0)
        assert here("stream", "show", listing.stream, "--json", url=url).json["entries"] == 2
    facts = here("group", "show", listing.stream, "workers", "--json", url=url).json
    assert (facts["state"], facts["unread"], facts["running"]) == ("drained", 0, 0)


def test_dead_letters_of_a_list_are_shown_and_run_again(listing: Listing, url: str) -> None:
    """One that cannot be decoded keeps its bytes; one that failed runs again, and is then gone."""
    fails = [True]

    @listing.app.consumer(list=listing.list, function="send", retry=Retry(attempts=1))
    def send(to: str) -> None:
        if fails[0]:
            raise ValueError(to)

    listing.push('{"function": "send", "args": ["ada"]}', b"\xff\xfe\x00raw")
    with listing.running():
        until(lambda: len(listing.dead_of()) == 2)
        for row in here("dead", "ls", listing.stream, "workers", "--each", "--json", url=url).json:
            shown = here("dead", "show", listing.stream, "workers", row["dead_id"], url=url)
            assert shown.code == 0, shown.err
            assert ("ada" if row["error"] == "ValueError" else "\\xff\\xfe") in shown.out
        fails[0] = False
        ran = here("dead", "retry", listing.stream, "workers", "--error", "ValueError", "--execute", url=url)
        assert ran.code == 0, ran.err
        until(lambda: len(listing.dead_of()) == 1)
        listing.until_gone()


def test_abandoned_tasks_can_be_replayed_and_buried_and_leave_nothing_behind(
    listing: Listing, url: str
) -> None:
    """What a dead worker held: its entries are deleted as they are moved, or they would stand there for ever."""
    listing.app.consumer(list=listing.list)(print)
    with listing.running():
        until(lambda: listing.exists("workers"))
    listing.push("one", "two")
    for payload in ("one", "two"):
        listing.link.call("RPOP", listing.list)
        listing.send_raw([b"h", header_of(listing), b"b", payload.encode()])
    listing.link.call("XREADGROUP", "GROUP", "workers", "dead-1", "STREAMS", listing.stream, ">")
    first, second = listing.pending("workers")
    ran = here("pending", "retry", listing.stream, "workers", first, "--force", "--execute", url=url)
    assert ran.code == 0, ran.err
    assert listing.again_entries("workers") == 1
    assert listing.taken() == 1
    ran = here(
        "pending",
        "bury",
        listing.stream,
        "workers",
        second,
        "--force",
        "--execute",
        "--reason",
        "no",
        url=url,
    )
    assert ran.code == 0, ran.err
    assert listing.taken() == 0
    assert len(listing.dead_of()) == 1


def header_of(listing: Listing) -> bytes:
    """The field `h` of the list's tasks."""
    from pipeline.server.lists import task_header

    return task_header(listing.options())


def test_a_list_has_no_history_to_go_back_to(listing: Listing, url: str) -> None:
    """A reset and a replay of a range say so; a consumer of the stream itself is refused."""
    listing.app.consumer(list=listing.list)(print)
    with listing.running():
        until(lambda: listing.exists("workers"))
    reset = here("group", "reset", listing.stream, "workers", "--to", "start", url=url)
    assert reset.code == 2
    assert "no position to move" in reset.error
    replay = here("replay", listing.stream, "workers", "--from", "start", url=url)
    assert replay.code == 2
    assert "and no history" in replay.error
    for group, says in (("workers", "consume the list"), ("other", "consume the list")):
        consume = here("consume", listing.stream, "-g", group, url=url)
        assert consume.code == 2, consume.err
        assert says in consume.error
    other = here("consume", "--list", listing.list, "-g", "other", url=url)
    assert other.code == 2
    assert "has the group 'workers' already" in other.error


def test_a_lists_group_is_removed_only_with_nothing_left(listing: Listing, url: str) -> None:
    """What it holds stands nowhere else: it is to be given back first. Another group may have the list then."""

    @listing.app.consumer(list=listing.list, retry=Retry(attempts=2, initial="1m"))
    def handle(event: Event) -> None:
        raise ValueError

    listing.push("task")
    with listing.running():
        until(lambda: listing.waiting("workers"))
    ran = here("group", "rm", listing.stream, "workers", "--execute", url=url)
    assert ran.code == 2
    assert f"holds 1 task of the list {listing.list}" in ran.error
    assert listing.waiting("workers") == 1
    assert here("queue", "return", listing.list, "--everything", "--execute", url=url).code == 0
    assert listing.left() == [b"task"]
    assert here("group", "rm", listing.stream, "workers", "--execute", url=url).code == 0
    with Consumer(list=listing.list, group="others", url=listing.url) as consumer:
        assert next(consumer).event.data == "task"
