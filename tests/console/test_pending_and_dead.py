"""millstream pending and dead: what is stuck and what died, with all that is known about why."""

import shlex
import signal
import subprocess
import time

import pytest

from pipeline.envelope import Again, DeadLetter, again_fields, dead_fields
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import join
from pipeline.wire import decode_entry as decoded
from pipeline.wire import encode_again, encode_entry
from tests.console.command import here, started
from tests.until import until


@pytest.fixture
def held(motley: str, link: Link) -> list[str]:
    """The ids of a motley stream's entries, all of them delivered to a consumer `c` of group `g`."""
    join(link, StreamKeys(motley), "g", start="0-0", lost=False)
    reply = link.call("XREADGROUP", "GROUP", "g", "c", "COUNT", "100", "STREAMS", motley, ">")
    return [entry[0].decode() for entry in reply[0][1]]


def again(link: Link, stream: str, fields: list[bytes], **facts: object) -> str:
    """An entry of the group's `again` stream, delivered to `c`; its id, which none of the stream has."""
    key = StreamKeys(stream).again("g")
    entry_id = f"{int(time.time() * 1_000)}-{7_000 + link.call('XLEN', key)}"
    link.call("XADD", key, entry_id, *again_fields(Again(stream=stream, **facts), fields))  # type: ignore[arg-type]
    link.call("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", key, ">")
    return entry_id


def test_pending_entries_are_listed_with_who_holds_them(
    motley: str, held: list[str], url: str, link: Link
) -> None:
    """Those of the stream first, then those that run again."""
    fields = link.call("XRANGE", motley, held[0], held[0])[0][1]
    extra = again(link, motley, fields, entry_id=held[0], runs=2)
    rows = here("pending", motley, "g", "--json", url=url).json
    assert [(row["entry_id"], row["again"]) for row in rows] == [
        *((one, False) for one in held),
        (extra, True),
    ]
    assert {(row["consumer"], row["kind"], row["deliveries"]) for row in rows} == {("c", "foreign", 1)}
    assert len(here("pending", motley, "g", url=url).out.splitlines()) == len(held) + 2


def test_pending_entries_are_paged_and_chosen(motley: str, held: list[str], url: str, link: Link) -> None:
    """Each page says how to ask for the next; by consumer, by idle time, by place."""
    link.call("XCLAIM", motley, "g", "d", "0", held[4], "IDLE", "600000")
    extra = again(link, motley, [b"a", b"b"], entry_id=held[0])
    first = here("pending", motley, "g", "--limit", "4", "--json", url=url)
    assert [row["entry_id"] for row in first.json] == held[:4]
    assert f"--from {held[4]}" in first.err
    second = here("pending", motley, "g", "--limit", "2", "--from", held[4], "--json", url=url)
    assert [row["entry_id"] for row in second.json] == held[4:]
    assert f"--from {extra} --again" in second.err
    third = here("pending", motley, "g", "--from", extra, "--again", "--json", url=url)
    assert [row["entry_id"] for row in third.json] == [extra]
    assert third.err == ""
    for option in (("--consumer", "d"), ("--idle", "9m")):
        assert [row["entry_id"] for row in here("pending", motley, "g", *option, "--json", url=url).json] == [
            held[4]
        ]
    assert here("pending", motley, "g", "--consumer", "nobody", "--json", url=url).json == []


def test_a_pending_entry_is_shown_with_its_events(motley: str, held: list[str], url: str, link: Link) -> None:
    """Also a corrupt one, one that runs again (under its first entry id), and one that was trimmed."""
    shown = here("pending", "show", motley, "g", held[0], "--json", url=url).json
    assert (shown["consumer"], shown["events"][0]["data"]) == ("c", {"id": 1})
    assert len(here("pending", "show", motley, "g", held[2], "--json", url=url).json["events"]) == 3
    assert "!! corrupt" in here("pending", "show", motley, "g", held[3], url=url).out
    fields = link.call("XRANGE", motley, held[0], held[0])[0][1]
    extra = again(link, motley, fields, entry_id=held[0], runs=2, crashes=1, why="retry")
    shown = here("pending", "show", motley, "g", extra, "--json", url=url).json
    assert (shown["again"], shown["runs"], shown["crashes"], shown["why"]) == (True, 2, 1, "retry")
    assert (shown["events"][0]["entry_id"], shown["events"][0]["data"]) == (held[0], {"id": 1})
    link.call("XDEL", motley, held[1])
    assert "trimmed" in here("pending", "show", motley, "g", held[1], url=url).err
    assert here("pending", "show", motley, "g", "10001-0", url=url).code == 3


def abandon(link: Link, stream: str, ids: list[str]) -> None:
    """Let these look as if nobody had renewed them for a minute."""
    for one in ids:
        link.call("XCLAIM", stream, "g", "c", 0, one, "IDLE", 60_000, "JUSTID")


def test_abandoned_entries_run_again_at_once(motley: str, held: list[str], url: str, link: Link) -> None:
    """By id, by what their events are, or all; what is being handled only with --force."""
    key = StreamKeys(motley).again("g")
    abandon(link, motley, held[:3])
    assert here("pending", "retry", motley, "g", url=url).code == 2
    assert here("pending", "retry", motley, "g", held[0], "--all", url=url).code == 2
    held_now = here("pending", "retry", motley, "g", held[4], "--execute", url=url)
    assert held_now.code == 1
    assert f"entry {held[4]} is held by c, which renewed it" in held_now.error
    assert here("pending", "retry", motley, "g", "10001-0", "--execute", url=url).code == 3
    refused = here("pending", "retry", motley, "g", held[0], url=url)
    assert (refused.code, link.call("XLEN", key)) == (6, 0)
    assert "1 entry left alone for 30 s or longer, 1 event in them" in refused.err
    done = here("pending", "retry", motley, "g", held[0], "--execute", "--json", url=url).json
    assert (done["entries"], done["events"], link.call("XLEN", key)) == (1, 1, 1)
    assert here("pending", "retry", motley, "g", "--all", "--execute", url=url).code == 0
    left = [row["entry_id"] for row in here("pending", motley, "g", "--json", url=url).json]
    assert left == held[3:]
    assert "nothing to retry" in here("pending", "retry", motley, "g", "--all", "--execute", url=url).out
    forced = here("pending", "retry", motley, "g", held[4], "--force", "--execute", url=url)
    assert forced.code == 0
    assert "may be being handled" in forced.err


def test_pending_entries_are_buried_with_a_reason(motley: str, held: list[str], url: str, link: Link) -> None:
    """Dead letters, by whose hand and why; of a pack the chosen events alone, the others run again."""
    keys = StreamKeys(motley)
    fields = link.call("XRANGE", motley, held[0], held[0])[0][1]
    extra = again(link, motley, fields, entry_id=held[1], runs=2, crashes=1, first_failed_ms=7)
    link.call("XCLAIM", keys.again("g"), "g", "c", 0, extra, "IDLE", 60_000, "JUSTID")
    abandon(link, motley, held)
    missing = here("pending", "bury", motley, "g", held[0], "--execute", url=url)
    assert missing.code == 2
    assert "--reason" in missing.error
    assert here("pending", "bury", motley, "g", held[0], "--reason", "see #41", url=url).code == 6
    done = here(
        "pending", "bury", motley, "g", held[0], extra, "--reason", "see #41", "--execute", "--json", url=url
    )
    assert (done.json["entries"], done.json["events"]) == (2, 2)
    first, second = here("dead", motley, "g", "--each", "--json", url=url).json
    assert (first["entry_id"], first["reason"], first["error"], first["attempts"]) == (
        held[0],
        "see #41",
        "Buried",
        1,
    )
    assert (second["entry_id"], second["attempts"], second["crashes"]) == (held[1], 3, 2)
    shown = here("dead", "show", motley, "g", second["dead_id"], "--json", url=url).json
    assert (shown["first_failed_ms"], shown["consumer"]) == (7, "c")
    before = link.call("XLEN", keys.again("g"))
    ran = here(
        "pending", "bury", motley, "g", "--match", '"row": 1', "--reason", "r", "--execute", "--json", url=url
    )
    assert (ran.json["entries"], ran.json["events"]) == (1, 1)
    assert link.call("XLEN", keys.again("g")) == before + 2
    assert here("dead", motley, "g", "--each", "--json", url=url).json[2]["entry_id"] == held[2]
    assert held[2] not in {row["entry_id"] for row in here("pending", motley, "g", "--json", url=url).json}


def letters(
    link: Link,
    stream: str,
    count: int,
    *,
    error: str = "Reject",
    reason: str = "",
    type: str = "order.placed",  # noqa: A002 - the word of Event
) -> list[str]:
    """Dead letters of group `g`: the first of them, an event of a pack; their ids."""
    ids = []
    for n in range(count):
        event = Event({"n": n}, type=type, key="c-1")
        entry = decoded(b"20000-0", encode_entry(event, producer="p", number=n))
        letter = DeadLetter(
            reason=reason or f"no\x1b[31m order {n}",
            error=error,
            message="no",
            traceback='Traceback\n  File "x.py"\n\x1b[2JValueError: no',
            attempts=2,
            crashes=1,
            first_failed_ms=1_700_000_000_000,
            last_failed_ms=1_700_000_001_000,
            host="h",
            consumer="c",
            group="g",
            stream=stream,
            entry_id="20000-0",
            index=n,
        )
        fields = dead_fields(letter, encode_again(entry.events[0]))
        ids.append(link.call("XADD", StreamKeys(stream).dead("g"), "*", *fields).decode())
    return ids


def test_dead_letters_are_listed_one_by_one_newest_last(
    motley: str, held: list[str], url: str, link: Link
) -> None:
    """With what died, why, and after how many runs; older ones on request."""
    ids = letters(link, motley, 5)
    rows = here("dead", motley, "g", "--each", "--json", url=url).json
    assert [row["dead_id"] for row in rows] == ids
    assert (rows[0]["event_id"], rows[0]["type"], rows[0]["key"], rows[0]["attempts"]) == (
        "p-0",
        "order.placed",
        "c-1",
        2,
    )
    few = here("dead", motley, "g", "--each", "--limit", "2", "--json", url=url)
    assert [row["dead_id"] for row in few.json] == ids[3:]
    assert "there are older ones" in few.err
    first = here("dead", motley, "g", "--each", "--since", "start", "--limit", "2", "--json", url=url)
    assert [row["dead_id"] for row in first.json] == ids[:2]
    assert "there are more" in first.err
    some = here("dead", motley, "g", "--each", "--match", '/"n": [13]/', "--json", url=url).json
    assert [row["dead_id"] for row in some] == [ids[1], ids[3]]
    assert (
        here("dead", motley, "g", "--each", "--since", ids[2], "--until", ids[3], url=url).out.count("order.")
        == 2
    )
    table = here("dead", "ls", motley, "g", "--each", url=url).out
    assert r"no\x1b[31m order 0" in table
    assert "\x1b" not in table
    assert here("dead", motley, "--each", url=url).code == 2


def test_dead_letters_are_grouped_by_why_they_died(
    motley: str, held: list[str], url: str, link: Link
) -> None:
    """Of one group, of all groups of a stream, of all streams; the most frequent first, with an example."""
    ids = letters(link, motley, 5)
    other = letters(link, motley, 1, error="TimeoutError", reason="bank: 30 s", type="order.paid")[0]
    rows = here("dead", motley, "g", "--json", url=url).json
    assert [
        (row["error"], row["count"], row["first_id"], row["last_id"], row["example"]) for row in rows
    ] == [
        ("Reject", 5, ids[0], ids[4], "no\x1b[31m order 4"),
        ("TimeoutError", 1, other, other, "bank: 30 s"),
    ]
    table = here("dead", motley, "g", url=url).out
    assert len(table.splitlines()) == 3
    assert "\x1b" not in table
    for chosen in (("--error", "*Timeout*"), ("--type", "*.paid"), ("--since", other)):
        (row,) = here("dead", motley, "g", *chosen, "--json", url=url).json
        assert row["error"] == "TimeoutError"
    assert here("dead", motley, "g", "--error", "KeyError", "--json", url=url).json == []
    assert (
        "the range is reversed" in here("dead", motley, "g", "--since", "15m", "--until", "1h", url=url).error
    )
    for where in ((motley,), ()):
        mine = [row for row in here("dead", *where, "--json", url=url).json if row["stream"] == motley]
        assert [(row["group"], row["count"]) for row in mine] == [("g", 5), ("g", 1)]


def test_dead_letters_run_again_after_consent(motley: str, held: list[str], url: str, link: Link) -> None:
    """By id, by filter, or all; what is planned is said; without a word on which, nothing is done."""
    ids = letters(link, motley, 6)
    letters(link, motley, 2, error="TimeoutError")
    again = StreamKeys(motley).again("g")
    assert here("dead", "retry", motley, "g", url=url).code == 2
    assert here("dead", "retry", motley, "g", ids[0], "--all", url=url).code == 2
    refused = here("dead", "retry", motley, "g", "--error", "Time*", url=url)
    assert (refused.code, link.call("XLEN", again)) == (6, 0)
    assert "2 dead letters of group g" in refused.err
    assert "TimeoutError: no" in refused.err
    assert "no member of group g is alive" in refused.err
    one = here("dead", "retry", motley, "g", ids[0], ids[1], "--execute", "--json", url=url).json
    assert (one["letters"], one["retried"]) == (2, 2)
    some = here(
        "dead", "retry", motley, "g", "--match", '/"n": [23]/', "--type", "order.*", "--execute", url=url
    )
    assert (some.code, link.call("XLEN", again)) == (0, 4)
    link.call("XADD", StreamKeys(motley).dead("g"), "*", "foreign", "x")
    rest = here("dead", "retry", motley, "g", "--all", "--rate", "1000/s", "--execute", "--json", url=url)
    assert (rest.json["letters"], rest.json["retried"]) == (5, 4)
    assert "1 letter not written by Millstream" in rest.err
    assert link.call("XLEN", again) == 8
    assert here("dead", "retry", motley, "g", ids[0], "--execute", url=url).code == 3
    assert here("dead", "drop", motley, "g", "--all", "--execute", "--json", url=url).json["dropped"] == 1
    assert "nothing to retry" in here("dead", "retry", motley, "g", "--all", url=url).out
    assert here("dead", "retry", motley, "nobody", "--all", url=url).code == 3


def test_dead_letters_are_dropped_after_consent(motley: str, held: list[str], url: str, link: Link) -> None:
    """For good: none runs again."""
    ids = letters(link, motley, 4)
    key = StreamKeys(motley).dead("g")
    assert here("dead", "drop", motley, "g", "--until", ids[1], url=url).code == 6
    done = here("dead", "drop", motley, "g", "--until", ids[1], "--execute", "--json", url=url).json
    assert (done["letters"], done["dropped"], link.call("XLEN", key)) == (2, 2, 2)
    assert here("dead", "drop", motley, "g", "--all", "--execute", url=url).code == 0
    assert link.call("XLEN", key) == link.call("XLEN", StreamKeys(motley).again("g")) == 0


def test_a_retry_that_is_interrupted_says_how_to_go_on(
    motley: str, held: list[str], url: str, link: Link
) -> None:
    """And that repeats nothing: what was moved is no dead letter any more."""
    ids = letters(link, motley, 200)
    keys = StreamKeys(motley)
    process = started(
        "dead", "retry", motley, "g", "--error", "Rej*", "--rate", "40/s", "--execute", url=url,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: link.call("XLEN", keys.again("g")) > 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    moved = link.call("XLEN", keys.again("g"))
    assert moved + link.call("XLEN", keys.dead("g")) == 200
    (line,) = [line for line in said.decode().splitlines() if "go on with: " in line]
    words = shlex.split(line.split("go on with: ")[1])
    assert words == [
        "millstream",
        "dead",
        "retry",
        motley,
        "g",
        "--error",
        "Rej*",
        "--until",
        ids[-1],
        "--execute",
    ]
    assert here(*words[1:], url=url).code == 0
    assert (link.call("XLEN", keys.again("g")), link.call("XLEN", keys.dead("g"))) == (200, 0)


def test_a_dead_letter_tells_all_it_knows(motley: str, held: list[str], url: str, link: Link) -> None:
    """Reason, traceback line by line, where it came from, and the event itself."""
    dead_id = letters(link, motley, 2)[1]
    ran = here("dead", "show", motley, "g", dead_id, url=url)
    for wanted in (
        r"reason          no\x1b[31m order 1",
        '    File "x.py"',
        r"  \x1b[2JValueError: no",
        '{"n": 1}',
        "20000-0#1",
    ):
        assert wanted in ran.out
    shown = here("dead", "show", motley, "g", dead_id, "--json", url=url).json
    assert (shown["crashes"], shown["host"], shown["index"]) == (1, "h", 1)
    assert shown["traceback"].startswith("Traceback\n")
    assert shown["events"][0]["data"] == {"n": 1}
    assert shown["raw"][:1] == ["h"]
    assert "raw h  " in ran.out
    assert here("dead", "show", motley, "g", "--json", url=url).json["dead_id"] == dead_id
    assert here("dead", "show", motley, "g", "10001-0", url=url).code == 3


def test_what_is_no_dead_letter_is_shown_all_the_same(
    motley: str, held: list[str], url: str, link: Link
) -> None:
    """Somebody else's entry, a corrupt envelope, one of a newer version: none is fatal."""
    key = StreamKeys(motley).dead("g")
    for fields in ([b"foreign", b"\xff"], [b"d", b"\xc1"], [b"d", b"\x81\xa7version\x7f"]):
        link.call("XADD", key, "*", *fields)
    rows = here("dead", motley, "g", "--each", "--json", url=url).json
    assert [row["reason"] for row in rows] == ["not a dead letter of Millstream's"] * 3
    for row in rows:
        assert here("dead", "show", motley, "g", row["dead_id"], url=url).code == 0


def test_nothing_pending_and_nothing_dead_is_no_error(stream: str, url: str, link: Link) -> None:
    """A word on stderr, an empty list for a script."""
    join(link, StreamKeys(stream), "g", start="0-0", lost=False)
    for noun, word in (("pending", "nothing is pending"), ("dead", "no dead letter")):
        ran = here(noun, stream, "g", url=url)
        assert (ran.code, ran.out) == (0, "")
        assert word in ran.err
        assert here(noun, stream, "g", "--json", url=url).json == []
    assert here("dead", "show", stream, "g", url=url).code == 3
