"""The plain pop of a ListQueue: as the classic one, but that nothing is lost within it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from consumers import list_pop
from consumers.list_queue import ListQueue, Popped
from pipeline.errors import ClosedError, DecodeError, NotConnectedError, UsageError, WrongKeyTypeError
from pipeline.list_options import ListOptions
from pipeline.server.connect import Connector, Link
from pipeline.server.list_pop import KEPT_MS, GivenBack, pop_tasks, return_tasks
from pipeline.server.lists import hand_over_command
from pipeline.server.scripts import Arg
from tests.conftest import OwnServer, Server
from tests.faults.refusals import settings
from tests.lists.conftest import Listing
from tests.proxy import Proxy
from tests.until import until

MakeQueue = Callable[..., ListQueue]


@pytest.fixture
def make(server: Server, listing: Listing) -> Iterator[MakeQueue]:
    """Makes queues of the list, which are closed at the end."""
    made: list[ListQueue] = []

    def one(name: str = "", **options: Any) -> ListQueue:
        made.append(ListQueue(name or listing.list, server.url, **options))
        return made[-1]

    yield one
    for queue in made:
        queue.close()


def in_thread(act: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """What act() returned or raised, once its thread has ended."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(act())
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


def waiting_at(link: Link, count: int = 1) -> Callable[[], bool]:
    """Whether so many clients wait in a BLMOVE."""
    return lambda: link.call("CLIENT", "LIST").count(b"cmd=blmove") >= count


@pytest.mark.parametrize(
    ("push", "order", "popped"),
    [("left", "fifo", "abc"), ("left", "lifo", "cba"), ("right", "fifo", "abc"), ("right", "lifo", "cba")],
)
def test_tasks_are_popped_in_the_order_asked_for(
    make: MakeQueue, listing: Listing, push: str, order: str, popped: str
) -> None:
    """First in first out or last in first out, whichever end tasks are pushed to."""
    listing.push("a", "b", "c", end=push)
    queue = make(push=push, order=order)
    assert [queue.pop(0) for _ in range(4)] == [*popped, None]
    assert [task.payload for task in queue.peek()] == []


@pytest.mark.parametrize("order", ["fifo", "lifo"])
def test_a_peek_shows_any_part_in_the_order_of_taking(
    make: MakeQueue, listing: Listing, link: Link, order: str
) -> None:
    """What lies in the hand first, whatever is passed over, and nothing that was not asked for."""
    listing.push(*"abcde")
    link.call("LPUSH", listing.list_keys.hand, "x", "y")
    queue = make(order=order)
    whole = [task.data for task in queue.peek()]
    assert whole == [*("xyabcde" if order == "fifo" else "xyedcba")]
    for start in range(9):
        for count in range(9):
            part = queue.peek(count, start=start)
            assert [task.data for task in part] == whole[start : start + count]
            assert [task.place for task in part] == [*range(7)][start : start + count]
    assert [queue.pop(0) for _ in whole] == whole


def test_payloads_are_decoded(make: MakeQueue, listing: Listing) -> None:
    """Text, JSON and msgpack, as their bytes tell; another format is an error that has the bytes."""
    listing.push("text", '{"id": 1}', b"\x81\xa1a\x01", b"\xff\xfe")
    queue = make()
    assert [queue.pop(0), queue.pop(0), queue.pop(0)] == ["text", {"id": 1}, {"a": 1}]
    with pytest.raises(DecodeError) as raised:
        queue.pop(0)
    assert raised.value.payload == b"\xff\xfe"  # type: ignore[attr-defined]
    assert queue.pop(0) is None


def test_a_pop_waits_until_a_task_comes(make: MakeQueue, listing: Listing, link: Link) -> None:
    """It waits at the server, so it costs nothing meanwhile; and no longer than it was told to."""
    queue = make()
    began = time.monotonic()
    assert queue.pop("150ms") is None
    assert 0.15 <= time.monotonic() - began < 2
    thread, got = in_thread(queue.pop)
    until(waiting_at(link))
    listing.push("late")
    thread.join(15)
    assert got == ["late"]


@pytest.mark.campaign
def test_a_wait_may_be_longer_than_the_connections_timeout(make: MakeQueue, listing: Listing) -> None:
    """7 s of silence are no broken connection."""
    thread, got = in_thread(lambda: make().pop("60s"))
    thread.join(7)
    assert thread.is_alive()
    listing.push("at last")
    thread.join(15)
    assert got == ["at last"]


def test_the_first_queue_that_has_a_task_is_popped(make: MakeQueue, listing: Listing, link: Link) -> None:
    """In the order of priority; what comes to any of them ends the wait, and none is left in a hand."""
    urgent, normal = make(f"{listing.list}-urgent"), make()
    link.call("LPUSH", normal.name, "n1", "n2")
    link.call("LPUSH", urgent.name, "u1")
    both = [urgent, normal]
    assert ListQueue.pop_any(both, 0) == Popped(urgent.name, "u1")
    assert ListQueue.pop_any(both, 0) == Popped(normal.name, "n1")
    assert ListQueue.pop_any(both, 0) == Popped(normal.name, "n2")
    assert ListQueue.pop_any(both, 0) is None
    for queue in both:
        thread, got = in_thread(lambda: ListQueue.pop_any(both, "20s"))
        until(waiting_at(link, 2))
        link.call("LPUSH", queue.name, "late")
        thread.join(15)
        assert got == [Popped(queue.name, "late")]
    assert link.call("EXISTS", urgent.options.keys.hand, normal.options.keys.hand) == 0
    until(lambda: not waiting_at(link)())


def test_a_task_that_comes_to_both_queues_at_once_is_not_lost(
    make: MakeQueue, listing: Listing, link: Link
) -> None:
    """One is popped, the other stands in its list, where an old worker finds it."""
    first, second = make(f"{listing.list}-1"), make()
    thread, got = in_thread(lambda: ListQueue.pop_any([first, second], "20s"))
    until(waiting_at(link, 2))
    link.calls([("MULTI",), ("LPUSH", second.name, "2"), ("LPUSH", first.name, "1"), ("EXEC",)])
    thread.join(15)
    assert got in ([Popped(first.name, "1")], [Popped(second.name, "2")])
    rest = [link.call("RPOP", queue.name) for queue in (first, second)]
    assert [*filter(None, rest)] == [b"2" if got[0] == Popped(first.name, "1") else b"1"]


def test_priority_queues_are_popped_lowest_score_first(make: MakeQueue, listing: Listing, link: Link) -> None:
    """Members as old code wrote them, and ours, whose ids are no part of the payload; also waited for."""
    classic = make(order="priority", format="classic")
    link.call("ZADD", listing.list, 2, "b", 1, "a", 3, "c")
    assert [classic.pop(0) for _ in range(4)] == ["a", "b", "c", None]
    unique = make(order="priority")
    link.call("ZADD", listing.list, 2, "0123456789abcdef:b", 1, "fedcba9876543210:a", 0, "old: no id")
    assert [task.data for task in unique.peek()] == ["old: no id", "a", "b"]
    assert [unique.pop(0) for _ in range(4)] == ["old: no id", "a", "b", None]
    thread, got = in_thread(lambda: unique.pop("10s"))
    link.call("ZADD", listing.list, 1, "0123456789abcdef:late")
    thread.join(15)
    assert got == ["late"]


def test_what_cannot_be_is_said(make: MakeQueue, listing: Listing, link: Link) -> None:
    """A negative timeout, an option that is none, no queue, a key of another type, with what is right for it."""
    queue = make()
    with pytest.raises(UsageError, match="timeout=-1"):
        queue.pop(-1)
    with pytest.raises(UsageError, match="there is no option 'colour' of a list queue"):
        make(colour="red")
    with pytest.raises(UsageError, match="none was given"):
        ListQueue.pop_any([], 0)
    with pytest.raises(UsageError, match="count=-1"):
        queue.peek(-1)
    link.call("XADD", listing.list, "*", "a", "b")
    for act in (lambda: queue.pop(0), lambda: queue.pop("10s"), queue.peek):
        with pytest.raises(WrongKeyTypeError, match=r"is a stream, not a list: .*Consumer\("):
            act()
    link.call("DEL", listing.list)
    link.call("LPUSH", listing.list, "a")
    with pytest.raises(WrongKeyTypeError, match="is a list, not a sorted set: a list has order=fifo or lifo"):
        make(order="priority").pop(0)
    assert queue.pop(0) == "a"


@pytest.mark.parametrize("lost", ["the answer", "the answer to its arrival"])
def test_a_lost_answer_loses_no_task_and_doubles_none(server: Server, listing: Listing, lost: str) -> None:
    """The same call asks again, on another connection, and gets the same task."""
    listing.push(*(f"task-{n}" for n in range(20)))
    with Proxy(server.address) as proxy, ListQueue(listing.list, proxy.url) as queue:
        assert queue.pop(0) == "task-0"
        meant = (
            (lambda reply: b"task-" in reply) if lost == "the answer" else (lambda reply: reply == b":1\r\n")
        )
        swallowed: list[bytes] = []

        def rule(number: int, reply: bytes) -> bool:
            if meant(reply) and len(swallowed) < 5:
                swallowed.append(reply)
                return len(swallowed) % 2 == 1
            return False

        proxy.swallow = rule
        assert [queue.pop(0) for _ in range(20)] == [*(f"task-{n}" for n in range(1, 20)), None]
        assert len(swallowed) == 5
    assert listing.gone()
    assert listing.link.call("EXISTS", queue.options.keys.popped) == 0


def test_the_next_pop_finds_what_a_broken_one_took(own_server: OwnServer, stream: str) -> None:
    """A server that goes away for longer than the pop tries: it raises, and no task is gone."""
    server = own_server()
    connector = server.connector()
    connector.link().call("LPUSH", stream, "a", "b")
    with Proxy(server.address) as proxy, ListQueue(stream, proxy.url, away_timeout="500ms") as queue:
        assert queue.peek(1)[0].data == "a"  # connected
        proxy.swallow = lambda _, reply: b"$1\r\na" in reply
        with pytest.raises(NotConnectedError):
            queue.pop(0)
        proxy.swallow = lambda *_: False
        assert [queue.pop(0), queue.pop(0), queue.pop(0)] == ["a", "b", None]
    connector.close()


def test_a_task_of_a_caller_who_died_in_pop_comes_back(make: MakeQueue, listing: Listing, link: Link) -> None:
    """Where it was, after a minute, by whoever pops next; a caller who is late by then does not get it, too."""
    options = listing.options()
    listing.push("a", "b")
    assert pop_tasks(link, options, "dead") == [b"a"]
    assert return_tasks(link, options).of_callers == 0  # it may be on its way
    assert return_tasks(link, options, older_ms=0).of_callers == 1
    queue = make()
    assert [queue.pop(0), queue.pop(0), queue.pop(0)] == ["a", "b", None]
    # The other who was late: what he then asks for is a new task.
    assert pop_tasks(link, options, "dead") == []


def test_a_worker_puts_back_what_a_dead_caller_took(make: MakeQueue, listing: Listing, link: Link) -> None:
    """Also where nobody pops: whoever is on duty does, and works it."""
    listing.push("a")
    assert pop_tasks(link, listing.options(), "dead") == [b"a"]
    key = listing.list_keys.popped
    record = link.call("HGET", key, "dead")
    aged = re.sub(rb"\d{13}", lambda at: b"%d" % (int(at[0]) - KEPT_MS), record, count=1)
    link.call("HSET", key, "dead", aged)
    task = make().take("20s")
    assert task is not None
    assert task.event.data == "a"
    task.ack()


def test_a_priority_queue_gets_back_what_a_dead_caller_took(
    make: MakeQueue, listing: Listing, link: Link
) -> None:
    """With its priority."""
    options = ListOptions(name=listing.list, order="priority")
    link.call("ZADD", listing.list, 2, "0123456789abcdef:a", 5, "0123456789abcdee:b")
    assert pop_tasks(link, options, "dead", 2) == [b"a", b"b"]
    assert return_tasks(link, options, older_ms=0).of_callers == 2
    assert link.call("ZRANGE", listing.list, 0, -1, "WITHSCORES") == [
        b"0123456789abcdef:a", b"2", b"0123456789abcdee:b", b"5",
    ]  # fmt: skip


def test_ctrl_c_ends_a_wait_and_leaves_nothing_behind(server: Server, listing: Listing) -> None:
    """The process ends at once, and the task that comes then stands in the list, not in a hand."""
    code = (
        "import sys; from consumers.list_queue import ListQueue\n"
        f"queue = ListQueue({listing.list!r}, {server.url!r})\n"
        "try: queue.pop()\n"
        "except KeyboardInterrupt: queue.close(); sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()})
    until(waiting_at(listing.link))
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    until(lambda: not waiting_at(listing.link)())
    listing.push("later")
    assert listing.left() == [b"later"]


@pytest.mark.campaign
@pytest.mark.parametrize("then", ["pop", "close"])
def test_ctrl_c_at_any_reply_of_a_pop_loses_no_task(server: Server, listing: Listing, then: str) -> None:
    """The server has taken the task, or has been told that it arrived, and the reply is not here: the next pop has it,
    or once the queue is closed, the list, once."""
    code = (
        "import sys; from consumers.list_queue import ListQueue\n"
        f"with ListQueue({listing.list!r}, sys.argv[1]) as queue:\n"
        "    queue.pop(0)\n"
        "    print('ready', flush=True)\n"
        "    try: print(sys.stdin.readline() and queue.pop(0), flush=True)\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
        + ("    print(queue.pop(0), flush=True)\n" if then == "pop" else "")
    )
    for at in (1, 2, 3):
        told = threading.Event()
        with Proxy(server.address) as proxy:
            process = subprocess.Popen(
                [sys.executable, "-c", code, proxy.url], env=os.environ | {"PYTHONPATH": os.getcwd()},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            last = proxy.replies + at

            def interrupt(number: int, reply: bytes) -> bool:
                if number == last and not told.is_set():  # noqa: B023 - called while it is this one
                    process.send_signal(signal.SIGINT)  # noqa: B023
                    told.wait(10)  # noqa: B023
                return False

            proxy.swallow = interrupt
            listing.push("task")
            process.stdin.write("go\n")
            process.stdin.flush()
            first = process.stdout.readline()
            told.set()
            rest, _ = process.communicate(timeout=20)
        if at == 3:  # there are no more
            assert first == "task\n"
            assert not listing.left()
        else:
            assert first == "interrupted\n"
            assert (rest, listing.left()) == (("task\n", []) if then == "pop" else ("", [b"task"]))
        listing.link.call("DEL", listing.list)
        assert not listing.link.call("EXISTS", listing.list_keys.popped)


def test_close_ends_a_wait(make: MakeQueue, listing: Listing, link: Link) -> None:
    """From another thread or a signal handler; the queue is closed for good."""
    queue = make()
    thread, got = in_thread(queue.pop)
    until(waiting_at(link))
    queue.close()
    thread.join(15)
    assert [type(one) for one in got] == [ClosedError]
    with pytest.raises(ClosedError):
        queue.pop(0)
    until(lambda: not waiting_at(link)())


def test_a_connection_that_breaks_just_before_a_wait_ends_no_pop(
    server: Server, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on over another one, as with an answer that is lost."""
    broken = threading.Event()
    with Proxy(server.address) as proxy, ListQueue(listing.list, proxy.url) as queue:

        def break_first(options: ListOptions, wait_ms: int) -> tuple[Arg, ...]:
            if not broken.is_set():
                broken.set()
                proxy.cut()
            return hand_over_command(options, wait_ms)

        monkeypatch.setattr(list_pop, "hand_over_command", break_first)
        thread, got = in_thread(lambda: queue.pop("20s"))
        assert broken.wait(10)
        until(lambda: got or waiting_at(listing.link)())
        listing.push("task")
        thread.join(10)
        assert got == ["task"]


def test_threads_share_a_queue(make: MakeQueue, listing: Listing) -> None:
    """Each task goes to one of them."""
    listing.push(*map(str, range(400)))
    queue = make()

    def drain() -> list[str]:
        return [*iter(lambda: queue.pop(0), None)]

    threads = [in_thread(drain) for _ in range(4)]
    for thread, _ in threads:
        thread.join(10)
    found = [one for _, got in threads for some in got for one in some]  # type: ignore[attr-defined]
    assert sorted(found, key=int) == [*map(str, range(400))]


def test_a_forked_child_pops_for_itself(make: MakeQueue, listing: Listing) -> None:
    """On connections of its own."""
    listing.push("a", "b", "c")
    queue = make()
    assert queue.pop(0) == "a"
    child = os.fork()
    if not child:
        os._exit(0 if queue.pop(0) == "b" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert queue.pop(0) == "c"


def test_a_list_can_be_drained_when_memory_is_out(own_server: OwnServer, stream: str) -> None:
    """Popped at once, and waited for by looking; what was taken is answered."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    link.call("LPUSH", stream, "a", "b")
    with settings(maxmemory=1)(server, link), ListQueue(stream, server.url) as queue:
        assert [queue.pop(0), queue.pop("5s")] == ["a", "b"]
        thread, got = in_thread(lambda: queue.pop("20s"))
        link.call("CONFIG", "SET", "maxmemory", 0)
        link.call("LPUSH", stream, "c")
        thread.join(15)
        assert got == ["c"]
    link.close()
    connector.close()


def test_a_server_that_comes_back_in_time_is_waited_for(own_server: OwnServer, stream: str) -> None:
    """A wait goes on where it was."""
    server = own_server()
    connector = Connector(server.address)
    with ListQueue(stream, server.url) as queue:
        thread, got = in_thread(lambda: queue.pop("30s"))
        until(waiting_at(connector.link("test")))
        server.restart()
        connector.link("test").call("LPUSH", stream, "a")
        thread.join(20)
        assert got == ["a"]
    connector.close()


class Dying:
    """Lets so many replies pass, and then nothing in either direction: as if the caller had been killed."""

    def __init__(self, proxy: Proxy, passing: int) -> None:
        self.dead = False
        self._left = passing
        self._proxy = proxy
        proxy.swallow = self._swallow

    def _swallow(self, number: int, reply: bytes) -> bool:
        self._left -= 1
        if self._left < 0:
            self.dead = self._proxy.refuse = True
        return self.dead


@pytest.mark.parametrize("waits", [False, True])
def test_a_caller_who_dies_at_any_reply_loses_nothing(server: Server, listing: Listing, waits: bool) -> None:
    """Whichever reply he does not live to see: the task is in the list, in the hand, or kept to be given back."""
    options, link = listing.options(), listing.link
    for passing in range(40):
        if not waits:
            listing.push("a")
        with Proxy(server.address) as proxy:
            dying = Dying(proxy, passing)
            queue = ListQueue(listing.list, proxy.url, away_timeout="1ms")
            thread, got = in_thread(lambda queue=queue: queue.pop("10s" if waits else 0))  # type: ignore[misc]
            if waits:
                until(lambda dying=dying: dying.dead or waiting_at(link)())  # type: ignore[misc]
                listing.push("a")
            thread.join(10)
            assert got == ["a"] or isinstance(got[0], NotConnectedError)
        while return_tasks(link, options, older_ms=0) != GivenBack(0, 0):
            pass
        left = listing.left()
        # Of the last reply, the arrival's, a caller who lives does not know whether it was heard: he returns the task.
        assert left == [b"a"] or got == ["a"]
        assert len(left) <= 1
        if not dying.dead:
            assert (got, left) == (["a"], [])
            break
        link.call("DEL", listing.list)
    assert 6 < passing < 39
