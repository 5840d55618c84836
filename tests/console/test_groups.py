"""millstream group and consumer: where a group stands, in numbers that are true and one word that sums them up."""

import re

import pytest

from consumers.state import consumer_name
from pipeline.envelope import Again, again_fields, retry_body
from pipeline.event import Event
from pipeline.keys import GroupRef, StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import Move, MovedEntry, heartbeat, join, move_command
from pipeline.server.overview import ATTENDED_MS, LAGGING_MS, group_state, server_ms
from pipeline.server.scripts import script
from pipeline.wire import encode_entry
from tests.console.command import Ran, here

MANY_MS = 10 * 60_000


def group(stream: str, url: str, name: str = "g") -> dict[str, object]:
    """What `group show` says."""
    shown: dict[str, object] = here("group", "show", stream, name, "--json", url=url).json
    return shown


def read(link: Link, stream: str, consumer: str, count: int) -> list[str]:
    """Entries delivered to a consumer."""
    reply = link.call("XREADGROUP", "GROUP", "g", consumer, "COUNT", count, "STREAMS", stream, ">")
    return [entry[0].decode() for entry in reply[0][1]]


def beat(link: Link, stream: str, member: str, *, wants: int = 0) -> None:
    """A heartbeat of a member."""
    heartbeat(
        link, StreamKeys(stream), "g", member, claim_after_ms=30_000, wants=wants, hold_ms=1_000, swept=""
    )


@pytest.fixture
def joined(stream: str, link: Link) -> str:
    """A stream of ten events, joined by a group at its start."""
    for n in range(10):
        link.call("XADD", stream, "*", *encode_entry(Event({"n": n}), producer="p", number=n))
    join(link, StreamKeys(stream), "g", start="0-0", lost=False)
    return stream


def test_a_group_is_counted_through_its_life(joined: str, url: str, link: Link) -> None:
    """Unread, running, waiting, dead, members: from the first read to the last settled."""
    facts = group(joined, url)
    assert (facts["unread"], facts["running"], facts["members"], facts["state"]) == (10, 0, 0, "stuck")
    beat(link, joined, "m")
    assert group(joined, url)["state"] == "working"
    assert re.search(r"^takes types +\?$", here("group", "show", joined, "g", url=url).out, re.MULTILINE), (
        "not known yet"
    )
    ids = read(link, joined, "m", 4)
    facts = group(joined, url)
    assert (facts["running"], facts["last_read_id"]) == (4, ids[-1])
    keys = StreamKeys(joined)
    ref = GroupRef(keys, "g")
    fields = again_fields(Again(stream=joined, entry_id=ids[0]), [b"x", b"y"])
    due_ms = server_ms(link) + 60_000
    link.load(script("move"))
    moves = [
        MovedEntry(ids[0].encode(), "m", [Move("retry", (due_ms, "one", retry_body(fields)))]),
        MovedEntry(ids[1].encode(), "m", [Move("again", fields)]),
        MovedEntry(ids[2].encode(), "m", [Move("dead", [b"d", b"x"])]),
    ]
    assert link.call(*move_command(ref, moves)) == [1, 1, 1]
    facts = group(joined, url)
    assert (facts["running"], facts["waiting"], facts["dead"]) == (1, 2, 1)
    assert isinstance(facts["next_due_ms"], int)
    assert 50_000 < facts["next_due_ms"] <= 60_000
    link.call("XACK", joined, "g", *ids, *read(link, joined, "m", 100))
    link.call("DEL", keys.retry("g"), keys.again("g"))
    facts = group(joined, url)
    assert (facts["unread"], facts["behind_ms"], facts["running"], facts["waiting"]) == (0, 0, 0, 0)
    assert facts["state"] == "drained"


def test_unread_is_exact_or_unknown(stream: str, url: str, link: Link) -> None:
    """Known from the ids at both ends, also below 7.0; where the server cannot tell, it is null and shown as ?."""
    for n in range(10):
        link.call("XADD", stream, f"{n + 1}-0", "n", "x")
    for name, start in (("all", "0-0"), ("none", "10-0"), ("some", "5-0")):
        join(link, StreamKeys(stream), name, start=start, lost=False)
    link.call("XDEL", stream, "7-0")
    rows = {row["group"]: row for row in here("groups", stream, "--json", url=url).json}
    assert (rows["all"]["unread"], rows["none"]["unread"]) == (9, 0)
    assert rows["some"]["unread"] in (None, 4)
    assert rows["some"]["behind_ms"] > MANY_MS
    if rows["some"]["unread"] is None:
        assert " ? " in here("groups", stream, url=url).out


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"unread": 0}, "drained"),
        ({"unread": 0, "running": 3}, "working"),
        ({"unread": 0, "waiting": 3}, "working"),
        ({"unread": None, "behind_ms": 5}, "working"),
        ({"unread": 5, "behind_ms": LAGGING_MS}, "working"),
        ({"unread": 5, "behind_ms": LAGGING_MS + 1}, "lagging"),
        ({"unread": 5, "attended": False}, "stuck"),
        ({"unread": 0, "waiting": 1, "attended": False}, "stuck"),
        ({"unread": 0, "attended": False}, "drained"),
        ({"unread": 0, "running": 1, "idle_ms": 61_000, "patience_ms": 60_000}, "stuck"),
        ({"unread": 0, "running": 1, "idle_ms": 61_000, "patience_ms": None}, "working"),
        ({"unread": 5, "attended": False, "paused": True}, "paused"),
        ({"paused": True}, "paused"),
    ],
)
def test_one_word_sums_a_group_up(facts: dict[str, object], word: str) -> None:
    """Drained, working, lagging, stuck, paused."""
    given = {
        "unread": 0,
        "behind_ms": 0,
        "running": 0,
        "waiting": 0,
        "attended": True,
        "idle_ms": 0,
        "patience_ms": None,
    }
    assert group_state(**(given | facts)) == word  # type: ignore[arg-type]


def test_a_consumer_of_others_counts_as_somebody(joined: str, url: str, link: Link) -> None:
    """A group that plain XREADGROUP reads for is attended, though it has no members."""
    read(link, joined, "theirs", 1)
    facts = group(joined, url)
    assert (facts["state"], facts["members"], facts["claim_after_ms"]) == ("working", 0, None)
    row = here("consumers", joined, "g", "--json", url=url).json[0]
    assert (row["name"], row["kind"], row["pending"]) == ("theirs", "foreign", 1)
    assert row["idle_ms"] < ATTENDED_MS


def test_consumers_are_members_or_left_over(joined: str, url: str, link: Link) -> None:
    """A heartbeat makes a member; one that has left is a name, with what it still holds."""
    for name in ("alive", "gone"):
        beat(link, joined, name)
        read(link, joined, name, 2)
    link.call("HSET", StreamKeys(joined).members("g"), "gone", f"30000:{server_ms(link) - 20_000}")
    rows = {row["name"]: row for row in here("consumers", joined, "g", "--json", url=url).json}
    assert {name: (row["kind"], row["pending"]) for name, row in rows.items()} == {
        "alive": ("member", 2),
        "gone": ("leftover", 2),
    }
    assert "alive" in here("consumer", joined, "g", url=url).out


def test_a_consumer_is_removed_only_when_it_holds_nothing(joined: str, url: str, link: Link) -> None:
    """Removing one that does would lose its entries; a live member is not removed either."""
    ids = read(link, joined, "old", 2)
    ran = here("consumer", "rm", joined, "g", "old", url=url)
    assert ran.code == 1
    assert "entries are pending" in ran.err
    link.call("XACK", joined, "g", *ids)
    assert here("consumer", "rm", joined, "g", "old", "--json", url=url).json == {
        "removed": ["old"],
        "kept": [],
    }
    assert here("consumer", "rm", joined, "g", "old", url=url).code == 3
    beat(link, joined, "alive")
    link.call("XGROUP", "CREATECONSUMER", joined, "g", "alive")
    assert "live member" in here("consumer", "rm", joined, "g", "alive", url=url).error


def test_all_leftover_names_go_at_once(joined: str, url: str, link: Link) -> None:
    """But for those that still hold something."""
    ids = read(link, joined, "holds", 1)
    for name in ("holds", "gone-1", "gone-2"):
        link.call("XGROUP", "CREATECONSUMER", joined, "g", name)
        link.call("HSET", StreamKeys(joined).members("g"), name, "1000:1")
    ran = here("consumer", "rm", joined, "g", "--leftover", "--json", url=url)
    assert ran.code == 0
    assert (sorted(ran.json["removed"]), ran.json["kept"]) == (["gone-1", "gone-2"], ["holds"])
    assert link.call("XPENDING", joined, "g")[1] == ids[0].encode()


def test_a_group_can_be_made_anywhere(joined: str, url: str, link: Link) -> None:
    """At the start, at the end, some time ago; made again, it is left alone and says so."""
    made = here("group", "create", joined, "new", url=url)
    assert made.out == f"group new of {joined} created at the start: it gets 10 entries\n"
    assert "is there already" in here("group", "create", joined, "new", "--start", "end", url=url).out
    assert group(joined, url, "new")["unread"] == 10
    assert here("group", "create", joined, "late", "--start", "end", url=url).code == 0
    assert group(joined, url, "late")["unread"] == 0
    assert here("group", "create", joined, "hour", "--start", "-1h", url=url).code == 0
    assert group(joined, url, "hour")["behind_ms"] != 0


def test_a_group_is_removed_with_all_that_is_kept_for_it(joined: str, url: str, link: Link) -> None:
    """But for its dead letters, unless they are named too; other groups and the stream are left alone."""
    keys = StreamKeys(joined)
    join(link, keys, "other", start="0-0", lost=False)
    read(link, joined, "c", 3)
    link.call("ZADD", keys.retry("g"), "1", "m")
    link.call("XADD", keys.dead("g"), "*", "d", "x")
    ran = here("group", "rm", joined, "g", "--execute", url=url)
    assert (ran.code, ran.out) == (0, f"group g of {joined} removed\n")
    assert "3 running" in ran.err
    left = {key.decode() for key in link.call("KEYS", f"*{joined}*")}
    assert left == {joined, keys.groups, keys.again("other"), keys.dead("g")}
    assert all(not field.startswith(b"g:") for field in link.call("HKEYS", keys.groups))
    assert here("dead", joined, "g", "--json", url=url).code == 0
    assert here("group", "create", joined, "g", url=url).code == 0
    assert here("group", "rm", joined, "g", "--dead", "--execute", url=url).code == 0
    assert link.call("EXISTS", keys.dead("g")) == 0


def test_a_group_with_live_members_is_not_removed(joined: str, url: str, link: Link) -> None:
    """They would make it again at once, and at another place."""
    beat(link, joined, "m")
    ran = here("group", "rm", joined, "g", "--execute", url=url)
    assert ran.code == 1
    assert "a member alive" in ran.error
    assert group(joined, url)["unread"] == 10


def test_what_stands_beside_a_stream_in_another_type_is_said(joined: str, url: str, link: Link) -> None:
    """Rather than counted as nothing."""
    link.call("SET", StreamKeys(joined).dead("g"), "mine")
    ran: Ran = here("groups", joined, url=url)
    assert ran.code == 1
    assert "WRONGTYPE" in ran.error


def test_a_member_without_work_is_listed_on_every_server(joined: str, url: str, link: Link) -> None:
    """Below 7.2 the server knows a consumer only once it was given an entry; its heartbeat tells."""
    beat(link, joined, "idle")
    row = here("consumers", joined, "g", "--json", url=url).json[0]
    assert (row["name"], row["kind"], row["pending"]) == ("idle", "member", 0)


def test_a_worker_on_this_host_is_told_by_the_exit_code(joined: str, url: str, link: Link) -> None:
    """A live member that runs here counts; one of another host, one that left and a name like it do not."""
    mine = consumer_name()
    beat(link, joined, f"other-{mine}")
    beat(link, joined, f"{mine}x")
    ran = here("consumer", "ls", joined, "g", "--here", url=url)
    assert (ran.code, "has no live member on" in ran.error) == (3, True)
    beat(link, joined, mine)
    rows = here("consumer", "ls", joined, "g", "--here", "--json", url=url).json
    assert [row["name"] for row in rows] == [mine]
    link.call("HSET", StreamKeys(joined).members("g"), mine, f"30000:{server_ms(link) - 20_000}")
    assert here("consumer", "ls", joined, "g", "--here", url=url).code == 3


def test_a_group_is_paused_and_resumed_by_hand(joined: str, url: str, link: Link) -> None:
    """Its one word says so, and who, why and since when; a second pause changes nothing, a second resume neither."""
    beat(link, joined, "m")
    ran = here("group", "pause", joined, "g", "--reason", "bank is down", url=url)
    assert (ran.code, f"millstream group resume {joined} g" in ran.out) == (0, True)
    facts = group(joined, url)
    assert (facts["state"], facts["paused_reason"]) == ("paused", "bank is down")
    assert "@" in str(facts["paused_by"])
    assert abs(int(str(facts["paused_ms"])) - server_ms(link)) < 60_000
    shown = here("group", "show", joined, "g", url=url)
    assert "paused because  bank is down" in shown.out
    assert "group resume" in shown.err
    second = here("group", "pause", joined, "g", "--json", url=url).json
    assert (second["changed"], second["paused_reason"]) == (False, "bank is down")
    assert "was paused by" in here("group", "resume", joined, "g", url=url).out
    assert group(joined, url)["state"] == "working"
    assert "paused because" not in here("group", "show", joined, "g", url=url).out
    assert here("group", "resume", joined, "g", "--json", url=url).json["changed"] is False
    for verb in ("pause", "resume"):
        assert here("group", verb, joined, "nobody", url=url).code == 3
