"""Tokens: what is held under an older claims token may be settled under the newest, if only our claims lie between."""

from consumers.tokens import MOST, Tokens


def test_a_token_stands_for_itself_before_any_claim() -> None:
    """Nothing is known, so nothing is adopted; nor is a missing token."""
    tokens = Tokens()
    assert [tokens.newest(token) for token in ("", "a")] == ["", "a"]


def test_our_claims_one_after_the_other_are_as_good_as_the_last() -> None:
    """Each replaced the one before it: nobody else changed owners."""
    tokens = Tokens()
    tokens.claimed("a", "b")
    tokens.claimed("b", "c")
    tokens.claimed("c", "d")
    assert [tokens.newest(token) for token in "abcd"] == ["d"] * 4


def test_what_others_did_between_our_claims_is_not_overlooked() -> None:
    """The token that a claim found was not ours: what we held before it may have been taken."""
    tokens = Tokens()
    tokens.claimed("a", "b")
    tokens.claimed("theirs", "c")
    assert [tokens.newest(token) for token in ("a", "b", "theirs")] == ["a", "b", "c"]
    tokens.claimed("c", "d")
    assert [tokens.newest(token) for token in ("a", "b", "theirs", "c")] == ["a", "b", "d", "d"]


def test_no_token_is_never_adopted() -> None:
    """It returns when a group is removed and made again, unlike all others."""
    tokens = Tokens()
    tokens.claimed("", "a")
    tokens.claimed("a", "b")
    assert [tokens.newest(token) for token in ("", "a")] == ["", "b"]


def test_a_long_sweep_remembers_a_bounded_number() -> None:
    """The oldest are forgotten: their owners are then checked one by one."""
    tokens = Tokens()
    for number in range(2 * MOST):
        tokens.claimed(str(number), str(number + 1))
    last = str(2 * MOST)
    known = [number for number in range(2 * MOST) if tokens.newest(str(number)) == last]
    assert known == list(range(MOST, 2 * MOST))
