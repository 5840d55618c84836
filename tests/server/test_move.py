"""The move and promote scripts on a real server: an event is in one place at a time, whatever stops the step."""

import pytest

from pipeline.envelope import Again, DeadLetter, again_fields, dead_fields, read_again, read_dead, retry_body
from pipeline.errors import WrongKeyTypeError
from pipeline.server.groups import Move, MovedEntry, nonce, promote
from pipeline.server.scripts import script
from tests.server.grouped import Grouped, moved, to_again, to_dead, to_retry


def waiting(grouped: Grouped) -> dict[bytes, float]:
    """Members of the group's retries with their due times."""
    reply = grouped.link.call("ZRANGE", grouped.keys.retry("g"), 0, -1, "WITHSCORES")
    return {reply[i]: float(reply[i + 1]) for i in range(0, len(reply), 2)}


def bodies(grouped: Grouped) -> int:
    """How many bodies of retries are kept."""
    return int(grouped.link.call("HLEN", grouped.keys.retry_bodies("g")))


def put(grouped: Grouped, due_ms: float, member: str, body: bytes) -> None:
    """A retry as move writes it."""
    grouped.link.call("ZADD", grouped.keys.retry("g"), due_ms, member)
    grouped.link.call("HSET", grouped.keys.retry_bodies("g"), member, body)


def test_a_failed_event_goes_where_it_belongs_and_its_entry_is_settled(grouped: Grouped) -> None:
    """again, dead and retry, and an entry with no move at all, in one call."""
    a, b, c, d = grouped.held("me", 4)
    answers = grouped.move(
        [
            moved(a, "me", to_again(b"A")),
            moved(b, "me", to_dead(b"B")),
            moved(c, "me", to_retry(5_000, "c", b"C")),
            moved(d, "me"),
        ]
    )
    assert answers == [1, 1, 1, 1]
    assert grouped.pending() == {}
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [[b"a", b"A"]]
    assert [fields for _, fields in grouped.entries(grouped.keys.dead("g"))] == [[b"d", b"B"]]
    assert waiting(grouped) == {b"c": 5_000}
    assert grouped.link.call("HGET", grouped.keys.retry_bodies("g"), "c") == b"C"


def test_the_events_of_a_pack_go_apart_in_one_step(grouped: Grouped) -> None:
    """One entry, several moves of each kind, in order."""
    (pack,) = grouped.held("me", 1)
    moves = [to_again(b"1"), to_retry(9, "r"), to_dead(b"3"), to_again(b"4")]
    assert grouped.move([moved(pack, "me", *moves)]) == [1]
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [[b"a", b"1"], [b"a", b"4"]]
    assert [fields for _, fields in grouped.entries(grouped.keys.dead("g"))] == [[b"d", b"3"]]
    assert waiting(grouped) == {b"r": 9}
    assert grouped.pending() == {}


def test_moving_own_entries_leaves_the_token(grouped: Grouped) -> None:
    """Nothing changed hands: others settle at once as before."""
    held = grouped.held("me", 1)
    before = grouped.token
    grouped.move([moved(held[0], "me", to_dead())])
    assert grouped.token == before


def test_what_is_not_ours_adds_nothing(grouped: Grouped) -> None:
    """Taken over, settled, or never pending: the answer says so, and the rest of the call is done."""
    theirs, settled, mine = grouped.held("me", 3)
    grouped.age([theirs], 2_000)
    grouped.take("other")
    grouped.settle("me", [settled], token=grouped.token)
    answers = grouped.move(
        [
            moved(theirs, "me", to_again(), to_dead(), to_retry(1)),
            moved(settled, "me", to_dead()),
            moved(b"1-1", "me", to_dead()),
            moved(mine, "me", to_dead(b"mine")),
        ]
    )
    assert answers == [0, 0, 0, 1]
    assert [fields for _, fields in grouped.entries(grouped.keys.dead("g"))] == [[b"d", b"mine"]]
    assert grouped.entries(grouped.again.key) == []
    assert waiting(grouped) == {}
    assert grouped.pending() == {theirs: ("other", 2)}


def test_a_repeated_move_adds_nothing(grouped: Grouped) -> None:
    """After a lost reply the same call comes again: an event is never a dead letter twice."""
    held = grouped.held("me", 1)
    entries = [moved(held[0], "me", to_dead())]
    assert grouped.move(entries) == [1]
    assert grouped.move(entries) == [0]
    assert len(grouped.entries(grouped.keys.dead("g"))) == 1


def test_moved_entries_of_again_are_deleted(grouped: Grouped) -> None:
    """A retry of a retry leaves one copy, not two."""
    held = grouped.held("me", 2, grouped.again)
    assert grouped.move([moved(held[0], "me", to_retry(1))], ref=grouped.again) == [1]
    assert [entry_id for entry_id, _ in grouped.entries(grouped.again.key)] == [held[1]]


def test_moved_entries_of_the_stream_stay_for_other_groups(grouped: Grouped) -> None:
    """Moving is acknowledging: the stream itself never loses an entry by it."""
    held = grouped.held("me", 1)
    grouped.move([moved(held[0], "me", to_dead())])
    assert len(grouped.entries(grouped.keys.stream)) == 1


@pytest.mark.parametrize("kind", ["dead", "again", "retry", "bodies"])
def test_a_wrong_key_type_adds_nothing_and_settles_nothing(grouped: Grouped, kind: str) -> None:
    """Somebody keeps something else under our key: the event stays pending, and so do those after it."""
    first, second = grouped.held("me", 2)
    keys = grouped.keys
    wrong = {
        "dead": keys.dead("g"),
        "again": grouped.again.key,
        "retry": keys.retry("g"),
        "bodies": keys.retry_bodies("g"),
    }[kind]
    grouped.link.call("DEL", wrong)
    grouped.link.call("SET", wrong, "something else")
    hit = {"dead": to_dead(), "again": to_again()}.get(kind, to_retry(1))
    spared = to_dead(b"spared") if kind != "dead" else to_again(b"spared")
    answers = grouped.move([moved(first, "me", spared, hit), moved(second, "me", hit)])
    assert len(answers) == 1
    problem = answers[0]
    assert isinstance(problem, bytes)
    assert problem.startswith(b"WRONGTYPE")
    assert wrong.encode() in problem
    assert sorted(grouped.pending()) == [first, second]
    for key in {keys.dead("g"), grouped.again.key} - {wrong}:
        assert grouped.entries(key) == []


def test_entries_before_the_one_that_cannot_be_moved_are_moved(grouped: Grouped) -> None:
    """Each entry is a step of its own."""
    first, second, third = grouped.held("me", 3)
    grouped.link.call("SET", grouped.keys.dead("g"), "something else")
    answers = grouped.move(
        [moved(first, "me", to_again()), moved(second, "me", to_dead()), moved(third, "me", to_again())]
    )
    assert answers[0] == 1
    assert len(answers) == 2
    assert sorted(grouped.pending()) == [second, third]


def test_a_destroyed_group_stops_the_move(grouped: Grouped) -> None:
    """Without the group nothing says whose the entry is: nothing is added."""
    held = grouped.held("me", 1)
    grouped.link.call("XGROUP", "DESTROY", grouped.keys.stream, "g")
    (problem,) = grouped.move([moved(held[0], "me", to_dead())])
    assert isinstance(problem, bytes)
    assert problem.startswith(b"NOGROUP")
    assert grouped.entries(grouped.keys.dead("g")) == []


@pytest.mark.parametrize("move", [to_again(), to_dead(), to_retry(1)], ids=["again", "dead", "retry"])
def test_when_memory_is_out_an_event_is_moved_all_the_same(tight: Grouped, move: Move) -> None:
    """Acknowledged first and then added, in one step: a script that has written once is not refused again."""
    held = tight.held("me", 2)
    with tight.out_of_memory():
        assert tight.move([moved(entry_id, "me", move) for entry_id in held]) == [1, 1]
    assert tight.pending() == {}
    added = len(tight.entries(tight.again.key)) + len(tight.entries(tight.keys.dead("g"))) + bodies(tight)
    assert added == (1 if move.kind == "retry" else 2)  # both retries have the same name


def test_when_memory_is_out_a_wrong_key_type_still_loses_nothing(tight: Grouped) -> None:
    """Acknowledging first is only right when adding can succeed."""
    held = tight.held("me", 1)
    tight.link.call("SET", tight.keys.dead("g"), "something else")
    with tight.out_of_memory():
        (problem,) = tight.move([moved(held[0], "me", to_dead())])
    assert isinstance(problem, bytes)
    assert list(tight.pending()) == held


def test_when_memory_is_out_a_pack_is_moved_whole(tight: Grouped) -> None:
    """All of its events, and its entry settled once."""
    held = tight.held("me", 1)
    with tight.out_of_memory():
        assert tight.move([moved(held[0], "me", to_dead(b"1"), to_again(b"2"), to_retry(3))]) == [1]
    assert len(tight.entries(tight.keys.dead("g"))) == 1
    assert len(tight.entries(tight.again.key)) == 1
    assert bodies(tight) == 1
    assert tight.pending() == {}


def test_abandoned_entries_of_others_are_moved_by_their_idle_time(grouped: Grouped) -> None:
    """Replaying pending: only what its consumer stopped renewing, and then the token changes."""
    idle, fresh = grouped.held("dead", 2)
    grouped.age([idle], 5_000)
    before = grouped.token
    entries = [moved(idle, "dead", to_again(b"idle")), moved(fresh, "dead", to_again(b"fresh"))]
    assert grouped.move(entries, min_idle_ms=4_000) == [1, 0]
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [[b"a", b"idle"]]
    assert list(grouped.pending()) == [fresh]
    assert grouped.token != before


def test_abandoned_entries_that_none_of_were_moved_leave_the_token(grouped: Grouped) -> None:
    """Their consumer was quicker."""
    held = grouped.held("alive", 1)
    before = grouped.token
    assert grouped.move([moved(held[0], "alive", to_again())], min_idle_ms=4_000) == [0]
    assert grouped.token == before


def test_an_abandoned_entry_that_changed_hands_is_not_moved(grouped: Grouped) -> None:
    """The plan was made for the holder of then."""
    held = grouped.held("first", 1)
    grouped.age(held, 9_000)
    grouped.take("second")
    grouped.age(held, 9_000)
    assert grouped.move([moved(held[0], "first", to_again())], min_idle_ms=4_000) == [0]
    assert grouped.pending() == {held[0]: ("second", 2)}


def test_a_foreign_entry_with_thousands_of_fields_is_moved(grouped: Grouped) -> None:
    """No event may be too wide to fail: it would stop everything that is settled with it."""
    held = grouped.held("me", 3)
    wide = [b"%d" % number for number in range(12_000)]
    letter, again = DeadLetter(reason="r"), Again(stream="s", entry_id="1-1")
    moves = [
        Move("dead", dead_fields(letter, wide)),
        Move("again", again_fields(again, wide)),
        Move("retry", (1, "m", retry_body(again_fields(again, wide)))),
    ]
    assert grouped.move([moved(held[i], "me", move) for i, move in enumerate(moves)]) == [1, 1, 1]
    assert grouped.pending() == {}
    assert promote(grouped.link, grouped.keys, "g")[0] == 1
    assert [read_dead(fields or []) for _, fields in grouped.entries(grouped.keys.dead("g"))] == [
        (letter, wide)
    ]
    assert [read_again(fields or []) for _, fields in grouped.entries(grouped.again.key)] == [
        (again, wide)
    ] * 2


def test_due_retries_are_promoted_and_others_wait(grouped: Grouped) -> None:
    """By the server's clock; the answer says when the next is due."""
    now_ms = grouped.server_ms()
    put(grouped, now_ms - 10, "due", retry_body([b"a", b"1", b"n", b"\xff\x00"]))
    put(grouped, now_ms + 60_000, "later", retry_body([b"a", b"2"]))
    count, next_due_ms, found, lost = promote(grouped.link, grouped.keys, "g")
    assert (found, lost) == (0, [])
    assert count == 1
    assert next_due_ms == now_ms + 60_000
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [[b"a", b"1", b"n", b"\xff\x00"]]
    assert list(waiting(grouped)) == [b"later"]
    assert bodies(grouped) == 1
    assert promote(grouped.link, grouped.keys, "g")[0] == 0


def test_promoting_nothing_says_that_nothing_waits(grouped: Grouped) -> None:
    """No due time, and no error for keys that do not exist."""
    assert promote(grouped.link, grouped.keys, "g") == (0, None, 0, [])


def test_promotion_is_bounded_and_in_the_order_of_due_times(grouped: Grouped) -> None:
    """A call moves so many; the earliest first."""
    for number in (3, 1, 2):
        put(grouped, number, f"m{number}", retry_body([b"a", b"%d" % number]))
    assert promote(grouped.link, grouped.keys, "g", count=2)[:2] == (2, 3.0)
    assert promote(grouped.link, grouped.keys, "g", count=2)[:2] == (1, None)
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [
        [b"a", b"1"],
        [b"a", b"2"],
        [b"a", b"3"],
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\xa1a\xa1b\xa1c",
        b"\x90",
        b"\x81\xa1a\xa1b",
        b"\x92\xa1a\x91\xa1b",
        b"\x92\xa1a\xc0",
        b"\x92\xa1a\xc3",
        b"text",
        retry_body([b"x"] * 12_000),
    ],
    ids="empty;no msgpack;odd;no fields;a map;a list inside;nil;a boolean;text;more than Lua passes on".split(
        ";"
    ),
)
def test_a_body_that_cannot_be_read_is_passed_on_to_become_a_dead_letter(
    grouped: Grouped, body: bytes
) -> None:
    """It stops no other retry, and nothing of it is dropped."""
    put(grouped, 1, "bad", body)
    put(grouped, 2, "good", retry_body([b"a", b"v"]))
    assert promote(grouped.link, grouped.keys, "g")[0] == 2
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [[b"corrupt", body], [b"a", b"v"]]
    assert waiting(grouped) == {}
    assert bodies(grouped) == 0


def test_when_memory_is_out_retries_wait(tight: Grouped) -> None:
    """Nothing of them is lost or doubled: all of it is promoted when there is memory again."""
    for number in range(3):
        put(tight, number + 1, f"m{number}", retry_body([b"a", b"%d" % number]))
    with tight.out_of_memory():
        reply = tight.link.calls(
            [
                script("promote").command(
                    [tight.again.key, tight.keys.retry("g"), tight.keys.retry_bodies("g")], [100]
                )
            ]
        )[0]
        assert getattr(reply, "code", "") in ("OOM", "NOSCRIPT")
    assert len(waiting(tight)) == bodies(tight) == 3
    assert tight.entries(tight.again.key) == []
    assert promote(tight.link, tight.keys, "g")[0] == 3
    assert len(tight.entries(tight.again.key)) == 3


def test_a_retry_whose_body_is_gone_is_answered_as_lost(grouped: Grouped) -> None:
    """Evicted, deleted, or flushed before the due times: the names are cleaned away, once, and stop no other retry."""
    put(grouped, 1, "1-1:0:a", b"")
    put(grouped, 2, "2-1:0:b", retry_body([b"a", b"v"]))
    put(grouped, 3, "3-1:4:c", b"")
    grouped.link.call("HDEL", grouped.keys.retry_bodies("g"), "1-1:0:a", "3-1:4:c")
    assert promote(grouped.link, grouped.keys, "g") == (3, None, 0, ["1-1:0:a", "3-1:4:c"])
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [[b"a", b"v"]]
    assert promote(grouped.link, grouped.keys, "g") == (0, None, 0, [])
    assert waiting(grouped) == {}
    assert bodies(grouped) == 0


def test_what_the_server_refuses_is_not_forgotten_with_what_is_lost(grouped: Grouped) -> None:
    """An error is the whole answer: the lost ones are told by the call that succeeds."""
    put(grouped, 1, "1-1:0:a", b"")
    grouped.link.call("HDEL", grouped.keys.retry_bodies("g"), "1-1:0:a")
    put(grouped, 2, "2-1:0:b", retry_body([b"a", b"v"]))
    grouped.link.call("DEL", grouped.again.key)
    grouped.link.call("SET", grouped.again.key, "something else")
    with pytest.raises(WrongKeyTypeError):
        promote(grouped.link, grouped.keys, "g")
    grouped.link.call("DEL", grouped.again.key)
    assert promote(grouped.link, grouped.keys, "g") == (2, None, 0, ["1-1:0:a"])


def test_retries_whose_due_times_are_gone_are_found_and_run_now(grouped: Grouped) -> None:
    """All of them, in calls of bounded work; what has its due time keeps it."""
    later_ms = grouped.server_ms() + 60_000
    for number in range(25):
        put(grouped, later_ms, f"{number}-1:0:x", retry_body([b"a", b"%d" % number]))
    grouped.link.call("DEL", grouped.keys.retry("g"))
    put(grouped, later_ms, "later", retry_body([b"a", b"later"]))
    found = 0
    for _ in range(2_000):  # each call looks at a random few
        done = promote(grouped.link, grouped.keys, "g", count=5)
        assert done.found <= 5
        found += done.found
        if found == 25 and done.next_due_ms == later_ms:
            break
    assert found == 25
    assert sorted(fields or [] for _, fields in grouped.entries(grouped.again.key)) == sorted(
        [b"a", b"%d" % number] for number in range(25)
    )
    assert waiting(grouped) == {b"later": later_ms}
    assert bodies(grouped) == 1


def test_the_heartbeat_tells_of_bodies_without_due_times(grouped: Grouped) -> None:
    """Nothing would be promoted otherwise, until the next event fails."""
    grouped.join()
    assert grouped.beat("me").next_due_ms is None
    put(grouped, grouped.server_ms() + 60_000, "1-1:0:x", retry_body([b"a", b"v"]))
    grouped.link.call("DEL", grouped.keys.retry("g"))
    due_ms = grouped.beat("me").next_due_ms
    assert due_ms is not None
    assert due_ms <= grouped.server_ms()
    assert promote(grouped.link, grouped.keys, "g").found == 1
    assert promote(grouped.link, grouped.keys, "g").taken == 1
    assert grouped.beat("me").next_due_ms is None


def test_when_memory_is_out_due_times_that_are_gone_wait(tight: Grouped) -> None:
    """Not an error, and not forgotten."""
    put(tight, tight.server_ms() + 60_000, "1-1:0:x", retry_body([b"a", b"v"]))
    tight.link.call("DEL", tight.keys.retry("g"))
    tight.link.load(script("promote"))
    with tight.out_of_memory():
        assert tight.link.calls(
            [
                script("promote").command(
                    [tight.again.key, tight.keys.retry("g"), tight.keys.retry_bodies("g")], [100]
                )
            ]
        ) == [[0, b"", 0]]
    assert promote(tight.link, tight.keys, "g").found == 1


@pytest.mark.parametrize("recreated", [False, True])
def test_a_flush_before_a_pack_is_split_leaves_no_part_of_it(tight: Grouped, recreated: bool) -> None:
    """Whether or not another member has created the group again by then: no event without its entry."""
    (pack,) = tight.held("me", 1)
    tight.link.call("FLUSHALL")
    if recreated:
        tight.join(lost=True)
    kept = set(tight.link.call("KEYS", "*"))
    (answer,) = tight.move([moved(pack, "me", to_again(b"1"), to_retry(2, "r"), to_dead(b"3"))])
    if recreated:
        assert answer == 0
    else:
        assert isinstance(answer, bytes)
        assert answer.startswith(b"NOGROUP")
    assert set(tight.link.call("KEYS", "*")) == kept
    assert promote(tight.link, tight.keys, "g") == (0, None, 0, [])
    assert set(tight.link.call("KEYS", "*")) == kept


def test_a_flush_after_a_pack_was_split_leaves_nothing_that_a_repeated_call_doubles(tight: Grouped) -> None:
    """The answer was lost, and then all keys: asked again, the entry is nobody's, and nothing is written."""
    (pack,) = tight.held("me", 1)
    entries = [moved(pack, "me", to_again(b"1"), to_retry(2, "r"))]
    assert tight.move(entries) == [1]
    tight.link.call("FLUSHALL")
    tight.join(lost=True)
    assert tight.move(entries) == [0]
    assert tight.entries(tight.again.key) == []
    assert waiting(tight) == {}
    assert bodies(tight) == 0


def test_a_retry_goes_the_whole_way(grouped: Grouped) -> None:
    """Out of pending, into the retries, to the group's own stream: the same fields, in one place at a time."""
    held = grouped.held("me", 1)
    fields = [b"a", nonce().encode(), b"h", b"\x00\x01", b"b", b"body"]
    due = Move("retry", (grouped.server_ms(), "m", retry_body(fields)))
    assert grouped.move([MovedEntry(held[0], "me", [due])]) == [1]
    assert promote(grouped.link, grouped.keys, "g")[0] == 1
    assert [fields for _, fields in grouped.entries(grouped.again.key)] == [fields]
    assert grouped.read("me", ref=grouped.again) != []
