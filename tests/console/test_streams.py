"""millstream stream: what is there is shown as it is, and trimmed no further than every group has settled."""

import pytest

from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import join
from tests.console.command import here

BASE = 10_000
"""Entry ids begin above it: ids are told from other words by their length."""


def fill(link: Link, stream: str, count: int) -> list[str]:
    """Entries 10001-0, 10002-0, … of a stream."""
    return [link.call("XADD", stream, f"{BASE + n + 1}-0", "n", str(n)).decode() for n in range(count)]


def test_streams_are_listed_without_what_stands_beside_them(stream: str, url: str, link: Link) -> None:
    """A group's own streams are part of the group, not streams of the user's."""
    fill(link, stream, 3)
    join(link, StreamKeys(stream), "g", start="0-0", lost=False)
    link.call("XADD", StreamKeys(stream).dead("g"), "*", "d", "x")
    listed = here("streams", "--match", f"*{stream}*", "--json", url=url).json
    assert [(row["name"], row["entries"], row["groups"]) for row in listed] == [(stream, 3, 1)]
    table = here("stream", "--match", f"{stream}", url=url)
    assert table.out.splitlines()[0].split()[:2] == ["STREAM", "ENTRIES"]
    assert stream in table.out


def test_no_stream_is_no_error(url: str) -> None:
    """An empty list on stdout, a word about it on stderr, none with -q."""
    ran = here("streams", "--match", "no-such-*", url=url)
    assert (ran.code, ran.out) == (0, "")
    assert "there is no stream that matches" in ran.err
    assert here("streams", "--match", "no-such-*", "--json", url=url).json == []
    assert here("streams", "--match", "no-such-*", "-q", url=url).err == ""


def test_more_streams_than_asked_for_are_mentioned(stream: str, url: str, link: Link) -> None:
    """Rather than left out in silence."""
    for n in range(3):
        fill(link, f"{stream}-{n}", 1)
    ran = here("streams", "--match", f"{stream}-*", "--limit", "2", "--json", url=url)
    assert len(ran.json) == 2
    assert "more than 2" in ran.err


def test_a_name_of_any_bytes_is_listed_harmlessly(stream: str, url: str, link: Link) -> None:
    """Others may call their streams what they like."""
    link.call("XADD", f"{stream}\x1b[2J\n".encode() + b"\xff", "*", "a", "b")
    link.call("XADD", f"{stream}{{lone", "1-0", "a", "b")
    ran = here("streams", "--match", f"{stream}*", url=url)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 3
    assert "\x1b" not in ran.out
    assert here("groups", url=url).code == 0


def test_a_stream_is_shown_with_its_groups(stream: str, url: str, link: Link) -> None:
    """Facts as a record, groups as a table; all of it as one object for a script."""
    ids = fill(link, stream, 4)
    join(link, StreamKeys(stream), "g", start="10002-0", lost=False)
    shown = here("stream", "show", stream, "--json", url=url).json
    assert (shown["entries"], shown["first_id"], shown["last_id"]) == (4, ids[0], ids[-1])
    assert [(group["group"], group["last_read_id"]) for group in shown["groups"]] == [("g", "10002-0")]
    text = here("stream", "show", stream, url=url).out
    assert "newest entry   10004-0" in text
    assert "GROUP" in text


def test_a_stream_can_be_made_and_made_again(stream: str, url: str, link: Link) -> None:
    """Empty, without a group left behind; the second time says that it is there."""
    assert here("stream", "create", stream, "--json", url=url).json == {"stream": stream, "created": True}
    assert link.call("XLEN", stream) == 0
    assert link.call("XINFO", "GROUPS", stream) == []
    assert here("stream", "create", stream, "--json", url=url).json["created"] is False


@pytest.mark.parametrize(
    ("before", "left"),
    [("10004-0", 7), ("start", 10), ("end", 0), ("-1m", 0), ("1970-01-01T00:00:10.006+00:00", 5)],
)
def test_a_stream_nobody_reads_is_trimmed_as_asked(
    before: str, left: int, stream: str, url: str, link: Link
) -> None:
    """Positions of every form; what lies before it goes."""
    fill(link, stream, 10)
    ran = here("stream", "trim", stream, "--before", before, "--execute", "--json", url=url)
    assert ran.code == 0
    assert (ran.json["removed"], link.call("XLEN", stream)) == (10 - left, left)


def test_nothing_is_trimmed_that_a_group_has_not_settled(stream: str, url: str, link: Link) -> None:
    """The slowest group decides: its oldest pending entry, or else what it has not read; the plan names it."""
    fill(link, stream, 10)
    for group in ("fast", "slow"):
        join(link, StreamKeys(stream), group, start="10000-0", lost=False)
    link.call("XREADGROUP", "GROUP", "fast", "c", "COUNT", "10", "STREAMS", stream, ">")
    link.call("XACK", stream, "fast", *(f"{BASE + n}-0" for n in range(1, 11)))
    link.call("XREADGROUP", "GROUP", "slow", "c", "COUNT", "6", "STREAMS", stream, ">")
    link.call("XACK", stream, "slow", "10001-0", "10002-0", "10004-0")
    ran = here("stream", "trim", stream, "--before", "end", "--execute", "--json", url=url)
    assert (ran.json["removed"], ran.json["held_by"]) == (2, "slow")
    assert "slow has not settled what lies from 10003-0 on" in ran.err
    link.call("XACK", stream, "slow", "10003-0", "10005-0", "10006-0")
    assert (
        here("stream", "trim", stream, "--before", "10005-0", "--execute", "--json", url=url).json["removed"]
        == 2
    )
    assert (
        here("stream", "trim", stream, "--before", "end", "--execute", "--json", url=url).json["removed"] == 2
    )
    assert link.call("XLEN", stream) == 4


def test_a_lost_group_still_holds_what_it_had_not_read(stream: str, url: str, link: Link) -> None:
    """A group that the server no longer lists is recreated at its saved position: what lies behind that stays."""
    fill(link, stream, 10)
    join(link, StreamKeys(stream), "g:1", start="10003-0", lost=False)
    link.call("XGROUP", "DESTROY", stream, "g:1")
    ran = here("stream", "trim", stream, "--before", "end", "--execute", "--json", url=url)
    assert (ran.json["removed"], link.call("XLEN", stream)) == (3, 7)
    assert here("group", "create", stream, "g:1", "--json", url=url).json["state"] == "recreated"
    assert here("group", "rm", stream, "g:1", "--execute", url=url).code == 0
    assert (
        here("stream", "trim", stream, "--before", "end", "--execute", "--json", url=url).json["removed"] == 7
    )


def test_many_entries_are_trimmed_in_steps(stream: str, url: str, link: Link) -> None:
    """Exactly to the id asked for, whatever the server's own units are."""
    for start in range(0, 2_000, 500):
        link.calls([("XADD", stream, f"{BASE + n + 1}-0", "n", "x") for n in range(start, start + 500)])
    ran = here("stream", "trim", stream, "--before", "11778-0", "--execute", "--json", url=url)
    assert (ran.json["removed"], link.call("XLEN", stream)) == (1_777, 223)
    assert link.call("XRANGE", stream, "-", "+", "COUNT", "1")[0][0] == b"11778-0"
