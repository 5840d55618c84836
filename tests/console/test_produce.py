"""millstream produce: lines become events, each once, whatever they hold and however it ends."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from tests.conftest import OwnServer
from tests.console.command import Ran, apart, here, started
from tests.until import until


def shown(stream: str, url: str) -> list[dict[str, object]]:
    """The events of a stream."""
    rows: list[dict[str, object]] = here("tail", stream, "--since", "start", "-o", "ndjson", url=url).lines
    return rows


def header(event: dict[str, object], name: str) -> object:
    """A header of an event that tail shows."""
    headers = event["headers"]
    assert isinstance(headers, dict)
    return headers.get(name)


def data(stream: str, url: str) -> list[object]:
    """Their data."""
    return [event["data"] for event in shown(stream, url)]


def test_the_lines_of_a_file_are_sent_in_order(stream: str, url: str, tmp_path: Path) -> None:
    """JSON and logfmt as data, the rest as text; the count is the result."""
    log = tmp_path / "app.log"
    log.write_text('{"level": "info", "n": 1}\nlevel=warn msg="two words"\nplain text\nlast without an end')
    ran = here("produce", stream, str(log), url=url)
    assert (ran.code, ran.out, ran.err) == (0, f"4 lines sent to {stream}\n", "")
    assert data(stream, url) == [
        {"level": "info", "n": 1},
        {"level": "warn", "msg": "two words"},
        "plain text",
        "last without an end",
    ]
    assert {event["type"] for event in shown(stream, url)} == {"log"}


@pytest.mark.parametrize("file", [(), ("-",)])
def test_standard_input_is_read_to_its_end(file: tuple[str, ...], stream: str, url: str) -> None:
    """With - or without."""
    ran = apart("produce", stream, *file, "--parse", "raw", "--json", url=url, stdin=b"1\n2\n\n{}\n")
    assert (ran.code, ran.json["events"], ran.json["failed"]) == (0, 4, 0)
    assert data(stream, url) == ["1", "2", "", "{}"]
    assert apart("produce", stream, *file, url=url, stdin=b"").out == f"0 lines sent to {stream}\n"


def test_type_and_key_may_come_from_the_data(stream: str, url: str) -> None:
    """A field that is not there is empty."""
    lines = b'{"level": "info", "user": {"id": 7}}\n{"level": "warn"}\ntext\n'
    ran = apart("produce", stream, "--type", "log.{level}", "--key", "u-{user.id}", url=url, stdin=lines)
    assert ran.code == 0
    kinds = [(event["type"], event["key"]) for event in shown(stream, url)]
    assert kinds == [("log.info", "u-7"), ("log.warn", "u-"), ("log.", "u-")]


def test_garbage_harms_no_other_line(stream: str, url: str, tmp_path: Path) -> None:
    """Binary bytes, control characters, a very long line: sent as far as they can be, counted and said."""
    log = tmp_path / "app.log"
    log.write_bytes(b'{"n": 1}\n\xff\xfe\x00\x1b[2J\n{"broken": \n' + b"x" * 1_000_000 + b'\n{"n": 2}\n')
    ran = here("produce", stream, str(log), "--parse", "json", url=url)
    assert ran.code == 0
    assert ran.out.startswith(f"5 lines sent to {stream} (")
    assert "1 cut" in ran.out
    assert "as text" in ran.out
    found = data(stream, url)
    assert (found[0], found[-1], len(found)) == ({"n": 1}, {"n": 2}, 5)
    assert "\x1b" not in here("tail", stream, url=url).out


def test_one_event_may_be_given_as_data(stream: str, url: str) -> None:
    """It is confirmed, and where it stands is the result."""
    ran = here(
        "produce",
        stream,
        "--data",
        '{"id": 7}',
        "--type",
        "order.placed",
        "--key",
        "c-{id}",
        "--json",
        url=url,
    )
    assert ran.code == 0
    event = shown(stream, url)[0]
    assert (event["data"], event["type"], event["key"]) == ({"id": 7}, "order.placed", "c-7")
    assert (event["entry_id"], event["id"]) == (ran.json["entry_id"], ran.json["id"])
    odd = here("produce", stream, "--data", "{oops", "--parse", "json", url=url)
    assert odd.code == 0
    assert "sent as text" in odd.err
    assert data(stream, url)[1] == "{oops"


@pytest.mark.parametrize(("option", "entries"), [("--pack", 1), ("--no-pack", 50)])
def test_lines_share_entries_unless_told_not_to(
    option: str, entries: int, stream: str, url: str, link: Link, tmp_path: Path
) -> None:
    """The events are the same."""
    log = tmp_path / "app.log"
    log.write_text("".join(f"line {n}\n" for n in range(50)))
    assert here("produce", stream, str(log), option, url=url).code == 0
    assert link.call("XLEN", stream) == entries
    assert data(stream, url) == [f"line {n}" for n in range(50)]


def test_a_followed_file_goes_on_where_it_was(stream: str, url: str, tmp_path: Path) -> None:
    """Across kill -9, SIGTERM and a rotation: no line is missing, none is there twice."""
    log = tmp_path / "app.log"
    wanted: list[object] = []

    def write(count: int) -> None:
        with log.open("a") as file:
            for _ in range(count):
                wanted.append(f"line {len(wanted)}")
                file.write(f"{wanted[-1]}\n")

    write(10)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        process = started("produce", stream, str(log), "--follow", url=url)
        write(10)
        until(lambda: len(data(stream, url)) == len(wanted))
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        if number != signal.SIGKILL:
            ran = Ran(process.returncode, out.decode(), err.decode())
            assert ran.code == 0, ran.err
            assert f"lines sent to {stream}" in ran.out
        write(5)
    log.rename(tmp_path / "app.log.1")
    write(3)
    process = started("produce", stream, str(log), "--follow", url=url)
    until(lambda: len(data(stream, url)) == len(wanted))
    process.terminate()
    process.communicate(timeout=20)
    assert data(stream, url) == wanted


def test_an_open_pipe_ends_cleanly_on_sigterm(stream: str, url: str) -> None:
    """What was read is in the stream, and counted."""
    reading, writing = os.pipe()
    process = started("produce", stream, url=url, stdin=reading)
    os.close(reading)
    os.write(writing, b"one\ntwo\nhalf")
    until(lambda: here("streams", "--match", stream, "--json", url=url).json and len(data(stream, url)) == 2)
    process.terminate()
    out, _ = process.communicate(timeout=20)
    os.close(writing)
    assert process.returncode == 0
    assert f"sent to {stream}" in out.decode()
    assert data(stream, url)[:2] == ["one", "two"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("no-such-file",), 3, "no such file"),
        (("{}",), 2, "it is a folder"),
        (("{}", "--follow"), 2, "it is a folder"),
        (("--follow",), 2, "--follow needs a FILE"),
        (("x", "--from-end"), 2, "--from-end is for --follow"),
        (("x", "--source", "s"), 2, "--source is for --follow"),
        (("x", "--data", "y"), 2, "--data sends one event"),
        (("--data", "y", "--confirm", "maybe"), 2, "confirm"),
        (("--data", "y", "--parse", "xml"), 2, "--parse"),
        (("x", "--table", "rows"), 2, "--table is for --outbox"),
        (("--outbox", "postgresql://h/d", "--parse", "json"), 2, "--parse and --multiline are for lines"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_sent_is_said_in_one_line(
    args: tuple[str, ...], code: int, said: str, stream: str, url: str, tmp_path: Path
) -> None:
    """A file that is not there, or none; options that do not belong together."""
    ran = here("produce", stream, *(arg.format(tmp_path) for arg in args), url=url)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error
    assert here("streams", "--match", stream, "--json", url=url).json == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_said_in_one_line(stream: str, url: str, tmp_path: Path) -> None:
    """With its name."""
    log = tmp_path / "app.log"
    log.write_text("x\n")
    log.chmod(0)
    ran = here("produce", stream, str(log), url=url)
    assert ran.code == 2
    assert "app.log" in ran.error


def test_a_key_of_another_type_takes_no_lines(stream: str, url: str, link: Link, tmp_path: Path) -> None:
    """From a file, a pipe, or the command line: one line that names the stream, exit code 1."""
    link.call("SET", stream, "mine")
    log = tmp_path / "app.log"
    log.write_text("x\n" * 10)
    for ran in (
        here("produce", stream, str(log), url=url),
        here("produce", stream, "--data", "x", url=url),
        apart("produce", stream, url=url, stdin=b"x\n"),
    ):
        assert (ran.code, ran.out) == (1, "")
        assert stream in ran.error
        assert "WRONGTYPE" in ran.error


def test_without_a_server_nothing_is_read(stream: str, tmp_path: Path) -> None:
    """Exit code 7, before the pipe is touched."""
    ran = apart("produce", stream, url="redis://u:secret@127.0.0.1:1", stdin=b"x\n")
    assert (ran.code, ran.out) == (7, "")
    assert "secret" not in ran.err


def test_the_time_of_a_line_is_that_of_its_event(stream: str, url: str, tmp_path: Path) -> None:
    """Found by itself, in the field that is named, or not at all."""
    log = tmp_path / "app.log"
    log.write_text(
        '{"time": "2026-11-01T12:00:00.250Z", "at": 1700000000}\n2026-11-01 12:00:00,250 text\nno time at all\n'
    )
    for option, expected in (
        ((), ["2026-11-01T12:00:00.250", None, None]),
        (("--time", "at"), ["2023-11-14T22:13:20", None, None]),
        (("--time", "none"), [None, None, None]),
    ):
        name = f"{stream}-{len(option and option[1])}"
        ran = here("produce", name, str(log), "--json", *option, url=url)
        assert ran.json["untimed"] == (2 if option[-1:] == ("at",) else 0)
        found = [str(event["time"]) for event in shown(name, url)]
        assert [time.startswith(wanted) for time, wanted in zip(found, expected, strict=True) if wanted] == [
            True for wanted in expected if wanted
        ]
        said = [header(event, "untimed") for event in shown(name, url)][1:]
        assert said == (["there is no field 'at'"] * 2 if option[-1:] == ("at",) else [None, None])


def test_a_clock_that_cannot_be_right_stops_nothing(stream: str, url: str, tmp_path: Path) -> None:
    """From 1970 or 2100: the event has the time at which it was sent, what the line says is kept, and counted."""
    log = tmp_path / "app.log"
    times = ["1970-01-01T00:00:07Z", "2100-01-01T00:00:00Z", "2026-11-01T12:00:00Z"]
    log.write_text("".join(f'{{"time": "{time}", "n": {n}}}\n' for n, time in enumerate(times)))
    ran = here("produce", stream, str(log), url=url)
    assert ran.out == (
        f"3 lines sent to {stream} (2 with a time of their own that cannot be right, or none where --time says)\n"
    )
    found = shown(stream, url)
    assert [event["data"]["time"] for event in found] == times  # type: ignore[index]
    assert [header(event, "untimed") for event in found] == [
        "1970-01-01T00:00:07+00:00 lies before 2000", "2100-01-01T00:00:00+00:00 lies more than a day ahead", None,
    ]  # fmt: skip
    entry_ms = int(str(found[0]["entry_id"]).split("-")[0])
    sent = datetime.fromtimestamp(entry_ms / 1_000, UTC).isoformat()[:19]
    assert [str(event["time"])[:19] for event in found] == [sent, sent, "2026-11-01T12:00:00"]


def test_lines_of_servers_become_data(stream: str, url: str) -> None:
    """Syslog, access logs and nginx's errors, by name or by themselves; what is none is text, and counted."""
    lines = (
        b"<34>1 2026-11-01T02:28:19Z web-1 su - ID47 - 'su root' failed\n"
        b'10.0.0.7 - - [01/Nov/2026:02:28:19 +0000] "GET / HTTP/1.1" 200 12 "-" "curl"\n'
        b"2026/11/01 02:28:19 [error] 1#1: oops\n"
    )
    assert apart("produce", stream, "--type", "{app}{method}{level}", url=url, stdin=lines).code == 0
    assert [event["type"] for event in shown(stream, url)] == ["sucritical", "GET", "error"]
    ran = apart("produce", stream, "--parse", "access", "--json", url=url, stdin=lines)
    assert ran.json["unparsed"] == 2


def test_a_password_that_all_processes_can_see_is_warned_of(
    stream: str, own_server: OwnServer, tmp_path: Path
) -> None:
    """In --url it is, in a file it is not; neither is shown."""
    server = own_server()
    connector = server.connector()
    try:
        connector.link("test").call("CONFIG", "SET", "requirepass", "canary")
    finally:
        connector.close()
    kept = tmp_path / "password"
    kept.write_text("canary")
    for user, query, warned in ((":canary@", "", 1), ("", f"?password_file={kept}", 0)):
        ran = here("produce", stream, "--data", "1", url=f"unix://{user}{server.address.path}{query}")
        assert (ran.code, ran.err.count("the password in --url")) == (0, warned), ran.err
        assert "canary" not in ran.out + ran.err
