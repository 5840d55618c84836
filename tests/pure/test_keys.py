"""Keys: one slot per stream, one meaning per key, whatever streams and groups are called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.keys import (
    MAX_NAME_BYTES,
    RESERVED_WORDS,
    GroupRef,
    StreamKeys,
    check_name,
    check_stream_name,
    escape,
    stream_of,
    unescape,
)

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)


def valid_streams() -> st.SearchStrategy[str]:
    """Stream names that are accepted."""

    def accepted(name: str) -> bool:
        try:
            return check_stream_name(name) == name
        except UsageError:
            return False

    tagged = st.builds("{}{{{}}}{}".format, NAMES, NAMES, NAMES)
    return st.one_of(NAMES, tagged).filter(accepted)


def all_keys(keys: StreamKeys, group: str) -> list[str]:
    """Every key of a stream."""
    return [
        keys.stream,
        keys.groups,
        keys.never,
        keys.producer(group),
        keys.source(group),
        keys.ids(group),
        keys.done(group, group),
        keys.members(group),
        keys.duty(group),
        keys.again(group),
        keys.retry(group),
        keys.retry_bodies(group),
        keys.dead(group),
    ]


def slot_part(key: str) -> str:
    """What the cluster hashes of a key."""
    found = re.search(r"\{([^}]+)\}", key)
    return found[1] if found else key


@given(valid_streams(), NAMES)
def test_all_keys_of_a_stream_share_its_slot(stream: str, group: str) -> None:
    """So that one script may combine them."""
    assert {slot_part(key) for key in all_keys(StreamKeys(stream), group)} == {slot_part(stream)}


@given(valid_streams(), NAMES, NAMES)
def test_no_two_keys_are_the_same(stream: str, one: str, other: str) -> None:
    """For any two groups."""
    keys = StreamKeys(stream)
    both = all_keys(keys, one) + (all_keys(keys, other)[3:] if one != other else [])
    assert len(set(both)) == len(both)


@given(valid_streams(), NAMES)
def test_keys_tell_their_stream(stream: str, group: str) -> None:
    """And the stream's own name is the key of nothing else."""
    keys = StreamKeys(stream)
    for key in all_keys(keys, group)[1:]:
        found = stream_of(key)
        assert found is not None
        assert found[0] == stream
    assert stream_of(stream) is None


@given(st.text(max_size=50))
def test_escaping_can_be_undone(part: str) -> None:
    """And leaves neither colons nor braces."""
    assert unescape(escape(part)) == part
    assert not set(":{}") & set(escape(part))


def test_the_keys_are_those_of_the_contract() -> None:
    """Other programs may read them."""
    keys = StreamKeys("orders")
    assert all_keys(keys, "a:b") == [
        "orders",
        "{orders}:groups",
        "{orders}:never",
        "{orders}:producer:a%3Ab",
        "{orders}:source:a%3Ab",
        "{orders}:ids:a%3Ab",
        "{orders}:done:a%3Ab:a%3Ab",
        "{orders}:members:a%3Ab",
        "{orders}:duty:a%3Ab",
        "{orders}:again:a%3Ab",
        "{orders}:retry:a%3Ab",
        "{orders}:retry-bodies:a%3Ab",
        "{orders}:dead:a%3Ab",
    ]
    assert StreamKeys("{shop}:orders").dead("g") == "{shop}:orders:dead:g"


def test_a_group_reads_its_stream_and_its_own() -> None:
    """Two references, two keys."""
    keys = StreamKeys("orders")
    assert (GroupRef(keys, "g").key, GroupRef(keys, "g", again=True).key) == ("orders", "{orders}:again:g")


@pytest.mark.parametrize(
    "name",
    [
        "{",
        "}",
        "a{b",
        "a}b",
        "}{",
        "{a}{b}",
        "{}",
        "a{}b",
        "{tag}",
        "{tag}:",
        "{tag}:dead:x",
        "{tag}:retry",
        "{tag}dead",
        "{tag}:groups",
    ],
)
def test_a_stream_name_that_would_collide_is_refused(name: str) -> None:
    """A lone brace, only a tag, or a word of our own behind the tag."""
    with pytest.raises(UsageError):
        check_stream_name(name)


@pytest.mark.parametrize(
    "name", ["orders", "a:b:c", "{shop}:orders", "x{shop}", "{shop}:deadline", "dead", "日本", "a b"]
)
def test_other_stream_names_are_taken_as_they_are(name: str) -> None:
    """Exactly the name the user gave."""
    assert check_stream_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\x00", "\x1b[0m", "x" * (MAX_NAME_BYTES + 1), "ü" * MAX_NAME_BYTES, 7, None]
)
def test_a_name_that_cannot_be_is_refused(name: object) -> None:
    """Empty, too long, with control characters, or no text."""
    with pytest.raises(UsageError, match="group"):
        check_name("group", name)  # type: ignore[arg-type]


def test_the_words_of_the_key_table_are_reserved() -> None:
    """Each key's first word: a stream cannot be mistaken for it."""
    keys = StreamKeys("{tag}:x")
    words = {key.removeprefix("{tag}:x:").split(":")[0] for key in all_keys(keys, "g")[1:]}
    assert words <= RESERVED_WORDS
