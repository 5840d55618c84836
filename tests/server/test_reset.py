"""The script reset on a real server: the position first, then what is pending, and never what somebody holds anew."""

import pytest

from pipeline.errors import MillstreamError, NoSuchGroupError, UsageError
from pipeline.position import before
from pipeline.reset_plan import ResetPlan
from pipeline.server.changes import trim_stream
from pipeline.server.groups import MAX_IDS, save_position
from pipeline.server.replies import pairs, text
from pipeline.server.resetting import Moved, move_position
from tests.server.grouped import Grouped


def plan(grouped: Grouped, position: str | bytes, read: str | bytes, **counts: int) -> ResetPlan:
    """A reset of the group from one position to another."""
    return ResetPlan(
        stream=grouped.keys.stream, group="g", position=text(position), from_position=text(read),
        entries_read=counts.get("entries_read"),
    )  # fmt: skip


def stands(grouped: Grouped) -> str:
    """The group's position on the server."""
    (facts,) = map(pairs, grouped.link.call("XINFO", "GROUPS", grouped.keys.stream))
    return text(facts["last-delivered-id"])


def test_the_position_moves_with_the_saved_one_and_the_token(grouped: Grouped) -> None:
    """In one step; so a group that is lost afterwards does not come back at the old one."""
    ids = grouped.held("a", 6)
    grouped.link.call("XACK", grouped.keys.stream, "g", *ids[:2])
    token = grouped.token
    moved = move_position(grouped.link, plan(grouped, ids[1], ids[5]))
    assert moved.taken_out == 4
    assert moved.complete
    assert stands(grouped) == grouped.fact("pos:main") == text(ids[1])
    assert grouped.pending() == {}
    assert grouped.token != token
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    assert grouped.join(lost=True).position == text(ids[1])
    assert grouped.read("b") == ids[2:]


def test_what_is_yet_to_be_put_aside_holds_the_saved_position_back(grouped: Grouped) -> None:
    """Or it would be lost with a group that is lost before."""
    ids = grouped.held("a", 6)
    move_position(grouped.link, plan(grouped, ids[3], ids[5]))
    assert stands(grouped) == text(ids[3])
    assert list(grouped.pending()) == ids[:4]
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    grouped.join(lost=True)
    assert grouped.read("b") == ids


def test_a_live_member_holds_it_back(grouped: Grouped) -> None:
    """Nothing is done; a member that was silent for longer than claim_after holds back nothing."""
    ids = grouped.held("a", 2)
    grouped.beat("a")
    with pytest.raises(MillstreamError, match="has a member alive"):
        move_position(grouped.link, plan(grouped, "0-0", ids[1]))
    assert stands(grouped) == text(ids[1])
    assert len(grouped.pending()) == 2
    grouped.link.call("HSET", grouped.keys.members("g"), "a", f"1000:{grouped.server_ms() - 1_001}")
    assert move_position(grouped.link, plan(grouped, "0-0", ids[1])).taken_out == 2


def test_a_group_that_has_read_on_is_planned_anew(grouped: Grouped) -> None:
    """What was shown is what happens, or nothing does."""
    ids = grouped.held("a", 3)
    with pytest.raises(UsageError, match=f"has read on, from {text(ids[1])} to {text(ids[2])}"):
        move_position(grouped.link, plan(grouped, ids[0], ids[1]))
    assert stands(grouped) == text(ids[2])


def test_a_lost_answer_is_asked_for_again(grouped: Grouped) -> None:
    """The position is the one that was asked for: the second call goes on."""
    ids = grouped.held("a", 3)
    what = plan(grouped, ids[0], ids[2])
    assert move_position(grouped.link, what).taken_out == 2
    assert move_position(grouped.link, what).taken_out == 0


def test_many_pending_entries_take_several_calls(grouped: Grouped) -> None:
    """Each bounded; what was delivered since the first call is left to whoever got it."""
    grouped.add(3 * MAX_IDS)
    ids = [*grouped.read("old", MAX_IDS * 2), *grouped.read("old", MAX_IDS)]
    what = plan(grouped, "0-0", ids[-1])
    moved = move_position(grouped.link, what)
    assert (moved.taken_out, moved.complete) == (MAX_IDS, False)
    # Somebody who had slept reads on: the first of them are new deliveries, one of which was pending with the old one.
    assert grouped.read("awake", MAX_IDS + 2) == ids[: MAX_IDS + 2]
    seen = moved.begun_ms
    # An entry that was delivered before the reset began, as far as the clock tells.
    rest = ids[MAX_IDS + 2 :]
    grouped.link.call("XCLAIM", grouped.keys.stream, "g", "old", 0, *rest, "IDLE", 600_000, "JUSTID")
    counts = []
    while True:
        moved = move_position(grouped.link, what, seen)
        counts.append(moved.taken_out)
        if moved.complete:
            break
    assert counts == [MAX_IDS, MAX_IDS - 2]
    assert {owner for owner, _ in grouped.pending().values()} == {"awake"}
    assert len(grouped.pending()) == MAX_IDS + 2


def test_what_is_read_again_is_kept_though_the_reset_was_killed(grouped: Grouped) -> None:
    """What pends still lies behind what is to be read: the saved position and trims go by the latter."""
    grouped.add(MAX_IDS + 2)
    ids = [*grouped.read("old", MAX_IDS), *grouped.read("old", 2)]
    assert not move_position(grouped.link, plan(grouped, ids[0], ids[-1])).complete
    assert list(grouped.pending()) == [ids[0], ids[-1]]
    grouped.link.call("XACK", grouped.keys.stream, "g", ids[0])
    assert save_position(grouped.link, grouped.keys, "g") == text(ids[0])
    for _ in trim_stream(grouped.link, grouped.keys.stream, text(ids[-1])):
        pass
    assert grouped.read("awake", 1) == [ids[1]]


def test_a_skip_takes_nothing_out(grouped: Grouped) -> None:
    """What is pending lies before it, and runs all the same."""
    held = grouped.held("a", 2)
    ids = grouped.add(3)
    assert move_position(grouped.link, plan(grouped, ids[1], held[1])).taken_out == 0
    assert list(grouped.pending()) == held
    assert grouped.read("b") == ids[2:]


def test_a_stranger_s_group_is_moved_too(grouped: Grouped) -> None:
    """Its position is not kept by us, and no token is made for it."""
    ids = grouped.held("a", 2)
    grouped.link.call("DEL", grouped.keys.groups)
    assert move_position(grouped.link, plan(grouped, ids[0], ids[1])).taken_out == 1
    assert grouped.link.call("EXISTS", grouped.keys.groups) == 0


def test_the_lag_stays_right(grouped: Grouped) -> None:
    """Where the server counts it (7.0 on), and is told what was added up to the position."""
    ids = grouped.held("a", 10)
    info = pairs(grouped.link.call("XINFO", "STREAM", grouped.keys.stream))
    count = 4 if "entries-added" in info else None
    what = ResetPlan(
        stream=grouped.keys.stream, group="g", position=text(ids[3]), from_position=text(ids[9]),
        entries_read=count,
    )  # fmt: skip
    move_position(grouped.link, what)
    (facts,) = map(pairs, grouped.link.call("XINFO", "GROUPS", grouped.keys.stream))
    assert count is None or facts["lag"] == 6


def test_what_is_gone_is_said(grouped: Grouped) -> None:
    """No group is made by a reset."""
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    with pytest.raises(NoSuchGroupError):
        move_position(grouped.link, plan(grouped, "0-0", "0-0"))


def test_a_server_out_of_memory_resets_all_the_same(tight: Grouped) -> None:
    """It frees more than it takes."""
    ids = tight.held("a", 4)
    with tight.out_of_memory():
        moved = move_position(tight.link, plan(tight, before(ids[2]), ids[3]))
    assert isinstance(moved, Moved)
    assert moved.taken_out == 2
    assert stands(tight) == before(ids[2])
