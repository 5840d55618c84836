"""Leaving a list: what workers of ours took and did not begin goes back, in order, when the last of them leaves."""

import contextlib
import threading

import pytest

from consumers.app import Pipeline
from consumers.consumer import Consumer
from pipeline.event import Event
from pipeline.keys import GroupRef
from pipeline.list_options import WORKERS, ListOptions
from pipeline.options import Retry
from pipeline.server.groups import hand_back
from pipeline.server.lists import feed_command, give_back, parse_fed
from pipeline.server.scripts import script
from tests.conftest import Server
from tests.lists.conftest import Listing, worker_of
from tests.proxy import Proxy
from tests.until import until

ENDS = [("left", "fifo"), ("right", "fifo"), ("left", "lifo"), ("right", "lifo")]


def fed(listing: Listing, options: ListOptions, count: int, *, group: str = "g") -> int:
    """As a member has tasks moved into the stream."""
    listing.link.load(script("list_feed"))
    return parse_fed(listing.link.call(*feed_command(options, count, group=group)))


@pytest.mark.parametrize(("push", "order"), ENDS)
def test_what_the_last_worker_did_not_begin_goes_back_in_order(
    listing: Listing, push: str, order: str
) -> None:
    """What runs as it leaves is finished; the next task stands where the next worker, of any kind, takes it."""
    begun, go_on = threading.Event(), threading.Event()
    seen: list[object] = []
    options = listing.options(push=push, order=order)

    @listing.app.consumer(list=options, concurrency=1)
    def handle(event: Event) -> None:
        seen.append(event.data)
        begun.set()
        go_on.wait(20)

    listing.push(*(str(n) for n in range(300)), end=push)
    before = listing.left()
    with listing.running() as running:
        assert begun.wait(10)
        until(lambda: listing.taken() > 1)
        threading.Timer(0.1, go_on.set).start()
        assert running.stop()
    assert len(seen) < 300
    left = listing.left()
    assert left == (before[len(seen) :] if options.take == "left" else before[: len(before) - len(seen)])
    assert [str(one).encode() for one in seen] == [one for one in before if one not in left][
        :: 1 if options.take == "left" else -1
    ]
    assert listing.taken() == 0
    assert listing.consumers("workers") == {}


def test_a_connection_that_breaks_as_the_last_worker_leaves_keeps_no_task_from_the_list(
    server: Server, listing: Listing
) -> None:
    """It gives back over another one, though it holds nothing any more itself."""
    running_ = listing.block_list(concurrency=1)
    listing.push(*(str(n) for n in range(60)))
    asked = script("list_give_back").sha.encode()
    with Proxy(server.address) as proxy:
        listing.app.url = proxy.url
        with worker_of(listing.app) as running:
            assert running_.wait(10)
            until(lambda: running.members[0].counts.read == 2)
            assert fed(listing, listing.options(), 50, group=WORKERS) == 50, "as if it had not read them yet"
            broken: list[bytes] = []

            def gate(data: bytes) -> int:
                if asked not in data or broken:
                    return -1
                broken.append(data)
                return 0

            proxy.gate = gate
            threading.Timer(0.1, listing.go_on.set).start()
            assert running.stop()
            assert broken
            done = running.members[0].counts.done
    assert listing.left() == [str(n).encode() for n in reversed(range(done, 60))]
    assert listing.taken() == 0


def test_what_runs_as_the_last_worker_is_stopped_stays_with_its_attempt(listing: Listing) -> None:
    """It began: another worker of ours takes it over, and counts the run."""
    running_ = listing.block_list(concurrency=1)
    listing.push("one", "two", "three")
    with listing.running() as running:
        assert running_.wait(10)
        until(lambda: listing.taken() == 2)
        running.stop(grace_ms=0)
        assert listing.left() == [b"three", b"two"]
        ((_, deliveries),) = listing.pending("workers").values()
        assert deliveries == 1


def test_nothing_goes_back_while_another_worker_lives(listing: Listing) -> None:
    """It takes what was handed back: the order in the list is not touched."""
    done: list[object] = []
    begun, go_on = threading.Event(), threading.Event()

    def handle(event: Event) -> None:
        begun.set()
        go_on.wait(20)
        done.append(event.data)

    listing.app.consumer(list=listing.list, concurrency=1)(handle)
    listing.push(*(str(n) for n in range(100)))
    with listing.running(well=False) as first, listing.running() as second:
        assert begun.wait(10)
        threading.Timer(0.1, go_on.set).start()
        assert first.stop()
        until(lambda: second.members[0].idle() and listing.gone())
        assert first.members[0].counts.settled + second.members[0].counts.settled == 100
    assert sorted(int(str(one)) for one in done) == list(range(100))


def test_failed_tasks_stay_and_everything_brings_them_back(listing: Listing) -> None:
    """A retry that waits keeps its attempts until somebody says that old workers are to have it."""

    @listing.app.consumer(
        list=listing.list, concurrency=1, retry=Retry(attempts=3, initial="1h", longest="1h")
    )
    def handle(event: Event) -> None:
        raise ValueError(event.data)

    listing.push("one", "two")
    with listing.running():
        until(lambda: listing.waiting("workers") == 2)
    assert listing.left() == []
    assert give_back(listing.link, listing.options()) == 0
    assert give_back(listing.link, listing.options(), everything=True) == 2
    assert sorted(listing.left()) == [b"one", b"two"]
    assert listing.waiting("workers") == 0
    assert listing.link.call("HLEN", listing.keys.retry_bodies("workers")) == 0


def test_everything_is_what_no_worker_holds(listing: Listing) -> None:
    """What is renewed stays; what was not renewed for claim_after goes, whether it ran or not."""
    options = listing.options()
    listing.push(*(str(n) for n in range(6)))
    listing.link.call("XGROUP", "CREATE", listing.stream, "g", "0", "MKSTREAM")
    assert fed(listing, options, 5) == 5
    listing.link.call("XREADGROUP", "GROUP", "g", "dead", "COUNT", 2, "STREAMS", listing.stream, ">")
    listing.link.call("XREADGROUP", "GROUP", "g", "live", "COUNT", 1, "STREAMS", listing.stream, ">")
    ids = sorted(listing.pending("g"))
    listing.link.call("XCLAIM", listing.stream, "g", "dead", 0, *ids[:2], "IDLE", 40_000, "JUSTID")
    assert give_back(listing.link, options, "g") == 2, "3 and 4, which nobody read"
    assert listing.left() == [b"5", b"4", b"3"]
    assert give_back(listing.link, options, "g", everything=True) == 2, "0 and 1 of the dead worker"
    assert listing.left() == [b"5", b"4", b"3", b"1", b"0"]
    assert list(listing.pending("g").values()) == [("live", 1)]


def test_a_given_back_task_of_a_sorted_set_has_its_score_again(listing: Listing) -> None:
    """In both formats; in `unique` with an id of its own."""
    for format_ in ("unique", "classic"):
        options = listing.options(order="priority", format=format_)
        prefix = "0123456789abcdef:" if format_ == "unique" else ""
        listing.link.call("ZADD", listing.list, 2.5, prefix + "b", -1, prefix + "a", "inf", prefix + "c")
        listing.link.calls([("XGROUP", "CREATE", listing.stream, "g", "0", "MKSTREAM")])
        assert fed(listing, options, 10) == 3
        assert listing.link.call("EXISTS", listing.list) == 0
        assert [fields[3] for _, fields in listing.entries()] == [b"a", b"b", b"c"]
        assert give_back(listing.link, options, "g") == 3
        back = listing.link.call("ZRANGE", listing.list, 0, -1, "WITHSCORES")
        assert [member[-1:] for member in back[::2]] == [b"a", b"b", b"c"]
        assert {len(member) for member in back[::2]} == {18 if prefix else 1}
        assert back[1::2] == [b"-1", b"2.5", b"inf"]
        listing.link.call("DEL", listing.list)


def test_more_than_one_call_brings_back_goes_back_in_order(listing: Listing) -> None:
    """3,000 tasks, of which some were read and handed back, and one lies in the hand."""
    options = listing.options()
    listing.push(*(str(n) for n in range(3_001)))
    before = listing.left()
    listing.link.call("XGROUP", "CREATE", listing.stream, "g", "0", "MKSTREAM")
    for most in range(500, 3_001, 500):
        listing.link.load(script("list_feed"))
        assert fed(listing, options, 500) == 500
        listing.link.call(
            *("XREADGROUP", "GROUP", "g", "w", "COUNT", 500 if most < 2_000 else 1),
            *("STREAMS", listing.stream, ">"),
        )
        if most >= 2_000:
            break
    read = [entry_id.encode() for entry_id in listing.pending("g")]
    ref = GroupRef(listing.keys, "g", private=True)
    for at in range(0, len(read), 500):
        hand_back(listing.link, ref, "w", read[at : at + 500], idle_ms=1)
    listing.link.call("LMOVE", listing.list, listing.list_keys.hand, "RIGHT", "LEFT")
    assert give_back(listing.link, options, "g") == 2_001
    assert listing.left() == before
    assert listing.taken() == 0


def test_an_iterator_leaves_what_it_did_not_take(listing: Listing) -> None:
    """What it took is settled; the rest is there for whoever comes."""
    listing.push("one", "two", "three")
    with Consumer(list=listing.list, url=listing.url) as consumer:
        for delivery in consumer:
            assert delivery.event.data == "one"
            break
    assert listing.left() == [b"three", b"two"]
    assert listing.taken() == 0


def test_the_last_worker_clears_away_the_names_of_those_that_left_before(listing: Listing) -> None:
    """One leaves while the other has no room for what it hands back: its name stands for just that."""
    begun, go_on = threading.Event(), threading.Event()
    first = Pipeline(listing.url)

    @first.consumer(list=listing.list, concurrency=1)
    def handle(event: Event) -> None:
        begun.set()
        go_on.wait(20)

    running_ = listing.block_list(concurrency=1)
    listing.push(*(str(n) for n in range(50)))
    with worker_of(listing.app) as last:
        assert running_.wait(10)
        until(lambda: last.members[0].counts.read == 2)
        with worker_of(first) as one:
            assert begun.wait(10)
            until(lambda: one.members[0].counts.read == 2)
            threading.Timer(0.05, go_on.set).start()
            one.members[0].stop()
        assert listing.taken() > 1
        stop = threading.Thread(target=last.stop)
        stop.start()
        until(lambda: last.members[0].state.stopping)
        listing.go_on.set()
        stop.join()
    assert listing.taken() == 0
    assert listing.consumers("workers") == {}


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_that_stop_together_leave_nothing_behind(listing: Listing, workers: int) -> None:
    """Each takes itself off the list of members before it looks who is there: the last one sees nobody."""
    done: list[object] = []
    begun, go_on = threading.Semaphore(0), threading.Event()

    @listing.app.consumer(list=listing.list, concurrency=2)
    def handle(event: Event) -> None:
        begun.release()
        go_on.wait(20)
        done.append(event.data)

    listing.push(*(str(n) for n in range(100)))
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(worker_of(listing.app)) for _ in range(workers)]
        for _ in range(2 * workers):
            assert begun.acquire(timeout=10)
        stops = [threading.Thread(target=one.stop) for one in running]
        for stop in stops:
            stop.start()
        go_on.set()
        for stop in stops:
            stop.join()
        assert listing.taken() == 0
        assert listing.consumers("workers") == {}
    left = listing.left()
    assert len(left) + len(done) == 100
    assert left == sorted(left, key=int, reverse=True), "in the order in which they were pushed"
    assert {str(one).encode() for one in done}.isdisjoint(left)
