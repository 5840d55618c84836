"""The alone script on a real server: who has begun to run alone is known to whoever takes the entry over."""

from pipeline.keys import GroupRef
from pipeline.server.groups import alone_command, hand_back
from pipeline.server.scripts import script
from tests.server.grouped import Grouped, run_command


def note(
    grouped: Grouped, consumer: str, entry_id: bytes, deliveries: int, ref: GroupRef | None = None
) -> int:
    """Note that an entry begins to run alone."""
    command = alone_command(ref or grouped.main, consumer, entry_id, deliveries)
    answer: int = run_command(grouped.link, script("alone"), command)
    return answer


def test_what_was_noted_is_told_to_who_takes_it_over(grouped: Grouped) -> None:
    """And nothing of the others."""
    held = grouped.held("dead", 3)
    assert note(grouped, "dead", held[1], 1) == 1
    grouped.age(held, 2_000)
    taken = grouped.take("other")
    assert [entry[0] for entry in taken.entries] == held
    assert taken.noted == {held[1]: 1}


def test_the_last_note_stands(grouped: Grouped) -> None:
    """It may run alone more than once."""
    (entry_id,) = grouped.held("dead", 1)
    note(grouped, "dead", entry_id, 1)
    grouped.age([entry_id], 2_000)
    grouped.take("second")
    note(grouped, "second", entry_id, 2)
    grouped.age([entry_id], 2_000)
    assert grouped.take("third").noted == {entry_id: 2}


def test_nothing_is_noted_of_what_others_hold(grouped: Grouped) -> None:
    """Nor of what is not pending: it is not to run."""
    held = grouped.held("other", 1)
    assert note(grouped, "late", held[0], 1) == 0
    assert note(grouped, "late", b"1-1", 1) == 0
    grouped.age(held, 2_000)
    assert grouped.take("third").noted == {}


def test_notes_go_once_their_entries_are_settled(grouped: Grouped) -> None:
    """With the next note of the group; those of other groups, and of what is pending, stay."""
    held = grouped.held("one", 3)
    for entry_id in held:
        note(grouped, "one", entry_id, 1)
    grouped.link.call("HSET", grouped.keys.groups, "other:alone:1-1", 1)
    grouped.settle("one", held[:2], token=grouped.token)
    (fresh,) = grouped.held("one", 1)
    note(grouped, "one", fresh, 1)
    noted = {field for field in grouped.link.call("HKEYS", grouped.keys.groups) if b":alone:" in field}
    ours = {f"{grouped.group}:alone:{entry_id.decode()}".encode() for entry_id in (held[2], fresh)}
    ours.add(f"{grouped.group}:alone:".encode())
    assert noted == {*ours, b"other:alone:1-1"}


def test_entries_due_again_have_notes_of_their_own(grouped: Grouped) -> None:
    """Their ids may be those of entries of the stream."""
    ref = grouped.again
    (entry_id,) = grouped.held("dead", 1, ref)
    assert note(grouped, "dead", entry_id, 1, ref) == 1
    assert note(grouped, "dead", entry_id, 1) == 0
    assert grouped.fact(f"alone-again:{entry_id.decode()}") == "1"
    grouped.age([entry_id], 2_000, ref)
    assert grouped.take("other", ref=ref).noted == {entry_id: 1}


def test_a_run_that_is_handed_back_has_not_crashed(grouped: Grouped) -> None:
    """Its note goes: a later crash would look like its own."""
    held = grouped.held("leaving", 2)
    for entry_id in held:
        note(grouped, "leaving", entry_id, 1)
    hand_back(grouped.link, grouped.main, "leaving", held[:1], idle_ms=2_000)
    grouped.age(held, 2_000)
    assert grouped.take("other").noted == {held[1]: 1}


def test_what_is_handed_back_unstarted_has_crashed_before(grouped: Grouped) -> None:
    """The note of an earlier run stays."""
    (entry_id,) = grouped.held("dead", 1)
    note(grouped, "dead", entry_id, 1)
    grouped.age([entry_id], 2_000)
    grouped.take("leaving")
    hand_back(grouped.link, grouped.main, "leaving", [entry_id], idle_ms=2_000)
    assert grouped.take("third").noted == {entry_id: 1}


def test_a_note_that_comes_after_the_hand_back_is_none(grouped: Grouped) -> None:
    """They may go out on two connections."""
    (entry_id,) = grouped.held("dead", 1)
    grouped.age([entry_id], 2_000)
    grouped.take("leaving")
    hand_back(grouped.link, grouped.main, "leaving", [entry_id], idle_ms=2_000)
    assert note(grouped, "leaving", entry_id, 2) == 0
    assert grouped.take("third").noted == {}


def test_a_note_of_an_earlier_life_says_nothing(grouped: Grouped) -> None:
    """The entry was settled, and is delivered anew since the group was set back: its note goes with the first claim."""
    (entry_id,) = grouped.held("dead", 1)
    for consumer in ("second", "third"):
        grouped.age([entry_id], 2_000)
        grouped.take(consumer)
    note(grouped, "third", entry_id, 3)
    grouped.settle("third", [entry_id], token=grouped.token)
    grouped.link.call("XGROUP", "SETID", grouped.keys.stream, grouped.group, "0")
    assert grouped.read("again", 1) == [entry_id]
    for expected in range(2, 7):
        grouped.age([entry_id], 2_000)
        taken = grouped.take(f"taker {expected}")
        assert ([entry[2] for entry in taken.entries], taken.noted) == ([expected], {})
