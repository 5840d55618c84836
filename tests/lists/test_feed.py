"""Feeding: tasks move from a list into the stream of what is taken, each once, in order, and whatever is refused."""

from collections.abc import Iterator

import pytest

from pipeline.errors import AccessDeniedError, MillstreamError, NoSuchGroupError, WrongKeyTypeError
from pipeline.list_options import ListOptions
from pipeline.server.lists import drain_hand, feed_command, parse_fed
from pipeline.server.scripts import script
from pipeline.wire import decode_entry
from tests.conftest import OwnServer
from tests.lists.conftest import Listing, listing_on

GROUP = "g"


def feed(listing: Listing, count: int, options: ListOptions | None = None, **given: bool) -> int:
    """Have at most so many be unread; how many were moved."""
    listing.link.load(script("list_feed"))
    command = feed_command(options or listing.options(), count, group=GROUP, **given)
    return parse_fed(listing.link.call(*command))


def read(listing: Listing, count: int) -> None:
    """A member reads so many of them."""
    listing.link.call("XREADGROUP", "GROUP", GROUP, "me", "COUNT", count, "STREAMS", listing.stream, ">")


def bodies(listing: Listing) -> list[bytes]:
    """What was moved, in order."""
    return [fields[3] for _, fields in listing.entries()]


@pytest.fixture
def fed(listing: Listing) -> Listing:
    """A list whose group is there."""
    listing.link.call("XGROUP", "CREATE", listing.stream, GROUP, "0", "MKSTREAM")
    return listing


@pytest.mark.parametrize(
    ("push", "order"), [("left", "fifo"), ("right", "fifo"), ("left", "lifo"), ("right", "lifo")]
)
def test_tasks_move_in_the_order_in_which_they_are_taken(fed: Listing, push: str, order: str) -> None:
    """Whichever end they are pushed to; what lies in the hand comes first."""
    options = fed.options(push=push, order=order)
    names = [str(n) for n in range(600)]
    fed.push(*names, end=push)
    fed.link.call("LPUSH", fed.list_keys.hand, "first", "second")
    assert feed(fed, 500, options) == 500
    assert feed(fed, 500, options) == 0, "so many are unread"
    read(fed, 400)
    assert feed(fed, 500, options) == 102
    taken = names if order == "fifo" else names[::-1]
    assert bodies(fed) == [b"first", b"second", *(name.encode() for name in taken)]
    assert fed.left() == []
    assert fed.link.call("EXISTS", fed.list, fed.list_keys.hand) == 0


@pytest.mark.parametrize("format_", ["unique", "classic"])
def test_a_sorted_set_is_taken_from_its_lowest_score_on(fed: Listing, format_: str) -> None:
    """With its scores in the headers; ids are no part of what was pushed, and classic members have none."""
    options = fed.options(order="priority", format=format_)
    one, other = ("0123456789abcdef:", "fedcba9876543210:") if format_ == "unique" else ("", "x:")
    fed.link.call("ZADD", fed.list, 3, one + "c", 1.5, one + "a", 2, other + "b", "-inf", "old:z")
    assert feed(fed, 500, options) == 4
    assert bodies(fed) == [b"old:z", b"a", b"b" if format_ == "unique" else b"x:b", b"c"]
    events = [decode_entry(entry_id, fields).events[0] for entry_id, fields in fed.entries()]
    assert [event.headers for event in events] == [
        {"list": fed.list, "priority": score} for score in ("-inf", "1.5", "2", "3")
    ]
    assert fed.link.call("EXISTS", fed.list) == 0
    fed.link.call("LPUSH", fed.list_keys.hand, "put back")
    assert feed(fed, 500, options, hand_only=True) == 1
    (last,) = decode_entry(*fed.entries()[-1]).events
    assert (last.data, last.headers["priority"]) == ("put back", "0")


def test_a_call_moves_about_a_megabyte_and_any_one_task(fed: Listing) -> None:
    """Also one that no reader will accept: it is moved alone, to become a dead letter."""
    fed.push("x" * 5_000_000, *("y" * 400_000 for _ in range(5)), "z")
    assert [feed(fed, 500) for _ in range(4)] == [1, 3, 3, 0]
    assert [len(body) for body in bodies(fed)] == [5_000_000, *[400_000] * 5, 1]


def test_only_the_hand_is_drained_whatever_is_unread(fed: Listing) -> None:
    """Nobody else would have it moved."""
    fed.push("in the list")
    fed.link.call("LPUSH", fed.list_keys.hand, *(str(n) for n in range(1_200)))
    assert drain_hand(fed.link, fed.options(), GROUP) == 1_200
    assert bodies(fed) == [str(n).encode() for n in range(1_200)]
    assert fed.left() == [b"in the list"]


def test_without_its_group_nothing_is_taken(listing: Listing) -> None:
    """Nobody would read it."""
    listing.push("a")
    with pytest.raises(NoSuchGroupError):
        feed(listing, 10)
    listing.link.call("XGROUP", "CREATE", listing.stream, "another", "0", "MKSTREAM")
    with pytest.raises(NoSuchGroupError):
        feed(listing, 10)
    assert listing.left() == [b"a"]


def test_a_key_of_another_type_is_named_and_nothing_is_moved(fed: Listing) -> None:
    """Which key, and what it holds."""
    fed.link.call("SET", fed.list, "text")
    with pytest.raises(WrongKeyTypeError, match="holds a string, not a list"):
        feed(fed, 10)
    with pytest.raises(WrongKeyTypeError, match="holds a string, not a zset"):
        feed(fed, 10, fed.options(order="priority"))
    fed.link.call("DEL", fed.list)
    fed.push("a")
    fed.link.call("SADD", fed.list_keys.hand, "member")
    with pytest.raises(WrongKeyTypeError, match="hand holds a set, not a list"):
        feed(fed, 10)
    assert (fed.left(), bodies(fed)) == ([b"a"], [])


@pytest.fixture
def full(own_server: OwnServer) -> Iterator[Listing]:
    """A list with tasks in it, on a server of its own without any memory left."""
    server = own_server()
    with listing_on(server.address, "emails") as listing:
        listing.link.call("XGROUP", "CREATE", listing.stream, GROUP, "0", "MKSTREAM")
        listing.push(*(str(n) for n in range(1_000)))
        listing.link.call("ZADD", "urgent", 1, "0123456789abcdef:a")
        listing.link.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(MillstreamError, match="OOM"):
            listing.link.call("LPUSH", listing.list, "more")
        yield listing


def test_what_is_there_is_worked_off_under_oom(full: Listing) -> None:
    """It is the way out of it."""
    assert feed(full, 500) == 500
    read(full, 500)
    assert feed(full, 500) == 500
    assert len(bodies(full)) == 1_000
    assert full.left() == []


def test_what_the_user_may_not_do_neither_loses_nor_doubles(full: Listing) -> None:
    """Adding is denied, or taking out: nothing has changed."""
    full.link.call("CONFIG", "SET", "maxmemory", "0")
    before = full.left()
    for denied in ("-xadd", "-ltrim", "-lrange"):
        full.link.call("ACL", "SETUSER", "worker", "on", "nopass", "~*", "+@all", denied)
        full.link.load(script("list_feed"))
        full.link.call("AUTH", "worker", "any")
        with pytest.raises(AccessDeniedError):
            feed(full, 10)
        full.link.call("AUTH", "default", "any")
        assert full.left() == before
        assert full.taken() == 0
        full.link.call("ACL", "DELUSER", "worker")
