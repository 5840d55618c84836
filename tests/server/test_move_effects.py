"""The move and emit scripts: effects, emitted events and the inbox in the step that settles."""

import pytest

from pipeline.errors import WrongKeyTypeError
from pipeline.server.groups import Move, declare_filter, emit_command, move_command
from pipeline.server.replies import Reply
from pipeline.server.scripts import script
from tests.server.grouped import Grouped, moved, run_command, to_dead


def call(key: str, type_: str, *words: str | int, event: int = 0) -> Move:
    """An effect: its command and what follows the key."""
    return Move("call", (type_, *words), event, (key,))


def emit(grouped: Grouped, value: bytes = b"v", *, event: int = 0, dedupe: str = "") -> Move:
    """An emitted event; dedupe: only if this id is not there."""
    keys = (out(grouped), grouped.keys.ids(dedupe or "x"))
    return Move("emit", (60_000, b"h", value), event, keys, bool(dedupe))


def done(grouped: Grouped, once_id: str, event: int = 0) -> Move:
    """A record of the inbox."""
    return Move("done", (60_000, "1-1"), event, (grouped.keys.done("g", once_id),))


def out(grouped: Grouped) -> str:
    """Where events are emitted to."""
    return f"{grouped.keys.stream}-out"


def outs(grouped: Grouped) -> list[bytes]:
    """What was emitted."""
    return [(fields or [])[1] for _, fields in grouped.entries(out(grouped))]


def moves(grouped: Grouped, *entries: tuple[bytes, list[Move]]) -> Reply:
    """Settle entries of "me" with these moves."""
    return grouped.move([moved(entry_id, "me", *each) for entry_id, each in entries])


def test_all_of_a_run_is_done_in_one_step(grouped: Grouped) -> None:
    """Effects, events, the record, the acknowledgement; several entries share keys."""
    a, b = grouped.held("me", 2)
    key = f"{grouped.keys.stream}-n"
    each = [call(key, "string", "INCRBY", 5), emit(grouped)]
    assert moves(grouped, (a, [*each, done(grouped, "a")]), (b, [*each, done(grouped, "b")])) == [1, 1]
    assert grouped.link.call("GET", key) == b"10"
    assert outs(grouped) == [b"v", b"v"]
    assert grouped.pending() == {}
    for once_id in "ab":
        assert 0 < grouped.link.call("PTTL", grouped.keys.done("g", once_id)) <= 60_000


def test_what_the_inbox_knows_is_not_done_again(grouped: Grouped) -> None:
    """Event by event; the entry is settled, also where both are in one call."""
    a, b, c = grouped.held("me", 3)
    key = f"{grouped.keys.stream}-n"

    def run(once_id: str, event: int = 0) -> list[Move]:
        return [call(key, "string", "INCR", event=event), done(grouped, once_id, event)]

    answers = moves(grouped, (a, run("same")), (b, run("same")), (c, [*run("same"), *run("other", 1)]))
    assert answers == [1, 2, 2]
    assert grouped.link.call("GET", key) == b"2"
    assert grouped.pending() == {}


def test_who_does_not_hold_the_entry_does_nothing(grouped: Grouped) -> None:
    """Neither effect nor event nor record."""
    (mine,) = grouped.held("me", 1)
    grouped.age([mine], 2_000)
    grouped.take("other")
    key = f"{grouped.keys.stream}-n"
    each = [call(key, "string", "INCR"), emit(grouped), done(grouped, "a")]
    assert moves(grouped, (mine, each)) == [0]
    assert grouped.link.call("EXISTS", key, out(grouped), grouped.keys.done("g", "a")) == 0


def test_a_refused_effect_leaves_its_entry_untouched_and_others_are_settled(grouped: Grouped) -> None:
    """The answer names the event, and why."""
    a, b = grouped.held("me", 2)
    key = f"{grouped.keys.stream}-k"
    grouped.link.call("SET", key, "text")
    first, second = moves(
        grouped,
        (a, [emit(grouped), call(key, "string", "INCR", event=3), done(grouped, "a")]),
        (b, [emit(grouped, b"b")]),
    )
    assert first[:2] == [b"REFUSED", 3]
    assert b"not a number" in first[2]
    assert second == 1
    assert outs(grouped) == [b"b"]
    assert list(grouped.pending()) == [a]


def test_what_is_refused_in_the_midst_leaves_the_entry_pending_with_all_else_done(grouped: Grouped) -> None:
    """HSET then HINCRBY of the same field: nothing there foretells it."""
    (a,) = grouped.held("me", 1)
    key = f"{grouped.keys.stream}-h"
    (answer,) = moves(
        grouped,
        (
            a,
            [
                call(key, "hash", "HSET", "f", "text"),
                call(key, "hash", "HINCRBY", "f", 1),
                emit(grouped, b"0"),
                done(grouped, "zero"),
                call(key, "hash", "HINCRBY", "n", 1, event=1),
                emit(grouped, b"1", event=1),
                done(grouped, "one", 1),
            ],
        ),
    )
    assert answer[:2] == [b"HALF", 0]
    assert grouped.link.call("HGET", key, "n") == b"1"
    assert outs(grouped) == [b"1"]
    assert grouped.link.call("EXISTS", grouped.keys.done("g", "zero")) == 0
    assert grouped.link.call("EXISTS", grouped.keys.done("g", "one")) == 1
    assert list(grouped.pending()) == [a]


def test_an_id_of_one_s_own_is_looked_for(grouped: Grouped) -> None:
    """And kept for as long as is said."""
    a, b = grouped.held("me", 2)
    assert moves(grouped, (a, [emit(grouped, dedupe="e-1")]), (b, [emit(grouped, dedupe="e-1")])) == [1, 1]
    assert outs(grouped) == [b"v"]
    assert 0 < grouped.link.call("PTTL", grouped.keys.ids("e-1")) <= 60_000


def test_a_filter_that_is_another_now_settles_nothing(grouped: Grouped) -> None:
    """Its caller passed over events by one that no longer stands."""
    (a,) = grouped.held("me", 1)
    known = declare_filter(grouped.link, grouped.keys, "g", "me", '["a"]')
    declare_filter(grouped.link, grouped.keys, "g", "other", '["b"]')
    command = move_command(grouped.main, [moved(a, "me", to_dead())], passed_by=known)
    assert run_command(grouped.link, script("move"), command) == [b"FILTER", b'["a"]\n["b"]']
    assert list(grouped.pending()) == [a]
    command = move_command(grouped.main, [moved(a, "me", to_dead())], passed_by='["a"]\n["b"]')
    assert run_command(grouped.link, script("move"), command) == [1]


def test_when_memory_is_out_effects_and_events_go_through(tight: Grouped) -> None:
    """The first write is one that is never refused."""
    held = tight.held("me", 2)
    key = f"{tight.keys.stream}-n"
    with tight.out_of_memory():
        each = [call(key, "string", "INCR"), emit(tight), done(tight, "a")]
        assert moves(tight, (held[0], each), (held[1], [emit(tight)])) == [1, 1]
    assert tight.link.call("GET", key) == b"1"
    assert len(outs(tight)) == 2
    assert tight.pending() == {}


def test_an_event_emitted_ahead_is_appended_once_by_its_id(grouped: Grouped) -> None:
    """Whoever asks again gets the entry id of the first."""
    command = emit_command(emit(grouped, dedupe="e-2"))
    first = run_command(grouped.link, script("emit"), command)
    assert run_command(grouped.link, script("emit"), command) == first
    assert outs(grouped) == [b"v"]
    grouped.link.call("SET", f"{grouped.keys.stream}-text", "no stream")
    keys = (f"{grouped.keys.stream}-text", grouped.keys.ids("e-3"))
    wrong = emit_command(Move("emit", (60_000, b"h", b"v"), 0, keys, True))
    with pytest.raises(WrongKeyTypeError):
        run_command(grouped.link, script("emit"), wrong)
    assert not grouped.link.call("EXISTS", keys[1])
