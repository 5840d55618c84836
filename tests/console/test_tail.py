"""millstream tail: every event on one line, whatever stands in the stream, and what comes as it comes."""

import json
import os
import pty
import signal
import subprocess
from typing import Any

import pytest

from console.output import as_time
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


LEVELS = ("debug", "INFO", "warn", "ERROR", "critical")


def add_logs(link: Link, stream: str, count: int = 20) -> None:
    """Log lines, a second apart, with these levels in turn."""
    for n in range(count):
        data = {
            "n": n,
            "level": LEVELS[n % 5],
            "status": 200 + n,
            "user": {"name": f"u{n % 3}"},
            "event": f"line {n}",
        }
        fields = encode_entry(Event(data, type="log", key=f"k{n % 2}"), producer="p", number=n)
        link.call("XADD", stream, f"{1_700_000_000_000 + n * 1_000}-0", *fields)


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("--where", "level>=error", "--since", "start"), (3, 4, 8, 9, 13, 14, 18, 19)),
        (("--where", "level>=error", "-n", "3"), (14, 18, 19)),
        (("--where", "level>=error", "--where", "status<210", "--since", "start"), (3, 4, 8, 9)),
        (("--where", "user.name=u0", "--where", "status>212"), (15, 18)),
        (("--where", "event~ 1[1-3]$"), (11, 12, 13)),
        (("--where", "missing=null", "--key", "k1", "-n", "2"), (17, 19)),
        (("--match", '"line 1', "--type", "log"), range(10, 20)),
        (("--match", '/line (2|11)"/'), (2, 11)),
        (("--since", "1700000005000", "--until", "1700000007000"), (5, 6, 7)),
        (("--until", "1700000002999"), (0, 1, 2)),
        (("--until", "1700000005000-0", "-n", "2"), (4, 5)),
        (("--until", "end", "-n", "2"), (18, 19)),
        (("--since", "1700000005000", "--until", "2023-11-14T22:13:27Z"), (5, 6, 7)),
        (("--until", "1600000000000"), ()),
        (("--since", "1800000000000", "--until", "1900000000000"), ()),
    ],
)
def test_comparisons_text_and_times_choose_events(
    args: tuple[str, ...], shown: Any, stream: str, url: str, link: Link
) -> None:
    """All that is given must hold; both ends of a range are included."""
    add_logs(link, stream)
    ran = here("tail", stream, *args, "-o", "ndjson", url=url)
    assert (ran.code, numbers(ran.lines)) == (0, list(shown)), ran.err


def test_a_range_ends_with_the_last_entry_of_its_millisecond(stream: str, url: str, link: Link) -> None:
    """Or with the very entry that is named."""
    for n in range(4):
        fields = encode_entry(Event({"n": n}), producer="p", number=n)
        link.call("XADD", stream, f"{1_700_000_000_000 + n // 3}-{n % 3}", *fields)
    for until, last in (
        ("1700000000000", 2),
        ("2023-11-14T22:13:20Z", 2),
        ("1700000000000-1", 1),
        ("end", 3),
    ):
        ran = here("tail", stream, "--until", until, "-o", "ndjson", url=url)
        assert numbers(ran.lines) == list(range(last + 1)), until


def test_what_cannot_be_read_is_left_out_by_a_comparison(motley: str, url: str) -> None:
    """Also by one that is true of what has no such field."""
    ran = here("tail", motley, "--where", "nothing=null", "-o", "ndjson", url=url)
    assert [row.get("error") for row in ran.lines] == [None] * 6


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ("--where", "level>=eror"),
            "--where='level>=eror': expected a level (trace, debug, info, notice, warning, ",
        ),
        (("--where", "level"), "--where='level': expected one of = != < <= > >= ~ !~ at character 6"),
        (("--match", "/(/"), "--match='/(/' is no regular expression"),
        (("--template", "{a"), "--template='{a': expected {field}"),
        (("--template", "{a}", "--json"), "--template makes lines for people"),
        (("--template", "{a}", "--stats"), "--template makes lines for people"),
        (("--until", "soon"), "--until='soon' is not a position"),
        (("--until", "end", "-f"), "--until says where to end and -f not to"),
        (("--since", "1700000007000", "--until", "1700000005000"), "the range is reversed"),
        (("--interval", "1s"), "--interval is for --stats"),
        (("--interval", "0s", "--stats"), "--interval"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(
    args: tuple[str, ...], said: str, stream: str, url: str, link: Link
) -> None:
    """With the option, and what was expected; exit code 2."""
    add_logs(link, stream)
    ran = here("tail", stream, *args, url=url)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.error


def test_a_template_makes_the_lines(stream: str, motley: str, url: str, link: Link) -> None:
    """And nothing that came from an event steers the terminal."""
    logs = f"{stream}-logs"
    add_logs(link, logs, 4)
    ran = here("tail", logs, "-n", "2", "--template", r"{time} {level:6}|{data.user.name}\t{n}", url=url)
    times = [as_time(1_700_000_000_000 + n * 1_000) for n in (2, 3)]
    assert ran.out == f"{times[0]} warn  |u2\t2\n{times[1]} ERROR |u0\t3\n"
    lines = here("tail", motley, "--template", "{type}: {say} {error}", url=url).out.splitlines()
    assert len(lines) == 8
    assert lines[1] == r"order.\x1b[31mplaced: \x1b]0;owned\x07\u202e\nend "
    assert lines[5] == "order.placed:  corrupt: not valid msgpack: FormatError"


def test_stats_of_history_are_the_rates_of_its_levels(stream: str, url: str, link: Link) -> None:
    """A line per interval, of a length that suits the span or is given; a sum; filters hold; JSON has the numbers."""
    add_logs(link, stream, 100)
    lines = here("tail", stream, "--stats", url=url).out.splitlines()
    assert len(lines) == 11
    first = "10 events, 1.0/s: critical 2, error 2, warning 2, info 2, debug 2"
    assert lines[0] == f"{as_time(1_700_000_000_000)[:19]}  {first}"
    assert lines[-1].startswith(
        "in all: 100 events in 1 min 39 s, 1.0/s: critical 20 (20.0%), error 20 (20.0%), "
    )
    ran = here(
        "tail", stream, "--stats", "--where", "level>=error", "--interval", "50s", "-o", "ndjson", url=url
    )
    *rows, total = ran.lines
    assert [(row["from_ms"], row["events"], row["levels"]) for row in rows] == [
        (1_700_000_000_000, 20, {"critical": 10, "error": 10}),
        (1_700_000_050_000, 20, {"critical": 10, "error": 10}),
    ]
    assert (total["total"], total["events"]) == (True, 40)
    assert here(
        "tail", stream, "--stats", "--where", "level>=error", "--interval", "50s", "--json", url=url
    ).json == [*rows, total]
    assert len(here("tail", stream, "--stats", "-n", "7", "-o", "ndjson", url=url).lines) == 8
    assert here("tail", stream, "--stats", "--type", "none", url=url).out == "in all: no events\n"


def test_stats_while_following_are_a_line_per_interval_and_a_sum_at_the_end(
    stream: str, url: str, link: Link
) -> None:
    """What was there before is not counted; an interval without events has its line too."""
    add(link, stream, *range(5))
    process = started("tail", stream, "--stats", "-f", "--interval", "200ms", "-o", "ndjson", url=url)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["events"] == 0
    add(link, stream, 5, 6, 7)
    rows = [{"events": 0}]
    while not rows[-1]["events"]:
        rows.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    rows += [json.loads(line) for line in out.decode().splitlines()]
    assert process.returncode == 130
    assert rows[-1]["total"] is True and rows[-1]["events"] == 3
    assert sum(row["events"] for row in rows[:-1]) == 3


def test_on_a_terminal_levels_are_coloured_and_the_running_interval_grows(
    stream: str, url: str, link: Link
) -> None:
    """Red for errors, yellow for warnings; with --stats the line of the interval is drawn anew."""
    add_logs(link, stream, 4)
    shown = on_terminal("tail", stream, url=url, until="line 3")
    error, warn = (line for line in shown.splitlines() if "line 3" in line or "line 2" in line[-60:])
    assert "\x1b[33m{" in error and "\x1b[31m{" in warn
    live = on_terminal("tail", stream, "--stats", "-f", url=url, until="events,")
    assert "\r\x1b[2K" in live


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


def on_terminal(*args: str, url: str, until: str) -> str:
    """What it writes to a terminal up to this text."""
    ours, theirs = pty.openpty()
    process = started(*args, url=url, stdout=theirs, environment={"NO_COLOR": "", "TERM": "xterm-256color"})
    os.close(theirs)
    shown = ""
    try:
        while until not in shown:
            shown += os.read(ours, 4_096).decode()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        os.close(ours)
    return shown
