"""Delayed tasks on a real server: they run at their time, the earliest next, once, beside old code or alone."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.due import Due
from pipeline.errors import (
    AccessDeniedError,
    NotConnectedError,
    ServerRefusedError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.list_options import ListOptions
from pipeline.server.connect import Connector, Link
from pipeline.server.list_due import held_key, promote_tasks
from pipeline.server.list_owner import owner_key
from pipeline.server.list_push import MAX_PAYLOADS, push, push_command
from pipeline.server.scripts import Script, script
from tests.clustered import one_node_cluster
from tests.conftest import Server, started
from tests.lists.pushing import Pushing, numbered
from tests.proxy import Proxy

FORMATS = pytest.mark.parametrize("members", ["unique", "classic"])


def layout(name: str, **options: Any) -> ListOptions:
    """A list queue whose old keys are the test's own."""
    return ListOptions(name=name, scheduled=f"{name}-scheduled", **options)


@pytest.fixture
def unique(link: Link, stream: str) -> Pushing:
    """A queue in the format unique."""
    return Pushing(link, layout(stream))


@pytest.fixture
def classic(link: Link, stream: str) -> Pushing:
    """A queue that shares the delayed tasks of old code."""
    return Pushing(link, layout(stream, format="classic"))


@pytest.fixture(scope="module")
def tight_server() -> Iterator[Server]:
    """A server whose memory limit tests may set, one test at a time."""
    with started() as running:
        yield running


@pytest.fixture
def tight_link(tight_server: Server) -> Iterator[Link]:
    """A link to it."""
    connector = tight_server.connector()
    link = connector.link("test")
    yield link
    link.close()
    connector.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that refuses scripts across slots."""
    with one_node_cluster(Path(tmp_path_factory.mktemp("cluster"))) as server:
        yield server.url


@pytest.fixture
def apart(cluster: str, stream: str) -> Iterator[Pushing]:
    """A queue whose delayed tasks are in another slot than its list."""
    connector = Connector(cluster)
    link = connector.link("test")
    yield Pushing(link, layout(stream, format="classic"))
    link.close()
    connector.close()


@pytest.mark.parametrize("push_end", ["left", "right"])
def test_a_push_goes_to_the_end_that_everybody_pushes_to(link: Link, stream: str, push_end: str) -> None:
    """As LPUSH or RPUSH of one task after the other."""
    queue = Pushing(link, layout(stream, push=push_end))
    assert queue.push(b"1", b"2").length == 2
    assert queue.push(b"3").length == 3
    link.call("LPUSH" if push_end == "left" else "RPUSH", stream, "4")
    assert queue.taken() == [b"1", b"2", b"3", b"4"]


def test_a_push_that_is_repeated_is_pushed_once(server: Server, unique: Pushing) -> None:
    """The answer was lost: the same call comes again over a new link, and is told what the first would have been."""
    with Proxy(server.address) as proxy:
        connector = Connector(proxy.url)
        first = connector.link("test")
        push(first, unique.options, "p", 1, [b"a"])
        proxy.swallow = lambda _number, reply: b"2 " in reply
        with pytest.raises(NotConnectedError):
            push(first, unique.options, "p", 2, [b"b"])
        proxy.swallow = None
        again = push(connector.link("test"), unique.options, "p", 2, [b"b"])
        connector.close()
    assert again.repeated
    assert again.length == 2
    assert unique.taken() == [b"a", b"b"]


@FORMATS
def test_a_delayed_push_that_is_repeated_is_pushed_once(link: Link, stream: str, members: str) -> None:
    """Also if it was promoted, and run, in between."""
    queue = Pushing(link, layout(stream, format=members))
    first = queue.push(b"a", b"a", number=7, after_ms=0)
    assert queue.promote().moved == (2 if members == "unique" else 1)
    again = queue.push(b"a", b"a", number=7, after_ms=0)
    assert (again.due_ms, again.merged, again.repeated) == (first.due_ms, first.merged, True)
    assert queue.delayed() == {}


def test_a_push_that_comes_after_a_later_one_does_nothing(unique: Pushing) -> None:
    """It waited somewhere on the way; nobody reads its answer any more."""
    unique.push(b"a", number=5)
    with pytest.raises(ServerRefusedError, match="after a later one"):
        unique.push(b"b", number=4)
    assert unique.taken() == [b"a"]


def test_a_push_of_another_producer_has_numbers_of_its_own(unique: Pushing) -> None:
    """Two producers, one number."""
    unique.push(b"a", number=1)
    Pushing(unique.link, unique.options, producer="q").push(b"b", number=1)
    assert unique.taken() == [b"a", b"b"]


def test_what_the_server_remembers_of_a_producer_expires(unique: Pushing) -> None:
    """In a day."""
    unique.push(b"a")
    ttl_ms = unique.link.call("PTTL", unique.options.keys.producer("p"))
    assert 86_000_000 < ttl_ms <= 86_400_000


def test_equal_tasks_with_one_due_time_are_tasks_of_their_own_in_the_order_of_their_pushes(
    unique: Pushing,
) -> None:
    """Format unique: an id that sorts by time stands before each payload."""
    due_ms = unique.server_ms() - 1
    for payload in (b"b", b"a", b"a", b"c"):
        assert unique.at(due_ms, payload).merged == {}
    assert unique.at(due_ms, b"a", b"a").length == 6
    assert unique.promote().moved == 6
    assert unique.taken() == [b"b", b"a", b"a", b"c", b"a", b"a"]


def test_an_id_that_is_taken_is_not_used_again(link: Link, stream: str) -> None:
    """The clock was set back, to the very microsecond: equal payloads do not merge even then."""
    still = re.sub(r"redis\.call\('TIME'\)", "{'1764136800', '000007'}", script("list_push").text)
    stopped = Script("list_push", still, str(link.call("SCRIPT", "LOAD", still), "ascii"))
    options = layout(stream)
    for number in (1, 2, 3):
        _, _, _, *words = push_command(options, "p", number, [b"a", b"b"], due=Due(at_ms=5))
        keys, args = [str(word) for word in words[:2]], words[2:]
        assert link.run(stopped, keys, args)[0] == b"ok"
    queue = Pushing(link, options)
    assert sorted(member[16:] for member in queue.delayed()) == [b":a"] * 3 + [b":b"] * 3
    queue.promote()
    assert queue.taken() == [b"a", b"b"] * 3


def test_a_delay_is_counted_by_the_servers_clock(unique: Pushing) -> None:
    """The machine that pushes may have any time."""
    before = unique.server_ms()
    due_ms = unique.push(b"a", after_ms=60_000).due_ms
    assert due_ms is not None
    assert before + 60_000 <= due_ms <= unique.server_ms() + 60_000
    assert list(unique.delayed().values()) == [due_ms]
    assert unique.promote() == (0, due_ms, 0)


def test_a_classic_task_is_where_old_code_looks_for_it(classic: Pushing) -> None:
    """The member is the payload, the score seconds since 1970: `ZRANGEBYSCORE scheduled 0 now` finds it."""
    now_ms = classic.server_ms()
    assert classic.at(now_ms - 1_500, b"due").due_ms == now_ms - 1_500
    classic.push(b"later", after_ms=90_000)
    found = classic.link.call("ZRANGEBYSCORE", classic.options.scheduled, 0, now_ms / 1_000)
    assert found == [b"due"]
    later_s = classic.delayed()[b"later"]
    assert 90 <= later_s - now_ms / 1_000 < 95


def test_what_old_code_scheduled_is_promoted(classic: Pushing) -> None:
    """`ZADD scheduled {task: time.time() + delay}`, with all digits of a float."""
    now_s = classic.server_ms() / 1_000
    classic.link.call(
        "ZADD", classic.options.scheduled, repr(now_s - 0.0004123), "old", now_s + 60, "not yet"
    )
    moved, next_due_ms, _ = classic.promote()
    assert moved == 1
    assert next_due_ms == pytest.approx((now_s + 60) * 1_000, abs=1)
    assert classic.taken() == [b"old"]


def test_merging_with_an_equal_task_is_reported_and_the_later_time_wins(classic: Pushing) -> None:
    """In the same step: what was due before, also within one call."""
    now_ms = classic.server_ms()
    classic.at(now_ms + 10_000, b"a")
    again = classic.at(now_ms + 5_000, b"b", b"a", b"b")
    assert again.merged == {1: now_ms + 10_000, 2: now_ms + 5_000}
    assert again.length == 2
    assert classic.delayed() == {b"a": (now_ms + 5_000) / 1_000, b"b": (now_ms + 5_000) / 1_000}


@pytest.mark.parametrize(("push_end", "order"), [("left", "fifo"), ("right", "fifo"), ("left", "lifo")])
def test_due_tasks_run_next_and_the_earliest_due_first(
    link: Link, stream: str, push_end: str, order: str
) -> None:
    """However many calls it takes, and in whatever order they were pushed."""
    queue = Pushing(link, layout(stream, push=push_end, order=order))
    queue.push(b"waiting")
    now_ms = queue.server_ms()
    for number in (150, 1, 249, *range(2, 150), *range(151, 249)):
        queue.at(now_ms - 1_000 + number, b"%d" % number)
    queue.at(now_ms + 60_000, b"not yet")
    assert queue.promote().moved == 100
    assert queue.promote_all() == 149
    assert queue.taken() == [*numbered(1, 249), b"waiting"]
    assert [member[17:] for member in queue.delayed()] == [b"not yet"]


def test_promotion_says_when_the_next_is_due(unique: Pushing) -> None:
    """So that nobody has to look before."""
    assert unique.promote() == (0, None, 0)
    later = unique.push(b"a", after_ms=30_000).due_ms
    assert unique.promote() == (0, later, 0)


def test_what_somebody_else_put_among_delayed_tasks_is_not_lost(unique: Pushing) -> None:
    """A member without an id goes on as it is."""
    unique.link.call("ZADD", unique.options.keys.due, 1, "plain", 2, "12ab:short id")
    assert unique.promote().moved == 2
    assert unique.taken() == [b"plain", b"12ab:short id"]


def test_payloads_are_bytes(unique: Pushing) -> None:
    """Colons, newlines, zeros: what was pushed is what is taken."""
    odd = [b"", b":", b"a:b:c", b"\n", b"\x00\xff\r\n$5", b"0123456789abcdef:x"]
    unique.push(*odd)
    unique.at(1, *odd)
    unique.promote()
    assert unique.taken() == [*odd, *odd]


@FORMATS
def test_a_promotion_whose_answer_is_lost_moves_nothing_twice(
    server: Server, link: Link, stream: str, members: str
) -> None:
    """Each call is one step: done as a whole, and not again."""
    queue = Pushing(link, layout(stream, format=members))
    queue.at(queue.server_ms() - 10, *numbered(1, 150))
    with Proxy(server.address) as proxy:
        connector = Connector(proxy.url)
        proxy.swallow = lambda _number, reply: reply.startswith(b"*3\r\n:100")
        cut = connector.link("test")
        with pytest.raises(NotConnectedError):
            promote_tasks(cut, queue.options)
        assert promote_tasks(connector.link("test"), queue.options).moved == 50
        connector.close()
    assert sorted(queue.taken(), key=int) == numbered(1, 150)


def test_an_old_promoter_may_run_beside_ours(classic: Pushing) -> None:
    """What it has taken note of and we move meanwhile it pushes once more: its own race, which two old ones have too.
    Ours never doubles what it has moved."""
    classic.at(classic.server_ms() - 10, b"a", b"b")
    noted = classic.link.call("ZRANGEBYSCORE", classic.options.scheduled, 0, classic.server_ms() / 1_000)
    assert classic.promote().moved == 2
    for task in noted:  # the old one goes on
        classic.link.call("RPUSH", classic.options.name, task)
        classic.link.call("ZREM", classic.options.scheduled, task)
    assert sorted(classic.taken()) == [b"a", b"a", b"b", b"b"]
    assert classic.promote().moved == 0


def test_an_old_promoter_that_has_not_looked_yet_finds_nothing(classic: Pushing) -> None:
    """And one that was killed between RPUSH and ZREM left a task twice: that is seen as it is, and not made three."""
    classic.at(classic.server_ms() - 10, b"a", b"b")
    classic.link.call("RPUSH", classic.options.name, "a")  # the old one, killed here
    assert classic.promote().moved == 2
    assert sorted(classic.taken()) == [b"a", b"a", b"b"]
    assert classic.link.call("ZRANGEBYSCORE", classic.options.scheduled, 0, "+inf") == []


@FORMATS
def test_when_memory_is_out_a_push_is_refused_whole_and_due_tasks_go_on(
    tight_link: Link, stream: str, members: str
) -> None:
    """Nothing is half pushed; what is on the server already moves."""
    queue = Pushing(tight_link, layout(stream, format=members))
    queue.at(1, *numbered(1, 120))
    with queue.out_of_memory():
        for due in (None, Due(after_ms=0)):
            with pytest.raises(ServerRefusedError, match="OOM"):
                queue.push(b"x", b"y", due=due, number=50)
        assert queue.promote_all() == 120
    assert sorted(queue.taken(), key=int) == numbered(1, 120)
    assert queue.delayed() == {}
    assert queue.push(b"x", number=50).repeated is False


@pytest.mark.parametrize("which", ["list", "due", "producer"])
def test_a_key_of_another_type_is_named_and_nothing_is_moved(unique: Pushing, which: str) -> None:
    """Pushed, delayed and promoted tasks alike."""
    keys = unique.options.keys
    wrong = {"list": unique.options.name, "due": keys.due, "producer": keys.producer("p")}[which]
    if which != "due":
        unique.link.call("ZADD", keys.due, 1, "0" * 16 + ":a")
    unique.link.call("SET", wrong, "something else")
    with pytest.raises(WrongKeyTypeError):
        unique.push(b"x", due=Due(after_ms=0) if which == "due" else None, number=1)
    if which == "producer":
        return
    with pytest.raises(WrongKeyTypeError, match=f"key '{re.escape(wrong)}' holds a string"):
        unique.promote()
    if which == "list":
        assert list(unique.delayed()) == [b"0" * 16 + b":a"]


def test_a_right_that_is_missing_loses_nothing(server: Server, unique: Pushing) -> None:
    """A user who may add but not remove, or not keep the record: what was half done is undone."""
    unique.push(b"waiting")
    unique.at(1, b"a", b"b")
    steps: dict[str, Callable[[Link], object]] = {
        "-zrem": lambda link: promote_tasks(link, unique.options),
        "-hset": lambda link: push(link, unique.options, "q", 1, [b"x", b"y"]),
    }
    for lacks, step in steps.items():
        unique.link.call("ACL", "SETUSER", "half", "reset", "on", "nopass", "~*", "+@all", lacks)
        link = server.connector().link("test")
        link.call("AUTH", "half", "any")
        with pytest.raises(AccessDeniedError):
            step(link)
        link.close()
    unique.link.call("ACL", "DELUSER", "half")
    assert unique.taken() == [b"waiting"]
    assert [member[17:] for member in unique.delayed()] == [b"a", b"b"]


@pytest.mark.parametrize("count", [0, MAX_PAYLOADS + 1])
def test_a_call_holds_a_bounded_number_of_tasks(unique: Pushing, count: int) -> None:
    """No call holds the server up."""
    with pytest.raises(UsageError, match=f"{count} payloads in one push: 1 to 500"):
        unique.push(*[b"x"] * count)


@FORMATS
def test_a_full_call_is_carried_out(link: Link, stream: str, members: str) -> None:
    """500 tasks at once, and delayed."""
    queue = Pushing(link, layout(stream, format=members))
    assert queue.push(*numbered(1, MAX_PAYLOADS)).length == MAX_PAYLOADS
    assert queue.push(*numbered(501, 500 + MAX_PAYLOADS), due=Due(at_ms=1)).length == MAX_PAYLOADS


def test_across_slots_due_tasks_move_in_two_steps(apart: Pushing) -> None:
    """One script may not touch both keys there; the order is the same."""
    with pytest.raises(ServerRefusedError, match="CROSSSLOT"):
        apart.promote()
    now_ms = apart.server_ms()
    apart.push(b"waiting")
    for number in range(1, 251):
        apart.at(now_ms - 1_000 + number, b"%d" % number)
    later = apart.push(b"not yet", after_ms=60_000).due_ms
    assert apart.promote(cluster=True).moved == 100
    assert apart.promote_all(cluster=True) == 150
    assert apart.taken() == [*numbered(1, 250), b"waiting"]
    assert apart.promote(cluster=True) == (0, later, 0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_across_slots_a_promoter_killed_between_two_steps_leaves_the_next_one_to_go_on(
    cluster: str, apart: Pushing, steps: int
) -> None:
    """Held, placed, held no more: whichever answer is lost, each task is in the list once, and in order."""
    apart.at(apart.server_ms() - 10, *numbered(1, 9))
    connector = Connector(cluster)
    with Proxy(connector.address, tcp=True) as proxy:
        cut = Connector(proxy.url)
        link = cut.link("test")
        for name in ("list_hold", "list_place"):
            link.load(script(name))
        seen = proxy.replies
        proxy.swallow = lambda number, _reply: number == seen + steps
        with pytest.raises(NotConnectedError):
            promote_tasks(link, apart.options, cluster=True)
        cut.close()
    connector.close()
    apart.at(apart.server_ms() - 5, b"10")
    while apart.promote(cluster=True) != (0, None, 0):
        pass
    assert sorted(apart.taken(), key=int) == numbered(1, 10)
    held = apart.link.call("LRANGE", held_key(apart.options.scheduled, apart.options.name), 0, -1)
    assert len(held) == 1


def test_the_old_key_of_delayed_tasks_is_that_of_one_list_only(classic: Pushing) -> None:
    """Nothing in it says which list a task is for: a second one that pushes to it, or promotes, is told which the first
    is, and nothing is moved. A worker that finds nothing there declares nothing."""
    other = Pushing(classic.link, replace(classic.options, name=f"{classic.options.name}-other"))
    assert other.promote_all() == 0
    classic.push(b"a", due=Due(after_ms=0))
    with pytest.raises(UsageError, match=f"is what list '{classic.options.name}' has declared as its own"):
        other.push(b"b", due=Due(after_ms=0))
    with pytest.raises(UsageError, match="scheduled="):
        other.promote_all()
    assert (other.taken(), classic.promote_all(), classic.taken()) == ([], 1, [b"a"])


def test_across_slots_the_old_key_of_delayed_tasks_is_that_of_one_list_only(apart: Pushing) -> None:
    """Also what old producers put there belongs to the list whose promoter comes first."""
    other = Pushing(apart.link, replace(apart.options, name=f"{apart.options.name}-other"))
    apart.link.call("ZADD", apart.delayed_key, 1, "a")
    assert apart.promote_all(cluster=True) == 1
    apart.link.call("ZADD", apart.delayed_key, 2, "b")
    with pytest.raises(UsageError, match="scheduled="):
        other.promote_all(cluster=True)
    assert (apart.promote_all(cluster=True), sorted(apart.taken())) == (1, [b"a", b"b"])


def test_across_slots_a_promoter_that_stood_still_places_nothing_twice(apart: Pushing) -> None:
    """It holds the number of a batch that others placed, and the next one too, long ago."""
    options = apart.options
    place = [options.name, options.keys.position(f"due:{options.scheduled}"), options.keys.tasks.never]
    apart.at(1, b"a")
    key = options.scheduled
    hold = [key, held_key(key, options.name), "{" + key + "}:never", owner_key(key)]
    number, _, payload = apart.link.run(script("list_hold"), hold, [100, "", options.name, 60_000])
    assert apart.promote_all(cluster=True) == 1
    apart.at(2, b"b")
    assert apart.promote_all(cluster=True) == 1
    assert apart.link.run(script("list_place"), place, [number, "right", payload]) == 0
    assert sorted(apart.taken()) == [b"a", b"b"]


def test_across_slots_a_list_of_another_type_leaves_tasks_held(apart: Pushing) -> None:
    """They are placed once the key is what it should be."""
    apart.link.call("SET", apart.options.name, "something else")
    apart.at(1, b"a", b"b")
    for _ in range(2):
        with pytest.raises(WrongKeyTypeError, match="holds a string"):
            apart.promote(cluster=True)
    apart.link.call("DEL", apart.options.name)
    assert apart.promote_all(cluster=True) == 2
    assert apart.taken() == [b"a", b"b"]


def test_names_with_one_tag_need_one_step_in_a_cluster(cluster: str, stream: str) -> None:
    """`{shop}:emails` and `{shop}:scheduled`."""
    connector = Connector(cluster)
    link = connector.link("test")
    tag = f"{{{stream}}}"
    queue = Pushing(link, ListOptions(name=f"{tag}:emails", scheduled=f"{tag}:scheduled", format="classic"))
    queue.at(1, b"a")
    assert queue.promote().moved == 1
    assert queue.promote(cluster=True) == (0, None, 0)
    assert queue.taken() == [b"a"]
    connector.close()
