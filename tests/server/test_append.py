"""The append script on a real server: at most once, in order, whatever is repeated, refused or missing."""

from collections.abc import Callable

import pytest

from pipeline.errors import AccessDeniedError, MillstreamError, ServerRefusedError, WrongKeyTypeError
from pipeline.keys import StreamKeys
from pipeline.server.append import (
    Answer,
    Appended,
    AppendOptions,
    Elsewhere,
    Forgotten,
    Gap,
    append_command,
    parse_append,
)
from pipeline.server.connect import Link
from pipeline.server.replies import parse_entries
from pipeline.server.scripts import script
from tests.conftest import OwnServer

Append = Callable[..., Answer]
OPTIONS = AppendOptions(expiry_ms=60_000, dedupe_for_ms=60_000)


def appender(link: Link, stream: str, producer: str = "p") -> Append:
    """Calls the script for one producer and stream."""
    keys = StreamKeys(stream)
    link.load(script("append"))

    def append(number: int, names: str, *, base: int = 0, **given: object) -> Answer:
        entries = given.pop("entries", None) or [[b"h", b"head", b"b", name.encode()] for name in names]
        plain = all(len(fields) == 4 for fields in entries)  # type: ignore[attr-defined]
        values = [fields[1::2] if plain else fields for fields in entries]  # type: ignore[attr-defined]
        given = {"values": values, "entries": len(values), "plain": plain, "options": OPTIONS, **given}
        command = append_command(keys, producer, number=number, base=base or number, **given)  # type: ignore[arg-type]
        return parse_append(link.calls([command])[0])

    return append


@pytest.fixture
def append(link: Link, stream: str) -> Append:
    """The script for a stream of this test."""
    return appender(link, stream)


def bodies(link: Link, stream: str) -> str:
    """What is in the stream, one letter an entry."""
    return "".join(
        (fields or [])[3].decode() for _, fields in parse_entries(link.call("XRANGE", stream, "-", "+"))
    )


def entry_ids(link: Link, stream: str) -> list[str]:
    """The entry ids of the stream."""
    return [entry_id.decode() for entry_id, _ in parse_entries(link.call("XRANGE", stream, "-", "+"))]


def test_a_batch_gets_ids_in_a_row(append: Append, link: Link, stream: str) -> None:
    """One id is the server's, the others count on from it, so the answer needs the first and the count alone."""
    answer = append(1, "abc")
    assert isinstance(answer, Appended)
    assert answer.entry_ids(3) == entry_ids(link, stream)
    assert bodies(link, stream) == "abc"


def test_a_repeat_appends_nothing_and_gives_the_same_ids(append: Append, link: Link, stream: str) -> None:
    """However often it is sent, and also when batches behind it were appended meanwhile."""
    first = append(1, "ab")
    append(2, "c", base=1)
    again = append(1, "ab")
    assert isinstance(first, Appended)
    assert isinstance(again, Appended)
    assert again.repeated
    assert again.entry_ids(2) == first.entry_ids(2)
    assert bodies(link, stream) == "abc"


def test_a_repeat_renews_the_expiry_of_the_record(append: Append, link: Link, stream: str) -> None:
    """It is a write, so that WAIT behind it covers the first append; and the producer is remembered from then on."""
    append(1, "a")
    key = StreamKeys(stream).producer("p")
    link.call("PEXPIRE", key, 10_000)
    append(1, "a")
    assert link.call("PTTL", key) > 50_000


def test_a_batch_renews_the_expiry_only_if_asked_to(append: Append, link: Link, stream: str) -> None:
    """But for the first of a record, whatever number it has: one that never expires would be left behind."""
    append(1, "a", renew=False)
    key = StreamKeys(stream).producer("p")
    assert link.call("PTTL", key) > 50_000
    link.call("PEXPIRE", key, 10_000)
    append(2, "b", renew=False)
    assert 0 < link.call("PTTL", key) <= 10_000
    append(3, "c", renew=True)
    assert link.call("PTTL", key) > 50_000
    link.call("DEL", key)
    append(4, "d", renew=False)
    assert link.call("PTTL", key) > 50_000


def test_a_batch_whose_predecessor_is_missing_is_a_gap(append: Append, link: Link, stream: str) -> None:
    """Order is kept: nothing is appended before what was sent before it."""
    append(1, "a")
    assert append(3, "c", base=2) == Gap(1)
    assert bodies(link, stream) == "a"
    append(2, "b", base=2)
    append(3, "c", base=2)
    assert bodies(link, stream) == "abc"


def test_the_base_moves_over_batches_that_ended_otherwise(append: Append, link: Link, stream: str) -> None:
    """A batch that is the lowest unconfirmed is appended, whatever happened to those before it."""
    append(1, "a")
    assert isinstance(append(5, "e", base=5), Appended)
    assert bodies(link, stream) == "ae"


def test_a_batch_that_comes_after_its_base_moved_on_is_not_appended(
    append: Append, link: Link, stream: str
) -> None:
    """A request that a broken connection swallowed and delivered late: nobody waits for it any more."""
    append(1, "a")
    append(3, "c", base=3)
    assert append(2, "b", base=2) == Forgotten(3)
    assert bodies(link, stream) == "ac"


def test_what_another_number_left_is_no_answer(append: Append, link: Link, stream: str) -> None:
    """Where numbers were left out, their places still hold what was sixteen before."""
    for number in range(1, 21):
        append(number, "x")
    append(30, "y", base=30)
    assert append(24, "x", base=24) == Forgotten(30)
    assert isinstance(append(20, "x", base=20), Appended)
    assert link.call("XLEN", stream) == 21


def test_sixteen_batches_are_remembered(append: Append, link: Link, stream: str) -> None:
    """As many as a producer may have unconfirmed; the record grows no further."""
    for number in range(1, 41):
        append(number, "x")
    assert isinstance(append(25, "x", base=25), Appended)
    assert append(24, "x", base=24) == Forgotten(40)
    assert link.call("HLEN", StreamKeys(stream).producer("p")) == 17
    assert link.call("XLEN", stream) == 40


def test_a_lost_record_does_not_stop_the_producer(append: Append, link: Link, stream: str) -> None:
    """After a failover or an expiry the lowest unconfirmed batch begins anew; those behind it wait for it."""
    append(1, "a")
    append(2, "b")
    link.call("DEL", StreamKeys(stream).producer("p"))
    assert append(4, "d", base=3) == Gap(0)
    assert isinstance(append(3, "c", base=3), Appended)
    assert isinstance(append(4, "d", base=3), Appended)
    assert bodies(link, stream) == "abcd"


def test_producers_are_independent(append: Append, link: Link, stream: str) -> None:
    """Each has its own numbers."""
    append(1, "a")
    appender(link, stream, "q")(1, "b")
    assert bodies(link, stream) == "ab"


def test_an_id_is_appended_once(append: Append, link: Link, stream: str) -> None:
    """Whoever sends it again gets the entry id of the first."""
    first = append(1, "abc", ids={1: "order-7"})
    other = appender(link, stream, "q")(1, "xyz", ids={0: "order-7", 2: "order-8"})
    assert isinstance(first, Appended)
    assert isinstance(other, Appended)
    assert bodies(link, stream) == "abcyz"
    ids = entry_ids(link, stream)
    assert first.entry_ids(3) == ids[:3]
    assert other.entry_ids(3) == [ids[1], ids[3], ids[4]]
    assert link.call("PTTL", StreamKeys(stream).ids("order-8")) > 50_000


def test_an_id_twice_in_one_batch_is_appended_once(append: Append, link: Link, stream: str) -> None:
    """The second finds the first."""
    answer = append(1, "aba", ids={0: "a", 2: "a"})
    assert isinstance(answer, Appended)
    assert bodies(link, stream) == "ab"
    ids = entry_ids(link, stream)
    assert answer.entry_ids(3) == [ids[0], ids[1], ids[0]]


def test_a_repeat_gives_the_ids_of_skipped_entries_too_when_their_keys_have_expired(
    append: Append, link: Link, stream: str
) -> None:
    """The record holds them, so a repeat never guesses."""
    append(1, "a", ids={0: "a"})
    first = append(2, "ab", ids={0: "a"})
    link.call("DEL", StreamKeys(stream).ids("a"))
    again = append(2, "ab", ids={0: "a"})
    assert isinstance(first, Appended)
    assert isinstance(again, Appended)
    assert again.entry_ids(2) == first.entry_ids(2) == entry_ids(link, stream)


def test_a_batch_of_known_ids_only_appends_nothing_and_counts_as_appended(
    append: Append, link: Link, stream: str
) -> None:
    """The next batch follows it as any other."""
    append(1, "a", ids={0: "a"})
    answer = append(2, "a", ids={0: "a"})
    assert isinstance(answer, Appended)
    assert answer.count == 0
    assert answer.entry_ids(1) == entry_ids(link, stream)
    assert isinstance(append(3, "b", base=3), Appended)


def test_fields_of_any_shape_are_appended_as_they_are(append: Append, link: Link, stream: str) -> None:
    """Entries of the fields codec have names of their own, and several."""
    entries = [[b"h", b"1", b"name", b"x", b"size", b"2"], [b"h", b"2", b"b", b"y"]]
    append(1, "", entries=entries)
    assert [fields for _, fields in parse_entries(link.call("XRANGE", stream, "-", "+"))] == entries


def test_an_entry_of_more_values_than_lua_can_pass_is_refused_with_its_batch(
    append: Append, link: Link, stream: str
) -> None:
    """Not half of the batch, whose repeat would then append that half again."""
    most = [b"f", b"v"] * 2_000
    assert isinstance(append(1, "", entries=[most]), Appended)
    assert isinstance(append(2, "", entries=[[b"a", b"1"], [*most, b"f", b"v"]]), ServerRefusedError)
    assert link.call("XLEN", stream) == 1


def test_a_source_is_appended_only_from_where_it_stands(append: Append, link: Link, stream: str) -> None:
    """The position is written in the same step, so a line is in the stream if and only if the position is past it."""
    assert isinstance(append(1, "a", source="f", before="0", after="10"), Appended)
    assert append(2, "a", source="f", before="0", after="10") == Elsewhere("10")
    assert isinstance(append(2, "b", source="f", before="10", after="20"), Appended)
    assert link.call("GET", StreamKeys(stream).source("f")) == b"20"
    assert bodies(link, stream) == "ab"


def test_a_position_may_expire(append: Append, link: Link, stream: str) -> None:
    """Renewed by each batch; one that is to stay stays."""
    key = StreamKeys(stream).source("f")
    append(1, "a", source="f", before="0", after="10", position_expiry_ms=60_000)
    assert 0 < int(link.call("PTTL", key)) <= 60_000
    append(2, "b", source="f", before="10", after="20", position_expiry_ms=120_000)
    assert 60_000 < int(link.call("PTTL", key)) <= 120_000
    append(3, "c", source="f", before="20", after="30")
    assert int(link.call("PTTL", key)) == -1


def test_a_sources_number_is_looked_at_before_its_position(append: Append) -> None:
    """A repeat is a repeat, though the position has moved on by the first."""
    append(1, "a", source="f", before="0", after="10")
    again = append(1, "a", source="f", before="0", after="10")
    assert isinstance(again, Appended)
    assert again.repeated


def test_a_hard_cap_trims_the_oldest(append: Append, link: Link, stream: str) -> None:
    """Only when asked for."""
    options = AppendOptions(max_stream_entries=100)
    for number in range(1, 21):
        append(number, "x" * 50, options=options)
    assert 100 <= link.call("XLEN", stream) <= 300


def test_a_key_of_another_type_is_refused_and_nothing_is_done(
    append: Append, link: Link, stream: str
) -> None:
    """The producer's record too is left as it was."""
    link.call("SET", stream, "text")
    assert isinstance(append(1, "ab"), WrongKeyTypeError)
    assert link.call("EXISTS", StreamKeys(stream).producer("p")) == 0


def test_a_failure_midway_leaves_no_trace(append: Append, link: Link, stream: str) -> None:
    """An S:ids key of the wrong type behind two entries: neither they nor what was noted of them stays."""
    keys = StreamKeys(stream)
    link.call("HSET", keys.ids("c"), "a", "1")
    assert isinstance(append(1, "abc", ids={1: "b", 2: "c"}), WrongKeyTypeError)
    assert link.call("XLEN", stream) == 0
    assert link.call("EXISTS", keys.ids("b"), keys.producer("p")) == 0


def test_a_stream_that_ends_in_an_id_no_batch_can_follow_is_refused(
    append: Append, link: Link, stream: str
) -> None:
    """Somebody else wrote ids by hand; the batch is not half there."""
    link.call("XADD", stream, "99999999999999-18446744073709551000", "f", "v")
    assert isinstance(append(1, "ab"), ServerRefusedError)
    assert link.call("XLEN", stream) == 1


def test_out_of_memory_refuses_whole_batches_but_not_repeats(own_server: OwnServer) -> None:
    """Batch 2 refused while batch 3 is on its way: 3 is a gap, and both come in order once there is memory."""
    connector = own_server().connector()
    link = connector.link()
    append = appender(link, "orders")
    append(1, "a")
    link.call("CONFIG", "SET", "maxmemory", "1")
    refused = append(2, "b", base=2)
    assert isinstance(refused, ServerRefusedError)
    assert (refused.code, refused.passing) == ("OOM", True)
    repeated = append(1, "a", base=1)
    assert isinstance(repeated, Appended)
    link.call("CONFIG", "SET", "maxmemory", "0")
    assert append(3, "c", base=2) == Gap(1)
    append(2, "b", base=2)
    append(3, "c", base=2)
    assert bodies(link, "orders") == "abc"
    link.close()
    connector.close()


def test_a_user_without_rights_to_the_stream_is_denied(own_server: OwnServer) -> None:
    """NOPERM, also from within the script, is a denial and nothing else."""
    connector = own_server().connector()
    link = connector.link()
    link.load(script("append"))
    rights = ("on", "nopass", "~*", "+evalsha", "+auth")
    link.call("ACL", "SETUSER", "writer", *rights)
    link.call("AUTH", "writer", "any")
    command = append_command(StreamKeys("orders"), "p", number=1, base=1, values=[[b"", b""]], entries=1)
    answer = parse_append(link.calls([command])[0])
    assert isinstance(answer, AccessDeniedError)
    link.close()
    connector.close()


@pytest.mark.parametrize(
    "reply",
    [
        *(b"OK", [], [b"ok"], [b"new", b"status"], None),
        *(
            [b"ok", b"5-1"],
            [b"ok", b"5-1 one "],
            [b"ok", b"5-1 1 x=4-0"],
            [b"gap", b"\xff"],
            [b"forgotten", b""],
        ),
        *([[], b"1"], {b"ok": b"5-1 1 ", b"gap": b"1"}),
    ],
)
def test_an_answer_of_another_shape_is_an_error(reply: object) -> None:
    """A proxy or another script under the same name."""
    assert isinstance(parse_append(reply), MillstreamError)
