"""The scripts group, duty, positions and retire on a real server: what keeps a group alive and in its place."""

import pytest

from pipeline.breaker import Ended
from pipeline.errors import NoSuchGroupError, WrongKeyTypeError
from pipeline.position import before
from pipeline.server.connect import Link
from pipeline.server.groups import pause, resume, retire, save_position
from tests.conftest import OwnServer
from tests.server.grouped import Grouped
from tests.until import until


def test_a_new_group_is_created_at_its_start(grouped: Grouped) -> None:
    """On the stream and on its own `again` stream, with its position and a token."""
    new = Grouped(grouped.link, grouped.keys.stream, "new")
    grouped.add(3)
    joined = new.join(start="0-0")
    assert (joined.state, joined.position, joined.entries) == ("created", "0-0", 3)
    assert new.fact("pos:main") == "0-0"
    assert new.token != ""
    assert len(new.read("a")) == 3
    assert new.read("a", ref=new.again) == []


def test_a_group_at_the_end_gets_what_comes_after(grouped: Grouped) -> None:
    """Its saved position is the entry id that `$` meant then, never `$` itself."""
    last = grouped.add(2)[-1]
    new = Grouped(grouped.link, grouped.keys.stream, "new")
    assert new.join(start="$").position == last.decode()
    assert new.fact("pos:main") == last.decode()
    later = grouped.add(1)
    assert new.read("a") == later


def test_a_group_on_a_stream_that_does_not_exist_creates_it(grouped: Grouped) -> None:
    """Consumers may be there before producers."""
    new = Grouped(grouped.link, f"{grouped.keys.stream}-later", "g")
    assert new.join(start="$").position == "0-0"
    added = new.add(1)
    assert new.read("a") == added


def test_joining_again_changes_nothing(grouped: Grouped) -> None:
    """Position, token and pending stay as they are."""
    held = grouped.held("a", 2)
    token = grouped.token
    for lost in (False, True):
        joined = grouped.join(start="$", lost=lost)
        assert joined.state == "exists"
    assert grouped.token == token
    assert grouped.pending() == {held[0]: ("a", 1), held[1]: ("a", 1)}


def test_a_lost_group_is_recreated_at_its_saved_position(grouped: Grouped) -> None:
    """What was settled before is not delivered again; the token changes."""
    held = grouped.held("a", 3)
    grouped.settle("a", held[:2], token=grouped.token)
    saved = save_position(grouped.link, grouped.keys, "g")
    token = grouped.token
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    joined = grouped.join(start="$", lost=True)
    assert (joined.state, joined.position) == ("recreated", saved)
    assert grouped.token != token
    assert grouped.read("b") == held[2:]


def test_a_group_that_others_saw_is_lost_not_new(grouped: Grouped) -> None:
    """Also to a process that starts after the loss: it finds the group's own record."""
    held = grouped.held("a", 2)
    save_position(grouped.link, grouped.keys, "g")
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    assert grouped.join(start="$", lost=False).state == "recreated"
    assert grouped.read("b") == held


def test_a_saved_position_beyond_the_stream_counts_as_gone(grouped: Grouped) -> None:
    """The stream was deleted and begun anew: all that is in it was never read."""
    grouped.held("a", 1)
    grouped.link.call("HSET", grouped.keys.groups, "g:pos:main", "99999999999999-7")
    grouped.link.call("DEL", grouped.keys.stream)
    added = grouped.add(2)
    joined = grouped.join(start="$", lost=True)
    assert (joined.state, joined.position) == ("recreated", "0-0")
    assert grouped.read("b") == added


@pytest.mark.parametrize(
    ("saved", "last", "position"),
    [
        ("5-18446744073709551614", "5-18446744073709551615", "5-18446744073709551614"),
        ("5-18446744073709551615", "5-18446744073709551614", "0-0"),
        ("5-9", "5-10", "5-9"),
        ("5-10", "5-9", "0-0"),
        ("10-1", "9-9", "0-0"),
        ("9-9", "10-1", "9-9"),
    ],
)
def test_positions_are_compared_as_entry_ids(grouped: Grouped, saved: str, last: str, position: str) -> None:
    """Not as text, and not as floating point numbers."""
    grouped.link.call("DEL", grouped.keys.stream)
    grouped.link.call("XADD", grouped.keys.stream, last, "n", "1")
    grouped.link.call("HSET", grouped.keys.groups, "g:pos:main", saved)
    assert grouped.join(lost=True).position == position


def test_everything_lost_means_from_the_start(grouped: Grouped) -> None:
    """After a flush there is no record either: a member that saw the group never lets it begin at `$`."""
    grouped.held("a", 2)
    grouped.link.call("DEL", grouped.keys.stream, grouped.keys.groups, grouped.again.key)
    added = grouped.add(2)
    joined = grouped.join(start="$", lost=True)
    assert (joined.state, joined.position) == ("recreated", "0-0")
    assert grouped.read("b") == added


def test_a_lost_again_stream_is_recreated_at_its_start(grouped: Grouped) -> None:
    """What is due again was never settled: settled entries are deleted there."""
    held = grouped.held("a", 2, grouped.again)
    grouped.link.call("XGROUP", "DESTROY", grouped.again.key, "g")
    assert grouped.join(lost=True).state == "exists"
    assert grouped.read("b", ref=grouped.again) == held


def test_a_group_on_a_key_of_another_type_is_refused(grouped: Grouped) -> None:
    """The stream's name is taken by something else: said so, and nothing is written for the group."""
    other = Grouped(grouped.link, f"{grouped.keys.stream}-text")
    grouped.link.call("SET", other.keys.stream, "text")
    with pytest.raises(WrongKeyTypeError):
        other.join()
    assert grouped.link.call("EXISTS", other.keys.groups, other.again.key) == 0


def test_a_group_is_recreated_when_memory_is_out(tight: Grouped) -> None:
    """So that what is in the stream can be handled, which is what frees memory."""
    held = tight.held("a", 2)
    tight.link.call("XGROUP", "DESTROY", tight.keys.stream, "g")
    with tight.out_of_memory():
        assert tight.join(lost=True).state == "recreated"
        assert tight.read("b") == held


def test_one_member_holds_the_duty(grouped: Grouped) -> None:
    """The first that wants it; the next once it was given up."""
    assert grouped.beat("a").on_duty
    assert not grouped.beat("b").on_duty
    assert grouped.beat("a").on_duty
    assert not grouped.beat("a", wants=0).on_duty
    assert grouped.beat("b").on_duty
    assert not grouped.beat("a").on_duty


def test_a_member_that_does_not_want_the_duty_does_not_get_it(grouped: Grouped) -> None:
    """And does not take it from who holds it."""
    assert not grouped.beat("a", wants=0).on_duty
    assert grouped.beat("b").on_duty
    assert not grouped.beat("a", wants=0).on_duty
    assert grouped.beat("b").on_duty


def test_the_duty_of_a_killed_member_expires(grouped: Grouped) -> None:
    """Nobody need notice its end."""
    assert grouped.beat("killed", hold_ms=100).on_duty
    assert not grouped.beat("next").on_duty
    until(lambda: grouped.beat("next").on_duty, 5)


def test_members_are_listed_for_the_one_on_duty_only(grouped: Grouped) -> None:
    """With claim_after and the time since their heartbeat: a heartbeat's cost does not grow with the group."""
    grouped.beat("a", claim_after_ms=1_000)
    assert grouped.beat("b", claim_after_ms=2_000).members == {}
    members = grouped.beat("a", claim_after_ms=1_000).members
    assert {name: claim_after_ms for name, (claim_after_ms, _) in members.items()} == {"a": 1_000, "b": 2_000}
    assert all(0 <= age_ms < 5_000 for _, age_ms in members.values())


def test_claim_after_is_the_largest_of_the_members(grouped: Grouped) -> None:
    """A member with long leases is not robbed by one with short ones, from its first heartbeat on."""
    assert grouped.beat("quick", claim_after_ms=1_000).claim_after_ms == 1_000
    assert grouped.beat("slow", claim_after_ms=30_000).claim_after_ms == 30_000
    assert grouped.beat("quick", claim_after_ms=1_000).claim_after_ms == 30_000
    assert grouped.beat("third", claim_after_ms=500).claim_after_ms == 30_000


def test_a_member_that_left_no_longer_decides_claim_after(grouped: Grouped) -> None:
    """The next heartbeat on duty finds the largest of those that remain."""
    grouped.beat("quick", claim_after_ms=1_000)
    grouped.beat("slow", claim_after_ms=30_000)
    grouped.beat("slow", claim_after_ms=30_000, wants=-1)
    assert grouped.beat("quick", claim_after_ms=1_000).claim_after_ms == 1_000
    assert grouped.beat("other", claim_after_ms=700).claim_after_ms == 1_000


def test_a_member_silent_for_long_no_longer_decides_claim_after(grouped: Grouped) -> None:
    """Twice its own claim_after: whatever it held can be taken by then."""
    now_ms = grouped.server_ms()
    grouped.beat("quick", claim_after_ms=1_000)
    grouped.link.call("HSET", grouped.keys.members("g"), "dead", f"30000:{now_ms - 50_000}")
    assert grouped.beat("quick", claim_after_ms=1_000).claim_after_ms == 30_000
    grouped.link.call("HSET", grouped.keys.members("g"), "dead", f"30000:{now_ms - 90_000}")
    assert grouped.beat("quick", claim_after_ms=1_000).claim_after_ms == 1_000


def test_a_member_that_leaves_is_off_the_list_and_off_duty(grouped: Grouped) -> None:
    """So nobody misses it, and another sweeps at once."""
    grouped.beat("a")
    grouped.beat("b")
    assert not grouped.beat("a", wants=-1).on_duty
    assert set(grouped.beat("b").members) == {"b"}


def test_the_sweep_mark_is_told_until_its_pass_is_complete(grouped: Grouped) -> None:
    """A mark set meanwhile stays: only the one that was swept is removed."""
    assert grouped.beat("a").sweep_mark == ""
    grouped.link.call("HSET", grouped.keys.groups, "g:sweep", "first")
    assert grouped.beat("a").sweep_mark == "first"
    assert grouped.beat("b").sweep_mark == "first"
    grouped.link.call("HSET", grouped.keys.groups, "g:sweep", "second")
    assert grouped.beat("a", swept="first").sweep_mark == "second"
    assert grouped.beat("a", swept="second").sweep_mark == ""
    assert grouped.fact("sweep") == ""


def test_a_heartbeat_says_what_a_member_must_know(grouped: Grouped) -> None:
    """The server's time, the token, and when the first retry is due."""
    duty = grouped.beat("a")
    assert abs(duty.now_ms - grouped.server_ms()) < 5_000
    assert duty.token == grouped.token
    assert duty.next_due_ms is None
    grouped.link.call("ZADD", grouped.keys.retry("g"), 1_700_000_000_123, "x", 1_700_000_000_999, "y")
    assert grouped.beat("b").next_due_ms == 1_700_000_000_123


def test_heartbeats_work_when_memory_is_out(tight: Grouped) -> None:
    """Else everybody would look dead, and nobody would take over."""
    with tight.out_of_memory():
        assert tight.beat("a").on_duty
        tight.beat("b", claim_after_ms=7_000)
        assert set(tight.beat("a").members) == {"a", "b"}
        assert tight.beat("a").claim_after_ms == 7_000
        tight.beat("a", wants=-1)
        assert tight.beat("b", claim_after_ms=7_000).on_duty


def test_the_saved_position_is_just_before_the_oldest_pending(grouped: Grouped) -> None:
    """Else, with nothing pending, what was delivered last."""
    held = grouped.held("a", 3)
    grouped.settle("a", held[:1], token=grouped.token)
    assert save_position(grouped.link, grouped.keys, "g") == before(held[1])
    assert grouped.fact("pos:main") == before(held[1])
    grouped.settle("a", held[1:], token=grouped.token)
    assert save_position(grouped.link, grouped.keys, "g") == held[2].decode()


@pytest.mark.parametrize(
    "oldest",
    [
        "1-0",
        "7-0",
        "10-0",
        "100-0",
        "7-1",
        "7-10",
        "7-1000",
        "7-9007199254740992",
        "7-9007199254740993",
        "7-9007199254740995",
        "7-10000000000000000000",
        "7-18446744073709551615",
        "18446744073709551614-0",
    ],
)
def test_the_saved_position_is_exact_for_any_entry_id(grouped: Grouped, oldest: str) -> None:
    """Sequence numbers exceed what a Lua number holds exactly: rounded up, an entry would be passed over."""
    for entry_id in (oldest, "18446744073709551615-0"):
        grouped.link.call("XADD", grouped.keys.stream, entry_id, "n", "1")
    assert len(grouped.read("a")) == 2
    assert save_position(grouped.link, grouped.keys, "g") == before(oldest)
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    assert grouped.join(lost=True).position == before(oldest)
    assert grouped.read("b", count=1) == [oldest.encode()]


def test_the_position_of_a_destroyed_group_is_kept(grouped: Grouped) -> None:
    """Saving fails, and leaves what was saved: it is what the group is recreated from."""
    held = grouped.held("a", 1)
    save_position(grouped.link, grouped.keys, "g")
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    with pytest.raises(NoSuchGroupError):
        save_position(grouped.link, grouped.keys, "g")
    assert grouped.fact("pos:main") == before(held[0])


def test_positions_are_saved_when_memory_is_out(tight: Grouped) -> None:
    """A group may be lost then too."""
    held = tight.held("a", 1)
    with tight.out_of_memory():
        assert save_position(tight.link, tight.keys, "g") == before(held[0])
    assert tight.fact("pos:main") == before(held[0])


def test_a_name_is_retired_once_it_holds_nothing(grouped: Grouped) -> None:
    """From the stream, from `again` and from the members."""
    held = grouped.held("old", 1)
    grouped.beat("old")
    assert not retire(grouped.link, grouped.keys, "g", "old")
    assert grouped.consumers() == {"old": 1}
    assert grouped.link.call("HEXISTS", grouped.keys.members("g"), "old") == 1
    grouped.settle("old", held, token=grouped.token)
    assert retire(grouped.link, grouped.keys, "g", "old")
    assert grouped.consumers() == {}
    assert grouped.link.call("HEXISTS", grouped.keys.members("g"), "old") == 0


def test_a_name_that_holds_entries_of_again_is_not_retired(grouped: Grouped) -> None:
    """XGROUP DELCONSUMER would drop them from pending, never to be delivered again."""
    held = grouped.held("old", 1, grouped.again)
    assert not retire(grouped.link, grouped.keys, "g", "old")
    assert grouped.pending(grouped.again) == {held[0]: ("old", 1)}


def test_a_name_is_retired_from_a_destroyed_group_too(grouped: Grouped) -> None:
    """It is a member of nothing then: off the list with it."""
    grouped.beat("old")
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    assert retire(grouped.link, grouped.keys, "g", "old")
    assert grouped.link.call("HEXISTS", grouped.keys.members("g"), "old") == 0


def test_a_heartbeat_tells_what_ended_and_learns_of_the_last_hundred(link: Link, stream: str) -> None:
    """Of all members together; older ones are forgotten as newer ones come, and one telling may be of many."""
    one = Grouped(link, stream)
    one.join()
    assert one.beat("a").ended == Ended(0, 0)
    assert one.beat("a", ended=Ended(60, 10)).ended == Ended(60, 10)
    assert one.beat("b", ended=Ended(39, 39)).ended == Ended(99, 49)
    assert one.beat("a").ended == Ended(99, 49)
    assert one.beat("a", ended=Ended(1, 1)).ended == Ended(100, 50)
    assert one.beat("b", ended=Ended(70, 0)).ended == Ended(
        110, 40
    )  # 70 + 1 + 39: the first 60 are forgotten
    assert one.beat("b", ended=Ended(5_000, 2)).ended == Ended(5_000, 2)
    beats = [one.beat("a", ended=Ended(1, 1)).ended for _ in range(300)]
    assert beats[-1] == Ended(100, 100)
    assert len(one.fact("ended")) < 1_000


def test_a_pause_is_kept_until_it_is_ended(link: Link, stream: str) -> None:
    """The first one is; every heartbeat tells of it; what ended before is forgotten with it."""
    one = Grouped(link, stream)
    one.join()
    one.beat("a", ended=Ended(60, 60))
    assert one.beat("a").pause is None
    changed, first = pause(link, one.keys, "g", by="a", reason="too many died")
    assert changed
    assert abs(first.since_ms - one.server_ms()) < 60_000
    assert pause(link, one.keys, "g", by="b", reason="me too") == (False, first)
    assert one.beat("b").pause == first
    assert resume(link, one.keys, "g") == first
    assert resume(link, one.keys, "g") is None
    assert one.beat("a").pause is None
    assert one.beat("a").ended == Ended(0, 0)


def test_a_group_can_be_paused_by_a_server_that_is_out_of_memory(own_server: OwnServer, stream: str) -> None:
    """That may be why all its events die."""
    connector = own_server().connector()
    link = connector.link("test")
    one = Grouped(link, stream)
    one.join()
    with one.out_of_memory():
        assert pause(link, one.keys, "g", by="a", reason="r")[0]
        assert one.beat("a", ended=Ended(1, 1)).ended == Ended(1, 1)
        assert resume(link, one.keys, "g") is not None
    link.close()
    connector.close()
