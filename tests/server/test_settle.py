"""The settle and renew scripts on a real server: only its holder settles an entry, or keeps it."""

import pytest

from consumers.tokens import Tokens
from pipeline.errors import NoSuchGroupError
from pipeline.server.groups import MAX_IDS, hand_back, renew
from tests.server.grouped import Grouped


def test_entries_are_settled_while_the_token_stands(grouped: Grouped) -> None:
    """The plain case: acknowledged, nothing taken over, the token told."""
    held = grouped.held("a", 3)
    settled = grouped.settle("a", held[:2], token=grouped.token)
    assert (settled.count, settled.group_there, settled.taken_over) == (2, True, [])
    assert settled.token == grouped.token
    assert list(grouped.pending()) == [held[2]]


def test_a_full_call_is_settled(grouped: Grouped) -> None:
    """As many ids as one call may carry, with the token and without it."""
    held = grouped.held("a", 2 * MAX_IDS)
    held += grouped.read("a", 2 * MAX_IDS - len(held))
    assert grouped.settle("a", held[:MAX_IDS], token=grouped.token).count == MAX_IDS
    assert grouped.settle("a", held[MAX_IDS:], token="stale").count == MAX_IDS
    assert grouped.pending() == {}


def test_a_stale_token_makes_settle_check_each_owner(grouped: Grouped) -> None:
    """What was taken over is left alone and told; what is still ours is settled."""
    held = grouped.held("slow", 3)
    before = grouped.token
    grouped.age(held[:2], 2_000)
    grouped.take("other", count=1)
    settled = grouped.settle("slow", held, token=before)
    assert settled.taken_over == [held[0]]
    assert settled.count == 2
    assert settled.token == grouped.token != before
    assert grouped.pending() == {held[0]: ("other", 2)}


def test_a_taken_over_entry_stays_with_its_new_holder(grouped: Grouped) -> None:
    """However often the old holder asks, with whichever old token."""
    held = grouped.held("slow", 1)
    tokens = [grouped.token]
    grouped.age(held, 2_000)
    tokens.append(grouped.take("other").token)
    for token in ("", "0-0", tokens[0]):
        assert grouped.settle("slow", held, token=token).taken_over == held
    assert grouped.pending() == {held[0]: ("other", 2)}


def test_the_new_holder_settles_with_the_token_of_its_claim(grouped: Grouped) -> None:
    """The token that a claim returns stands for what it took."""
    held = grouped.held("dead", 2)
    grouped.age(held, 2_000)
    taken = grouped.take("alive")
    settled = grouped.settle("alive", held, token=taken.token)
    assert (settled.count, settled.taken_over) == (2, [])
    assert grouped.pending() == {}


def test_settling_twice_is_harmless(grouped: Grouped) -> None:
    """A repeat after a lost reply acknowledges nothing more, and finds the group there."""
    held = grouped.held("a", 2)
    token = grouped.token
    assert grouped.settle("a", held, token=token).count == 2
    again = grouped.settle("a", held, token=token)
    assert (again.count, again.group_there) == (0, True)


def test_settling_in_a_destroyed_group_says_that_it_is_gone(grouped: Grouped) -> None:
    """XACK answers 0 and no error there: the script looks why, with the token and without."""
    held = grouped.held("a", 1)
    token = grouped.token
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    for known in (token, "stale"):
        settled = grouped.settle("a", held, token=known)
        assert (settled.count, settled.group_there, settled.taken_over) == (0, False, [])


def test_settling_on_a_deleted_stream_says_that_the_group_is_gone(grouped: Grouped) -> None:
    """DEL and FLUSHALL take the group with the stream."""
    held = grouped.held("a", 1)
    token = grouped.token
    grouped.link.call("DEL", grouped.keys.stream)
    assert not grouped.settle("a", held, token=token).group_there
    grouped.link.call("DEL", grouped.keys.groups)
    assert not grouped.settle("a", held, token=token).group_there


def test_a_recreated_group_makes_everybody_check(grouped: Grouped) -> None:
    """After a loss the same ids are pending again, with others: the old token must not stand."""
    held = grouped.held("slow", 2)
    before = grouped.token
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    assert grouped.join(lost=True).state == "recreated"
    assert grouped.read("other") == held
    settled = grouped.settle("slow", held, token=before)
    assert settled.taken_over == held
    assert grouped.pending() == {held[0]: ("other", 1), held[1]: ("other", 1)}


def test_a_lost_again_stream_makes_everybody_check(grouped: Grouped) -> None:
    """Its group is recreated at its start, so what one holds is delivered to another."""
    held = grouped.held("slow", 1, grouped.again)
    before = grouped.token
    grouped.link.call("XGROUP", "DESTROY", grouped.again.key, "g")
    assert grouped.join(lost=True).state == "exists"
    assert grouped.read("other", ref=grouped.again) == held
    assert grouped.settle("slow", held, token=before, ref=grouped.again).taken_over == held
    assert grouped.pending(grouped.again) == {held[0]: ("other", 1)}


def test_settled_entries_of_again_are_deleted(grouped: Grouped) -> None:
    """In the same step: the group's own stream holds what is unsettled and nothing else."""
    held = grouped.held("a", 3, grouped.again)
    grouped.settle("a", held[:1], token=grouped.token, ref=grouped.again)
    grouped.settle("a", held[1:2], token="stale", ref=grouped.again)
    assert [entry_id for entry_id, _ in grouped.entries(grouped.again.key)] == [held[2]]
    assert list(grouped.pending(grouped.again)) == [held[2]]


def test_entries_of_again_that_were_taken_over_are_not_deleted(grouped: Grouped) -> None:
    """Else the new holder would run an event that is in no stream any more."""
    held = grouped.held("slow", 1, grouped.again)
    before = grouped.token
    grouped.age(held, 2_000, grouped.again)
    grouped.take("other", ref=grouped.again)
    assert grouped.settle("slow", held, token=before, ref=grouped.again).taken_over == held
    assert [entry_id for entry_id, _ in grouped.entries(grouped.again.key)] == held


def test_settled_entries_of_the_stream_stay(grouped: Grouped) -> None:
    """Ack never deletes: other groups have yet to read them."""
    held = grouped.held("a", 2)
    grouped.settle("a", held, token=grouped.token)
    assert len(grouped.entries(grouped.keys.stream)) == 2


def test_settling_works_when_memory_is_out(tight: Grouped) -> None:
    """What was handled is settled under OOM too."""
    held = tight.held("a", 2)
    token = tight.token
    with tight.out_of_memory():
        assert tight.settle("a", held[:1], token=token).count == 1
        assert tight.settle("a", held[1:], token="stale").count == 1
    assert tight.pending() == {}


def test_renewing_keeps_an_entry_from_going_idle(grouped: Grouped) -> None:
    """It is no delivery: the count stays, and so does the token."""
    held = grouped.held("busy", 2)
    grouped.age(held, 50_000)
    token, lost = renew(grouped.link, grouped.main, "busy", grouped.token, held)
    assert (token, lost) == (grouped.token, [])
    assert grouped.take("other").entries == []
    assert grouped.pending() == {held[0]: ("busy", 1), held[1]: ("busy", 1)}


@pytest.mark.parametrize("known", ["", "1-abc"])
def test_renewing_under_a_stale_token_never_takes_an_entry_back(grouped: Grouped, known: str) -> None:
    """XCLAIM takes from anyone, so the owner is looked at first; the token answered stands for what was checked."""
    held = grouped.held("slow", 3)
    grouped.age(held[1:2], 2_000)
    grouped.take("other")
    token, lost = renew(grouped.link, grouped.main, "slow", known, held)
    assert lost == [held[1]]
    assert token == grouped.token
    assert grouped.pending() == {held[0]: ("slow", 1), held[1]: ("other", 2), held[2]: ("slow", 1)}


def test_an_adopted_token_settles_only_what_was_checked(grouped: Grouped) -> None:
    """Whoever renews some entries and adopts the answer for all would settle what another holds."""
    mine, theirs = grouped.held("slow", 2)
    before = grouped.token
    grouped.age([theirs], 2_000)
    grouped.take("other")
    adopted, lost = renew(grouped.link, grouped.main, "slow", before, [mine])
    assert lost == []
    assert grouped.settle("slow", [mine], token=adopted).count == 1
    assert grouped.settle("slow", [theirs], token=before).taken_over == [theirs]
    assert grouped.pending() == {theirs: ("other", 2)}


def test_renewing_tells_what_is_not_pending_any_more(grouped: Grouped) -> None:
    """Settled by a replay, say: not ours any more, though nobody else's."""
    held = grouped.held("slow", 2)
    token = grouped.token
    grouped.link.call("XACK", grouped.keys.stream, "g", held[0])
    assert renew(grouped.link, grouped.main, "slow", token, held) == (token, [held[0]])
    assert renew(grouped.link, grouped.main, "slow", "stale", held) == (token, [held[0]])


def test_renewing_in_a_destroyed_group_says_so(grouped: Grouped) -> None:
    """NOGROUP, with the token and without: the member rejoins."""
    held = grouped.held("busy", 1)
    token = grouped.token
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    for known in (token, "stale"):
        with pytest.raises(NoSuchGroupError):
            renew(grouped.link, grouped.main, "busy", known, held)


def test_renewing_works_when_memory_is_out(tight: Grouped) -> None:
    """A long run keeps its entry under OOM too."""
    held = tight.held("busy", 1)
    tight.age(held, 50_000)
    with tight.out_of_memory():
        assert renew(tight.link, tight.main, "busy", tight.token, held)[1] == []
    assert tight.idle_ms(held[0]) < 10_000


def test_what_a_member_claimed_is_settled_under_the_token_of_its_next_claim(grouped: Grouped) -> None:
    """Its own claims lie between the two tokens, and nothing else."""
    held = grouped.held("dead", 4)
    grouped.age(held, 2_000)
    tokens = Tokens()
    claims = [grouped.take("alive", count=2) for _ in range(2)]
    for claim in claims:
        tokens.claimed(claim.token_before, claim.token)
    assert tokens.newest(claims[0].token) == grouped.token
    settled = grouped.settle("alive", held[:2], token=tokens.newest(claims[0].token))
    assert (settled.count, settled.taken_over) == (2, [])


@pytest.mark.parametrize("by", ["claim", "hand-back"])
def test_what_was_lost_between_two_claims_of_a_member_is_not_settled(grouped: Grouped, by: str) -> None:
    """Somebody else's claim of one, or our hand-back that another took, between our claims: the owner is checked."""
    held = grouped.held("dead", 4)
    grouped.age(held, 2_000)
    tokens = Tokens()
    first = grouped.take("alive", count=2)
    tokens.claimed(first.token_before, first.token)
    if by == "claim":
        grouped.age(held[:1], 2_000)
        assert [entry[0] for entry in grouped.take("other", count=1).entries] == held[:1]
    else:
        hand_back(grouped.link, grouped.main, "alive", held[:1], idle_ms=1_001)
    second = grouped.take("alive", count=2, cursor=held[2].decode())
    tokens.claimed(second.token_before, second.token)
    assert [entry[0] for entry in second.entries] == held[2:]
    if by == "hand-back":
        assert [entry[0] for entry in grouped.take("other", count=1).entries] == held[:1]
    assert tokens.newest(first.token) == first.token
    settled = grouped.settle("alive", held[:2], token=tokens.newest(first.token))
    assert settled.taken_over == held[:1]
    assert settled.count == 1
    assert grouped.pending()[held[0]][0] == "other"
