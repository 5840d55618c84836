"""The benchmark scripts: with next to nothing to do they say all they are to say, and leave nothing behind."""

import json
from typing import Any

import pytest

from benchmarks import backlog, scale, soak
from benchmarks.limits.arrived import arrived
from benchmarks.limits.event import events, expected, tally
from benchmarks.limits.latency import guarded_latency
from benchmarks.limits.log_call import PER_PACK, BareShipping
from benchmarks.limits.send import send
from benchmarks.processes import processes
from console.bench.own_keys import OwnKeys
from pipeline.server.connect import Link
from pipeline.server.scripts import script
from tests.conftest import Server


def url(server: Server) -> str:
    """Where this run's server is."""
    return f"unix://{server.address.path}"


@pytest.mark.slow
def test_a_backlog_is_taken_over_and_its_cost_to_others_is_said(
    server: Server, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it arrives; the prober was asked meanwhile."""
    assert backlog.main(["--url", url(server), "--entries", "500", "-o", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["entries"], found["right"], found["pending"]) == (500, True, 0)
    assert found["pings"] > 100 and found["stall_most_ms"] >= found["stall_p99_ms"] > 0
    assert found["per_s"] > 0 and found["worker_peak_bytes"] > 1_000_000
    assert link.call("KEYS", "*millstream-bench-*") == []
    backlog.show(found | {"slow": [{"command": "take.lua", "times": 2, "most_ms": 1.5}]})
    assert "1.5 ms at most, 2 times: take.lua" in capsys.readouterr().out


@pytest.mark.slow
def test_a_soak_says_whether_all_arrived_and_memory_is_flat(
    server: Server, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its samples are events and bytes over time."""
    soak.main(["--url", url(server), "--seconds", "1", "-o", "json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["right"] and found["events"] >= 1_000
    assert all(found[who]["samples"][0][2] > 1_000_000 for who in ("producer", "consumer"))
    assert link.call("KEYS", "*millstream-bench-*") == []
    soak.show(found)
    assert "all arrived" in capsys.readouterr().out


@pytest.mark.slow
def test_a_line_of_the_scale_says_what_an_event_costs(
    server: Server, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a stream that other groups read and idle consumers share."""
    keys, connector = OwnKeys(), server.connector()
    try:
        with processes(url(server)) as start:
            line = scale.measure(link, start, scale.Ground(link, keys), scale.Size(1_000, 3, 5))
    finally:
        keys.remove(connector)
        connector.close()
    assert line["right"] and line["append_us"] > 0 and line["consume_server_us"] > 0
    scale.show(line)
    assert "1,000" in capsys.readouterr().out


def test_the_scale_grows_one_thing_at_a_time() -> None:
    """Up to ten million entries, a hundred groups, a thousand consumers; or less, quickly."""
    full, quick = scale.sizes(quick=False), scale.sizes(quick=True)
    assert max(size.entries for size in full) == 10_000_000
    assert (max(size.groups for size in full), max(size.consumers for size in full)) == (100, 1_000)
    assert all(size.groups == 1 or size.consumers == 1 for size in full)
    assert max(size.entries for size in quick) == 100_000


@pytest.mark.parametrize(("late_mb", "is_flat"), [(50, True), (59, True), (61, False), (500, False)])
def test_memory_is_flat_if_its_last_quarter_is_like_its_second(late_mb: int, is_flat: bool) -> None:
    """What warming up took does not count; a tenth and 5 MB may come and go."""
    samples = [(at, 0, (10 if at < 5 else 50 if at < 14 else late_mb) * 1_000_000) for at in range(20)]
    assert soak.flat(samples) is is_flat
    assert soak.flat(samples[:1])


def test_what_is_settled_ends_at_the_oldest_pending_entry(link: Link, stream: str) -> None:
    """Or at the last one read, where nothing is pending; before anything was read, nothing is."""
    for at in range(1, 5):
        link.call("XADD", stream, f"{at}-0", "a", "b")
    assert soak.settled_id(link, stream, "g") is None
    link.call("XGROUP", "CREATE", stream, "g", "0")
    assert soak.settled_id(link, stream, "g") == "0-0"
    link.call("XREADGROUP", "GROUP", "g", "c", "COUNT", 3, "STREAMS", stream, ">")
    assert soak.settled_id(link, stream, "g") == "1-0"
    link.call("XACK", stream, "g", "1-0", "2-0", "3-0")
    assert soak.settled_id(link, stream, "g") == "3-0"


def test_the_bare_loops_with_what_guarantees_ask_for_lose_nothing(
    server: Server, link: Link, stream: str
) -> None:
    """Each event once, in order, by the scripts of the house."""
    connector = server.connector()
    links = [connector.link() for _ in range(2)]
    texts = script("append").text, script("settle").text
    try:
        link.call("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM")
        with links[0].bare() as sender, links[1].bare() as reader:
            seconds, ids = guarded_latency(sender, reader, stream, "g", 25, 1_000.0, texts)
        assert len(seconds) == 25 and tally(ids) == expected(25)
        assert link.call("XPENDING", stream, "g")[0] == 0
        for per_pack in (0, 10):
            name = f"{stream}-{per_pack}"
            with links[0].bare() as sock:
                send(sock, name, texts[0], events(55), per_pack=per_pack, guarded=True)
                assert arrived(sock, name) == expected(55)
    finally:
        for each in links:
            each.close()
        connector.close()


def test_the_bare_steps_of_a_log_call_ship_every_line(server: Server, link: Link, stream: str) -> None:
    """In packs, the last of them smaller."""
    connector = server.connector()
    one = connector.link()
    rows = events(PER_PACK + 7)
    try:
        with one.bare() as sock:
            bare = BareShipping(sock, stream, frozenset(rows[0]))
            assert [bare.take(None, "info", row) for row in rows] == rows
            bare.take(None, "info", {"secret": 1})
            bare.close()
            assert bare.sent == len(rows)
            assert arrived(sock, stream) == expected(len(rows))
    finally:
        one.close()
        connector.close()
