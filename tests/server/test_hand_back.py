"""The hand_back script on a real server: an entry given up is the next member's, and its attempt is not spent."""

import pytest

from pipeline.errors import NoSuchGroupError
from pipeline.server.groups import hand_back
from tests.server.grouped import Grouped


def give(grouped: Grouped, consumer: str, ids: list[bytes], idle_ms: int) -> int:
    """Hand entries of the stream back."""
    return hand_back(grouped.link, grouped.main, consumer, ids, idle_ms=idle_ms)


def test_what_is_handed_back_can_be_taken_at_once(grouped: Grouped) -> None:
    """Idle beyond claim_after, with a sweep mark that makes the member on duty look."""
    held = grouped.held("leaving", 2)
    before = grouped.token
    assert give(grouped, "leaving", held, 1_001) == 2
    assert grouped.fact("sweep") == grouped.token != before
    taken = grouped.take("staying", min_idle_ms=1_000)
    assert [entry[0] for entry in taken.entries] == held


def test_a_handed_back_attempt_is_not_spent(grouped: Grouped) -> None:
    """Read once, given up, taken: that is the first run, not the second."""
    held = grouped.held("leaving", 1)
    give(grouped, "leaving", held, 1_001)
    assert grouped.pending() == {held[0]: ("leaving", 0)}
    assert [entry[2] for entry in grouped.take("staying").entries] == [1]


def test_a_handed_back_suspect_stays_as_suspicious(grouped: Grouped) -> None:
    """Only the delivery that did not happen is taken back, not the crashes before it."""
    held = grouped.held("dead", 1)
    for consumer in ("second", "third"):
        grouped.age(held, 2_000)
        grouped.take(consumer)
    assert grouped.pending() == {held[0]: ("third", 3)}
    give(grouped, "third", held, 1_001)
    assert [entry[2] for entry in grouped.take("fourth").entries] == [3]


def test_a_count_never_goes_below_zero(grouped: Grouped) -> None:
    """Handed back twice (a repeat after a lost reply), it is an entry that never ran."""
    held = grouped.held("leaving", 1)
    give(grouped, "leaving", held, 1_001)
    give(grouped, "leaving", held, 1_001)
    assert grouped.pending() == {held[0]: ("leaving", 0)}


def test_what_is_released_waits_for_claim_after(grouped: Grouped) -> None:
    """Idle from now on: another member takes it after claim_after, and nobody is told to look."""
    held = grouped.held("old", 1)
    grouped.age(held, 50_000)
    before = grouped.token
    assert give(grouped, "old", held, 0) == 1
    assert grouped.idle_ms(held[0]) < 10_000
    assert grouped.fact("sweep") == ""
    assert grouped.token != before
    assert grouped.take("new").entries == []
    grouped.age(held, 2_000)
    assert [entry[2] for entry in grouped.take("new").entries] == [1]


def test_what_is_not_ours_is_not_given_up(grouped: Grouped) -> None:
    """Taken over or settled meanwhile: left alone, and not counted."""
    theirs, settled, mine = grouped.held("leaving", 3)
    grouped.age([theirs], 2_000)
    grouped.take("other")
    grouped.settle("leaving", [settled], token=grouped.token)
    assert give(grouped, "leaving", [theirs, settled, mine], 1_001) == 1
    assert grouped.pending() == {theirs: ("other", 2), mine: ("leaving", 0)}
    assert grouped.idle_ms(theirs) < 1_000


def test_giving_up_nothing_leaves_token_and_mark(grouped: Grouped) -> None:
    """Nothing changed hands, and there is nothing to look for."""
    held = grouped.held("other", 1)
    before = grouped.token
    assert give(grouped, "leaving", held, 1_001) == 0
    assert (grouped.token, grouped.fact("sweep")) == (before, "")


def test_who_held_a_handed_back_entry_cannot_settle_it(grouped: Grouped) -> None:
    """Not even under the token it was read with, once another has taken it."""
    held = grouped.held("leaving", 1)
    before = grouped.token
    give(grouped, "leaving", held, 1_001)
    grouped.take("staying")
    assert grouped.settle("leaving", held, token=before).taken_over == held
    assert grouped.pending() == {held[0]: ("staying", 1)}


def test_handing_back_to_a_destroyed_group_says_so(grouped: Grouped) -> None:
    """NOGROUP: there is nothing to give up any more."""
    held = grouped.held("leaving", 1)
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    with pytest.raises(NoSuchGroupError):
        give(grouped, "leaving", held, 1_001)


def test_handing_back_works_when_memory_is_out(tight: Grouped) -> None:
    """A worker that stops under OOM leaves its entries to the others at once."""
    held = tight.held("leaving", 1)
    with tight.out_of_memory():
        assert give(tight, "leaving", held, 1_001) == 1
        assert tight.fact("sweep") != ""
