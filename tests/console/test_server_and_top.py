"""millstream server and top: a server in the foreground that stops cleanly, and what it holds at a glance."""

import json
import os
import pty
import re
import select
import signal
import socket
import time
from pathlib import Path

from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import join
from pipeline.wire import encode_entry
from tests.console.command import apart, here, started
from tests.until import until


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_the_server_says_how_to_use_it_and_stops_on_sigterm(tmp_path: Path) -> None:
    """URL, durability, and the next command; data survives to the next start; exit code 0, nothing left running."""
    port = free_port()
    folder = tmp_path / "data"
    url = f"redis://127.0.0.1:{port}/0"
    for run in range(2):
        process = started("server", "--dir", str(folder), "--port", str(port), "--fsync", "always")
        assert process.stdout is not None
        first = process.stdout.readline().decode()
        assert first.startswith(f"{url}  (pid ")
        assert str(folder) in first
        assert b"appendfsync always" in process.stdout.readline()
        assert f"MILLSTREAM_URL={url}" in process.stdout.readline().decode()
        names = [row["name"] for row in here("streams", "--json", url=url).json]
        assert names == (["kept"] if run else [])
        assert here("stream", "create", "kept", url=url).code == 0
        process.send_signal(signal.SIGTERM if run else signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert b"stopped" in err
        assert here("streams", url=url).code == 7


def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    """And that is said, with the new process."""
    process = started("server", "--dir", str(tmp_path / "data"), "--port", "0", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    text = ""
    while not text.endswith("}\n"):
        text += process.stdout.readline().decode()
    facts = json.loads(text)
    os.kill(facts["pid"], signal.SIGKILL)
    assert b"Ctrl-C" in process.stderr.readline()
    assert f"pid {facts['pid']}) was killed" in process.stderr.readline().decode()
    assert here("streams", url=facts["url"]).code == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A taken port, a folder that is none."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = apart("server", "--dir", str(tmp_path / "data"), "--port", str(port))
    assert (ran.code, ran.out) == (7, "")
    assert str(port) in ran.error
    (tmp_path / "file").write_text("x")
    ran = apart("server", "--dir", str(tmp_path / "file"), "--port", "0")
    assert ran.code in (2, 7)
    assert "file" in ran.error


def test_top_without_a_terminal_is_one_look(stream: str, url: str, link: Link) -> None:
    """Streams and groups as tables, or as one object."""
    link.call("XADD", stream, "*", *encode_entry(Event({"n": 1}), producer="p", number=1))
    join(link, StreamKeys(stream), "g", start="0-0", lost=False)
    ran = here("top", stream, url=url)
    assert ran.code == 0
    assert [line.split()[:2] for line in ran.out.splitlines() if stream in line] == [
        [stream, "1"],
        [stream, "g"],
    ]
    shown = here("top", stream, "--json", url=url).json
    assert (shown["streams"][0]["entries"], shown["groups"][0]["state"]) == (1, "stuck")
    assert here("top", "--json", "--limit", "100", url=url).code == 0


def test_top_on_a_terminal_refreshes_and_ends_by_q(stream: str, url: str, link: Link) -> None:
    """What comes in is seen as a rate; the terminal is left as it was found."""
    ours, theirs = pty.openpty()
    screen = {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = started(
        "top",
        stream,
        "--every",
        "0.2s",
        url=url,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        environment=screen,
    )
    link.call("XADD", stream, "*", "a", "b")
    seen = b""

    def rate() -> bool:
        nonlocal seen
        link.calls([("XADD", stream, "*", "a", "b")] * 10)
        while select.select([ours], [], [], 0.05)[0]:
            seen += os.read(ours, 65_536)
        text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen)
        return bool(re.search(rb"IN/S", text)) and any(
            float(found) > 0 for found in re.findall(stream.encode() + rb"\s+[\d,]+\s+([\d.]+)\s", text)
        )

    until(rate)
    os.write(ours, b"q")
    deadline_s = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline_s:
        if select.select([ours], [], [], 0.05)[0]:
            seen += os.read(ours, 65_536)
    assert process.wait(1) == 0
    os.close(ours)
    os.close(theirs)
    assert b"\x1b[?1049l" in seen


def test_top_ends_when_its_terminal_is_gone(stream: str, url: str, link: Link) -> None:
    """Rather than looking for ever, for nobody."""
    link.call("XADD", stream, "*", "a", "b")
    ours, theirs = pty.openpty()
    process = started("top", stream, url=url, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert select.select([ours], [], [], 10)[0]
    os.close(ours)
    process.wait(10)
