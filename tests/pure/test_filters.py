"""Filters: what a group takes is what its members take together, and what nobody can read is left alone."""

import pytest

from pipeline.filters import ALL, GroupFilter, filter_text, shown_types


@pytest.mark.parametrize(
    ("types", "text"),
    [
        ([("b", "a"), ("a", "c.*")], '["a", "b", "c.*"]'),
        ([("a",), ()], ALL),
        ([()], ALL),
        ([("zwei\n", "ü")], '["zwei\\n", "\\u00fc"]'),
    ],
)
def test_a_member_takes_what_its_handlers_take(types: list[tuple[str, ...]], text: str) -> None:
    """Sorted, on one line; a handler without types takes all."""
    assert filter_text(types) == text
    assert "\n" not in text


def test_what_only_others_take_is_wanted_elsewhere() -> None:
    """The member's own filter does not count: its handlers were asked before."""
    one = GroupFilter('["order.*"]\n["order.placed"]', '["order.placed"]')
    assert one.mixed
    assert one.others == ['["order.*"]']
    assert one.wanted_elsewhere("order.refunded")
    assert not one.wanted_elsewhere("payment")


def test_a_group_of_like_members_wants_nothing_elsewhere() -> None:
    """What no handler takes, nobody does; and as long as nothing is known, neither."""
    for text in ('["order.*"]', ""):
        assert not GroupFilter(text, '["order.*"]').mixed
        assert not GroupFilter(text, '["order.*"]').wanted_elsewhere("payment")


@pytest.mark.parametrize("line", ["{}", "[1]", "{", "[" * 5_000, "null"])
def test_a_filter_that_cannot_be_read_wants_everything(line: str) -> None:
    """It is a newer version's: what it takes must not be acknowledged here."""
    assert GroupFilter(line, '["a"]').wanted_elsewhere("anything")


@pytest.mark.parametrize(
    ("text", "shown"), [("", ""), ("[]", "all"), ('["a", "b.*"]', "a, b.*"), ('["a"]\n["b"]', "a | b")]
)
def test_a_filter_is_shown_in_words(text: str, shown: str) -> None:
    """As `group show` has it."""
    assert shown_types(text) == shown


def test_another_text_is_seen_by_the_same_member() -> None:
    """The same text is the same filter, so that who asks can tell that nothing changed."""
    one = GroupFilter('["a"]', '["a"]')
    assert one.now('["a"]') is one
    assert one.now('["a"]\n["b"]').wanted_elsewhere("b")
