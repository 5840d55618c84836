"""millstream replay: history goes to one group again, after its plan was shown, and no other group sees it."""

import pytest

from pipeline.envelope import read_again
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import join
from pipeline.wire import encode_entry, encode_pack
from tests.console.command import here


@pytest.fixture
def history(stream: str, link: Link) -> list[str]:
    """The ids of ten entries, the last of them a pack of three; groups `g` and `other` have settled them all."""
    ids = []
    for n in range(9):
        fields = encode_entry(Event({"n": n}), producer="p", number=n)
        ids.append(link.call("XADD", stream, f"{10_001 + n}-0", *fields).decode())
    pack = encode_pack([Event({"n": n}) for n in range(9, 12)], producer="p", first_number=9)
    ids.append(link.call("XADD", stream, "10010-0", *pack).decode())
    for group in ("g", "other"):
        join(link, StreamKeys(stream), group, start="10010-0", lost=False)
    return ids


def again(link: Link, stream: str, group: str) -> list[str]:
    """Entry ids (with the index in a pack) of what a group is to run again."""
    found = []
    for _, fields in link.call("XRANGE", StreamKeys(stream).again(group), "-", "+"):
        envelope, _ = read_again(fields)
        assert envelope is not None
        found.append(f"{envelope.entry_id}#{envelope.index}")
    return found


def test_a_range_goes_to_one_group(history: list[str], stream: str, url: str, link: Link) -> None:
    """Each event once, those of a pack on their own; the other group has nothing."""
    ran = here("replay", stream, "g", "--from", history[7], "--execute", "--json", url=url)
    assert (ran.code, ran.json["entries"], ran.json["events"]) == (0, 3, 5)
    assert again(link, stream, "g") == ["10008-0#0", "10009-0#0", "10010-0#0", "10010-0#1", "10010-0#2"]
    assert again(link, stream, "other") == []
    assert here("group", "show", stream, "g", "--json", url=url).json["waiting"] == 5
    assert "3 of the 10 entries" in ran.err
    assert "no member of group g is alive" in ran.err


@pytest.mark.parametrize(
    ("start", "end", "ids"),
    [
        ("start", "10002-0", ["10001-0#0", "10002-0#0"]),
        ("10004-0", "10004-0", ["10004-0#0"]),
        ("10005", "10006", ["10005-0#0"]),
        ("1970-01-01T00:00:10.003+00:00", "1970-01-01T00:00:10.005+00:00", ["10003-0#0", "10004-0#0"]),
    ],
)
def test_both_ends_are_what_they_say(
    start: str, end: str, ids: list[str], history: list[str], stream: str, url: str, link: Link
) -> None:
    """An entry id means that entry too; a time means all before it."""
    assert here("replay", stream, "g", "--from", start, "--to", end, "--execute", url=url).code == 0
    assert again(link, stream, "g") == ids


@pytest.mark.parametrize(
    "args", [("--from", "end"), ("--from", "-15m"), ("--from", "10005-0", "--to", "10004-0")]
)
def test_an_empty_range_is_said_and_needs_no_consent(
    args: tuple[str, ...], history: list[str], stream: str, url: str, link: Link
) -> None:
    """Nothing is done, and that is no failure."""
    ran = here("replay", stream, "g", *args, url=url)
    assert ran.code == 0
    assert "nothing to replay" in ran.out
    assert again(link, stream, "g") == []


def test_what_was_not_read_yet_is_warned_about(history: list[str], stream: str, url: str, link: Link) -> None:
    """It would be handled twice."""
    link.call("XADD", stream, "20001-0", "a", "b")
    ran = here("replay", stream, "g", "--from", "start", url=url)
    assert ran.code == 6
    assert "it will handle them twice" in ran.err
    assert again(link, stream, "g") == []


def test_abandoned_entries_run_again_at_once(history: list[str], stream: str, url: str, link: Link) -> None:
    """Those idle for as long as the group allows, and no others; the plan comes first."""
    for n in range(4):
        link.call("XADD", stream, f"{20_001 + n}-0", *encode_entry(Event({"n": n}), producer="q", number=n))
    link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", stream, ">")
    link.call("XCLAIM", stream, "g", "dead", "0", "20001-0", "20003-0", "IDLE", "40000")
    plan = here("replay", "pending", stream, "g", url=url)
    assert plan.code == 6
    assert "2 entries left alone for 30 s" in plan.err
    assert again(link, stream, "g") == []
    ran = here("replay", "pending", stream, "g", "--execute", "--json", url=url)
    assert (ran.code, ran.json["entries"]) == (0, 2)
    assert again(link, stream, "g") == ["20001-0#0", "20003-0#0"]
    assert [row["entry_id"] for row in here("pending", stream, "g", "--json", url=url).json] == [
        "20002-0",
        "20004-0",
    ]
    assert "nothing to replay" in here("replay", "pending", stream, "g", url=url).out
    assert "run twice" in here("replay", "pending", stream, "g", "--idle", "0", url=url).err
