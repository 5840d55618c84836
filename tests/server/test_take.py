"""The take script on a real server: who may claim what, when, and what is told about it."""

import pytest

from pipeline.errors import NoSuchGroupError
from pipeline.server.groups import fetch_own, hand_back
from tests.server.grouped import Grouped


def test_an_entry_is_taken_once_its_consumer_stopped_renewing_it(grouped: Grouped) -> None:
    """Idle for long enough, it changes hands; the claim counts as a delivery and changes the token."""
    old, young = grouped.held("dead", 2)
    grouped.age([old], 1_500)
    before = grouped.token
    taken = grouped.take("alive", min_idle_ms=1_000)
    assert [(entry_id, fields, deliveries) for entry_id, fields, deliveries in taken.entries] == [
        (old, [b"n", b"0"], 2)
    ]
    assert grouped.pending() == {old: ("alive", 2), young: ("dead", 1)}
    assert taken.clock_ok
    assert taken.cursor == "0-0"
    assert taken.token == grouped.token != before


def test_an_entry_taken_again_says_how_often_it_was_delivered(grouped: Grouped) -> None:
    """Each claim raises the count that the poison ladder stands on."""
    held = grouped.held("first", 1)
    for deliveries, consumer in enumerate(("second", "third", "fourth"), start=2):
        grouped.age(held, 2_000)
        assert [entry[2] for entry in grouped.take(consumer).entries] == [deliveries]


def test_a_claim_resets_the_idle_time(grouped: Grouped) -> None:
    """What was just taken is not taken again by the next member."""
    held = grouped.held("dead", 3)
    grouped.age(held, 2_000)
    assert len(grouped.take("first").entries) == 3
    assert grouped.take("second").entries == []
    assert grouped.idle_ms(held[0]) < 1_000


def test_nothing_taken_leaves_the_token(grouped: Grouped) -> None:
    """A sweep that finds nothing costs nobody a check of owners."""
    grouped.held("busy", 2)
    before = grouped.token
    taken = grouped.take("other")
    assert taken.token == grouped.token == before
    assert taken.entries == []


def test_a_clock_ahead_of_what_is_acceptable_claims_nothing(grouped: Grouped) -> None:
    """After a jump of the server's clock everything looks abandoned: nothing is touched."""
    held = grouped.held("busy", 2)
    grouped.age(held, 90_000)
    now_ms = grouped.server_ms()
    taken = grouped.take("other", latest_ms=now_ms - 1)
    assert not taken.clock_ok
    assert taken.now_ms >= now_ms
    assert grouped.pending() == {held[0]: ("busy", 1), held[1]: ("busy", 1)}


def test_a_clock_within_what_is_acceptable_claims(grouped: Grouped) -> None:
    """The limit itself is acceptable."""
    grouped.age(grouped.held("dead", 1), 2_000)
    assert len(grouped.take("alive", latest_ms=grouped.server_ms() + 1_000).entries) == 1


def test_the_cursor_leads_through_all_pending(grouped: Grouped) -> None:
    """A sweep in small steps takes each entry once, in entry-id order, and then says it is complete."""
    held = grouped.held("dead", 35)
    grouped.age(held, 2_000)
    taken: list[bytes] = []
    cursor, steps = "0-0", 0
    while steps == 0 or cursor != "0-0":
        step = grouped.take("alive", cursor=cursor, count=10)
        assert len(step.entries) <= 10
        taken += [entry[0] for entry in step.entries]
        cursor, steps = step.cursor, steps + 1
    assert taken == held
    assert steps >= 4


def test_entries_behind_the_cursor_wait_for_the_next_pass(grouped: Grouped) -> None:
    """A pass that began beyond an entry does not return for it."""
    first, second = grouped.held("dead", 2)
    grouped.age([first, second], 2_000)
    taken = grouped.take("alive", cursor=second.decode())
    assert [entry[0] for entry in taken.entries] == [second]
    assert [entry[0] for entry in grouped.take("alive").entries] == [first]


def test_trimmed_entries_are_settled_and_told(grouped: Grouped) -> None:
    """An entry trimmed while pending comes back as its id on every server, and is pending no more."""
    held = grouped.held("dead", 4)
    grouped.age(held, 2_000)
    grouped.link.call("XDEL", grouped.keys.stream, held[0], held[2])
    taken = grouped.take("alive")
    assert sorted(taken.gone) == [held[0], held[2]]
    assert [entry[0] for entry in taken.entries] == [held[1], held[3]]
    assert sorted(grouped.pending()) == [held[1], held[3]]


def test_trimmed_entries_are_found_in_small_steps_too(grouped: Grouped) -> None:
    """A sweep of one entry a step tells each trimmed one once, and no other."""
    held = grouped.held("dead", 6)
    grouped.age(held, 2_000)
    grouped.link.call("XDEL", grouped.keys.stream, *held[:3])
    gone: list[bytes] = []
    taken: list[bytes] = []
    cursor, steps = "0-0", 0
    while (steps == 0 or cursor != "0-0") and steps < 20:
        step = grouped.take("alive", cursor=cursor, count=1)
        gone += step.gone
        taken += [entry[0] for entry in step.entries]
        cursor, steps = step.cursor, steps + 1
    assert sorted(gone) == held[:3]
    assert taken == held[3:]
    assert sorted(grouped.pending()) == held[3:]


def test_a_member_s_own_trimmed_entries_do_not_cost_it_others(grouped: Grouped) -> None:
    """Looking for trimmed ids settles only what is not in the stream any more."""
    mine = grouped.held("alive", 3)
    theirs = grouped.held("dead", 2)
    grouped.age(theirs, 2_000)
    grouped.link.call("XDEL", grouped.keys.stream, theirs[0])
    taken = grouped.take("alive")
    assert list(taken.gone) == [theirs[0]]
    assert sorted(grouped.pending()) == [*mine, theirs[1]]


def test_only_trimmed_entries_leave_the_token(grouped: Grouped) -> None:
    """Nothing changed hands, so nobody need check owners."""
    held = grouped.held("dead", 1)
    grouped.age(held, 2_000)
    grouped.link.call("XDEL", grouped.keys.stream, held[0])
    before = grouped.token
    assert list(grouped.take("alive").gone) == held
    assert grouped.token == before


def test_own_entries_come_back_to_a_member_that_stood_still(grouped: Grouped) -> None:
    """XAUTOCLAIM makes no difference of owners: the caller must know what it holds already."""
    held = grouped.held("same", 2)
    grouped.age(held, 2_000)
    taken = grouped.take("same")
    assert [entry[0] for entry in taken.entries] == held
    assert grouped.pending() == {held[0]: ("same", 2), held[1]: ("same", 2)}


def test_taking_from_a_destroyed_group_says_so(grouped: Grouped) -> None:
    """NOGROUP, also where a script is what meets it."""
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    with pytest.raises(NoSuchGroupError):
        grouped.take("alive")


def test_entries_are_taken_over_when_memory_is_out(tight: Grouped) -> None:
    """A crashed worker's entries run on, and the token changes, also under OOM."""
    held = tight.held("dead", 2)
    tight.age(held, 2_000)
    before = tight.token
    with tight.out_of_memory():
        assert [entry[0] for entry in tight.take("alive").entries] == held
    assert tight.token != before


def test_what_a_lost_reply_hid_is_fetched_as_it_is(grouped: Grouped) -> None:
    """Bodies of our own pending entries; it is no delivery."""
    held = grouped.held("me", 2)
    assert fetch_own(grouped.link, grouped.main, "me", held) == [
        (held[0], [b"n", b"0"], 1),
        (held[1], [b"n", b"1"], 1),
    ]
    assert grouped.pending() == {held[0]: ("me", 1), held[1]: ("me", 1)}


def test_a_taken_entry_that_was_never_seen_keeps_its_count(grouped: Grouped) -> None:
    """The reply to a claim may be lost too: the suspicion stays."""
    held = grouped.held("dead", 1)
    grouped.age(held, 2_000)
    grouped.take("me")
    assert [one[2] for one in fetch_own(grouped.link, grouped.main, "me", held)] == [2]
    assert grouped.pending() == {held[0]: ("me", 2)}


def test_fetching_takes_nothing_from_anyone(grouped: Grouped) -> None:
    """Listed as ours, taken over, then fetched: it runs elsewhere by then."""
    theirs, settled, trimmed, mine = grouped.held("me", 4)
    grouped.age([theirs], 2_000)
    grouped.take("other")
    grouped.settle("me", [settled], token=grouped.token)
    grouped.link.call("XDEL", grouped.keys.stream, trimmed)
    found = fetch_own(grouped.link, grouped.main, "me", [theirs, settled, trimmed, mine])
    assert [entry_id for entry_id, _, _ in found] == [mine]
    assert grouped.pending()[theirs] == ("other", 2)


def test_what_was_handed_back_and_is_fetched_runs_for_the_first_time(grouped: Grouped) -> None:
    """Its count was brought back to 0: a run is number 1 at least."""
    held = grouped.held("me", 1)
    hand_back(grouped.link, grouped.main, "me", held, idle_ms=1_001)
    assert [one[2] for one in fetch_own(grouped.link, grouped.main, "me", held)] == [1]
    assert grouped.pending() == {held[0]: ("me", 1)}


def test_fetching_from_a_destroyed_group_says_so(grouped: Grouped) -> None:
    """NOGROUP: the member rejoins."""
    held = grouped.held("me", 1)
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    with pytest.raises(NoSuchGroupError):
        fetch_own(grouped.link, grouped.main, "me", held)


def test_a_claim_tells_the_token_it_replaced(grouped: Grouped) -> None:
    """So a member sees whether its own claim was the last that changed owners."""
    held = grouped.held("dead", 4)
    grouped.age(held, 2_000)
    first = grouped.take("alive", count=1)
    second = grouped.take("alive", count=1)
    assert second.token_before == first.token
    theirs = grouped.take("other", count=1)
    assert grouped.take("alive", count=1).token_before == theirs.token


@pytest.mark.parametrize("held_between", [1, 3, 40])
def test_deliveries_are_counted_right_among_many_of_our_own(grouped: Grouped, held_between: int) -> None:
    """What the claimer held before may lie between what it takes, more of it than one look shows."""
    first = grouped.held("dead", 1)
    grouped.held("alive", held_between)
    last = grouped.held("dead", 2)
    grouped.age([*first, *last], 2_000)
    grouped.link.call(
        *("XCLAIM", grouped.keys.stream, "g", "dead", 0, last[0], "IDLE", 2_000, "RETRYCOUNT", 3, "JUSTID")
    )
    taken = [(entry_id, deliveries) for entry_id, _, deliveries in grouped.take("alive").entries]
    assert taken == [(first[0], 2), (last[0], 4), (last[1], 2)]
