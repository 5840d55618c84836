"""The scripts feed and glance on a real server: handed over once, with its record; looked at without being sent."""

import pytest

from pipeline.errors import ServerRefusedError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.server.replaying import (
    PAGE_ENTRIES,
    Fed,
    done_before,
    entries_of,
    feed,
    glances,
    pending_span,
    pending_within,
    stored_record,
    stored_records,
)
from pipeline.wire import encode_entry, encode_pack
from tests.server.grouped import Grouped


def step(grouped: Grouped, before: str, after: str, *values: bytes, replay: str = "x") -> Fed:
    """One step of a replay."""
    entries = [[b"a", value] for value in values]
    return feed(grouped.link, grouped.keys, "g", replay, before=before, after=after, entries=entries)


def fed(grouped: Grouped) -> list[bytes]:
    """What the group is to run again."""
    return [(fields or [])[1] for _, fields in grouped.entries(grouped.again.key)]


def test_each_step_is_fed_once(grouped: Grouped) -> None:
    """The record is written with the entries: a repeat after a lost reply is found out, and adds nothing."""
    assert step(grouped, "", "begun") == Fed(True, True, "begun", 0)
    assert step(grouped, "begun", "one", b"1", b"2") == Fed(True, True, "one", 2)
    assert step(grouped, "begun", "one", b"1", b"2") == Fed(False, True, "one", 2)
    assert step(grouped, "one", "two", b"3") == Fed(True, True, "two", 3)
    assert step(grouped, "", "begun", b"4") == Fed(False, True, "two", 3)
    assert fed(grouped) == [b"1", b"2", b"3"]
    assert stored_record(grouped.link, grouped.keys, "x") == "two"


def test_a_record_expires_some_days_after_the_last_step(grouped: Grouped) -> None:
    """And is then as good as never written."""
    step(grouped, "", "begun")
    key = grouped.keys.source("replay:x")
    assert 6 * 86_400_000 < grouped.link.call("PTTL", key) <= 7 * 86_400_000
    grouped.link.call("DEL", key)
    assert step(grouped, "begun", "one", b"1") == Fed(False, True, "", 0)
    assert fed(grouped) == []


def test_a_removed_group_is_fed_nothing(grouped: Grouped) -> None:
    """Its own stream would be nobody's."""
    step(grouped, "", "begun")
    grouped.link.call("HDEL", grouped.keys.groups, "g:since")
    assert step(grouped, "begun", "one", b"1") == Fed(False, False, "begun", 0)
    assert fed(grouped) == []


def test_a_replay_that_cannot_be_fed_keeps_its_place(grouped: Grouped) -> None:
    """Refused as a whole: the record stays what it was."""
    step(grouped, "", "begun")
    grouped.link.call("DEL", grouped.again.key)
    grouped.link.call("SET", grouped.again.key, "something else")
    with pytest.raises(WrongKeyTypeError):
        step(grouped, "begun", "one", b"1")
    assert stored_record(grouped.link, grouped.keys, "x") == "begun"


def test_a_server_out_of_memory_refuses_a_step_as_a_whole(tight: Grouped) -> None:
    """And takes the same step as soon as it has room."""
    step(tight, "", "begun")
    with tight.out_of_memory():
        for values in ((b"1", b"2"), ()):
            with pytest.raises(ServerRefusedError) as refused:
                step(tight, "begun", "one", *values)
            assert refused.value.code == "OOM"
            assert refused.value.passing
    assert fed(tight) == []
    assert step(tight, "begun", "one", b"1", b"2").added
    assert fed(tight) == [b"1", b"2"]


def test_records_are_found_among_all_keys(grouped: Grouped) -> None:
    """Those of this stream, and of no other."""
    for replay in ("x", "y"):
        step(grouped, "", f"record {replay}", replay=replay)
    other = Grouped(grouped.link, f"{grouped.keys.stream}-2")
    other.join()
    step(other, "", "another", replay="z")
    grouped.link.call("SET", grouped.keys.source("/var/log/x"), "no replay")
    assert sorted(stored_records(grouped.link, grouped.keys)) == ["record x", "record y"]


def test_a_stream_whose_name_is_a_pattern_finds_its_own(grouped: Grouped) -> None:
    """No `*` or `[` of a name is one."""
    odd = Grouped(grouped.link, f"{grouped.keys.stream}[a]*")
    odd.join()
    step(odd, "", "odd")
    alike = Grouped(grouped.link, f"{grouped.keys.stream}a-z")
    alike.join()
    step(alike, "", "alike")
    assert list(stored_records(grouped.link, odd.keys)) == ["odd"]


def test_a_glance_is_at_ids_and_first_bytes(grouped: Grouped) -> None:
    """Enough to tell how many events there are; of a foreign entry nothing."""
    call = grouped.link.call
    single = encode_entry(Event({"x": "y" * 1_000}), producer="p", number=1)
    pack = encode_pack([Event(n) for n in range(300)], producer="p", first_number=2)
    for n, fields in enumerate((single, pack, [b"level", b"info"]), start=1):
        call("XADD", grouped.keys.stream, f"{n}-0", *fields)
    assert glances(grouped.link, grouped.keys.stream, "1-0", "3-0") == [
        (b"1-0", single[1][:12]),
        (b"2-0", pack[1][:12]),
        (b"3-0", b""),
    ]
    assert glances(grouped.link, grouped.keys.stream, "4-0", "9-0") == []


def test_a_page_has_a_bound(grouped: Grouped) -> None:
    """However long the range is."""
    ids = grouped.add(PAGE_ENTRIES + 5)
    page = entries_of(grouped.link, grouped.keys.stream, "-", "+")
    assert [entry_id for entry_id, _ in page] == ids[:PAGE_ENTRIES]
    assert len(glances(grouped.link, grouped.keys.stream, "-", "+")) == PAGE_ENTRIES


def test_what_is_pending_within_a_range(grouped: Grouped) -> None:
    """Both ends included."""
    assert pending_span(grouped.link, grouped.main) == (0, "", "")
    ids = grouped.held("one", 5)
    assert pending_span(grouped.link, grouped.main) == (5, ids[0].decode(), ids[-1].decode())
    assert pending_within(grouped.link, grouped.main, ids[1], ids[3]) == set(ids[1:4])


def test_what_was_done_once_is_counted(grouped: Grouped) -> None:
    """By the inbox of this group."""
    assert done_before(grouped.link, grouped.keys, "g", []) == 0
    for event_id in ("e:1", "e-2"):
        grouped.link.call("SET", grouped.keys.done("g", event_id), "1")
    grouped.link.call("SET", grouped.keys.done("other", "e-3"), "1")
    assert done_before(grouped.link, grouped.keys, "g", ["e:1", "e-2", "e-3", "e-4"]) == 2
