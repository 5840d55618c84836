"""The bridge from a list to a stream on one server: each task once, in order, whatever goes on beside it."""

import json
import threading
from collections.abc import Iterator

import pytest

from consumers.list_filler import Filled, fill_list
from pipeline.errors import DecodeError, UsageError, WrongKeyTypeError
from pipeline.list_options import ListOptions
from pipeline.server.bridging import load_scripts, move_command, parse_moved
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.lists import follow_list
from producers.sources.tasks import TaskOptions
from tests.conftest import OwnServer, Server
from tests.lists.bridging import Running, bridges, events, listed, numbers, push, task
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def producer(server: Server) -> Iterator[Producer]:
    """A producer to the server of this run."""
    with Producer(connector=server.connector()) as producer:
        yield producer


@pytest.fixture
def running(producer: Producer) -> Iterator[Running]:
    """Starts a bridge that goes on; it is stopped with the test."""
    with bridges(producer) as start:
        yield start


def test_tasks_come_as_events_in_the_order_workers_would_take_them(
    producer: Producer, link: Link, stream: str
) -> None:
    """What BRPOP would take first is the first event; data, type and key are the payload's; ids are unique."""
    push(link, f"{stream}:l", range(1_500))
    fed = follow_list(
        producer,
        stream,
        f"{stream}:l",
        follow=False,
        options=TaskOptions(key=lambda data: str(data["args"][0])),
    )
    assert fed.confirmed == 1_500 and fed.unparsed == 0
    found = events(link, stream)
    assert [event.data for event in found] == [{"function": "send_email", "args": [n]} for n in range(1_500)]
    assert {event.type for event in found} == {"send_email"} and found[7].key == "7"
    assert len({event.id for event in found}) == 1_500
    assert link.call("EXISTS", f"{stream}:l") == 0


@pytest.mark.parametrize(
    ("pushed", "order"), [("LPUSH", "fifo"), ("RPUSH", "fifo"), ("LPUSH", "lifo"), ("RPUSH", "lifo")]
)
def test_either_end_may_be_the_one_that_is_taken_from(
    producer: Producer, link: Link, stream: str, pushed: str, order: str
) -> None:
    """As ListOptions says; text is text, and without a function there is no type."""
    for word in ("one", "two", "three"):
        link.call(pushed, f"{stream}:l", word)
    queue = ListOptions(name=f"{stream}:l", push="left" if pushed == "LPUSH" else "right", order=order)
    follow_list(producer, stream, queue, follow=False)
    found = events(link, stream)
    expected = ["one", "two", "three"] if order == "fifo" else ["three", "two", "one"]
    assert [event.data for event in found] == expected and found[0].type == ""


def test_a_list_taken_from_the_end_it_is_pushed_to_is_moved_while_it_is_pushed_to(
    producer: Producer, server: Server, link: Link, stream: str
) -> None:
    """A producer that pushes without a pause: something else stands there at each look, and each task comes once."""
    name, ended, pushed = f"{stream}:l", threading.Event(), [5_000]
    push(link, name, range(5_000))

    def go_on_pushing() -> None:
        pusher = server.connector().link("pusher")
        while not ended.is_set():
            pusher.call("LPUSH", name, *map(task, range(pushed[0], pushed[0] + 3)))
            pushed[0] += 3
        pusher.close()

    thread = threading.Thread(target=go_on_pushing)
    thread.start()
    try:
        with bridges(producer) as start:
            start(stream, ListOptions(name=name, order="lifo"))
            until(lambda: link.call("XLEN", stream) >= 5_000, 20, what=lambda: str(link.call("XLEN", stream)))
            ended.set()
            thread.join()
            until(lambda: link.call("LLEN", name) == 0, 20)
    finally:
        ended.set()
        thread.join()
    assert sorted(numbers(link, stream)) == list(range(pushed[0]))


def test_what_was_pushed_before_the_tasks_that_were_seen_stays_in_its_order(link: Link, stream: str) -> None:
    """The script itself: newer ones stand at either end, one that was seen is gone, another is equal to a new one."""
    for end, push_verb in (("right", "RPUSH"), ("left", "LPUSH")):
        name = f"{{{stream}}}{end}"
        options = ListOptions(name=name, push=end, order="lifo")
        link.call(
            push_verb, name, *"abcde", *"wxyb"
        )  # e, d, c, b were seen; d was taken by another, w to b are new
        link.call("LREM", name, 0, "d")
        seen = [(word.encode(), b"h", b"b") for word in "edcb"]
        load_scripts(link)
        link.send(move_command(options, stream, seen))
        moved = parse_moved(link.read())
        assert (moved.moved, moved.standing, moved.indices()) == (3, 4, [0, 2, 3])
        left = link.call("LRANGE", name, 0, -1)[:: 1 if end == "right" else -1]
        assert b"".join(left) == b"awxyb"
    fifo = ListOptions(name=f"{{{stream}}}fifo")
    link.call("LPUSH", fifo.name, *"abc")
    link.call(
        "RPUSH", fifo.name, "next"
    )  # as what is due: taken before all that was seen, so nothing is moved
    link.send(move_command(fifo, stream, [(b"a", b"h", b"b")]))
    assert parse_moved(link.read()).moved == 0 and link.call("LLEN", fifo.name) == 4


def test_equal_payloads_are_tasks_of_their_own(producer: Producer, link: Link, stream: str) -> None:
    """Seven equal ones and another are eight events, in order."""
    link.call("LPUSH", f"{stream}:l", *["same"] * 5, "other", *["same"] * 2)
    assert follow_list(producer, stream, f"{stream}:l", follow=False).confirmed == 8
    assert [e.data for e in events(link, stream)] == ["same"] * 5 + ["other"] + ["same"] * 2


def test_what_old_workers_take_meanwhile_is_theirs_alone(
    running: Running, server: Server, link: Link, stream: str
) -> None:
    """Two old workers pop beside the bridge while producers push, equal payloads too: none lost, none twice."""
    name, total = f"{stream}:l", 6_000
    taken: list[list[int]] = [[], []]
    done = threading.Event()

    def work(mine: list[int]) -> None:
        with_link = server.connector().link("old")
        while not done.is_set():
            reply = with_link.call("BRPOP", name, 0.05)
            if reply:
                mine.append(json.loads(reply[1])["args"][0])
        with_link.close()

    workers = [threading.Thread(target=work, args=(mine,)) for mine in taken]
    for worker in workers:
        worker.start()
    running(stream, name)
    for start in range(0, total, 200):  # every number twice
        link.call("LPUSH", name, *[task(n // 2) for n in range(start, start + 200)])
    until(lambda: not link.call("EXISTS", name), what="the list is empty")
    done.set()
    for worker in workers:
        worker.join(10)
    moved = numbers(link, stream)
    assert sorted(moved + taken[0] + taken[1]) == sorted(n // 2 for n in range(total))
    assert moved == sorted(moved) and moved, "in order"
    assert taken[0] + taken[1], "old workers had a share"


def test_it_waits_without_taking_and_stops_at_once(running: Running, link: Link, stream: str) -> None:
    """A bridge that waits brings what is pushed within a moment, and ends when told to."""
    name = f"{stream}:l"
    stop, fed = running(stream, name)
    link.call("LPUSH", name, "first")
    until(lambda: fed.confirmed == 1)
    until(lambda: b"cmd=blmove" in link.call("CLIENT", "LIST"), what="it waits at the server")
    link.call("LPUSH", name, "second", "third")
    until(lambda: fed.confirmed == 3)
    stop.set()
    assert [event.data for event in events(link, stream)] == ["first", "second", "third"]


def test_a_task_put_back_at_the_take_end_goes_first(producer: Producer, link: Link, stream: str) -> None:
    """An old recoverer pushes to the end that is taken from, between a look and a move: its task is not passed over."""
    name = f"{stream}:l"
    push(link, name, range(100))
    again = [0, 40]

    def meanwhile(data: object) -> str:
        number = data["args"][0]  # type: ignore[index]
        if number in again:  # what it was made of is in the list still
            again.remove(number)
            link.call("RPUSH", name, task(1_000 + number))
        return ""

    follow_list(producer, stream, name, follow=False, options=TaskOptions(type=meanwhile))
    found = numbers(link, stream)
    assert found.index(1_000) < found.index(0) and sorted(found) == [*range(100), 1_000, 1_040]
    assert [n for n in found if n < 1_000] == list(range(100))
    assert not link.call("EXISTS", name)


def test_what_cannot_be_decoded_goes_on_as_it_is(producer: Producer, link: Link, stream: str) -> None:
    """It stops nothing, keeps its bytes and its place, is counted, and is a DecodeError for whoever reads it."""
    name = f"{stream}:l"
    link.call("LPUSH", name, '{"n": 1}', b"\xff\xfe{", '{"n": 3}', '{"big": %d}' % 2**70)
    fed = follow_list(producer, stream, ListOptions(name=name, payload="json"), follow=False)
    assert (fed.confirmed, fed.unparsed) == (4, 2)
    found = events(link, stream)
    assert found[0].data == {"n": 1} and found[2].data == {"n": 3} and found[3].data == {"big": 2**70}
    with pytest.raises(DecodeError):
        _ = found[1].data
    assert "not valid JSON" in found[1].headers["kept"]
    assert link.call("XRANGE", stream, "-", "+")[1][1][3] == b"\xff\xfe{"


def test_with_bad_stop_it_ends_before_such_a_task(producer: Producer, link: Link, stream: str) -> None:
    """What came before it is moved; it and what is behind it stay."""
    name = f"{stream}:l"
    link.call("LPUSH", name, '{"n": 1}', '{"n": 2}', b"{no", '{"n": 4}')
    with pytest.raises(DecodeError):
        follow_list(
            producer,
            stream,
            ListOptions(name=name, payload="json"),
            follow=False,
            options=TaskOptions(bad="stop"),
        )
    assert [event.data["n"] for event in events(link, stream)] == [1, 2]
    assert link.call("LRANGE", name, 0, -1) == [b'{"n": 4}', b"{no"]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_lost_reply_doubles_nothing(server: Server, link: Link, stream: str, nth: int) -> None:
    """Every second to fourth reply is lost with its connection: each task is in the stream once, in order."""
    name = f"{stream}:l"
    push(link, name, range(3_000))
    with Proxy(server.address) as proxy, Producer(proxy.url) as producer:
        producer.connector.capabilities()
        seen = iter(range(1_000_000))
        proxy.swallow = lambda _, reply: reply.startswith(b"*2\r\n:") and next(seen) % (nth + 1) == 0
        fed = follow_list(producer, stream, name, follow=False)
        assert proxy.swallowed and fed.restarts
    assert numbers(link, stream) == list(range(3_000))


def test_out_of_memory_it_goes_on(own_server: OwnServer, stream: str) -> None:
    """A backlog fills the server: it moves all the same, since else nothing would ever make room."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    push(link, "l", range(2_000))
    link.call("CONFIG", "SET", "maxmemory", "1")
    with Producer(connector=connector) as producer:
        assert follow_list(producer, stream, "l", follow=False).confirmed == 2_000
    link.call("CONFIG", "SET", "maxmemory", "0")
    assert numbers(link, stream) == list(range(2_000))
    link.close()


def test_the_wait_goes_on_out_of_memory(own_server: OwnServer, running: Running, stream: str) -> None:
    """The server refuses to wait for us then: it is asked now and again, and what comes is moved."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    with Producer(connector=connector) as producer:
        link.call("CONFIG", "SET", "maxmemory", "1")
        stop, fed = running(stream, "l", producer=producer)
        until(lambda: b"blmove" in link.call("INFO", "commandstats"), what="it tried to wait")
        link.call("CONFIG", "SET", "maxmemory", "0")
        push(link, "l", range(3))
        until(lambda: fed.confirmed == 3)
        stop.set()
    link.close()


def test_the_rate_is_kept(producer: Producer, link: Link, stream: str) -> None:
    """300 tasks at 1,000 a second take 0.2 s or more."""
    import time

    push(link, f"{stream}:l", range(300))
    begun_s = time.monotonic()
    follow_list(producer, stream, f"{stream}:l", follow=False, rate=1_000)
    assert time.monotonic() - begun_s > 0.15
    assert numbers(link, stream) == list(range(300))


def test_a_capped_stream_stays_capped(link: Link, server: Server, stream: str) -> None:
    """max_stream_entries holds for the bridge as for any producer."""
    push(link, f"{stream}:l", range(3_000))
    with Producer(connector=server.connector(), max_stream_entries=1_000) as producer:
        follow_list(producer, stream, f"{stream}:l", follow=False)
    assert 1_000 <= link.call("XLEN", stream) < 1_500
    assert numbers(link, stream)[-1] == 2_999


@pytest.mark.parametrize("wrong", ["list", "stream"])
def test_a_key_of_another_type_is_said(producer: Producer, link: Link, stream: str, wrong: str) -> None:
    """With both names; and the task stays where it is."""
    name = f"{stream}:l"
    link.call("LPUSH", name if wrong == "stream" else f"{name}:x", "a task")
    link.call("SET", name if wrong == "list" else stream, "text")
    with pytest.raises(WrongKeyTypeError, match=rf"{stream}.*holds a string, not a {wrong}"):
        follow_list(producer, stream, name, follow=False)
    if wrong == "stream":
        assert link.call("LLEN", name) == 1


@pytest.mark.parametrize("option", ["type", "key"])
def test_a_function_of_the_caller_that_fails_moves_nothing_of_that_task(
    producer: Producer, link: Link, stream: str, option: str
) -> None:
    """The error says which function, why, and of which task; that one and those behind it stay in the list."""
    link.call("LPUSH", f"{stream}:l", task(1), "a text", task(2))
    options = TaskOptions(**{option: lambda data: str(data["args"][0])})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"TaskOptions.{option} fails with TypeError.*b'a text'"):
        follow_list(producer, stream, f"{stream}:l", follow=False, options=options)
    left = link.call("LRANGE", f"{stream}:l", 0, -1)
    assert left[:2] == [task(2).encode(), b"a text"] and len(left) + link.call("XLEN", stream) == 3


def test_a_list_that_does_not_exist_is_an_empty_one(producer: Producer, link: Link, stream: str) -> None:
    """To the server both are the same."""
    assert follow_list(producer, stream, f"{stream}:l", follow=False) == Fed()
    assert not link.call("EXISTS", stream)


@pytest.mark.parametrize(
    "queue", [ListOptions(name="emails"), ListOptions(name="queue", order="priority"), ListOptions(name="x")]
)
def test_what_cannot_be_bridged_is_refused(producer: Producer, queue: ListOptions) -> None:
    """The list itself as the stream, its own stream of tasks, a sorted set."""
    stream = {"emails": "emails", "x": "{x}:tasks"}.get(queue.name, "other")
    with pytest.raises(UsageError, match=queue.name):
        follow_list(producer, stream, queue, follow=False)
    with pytest.raises(UsageError, match="bad="):
        TaskOptions(bad="drop")


def test_a_server_that_forgets_scripts_and_data_is_gone_on_with(own_server: OwnServer, stream: str) -> None:
    """SCRIPT FLUSH and FLUSHALL beneath a bridge each way: it loads its scripts anew, and moves what comes."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    stop, filled = threading.Event(), Filled()
    back = threading.Thread(
        target=fill_list,
        args=("back", stream),
        kwargs={"connector": connector, "stop": stop, "filled": filled},
    )
    with Producer(connector=connector) as producer, bridges(producer) as running:
        _, fed = running(stream, "l")
        back.start()
        try:
            for count, forget in enumerate((("SCRIPT", "FLUSH"), ("FLUSHALL",), ("PING",)), 1):
                push(link, "l", range(10))
                until(lambda count=count: (fed.confirmed, filled.pushed) == (10 * count, 10 * count))  # type: ignore[misc]
                link.call(*forget)
        finally:
            stop.set()
            back.join(10)
    assert not back.is_alive() and listed(link, "back") == list(range(10))
    link.close()
