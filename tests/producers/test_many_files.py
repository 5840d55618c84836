"""Many files at once: each a source of its own, found by patterns, in turns, bounded, whatever happens to some."""

import contextlib
import gzip
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sources import files, several
from producers.sources.feed import Fed
from producers.sources.several import file_source, follow_files
from tests.conftest import OwnServer, Server
from tests.console.command import here, started
from tests.producers.reading import events
from tests.until import until

ROOT = Path(__file__).parent.parent.parent


class Following:
    """follow_files() in a thread, until the block ends."""

    def __init__(self, producer: Producer, stream: str, *paths: object, **options: Any) -> None:
        self._stop = threading.Event()
        self.fed: Fed | None = None

        def work() -> None:
            self.fed = follow_files(producer, stream, list(map(str, paths)), stop=self._stop, **options)

        self._thread = threading.Thread(target=work)

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def write(path: Path, *lines: object) -> None:
    """Add lines to a file, which may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def by_file(link: Link, stream: str) -> dict[str, list[object]]:
    """The data of events by their header source."""
    found: dict[str, list[object]] = {}
    for event in events(link, stream):
        found.setdefault(event.source, []).append(event.data)
    return found


def arrive(link: Link, stream: str, expected: dict[Path, list[object]]) -> None:
    """Wait until exactly these lines are in the stream, those of each file in order."""
    wanted = {str(path): lines for path, lines in expected.items() if lines}
    until(lambda: by_file(link, stream) == wanted, 15, what=lambda: str(by_file(link, stream)))


def test_each_file_is_a_source_of_its_own(
    producer: Producer, link: Link, stream: str, tmp_path: Path
) -> None:
    """Its position, its order, its name in the header; the next run goes on with all of them."""
    a, b, later = tmp_path / "a.log", tmp_path / "b.log", tmp_path / "later.log"
    write(a, 1, 2)
    write(b, "x")
    with Following(producer, stream, a, b, later):
        arrive(link, stream, {a: ["1", "2"], b: ["x"]})
        write(later, "new")
        write(a, 3)
        arrive(link, stream, {a: ["1", "2", "3"], b: ["x"], later: ["new"]})
    write(a, 4)
    write(later, "newer")
    with Following(producer, stream, later, a, b):
        arrive(link, stream, {a: ["1", "2", "3", "4"], b: ["x"], later: ["new", "newer"]})
    for path in (a, b, later):
        assert link.call("GET", StreamKeys(stream).source(file_source(str(path))))


def test_a_file_whose_name_is_no_utf_8_is_followed_as_others(
    producer: Producer, link: Link, stream: str, tmp_path: Path
) -> None:
    """One that somebody uploaded ends nobody else's; its name is written with escapes."""
    a, odd = tmp_path / "a.log", Path(os.fsdecode(bytes(tmp_path) + b"/\xe4.log"))
    write(a, 1)
    write(odd, "x")
    with Following(producer, stream, tmp_path / "*.log"):
        arrive(link, stream, {a: ["1"], tmp_path / "\\udce4.log": ["x"]})
    write(odd, "y")
    with Following(producer, stream, tmp_path / "*.log"):
        arrive(link, stream, {a: ["1"], tmp_path / "\\udce4.log": ["x", "y"]})


def test_patterns_find_files_that_come_later(
    producer: Producer, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In folders of folders too; folders, pipes and compressed files are none."""
    monkeypatch.setattr("producers.sources.watched.LOOK_S", 0.05)
    a, deep, other = tmp_path / "a.log", tmp_path / "x/y/deep.log", tmp_path / "x/other.txt"
    write(a, 1)
    write(other, "no")
    (tmp_path / "folder.log").mkdir()
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "old.log.gz").write_bytes(gzip.compress(b"no\n"))
    with Following(producer, stream, tmp_path / "**" / "*.log", tmp_path / "*.gz", from_end=False):
        arrive(link, stream, {a: ["1"]})
        write(deep, "found")
        arrive(link, stream, {a: ["1"], deep: ["found"]})


def test_what_a_pattern_matches_of_rotated_files_is_read_as_the_file_it_was(
    producer: Producer, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not a second time, under its new name."""
    monkeypatch.setattr("producers.sources.watched.LOOK_S", 0.05)
    monkeypatch.setattr(files, "FINISHED_MS", 200)
    log, worker = tmp_path / "app.log", tmp_path / "app-2.log"
    write(worker, "of another")
    write(log, *range(3))
    with Following(producer, stream, tmp_path / "app*"):
        arrive(link, stream, {log: ["0", "1", "2"], worker: ["of another"]})
        write(log, 3)
        log.rename(tmp_path / "app.log.1")
        write(log, 4)
        arrive(link, stream, {log: ["0", "1", "2", "3", "4"], worker: ["of another"]})
        write(log, 5)
        arrive(link, stream, {log: ["0", "1", "2", "3", "4", "5"], worker: ["of another"]})


def test_rotated_files_that_a_shell_named_are_no_files_of_their_own(
    producer: Producer, link: Link, stream: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`app.log*` without quotes: compressed or not, they are the past of one file, and it is said."""
    log = tmp_path / "app.log"
    write(log, "new")
    write(tmp_path / "app.log.1", "old")
    (tmp_path / "app.log.2.gz").write_bytes(gzip.compress(b"older\n"))
    with Following(producer, stream, *sorted(tmp_path.iterdir())):
        arrive(link, stream, {log: ["new"]})
        write(log, "newer")
        arrive(link, stream, {log: ["new", "newer"]})
    assert caplog.text.count("read as part of another") == 2


def test_from_the_end_holds_for_files_that_are_there_at_the_start(
    producer: Producer, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes later is read whole."""
    monkeypatch.setattr("producers.sources.watched.LOOK_S", 0.05)
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    write(old, "before")
    with Following(producer, stream, tmp_path / "*.log", from_end=True):
        until(lambda: link.call("EXISTS", StreamKeys(stream).source(file_source(str(old)))))
        write(new, "all", "of it")
        write(old, "after")
        arrive(link, stream, {old: ["after"], new: ["all", "of it"]})


def test_more_files_than_may_be_open(
    producer: Producer, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are not held open are looked at all the same: lines, rotation, truncation."""
    monkeypatch.setattr(files, "FINISHED_MS", 100)
    logs = [tmp_path / f"{number:02}.log" for number in range(40)]
    wanted: dict[Path, list[object]] = {path: [] for path in logs}

    def add(path: Path, *lines: str) -> None:
        write(path, *lines)
        wanted[path] += lines

    for path in logs:
        add(path, f"first of {path.name}", "second")
    opened = {"most": 0}
    turn = several._Crowd.turn

    def watched(crowd: several._Crowd) -> bool:
        busy = turn(crowd)
        opened["most"] = max(opened["most"], sum(each.file.open for each in crowd._sources.values()))
        return busy

    monkeypatch.setattr(several._Crowd, "turn", watched)
    with Following(producer, stream, tmp_path / "*.log", max_open_files=5):
        arrive(link, stream, wanted)
        for number, path in enumerate(logs):
            add(path, f"third of {path.name}")
            if number % 3 == 0:
                path.rename(path.with_suffix(".log.1"))
                add(path, "after rotation")
            elif number % 3 == 1:
                (path.with_suffix(".log.1")).write_bytes(path.read_bytes())
                os.truncate(path, 0)
                add(path, "after the copy")
        arrive(link, stream, wanted)
    assert opened["most"] <= 5


@pytest.mark.slow
def test_a_thousand_files_in_little_memory(server: Server, link: Link, stream: str, tmp_path: Path) -> None:
    """With a limit of 200 descriptors; a busy one is no obstacle to the others."""
    for number in range(1_000):
        (tmp_path / f"{number}.log").write_text(f"line of {number}\n")
    (tmp_path / "busy.log").write_text("x" * 99 + "\n" + ("y" * 99 + "\n") * 50_000)
    code = """
        import resource, sys, threading
        from producers.producer import Producer
        from producers.sources.several import follow_files
        url, stream, pattern = sys.argv[1:]
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        stop = threading.Event()
        with Producer(url) as producer:
            producer.send(stream, "warm").result()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            fed = follow_files(producer, stream, [pattern], stop=stop,
                               progress=lambda fed: fed.confirmed >= 51_001 and stop.set())
        print(fed.confirmed, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), server.address.shown, stream, str(tmp_path / "*.log")],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert "gone" not in done.stderr
    confirmed, megabytes = map(int, done.stdout.split())
    assert confirmed == 51_001
    assert megabytes < 60
    found = by_file(link, stream)
    assert len(found) == 1_002
    assert all(len(lines) == 1 for path, lines in found.items() if "busy" not in path)


def test_a_file_that_cannot_be_read_is_said_once_and_looked_at_again(
    producer: Producer, link: Link, stream: str, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Here a folder stands in its place for a while; the others go on."""
    monkeypatch.setattr(files, "UNREADABLE_MS", 50)
    monkeypatch.setattr(files, "FINISHED_MS", 100)
    a, b = tmp_path / "a.log", tmp_path / "b.log"
    write(a, 1)
    write(b, 1)
    with Following(producer, stream, a, b):
        arrive(link, stream, {a: ["1"], b: ["1"]})
        a.rename(tmp_path / "moved")
        a.mkdir()
        for number in range(2, 8):
            write(b, number)
            arrive(link, stream, {a: ["1"], b: list(map(str, range(1, number + 1)))})
        a.rmdir()
        write(a, 2)
        arrive(link, stream, {a: ["1", "2"], b: list(map(str, range(1, 8)))})


def test_what_is_no_file_to_be_followed_is_refused(producer: Producer, stream: str, tmp_path: Path) -> None:
    """Where it was named; the message says what to do instead."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "old.gz").write_bytes(gzip.compress(b"x\n"))
    for path, why in ((tmp_path, r"a folder \(for the files in it: '.*/\*'\)"),
                      (tmp_path / "pipe", "standard input"), (tmp_path / "old.gz", "without --follow")):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            follow_files(producer, stream, [str(path)])


def test_sent_once_files_come_one_after_the_other(stream: str, url: str, tmp_path: Path, link: Link) -> None:
    """Compressed or not, by name or pattern; what cannot be read is said, and the exit code tells."""
    write(tmp_path / "a.log", 1, 2)
    (tmp_path / "a.log.1.gz").write_bytes(gzip.compress(b"0\n") + gzip.compress(b"00\n"))
    (tmp_path / "a.log.2.gz").write_bytes(gzip.compress(b"-1\n-2\n" * 1_000)[:-20])
    ran = here("produce", stream, str(tmp_path / "*.gz"), str(tmp_path / "a.log"), "--parse", "raw", url=url)
    assert ran.code == 1
    assert "a.log.2.gz: it is cut off" in ran.err
    assert "1 of 3 files could not be read to the end" in ran.err
    found = by_file(link, stream)
    assert found[str(tmp_path / "a.log.1.gz")] == ["0", "00"]
    assert found[str(tmp_path / "a.log")] == ["1", "2"]
    assert list(found)[-1] == str(tmp_path / "a.log")
    none = here("produce", stream, str(tmp_path / "*.none"), url=url)
    assert none.code == 3
    assert "no file matches" in none.error


@pytest.mark.campaign
def test_on_the_command_line_many_files_are_killed_and_go_on(
    stream: str, url: str, tmp_path: Path, link: Link
) -> None:
    """SIGKILL and SIGTERM in turn: each line once, of each file in order."""
    wanted: dict[Path, list[object]] = {tmp_path / f"{name}.log": [] for name in "abc"}
    for turn, number in enumerate((signal.SIGKILL, signal.SIGTERM)):
        for path, lines in wanted.items():
            new = [f"{path.name} {turn} {n}" for n in range(300)]
            write(path, *new)
            lines += new
        process = started(
            "produce", stream, str(tmp_path / "*.log"), "--follow", "-q", "--source", "mine", url=url
        )
        sent = 900 * turn
        until(lambda sent=sent: link.call("EXISTS", stream) and len(events(link, stream)) > sent)  # type: ignore[misc]
        process.send_signal(number)
        process.wait(20)
    process = started("produce", stream, str(tmp_path / "*.log"), "--follow", "--source", "mine", url=url)
    write(tmp_path / "a.log", "last")
    wanted[tmp_path / "a.log"].append("last")
    arrive(link, stream, wanted)
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"sent to" in out
    assert link.call("EXISTS", StreamKeys(stream).source(f"mine:{tmp_path}/a.log")) == 1


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("-", "x.log"), "alone"),
        (("--follow",), "--follow needs a FILE"),
        (("--data", "1", "x.log", "y.log"), "no FILE"),
    ],
)
def test_what_does_not_go_together_is_said(args: tuple[str, ...], why: str, stream: str, url: str) -> None:
    """In one line."""
    ran = here("produce", stream, *args, url=url)
    assert ran.code == 2
    assert why in ran.error


NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody who may not read")
def test_a_file_whose_rights_are_taken_away_and_given_back(
    own_server: OwnServer, stream: str, tmp_path: Path
) -> None:
    """What is open is read on; what came after a rotation is said to be unreadable, and read as soon as it may be."""
    code = """
        import logging, os, sys
        from producers.producer import Producer
        from producers.sources.several import follow_files
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        with Producer(sys.argv[1]) as producer:
            producer.send("warm").result()
            os.setresuid(65534, 65534, 65534)
            follow_files(producer, sys.argv[2], sys.argv[3:])
        """
    server = own_server()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(server.connector().link()) as link:
        log = Path(folder) / "app.log"
        write(log, 1)
        for readable in (
            Path(folder),
            server.folder,
            server.folder / "run",
            server.folder / "run" / "socket",
        ):
            readable.chmod(0o777)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), server.address.shown, stream, str(log)],
            cwd=ROOT, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            arrive(link, stream, {log: ["1"]})
            log.chmod(0)
            write(log, 2)
            arrive(link, stream, {log: ["1", "2"]})
            log.rename(Path(folder) / "app.log.1")
            log.touch()
            log.chmod(0)
            write(log, 3)
            assert b"Permission denied" in process.stdout.readline()
            log.chmod(0o644)
            arrive(link, stream, {log: ["1", "2", "3"]})
        finally:
            process.kill()
            process.communicate()


@pytest.mark.campaign
@pytest.mark.slow
def test_bad_input_of_hundreds_of_megabytes_takes_little_memory(
    server: Server, stream: str, tmp_path: Path
) -> None:
    """A line of 100 MB, plain and compressed, a hole of 300 MB, a record without end: cut and counted."""
    with (tmp_path / "1-line.log").open("wb") as file:
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b"\nafter\n")
    (tmp_path / "2-line.log.gz").write_bytes(gzip.compress(b"y" * 100_000_000 + b"\nafter\n", 1))
    with (tmp_path / "3-hole.log").open("wb") as file:
        file.truncate(300_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"after\n")
    with (tmp_path / "4-record.log").open("wb") as file:
        file.write(b"begin\n" + (b" " + b"z" * 98 + b"\n") * 100_000)
    code = """
        import resource, sys
        from producers.producer import Producer
        from producers.sources.feed import Fed, LineOptions
        from producers.sources.follow import follow_file
        from producers.sources.records import RULES, RecordOptions
        url, stream, *paths = sys.argv[1:]
        options = LineOptions(records=RecordOptions(rule=RULES["indent"]))
        fed = Fed()
        with Producer(url) as producer:
            producer.send(stream, "warm").result()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for path in paths:
                follow_file(producer, stream, path, follow=False, options=options, fed=fed)
        print(fed.confirmed, fed.cut, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), server.address.shown, stream, *paths],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    confirmed, cut, megabytes = map(int, done.stdout.split())
    assert confirmed == 2 + 2 + 1 + 101
    assert cut == 3
    assert megabytes < 40


def test_the_example_of_the_page_follows_files(
    url: str, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/files.md, in code: JSON lines have the type they say; what is none, or is nested too deep, is text."""
    page = (ROOT / "docs/files.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    link.call("DEL", "web", StreamKeys("web").source(file_source(str(tmp_path / "a.log"))))
    monkeypatch.setenv("MILLSTREAM_URL", url)
    write(tmp_path / "a.log", '{"type": "hit", "n": 1}', "no json", "[" * 100_000, '{"n": 2}')
    names: dict[str, Any] = {}
    code = code.replace("/var/log/web", str(tmp_path))
    thread = threading.Thread(target=exec, args=(code, names))
    thread.start()
    try:
        until(lambda: len(events(link, "web")) == 4)
    finally:
        until(lambda: "stop" in names)
        names["stop"].set()
        thread.join(20)
    assert [event.type for event in events(link, "web")] == ["hit", "text", "text", "text"]
    assert capsys.readouterr().out == "4 lines sent, 2 of them as text\n"
    link.call("DEL", "web")
