"""millstream group reset: the plan names what is read again and what never will be; refused while members live."""

import re

import pytest

from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import heartbeat, join
from pipeline.server.replies import pairs, text
from pipeline.wire import encode_entry, encode_pack
from tests.console.command import here


@pytest.fixture
def read(stream: str, link: Link) -> list[str]:
    """The ids of six entries, the last a pack of three; group `g` has read up to the fourth, and settled the first."""
    ids = []
    for n in range(5):
        fields = encode_entry(Event({"n": n}), producer="p", number=n)
        ids.append(text(link.call("XADD", stream, f"{10_001 + n}-0", *fields)))
    pack = encode_pack([Event({"n": n}) for n in range(5, 8)], producer="p", first_number=5)
    ids.append(text(link.call("XADD", stream, "10006-0", *pack)))
    join(link, StreamKeys(stream), "g", start="0-0", lost=False)
    link.call("XREADGROUP", "GROUP", "g", "dead", "COUNT", 4, "STREAMS", stream, ">")
    link.call("XCLAIM", stream, "g", "dead", 0, *ids[:4], "IDLE", 90_000, "JUSTID")
    link.call("XACK", stream, "g", ids[0])
    return ids


def stands(link: Link, stream: str) -> str:
    """The group's position."""
    return text(pairs(link.call("XINFO", "GROUPS", stream)[0])["last-delivered-id"])


def test_what_is_read_again_is_shown_first(read: list[str], stream: str, url: str, link: Link) -> None:
    """Nothing is done without consent; then the position moves, and what was pending is put in order."""
    plan = here("group", "reset", stream, "g", "--to", read[2], url=url)
    assert plan.code == 6
    assert "stands at 10004-0, and would read on after 10002-18446744073709551615" in plan.err
    assert "it reads 2 entries with 2 events again" in plan.err
    assert "2 pending entries behind the position: read again" in plan.err
    assert "1 pending entry before the position: run all the same" in plan.err
    assert "NEVER" not in plan.err
    assert stands(link, stream) == read[3]
    ran = here("group", "reset", stream, "g", "--to", read[2], "--execute", "--json", url=url)
    assert (ran.code, ran.json["taken_out"], ran.json["moved"]) == (0, 2, 1)
    assert ran.json["read_again_entries"] == 2
    assert stands(link, stream) == "10002-18446744073709551615"
    assert here("group", "show", stream, "g", "--json", url=url).json["waiting"] == 1


def test_what_is_skipped_is_named_loudly(read: list[str], stream: str, url: str, link: Link) -> None:
    """Which entries, and that this group will never handle them; also with -q."""
    plan = here("group", "reset", stream, "g", "--to", "end", "-q", url=url)
    assert plan.code == 6
    assert "2 entries with 4 events, from 10004-1 to 10006-0" in plan.err
    assert "NEVER WILL BE HANDLED by this group" in plan.err
    ran = here("group", "reset", stream, "g", "--to", "end", "--execute", url=url)
    assert ran.code == 0
    assert f"group g of {stream} reads on after 10006-0" in ran.out
    assert stands(link, stream) == "10006-0"
    again = here("group", "reset", stream, "g", "--to", "end", url=url)
    assert (again.code, "stands there already" in again.out) == (0, True)


def test_a_group_with_a_live_member_is_refused(read: list[str], stream: str, url: str, link: Link) -> None:
    """Consent or not; nothing is done."""
    keys = StreamKeys(stream)
    heartbeat(link, keys, "g", "m", claim_after_ms=30_000, wants=0, hold_ms=1_000, swept="")
    ran = here("group", "reset", stream, "g", "--to", "start", "--execute", url=url)
    assert ran.code == 1
    assert "has a member alive" in ran.error
    assert stands(link, stream) == read[3]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("{stream}", "g"), 2, "missing option '--to'"),
        (("{stream}", "g", "--to", "sometime"), 2, "--to='sometime' is not a position"),
        (("{stream}", "nobody", "--to", "start"), 3, "has no group 'nobody'"),
        (("{stream}-x", "g", "--to", "start"), 3, "there is no stream"),
    ],
)
def test_what_cannot_be_reset_is_said(
    args: tuple[str, ...], code: int, said: str, read: list[str], stream: str, url: str
) -> None:
    """In one line."""
    ran = here("group", "reset", *(arg.format(stream=stream) for arg in args), "--execute", url=url)
    assert (ran.code, said in ran.error) == (code, True)


def test_what_is_gone_is_said(read: list[str], stream: str, url: str, link: Link) -> None:
    """Where the stream starts now."""
    link.call("XTRIM", stream, "MINID", "=", read[2])
    ran = here("group", "reset", stream, "g", "--to", "start", url=url)
    assert re.search(f"{stream} starts at 10003-0: older ones(, if there were any,)? are gone", ran.err)
