"""millstream tail: every event on one line, whatever stands in the stream, and what comes as it comes."""

import json
import signal
import subprocess
from typing import Any

import pytest

from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import join
from pipeline.wire import encode_entry
from tests.conftest import OwnServer
from tests.console.command import here, started

OPTIONS = ("-n", "--since", "--type", "--key")


def add(link: Link, stream: str, *numbers: int, key: str = "") -> list[str]:
    """Events with these numbers."""
    return [
        link.call(
            "XADD",
            stream,
            "*",
            *encode_entry(Event({"n": n}, type=f"t.{n}", key=key), producer="p", number=n),
        ).decode()
        for n in numbers
    ]


def numbers(rows: list[Any]) -> list[int]:
    """The numbers of the events shown."""
    return [row["data"]["n"] for row in rows]


def test_an_event_is_one_line_whatever_it_holds(motley: str, url: str) -> None:
    """Eight events, eight lines, nothing that steers a terminal, and the reason for what cannot be read."""
    ran = here("tail", motley, url=url)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert len(lines) == 8
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for line in lines for c in line)
    assert 'order.placed key=c-1 {"id": 1}' in lines[0]
    assert r"order.\x1b[31mplaced" in lines[1]
    assert r"\u001b]0;owned\u0007\u202e\nend" in lines[1]
    assert [line.split()[2].partition("#")[2] for line in lines[2:5]] == ["0", "1", "2"]
    assert "!! corrupt" in lines[5]
    assert "!! " in lines[6]
    assert '"raw": {"base64": "//4="}' in lines[7]


def test_ndjson_is_exact(motley: str, url: str) -> None:
    """What a script parses is what was sent; what could not be read has an error and its raw fields."""
    rows = here("tail", motley, "-o", "ndjson", url=url).lines
    assert rows[0]["data"] == {"id": 1}
    assert (rows[0]["type"], rows[0]["key"], rows[0]["id"]) == ("order.placed", "c-1", "p-1")
    assert rows[1]["data"]["say"] == "\x1b]0;owned\x07\u202e\nend"
    assert [(row["index"], row["data"]["row"]) for row in rows[2:5]] == [(0, 0), (1, 1), (2, 2)]
    assert all("error" in row and row["fields"] and "data" not in row for row in rows[5:7])
    assert rows[7]["foreign"] is True
    assert rows[7]["data"]["level"] == "info"
    assert here("tail", motley, "--json", url=url).json == rows


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ((), range(40, 50)),
        (("-n", "3"), range(47, 50)),
        (("-n", "0"), ()),
        (("--since", "start"), range(50)),
        (("--since", "1h"), range(50)),
        (("--since", "-1h"), range(50)),
        (("--since", "end"), ()),
        (("--since", "{}"), range(20, 50)),
        (("--since", "{}", "-n", "4"), range(46, 50)),
        (("--type", "t.1*"), (1, *range(10, 20))),
        (("--type", "t.1*", "-n", "2"), (18, 19)),
        (("--type", "t.3", "--type", "t.4"), (3, 4)),
        (("--key", "even", "-n", "3"), (44, 46, 48)),
        (("--key", "even", "--type", "t.4*"), (4, *range(40, 50, 2))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value and value[0] in OPTIONS else "",
)
def test_the_chosen_events_are_shown(
    args: tuple[str, ...], shown: Any, stream: str, url: str, link: Link
) -> None:
    """The last ten, the last so many, those since a position, those of a type or key: in their order."""
    ids = [add(link, stream, n, key="odd" if n % 2 else "even")[0] for n in range(50)]
    # Eleven match t.1*: without a position the last ten are shown.
    wanted = list(shown)[-10:] if "--type" in args and "--since" not in args else list(shown)
    ran = here("tail", stream, *(arg.format(ids[20]) for arg in args), "-o", "ndjson", url=url)
    assert (ran.code, numbers(ran.lines)) == (0, wanted)


def test_several_streams_are_merged_by_time(stream: str, url: str, link: Link) -> None:
    """Each line names its stream."""
    names = [f"{stream}-a", f"{stream}-b"]
    for n in range(6):
        link.call(
            "XADD", names[n % 2], f"{10_000 + n}-0", *encode_entry(Event({"n": n}), producer="p", number=n)
        )
    shown = here("tail", *names, url=url).out.splitlines()
    assert [line.split()[2][-2:] for line in shown] == ["-a", "-b"] * 3
    assert numbers(here("tail", *names, "-n", "2", "-o", "ndjson", url=url).lines) == [2, 3, 4, 5]


def test_as_group_shows_what_the_group_has_not_read(stream: str, url: str, link: Link) -> None:
    """And does not read it for the group."""
    add(link, stream, *range(5))
    join(link, StreamKeys(stream), "g", start="0-0", lost=False)
    link.call("XREADGROUP", "GROUP", "g", "c", "COUNT", "2", "STREAMS", stream, ">")
    for _ in range(2):
        assert numbers(here("tail", stream, "--as-group", "g", "-o", "ndjson", url=url).lines) == [2, 3, 4]


def follow(*args: str, url: str) -> "subprocess.Popen[bytes]":
    """tail -f with JSON lines."""
    return started("tail", *args, "-f", "-o", "ndjson", url=url)


def next_number(process: "subprocess.Popen[bytes]") -> int:
    """The number of the next event it shows."""
    assert process.stdout is not None
    found: int = json.loads(process.stdout.readline())["data"]["n"]
    return found


def end(process: "subprocess.Popen[bytes]") -> str:
    """End it as Ctrl-C does; what it said on stderr."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    return err.decode()


def test_follow_shows_what_comes_at_once(stream: str, url: str, link: Link) -> None:
    """After what was there, each event as it is appended, none twice; a stream made anew is followed from its start."""
    add(link, stream, 1)
    process = follow(stream, url=url)
    assert next_number(process) == 1
    for n in (2, 3):
        add(link, stream, n)
        assert next_number(process) == n
    link.call("DEL", stream)
    link.call("XADD", stream, "1-1", *encode_entry(Event({"n": 4}), producer="p", number=4))
    assert next_number(process) == 4
    assert "begins anew" in end(process)


def test_follow_waits_for_a_stream_that_is_not_there_yet(stream: str, url: str, link: Link) -> None:
    """Whoever starts the reader first has made no mistake."""
    process = follow(stream, url=url)
    assert process.stderr is not None
    assert b"waiting for it" in process.stderr.readline()
    add(link, stream, 7)
    assert next_number(process) == 7
    end(process)


def test_follow_goes_on_when_the_server_restarts(own_server: OwnServer, stream: str) -> None:
    """From where it was, without repeating or leaving out an event."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    add(link, stream, 1)
    process = follow(stream, url=f"unix://{server.address.path}")
    assert next_number(process) == 1
    link.close()
    server.restart()
    link = connector.wait_until_up(10_000)
    add(link, stream, 2, 3)
    assert [next_number(process), next_number(process)] == [2, 3]
    link.close()
    connector.close()
    assert "waiting for the server" in end(process)
