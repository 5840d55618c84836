"""Sinks: files that several processes write and rotate, and that a full disk or a killed writer does not spoil."""

import gzip
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zstandard

from consumers.sinks.by_url import sink
from consumers.sinks.console import Console, escape_unprintable
from consumers.sinks.json_lines import JsonLines, event_line
from pipeline.errors import SinkRefused, UsageError
from pipeline.event import Event
from tests.consuming import Consuming
from tests.until import until

WRITER = """
import sys
from consumers.sinks.json_lines import JsonLines
name, path, count, rotate = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
sink = JsonLines(path, rotate=rotate, keep=1000)
for number in range(count):
    sink.write([f"{name} {number} {part} ".encode().ljust(60, b".") + b"\\n" for part in range(3)])
"""
TORN = """
import os, sys
from consumers.sinks.json_lines import JsonLines
sink = JsonLines(sys.argv[1])
write = os.write
def half(file, data):
    write(file, bytes(data)[: len(data) // 2])
    os.kill(os.getpid(), 9)
os.write = half
sink.write([b"torn" * 5000 + b"\\n"])
"""

RENAMED = """
import os, pathlib, sys
from consumers.sinks.json_lines import JsonLines
replace, left = pathlib.Path.replace, AFTER
def some(old, new):
    global left
    if not left:
        os.kill(os.getpid(), 9)
    left -= 1
    return replace(old, new)
pathlib.Path.replace = some
JsonLines(sys.argv[1], rotate=1, keep=4).write([b'{"data":{"n":9}}\\n'])
"""


def python(program: str, *args: object) -> "subprocess.Popen[bytes]":
    """A Python process that runs a program."""
    return subprocess.Popen([sys.executable, "-c", program, *map(str, args)])


def events(numbers: Sequence[int]) -> list[Event]:
    """Events with these numbers as data."""
    return [
        Event({"n": number}, id=f"e{number}", type="t", key="k", time_ms=1_700_000_000_123)
        for number in numbers
    ]


def written(folder: Path) -> list[int]:
    """The numbers in the current file and all old ones, oldest first."""
    files = sorted(
        folder.glob("out.jsonl*"), key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdigit() else 1
    )
    return [json.loads(line)["data"]["n"] for path in files for line in path.read_text().splitlines()]


def test_events_are_written_as_lines_of_json(tmp_path: Path) -> None:
    """In CloudEvents' vocabulary."""
    JsonLines(tmp_path / "out.jsonl")(events([7]))
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "specversion": "1.0",
        "id": "e7",
        "source": "millstream",
        "type": "t",
        "subject": "k",
        "time": "2023-11-14T22:13:20.123000Z",
        "datacontenttype": "application/json",
        "data": {"n": 7},
    }


def test_a_group_is_archived_to_a_file(consuming: Consuming, tmp_path: Path) -> None:
    """As a batch handler: each event once, in order, while nothing fails."""
    sink = JsonLines(tmp_path / "out.jsonl")
    consuming.app.consumer(consuming.stream, group="g", batch=100)(sink)
    consuming.send(*({"n": number} for number in range(1_000)))
    consuming.run_until_drained()
    assert written(tmp_path) == list(range(1_000))


def test_a_full_file_is_rotated(tmp_path: Path) -> None:
    """Old files move up by one; the oldest beyond `keep` is dropped; no line is split."""
    sink = JsonLines(tmp_path / "out.jsonl", rotate=2_000, keep=3)
    for number in range(0, 200, 5):
        sink(events(range(number, number + 5)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names in (
        ["out.jsonl", "out.jsonl.1", "out.jsonl.2", "out.jsonl.3"],
        ["out.jsonl.1", "out.jsonl.2", "out.jsonl.3"],
    )
    kept = written(tmp_path)
    assert kept == list(range(kept[0], 200))
    assert kept[0] > 0
    for path in tmp_path.glob("*.[123]"):
        assert 2_000 <= path.stat().st_size < 3_000


def test_a_rotation_that_a_kill_cut_short_costs_no_old_file(tmp_path: Path) -> None:
    """Killed between two of its renames: the next one begins at the gap, and drops nothing for it."""
    path, program = tmp_path / "out.jsonl", RENAMED.replace("AFTER", "2")
    sink = JsonLines(path, rotate=1, keep=4)
    for number in range(4):
        sink(events([number]))
    assert python(program, path).wait(30) == -signal.SIGKILL
    names = {"out.jsonl", "out.jsonl.1", "out.jsonl.3", "out.jsonl.4"}
    assert {each.name for each in tmp_path.iterdir()} == names
    JsonLines(path, rotate=1, keep=4)(events([5]))
    assert written(tmp_path) == [1, 2, 3, 9, 5]
    assert path.exists() is False


def test_rotation_can_be_turned_off(tmp_path: Path) -> None:
    """rotate=0: the file grows."""
    sink = JsonLines(tmp_path / "out.jsonl", rotate=0)
    for number in range(50):
        sink(events([number]))
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert written(tmp_path) == list(range(50))


def test_keeping_no_old_file_is_refused(tmp_path: Path) -> None:
    """Rotation would have nowhere to go: rotate=0 is what says never."""
    with pytest.raises(UsageError, match="keep"):
        JsonLines(tmp_path / "out.jsonl", keep=0)


def test_several_processes_write_to_one_file(tmp_path: Path) -> None:
    """Each batch in one piece, across rotations: no line lost, torn or doubled."""
    path = tmp_path / "out"
    writers = [python(WRITER, name, path, 150, "8kB") for name in "abc"]
    assert [writer.wait(30) for writer in writers] == [0, 0, 0]
    lines = [
        line.rstrip(".").split() for each in tmp_path.iterdir() for line in each.read_text().splitlines()
    ]
    assert len(list(tmp_path.iterdir())) > 5
    assert sorted(lines) == sorted(
        [name, str(number), str(part)] for name in "abc" for number in range(150) for part in range(3)
    )
    for each in tmp_path.iterdir():
        parts = [line.rstrip(".").split()[2] for line in each.read_text().splitlines()]
        assert parts == ["0", "1", "2"] * (len(parts) // 3)


def test_several_threads_write_through_one_sink(tmp_path: Path) -> None:
    """concurrency above 1 is the user's to choose."""
    sink = JsonLines(tmp_path / "out.jsonl", rotate="4kB", keep=1_000)

    def write(start: int) -> None:
        for number in range(start, start + 100):
            sink(events([number]))

    threads = [threading.Thread(target=write, args=(start,)) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written(tmp_path)) == list(range(400))


def test_a_line_that_a_killed_writer_left_torn_is_cut_off(tmp_path: Path) -> None:
    """Its event was not settled and comes again: the next write begins a line of its own."""
    path = tmp_path / "out.jsonl"
    JsonLines(path)(events([1]))
    assert python(TORN, path).wait(30) == -signal.SIGKILL
    assert path.stat().st_size > 9_000
    JsonLines(path)(events([2]))
    assert written(tmp_path) == [1, 2]


@pytest.mark.parametrize("torn", [1, 4_095, 4_096, 4_097, 12_345])
def test_a_torn_line_of_any_length_is_cut_off(tmp_path: Path, torn: int) -> None:
    """Also where it is all there is in the file."""
    for before in (b"", b'{"data":{"n":0}}\n'):
        path = tmp_path / "out.jsonl"
        path.write_bytes(before + b"x" * torn)
        JsonLines(path)(events([1]))
        assert written(tmp_path) == ([0, 1] if before else [1])


@pytest.fixture
def file_limit() -> Iterator[None]:
    """A limit of 10,000 bytes a file for this process: writes beyond it fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_batch_that_does_not_fit_is_not_written_at_all(tmp_path: Path, file_limit: None) -> None:
    """The error is raised, the file is as before, and what fits later is written."""
    sink = JsonLines(tmp_path / "out.jsonl")
    sink(events(range(50)))
    with pytest.raises(OSError, match="File too large"):
        sink(events(range(50, 150)))
    assert written(tmp_path) == list(range(50))
    sink(events(range(50, 55)))
    assert written(tmp_path) == list(range(55))


def test_a_full_disk_costs_no_event(consuming: Consuming, tmp_path: Path) -> None:
    """The batch fails and is retried: once there is room again, everything is in the file, once."""
    sink = JsonLines(tmp_path / "out.jsonl")
    consuming.app.consumer(consuming.stream, group="g", batch=50)(sink)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        consuming.send(*({"n": number} for number in range(200)))
        with consuming.running():
            until(lambda: consuming.waiting() >= 100, what="batches wait for their retry")
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            consuming.advance(60_000)
            consuming.until_drained()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert sorted(written(tmp_path)) == list(range(200))
    assert consuming.dead() == []


def test_a_device_that_is_full_raises(tmp_path: Path) -> None:
    """The real thing: ENOSPC."""
    path = tmp_path / "out.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        JsonLines(path)(events([1]))


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    """Where the sink is made, not with the first event."""
    with pytest.raises(UsageError, match="missing"):
        JsonLines(tmp_path / "missing" / "out.jsonl")


def test_a_closed_sink_opens_its_file_again(tmp_path: Path) -> None:
    """close() is for who wants the file now."""
    sink = JsonLines(tmp_path / "out.jsonl")
    sink(events([1]))
    sink.close()
    sink.close()
    os.rename(tmp_path / "out.jsonl", tmp_path / "out.jsonl.1")
    sink(events([2]))
    assert written(tmp_path) == [1, 2]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    """By logrotate, say: what comes next goes where the name says."""
    sink = JsonLines(tmp_path / "out.jsonl")
    sink(events([1]))
    (tmp_path / "out.jsonl").rename(tmp_path / "out.jsonl.9")
    sink(events([2]))
    (tmp_path / "out.jsonl").unlink()
    sink(events([3]))
    assert written(tmp_path) == [1, 3]


def test_the_console_shows_events_and_no_control_characters() -> None:
    """One event, one line; nothing that a terminal would act on, and it is still JSON."""
    out = io.StringIO()
    nasty = "\x1b]0;title\x07 \r\n \u202e \u2066 \x9b \U000e0001 ü 漢"
    Console(out)([Event({"text": nasty}, id="1", time_ms=0)])
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["data"]["text"] == nasty
    assert line.isprintable()
    assert "ü 漢" in line


def test_a_printable_line_is_left_as_it_is() -> None:
    """No work for what needs none."""
    line = '{"a":"ü"}\n'
    assert escape_unprintable(line) is line


@pytest.fixture
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for what is compressed, however busy the disk of this machine is."""
    monkeypatch.setattr("consumers.sinks.json_lines.COMPRESSED_WITHIN_S", 50.0)


def unpacked(folder: Path) -> list[int]:
    """The numbers in all files, compressed or not, oldest first; each is read as any program would."""
    numbers = []
    names = sorted(folder.iterdir(), key=lambda path: (path.name == "out.jsonl", path.name))
    for path in names:
        raw = path.read_bytes()
        if path.suffix == ".zst":
            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)) as reader:
                raw = reader.read()
        elif path.suffix == ".gz":
            raw = gzip.decompress(raw)
        numbers += [json.loads(line)["data"]["n"] for line in raw.splitlines()]
    return numbers


@pytest.mark.usefixtures("no_hurry")
@pytest.mark.parametrize(("compress", "suffix"), [("zstd", ".zst"), ("gzip", ".gz")])
def test_old_files_are_compressed(tmp_path: Path, compress: str, suffix: str) -> None:
    """In the background, and closing waits for it; no event is missing, so many files stay, and none is half done."""
    target = JsonLines(tmp_path / "out.jsonl", rotate=2_000, keep=3, compress=compress)
    for number in range(0, 200, 5):
        target(events(range(number, number + 5)))
    target.close()
    old = [path for path in tmp_path.iterdir() if path.name != "out.jsonl"]
    assert len(old) == 3
    assert all(re.fullmatch(r"out\.jsonl\.\d{8}T\d{6}\.\d{6}Z\.(zst|gz)", path.name) for path in old)
    assert {path.suffix for path in old} == {suffix}
    kept = unpacked(tmp_path)
    assert kept == list(range(kept[0], 200))


@pytest.mark.usefixtures("no_hurry")
def test_what_a_killed_process_left_plain_is_compressed_by_the_next(tmp_path: Path) -> None:
    """Killed before, in the midst of, or after compressing: each file is there once, whole."""
    lines = b"".join(event_line(event) for event in events(range(10)))
    for number in range(3):
        stamp = f"out.jsonl.20261126T00000{number}.000000Z"
        (tmp_path / stamp).write_bytes(lines)
        if number == 1:
            (tmp_path / f"{stamp}.zst.tmp").write_bytes(b"half")
        if number == 2:
            (tmp_path / f"{stamp}.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    (tmp_path / "out.jsonl.other").write_bytes(lines)  # somebody else's
    JsonLines(tmp_path / "out.jsonl", compress="zstd").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.jsonl.20261126T000000.000000Z.zst",
        "out.jsonl.20261126T000001.000000Z.zst",
        "out.jsonl.20261126T000002.000000Z.zst",
        "out.jsonl.other",
    ]
    assert unpacked(tmp_path) == [*range(10)] * 4


@pytest.mark.usefixtures("no_hurry")
def test_several_processes_rotate_and_compress_one_file(tmp_path: Path) -> None:
    """No line is lost, torn or doubled, and nothing is left plain."""
    path = tmp_path / "out.jsonl"
    program = WRITER.replace("keep=1000", "keep=1000, compress='zstd'") + "\nsink.close()\n"
    writers = [python(program, name, path, 60, "8kB") for name in "ab"]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    JsonLines(path, compress="zstd", keep=1_000).close()
    lines = []
    for each in tmp_path.iterdir():
        raw = each.read_bytes()
        assert each == path or each.suffix == ".zst"
        if each != path:
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        lines += [line.rstrip(".").split() for line in raw.decode().splitlines()]
    assert sorted(lines) == sorted(
        [name, str(number), str(part)] for name in "ab" for number in range(60) for part in range(3)
    )


@pytest.mark.usefixtures("no_hurry")
def test_a_file_that_cannot_be_compressed_leaves_no_half_of_one(
    tmp_path: Path, file_limit: None, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk it would take what room there is; once there is room, the plain file is compressed."""
    path = tmp_path / "out.jsonl"
    noise = random.Random(1).randbytes(20_000).hex().encode() + b"\n"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    (tmp_path / "out.jsonl.20261126T000000.000000Z").write_bytes(noise)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    JsonLines(path, compress="gzip").close()
    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl.20261126T000000.000000Z"]
    assert "cannot be compressed" in caplog.text
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    JsonLines(path, compress="gzip").close()
    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl.20261126T000000.000000Z.gz"]
    assert gzip.decompress(next(tmp_path.iterdir()).read_bytes()) == noise


def test_closing_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop has its grace: what is not compressed within a moment stays plain for the next process."""
    hangs, fsync = threading.Event(), os.fsync

    def hanging(number: int) -> None:
        hangs.wait(30)
        fsync(number)

    monkeypatch.setattr(os, "fsync", hanging)
    monkeypatch.setattr("consumers.sinks.json_lines.COMPRESSED_WITHIN_S", 0.2)
    target = JsonLines(tmp_path / "out.jsonl", rotate=1, compress="gzip")
    target(events([1]))
    began_s = time.monotonic()
    target.close()
    assert time.monotonic() - began_s < 10
    assert len([path for path in tmp_path.iterdir() if path.suffix not in (".gz", ".tmp")]) == 1, (
        "the plain one"
    )
    hangs.set()
    until(lambda: [path.suffix for path in tmp_path.iterdir()] == [".gz"])
    assert unpacked(tmp_path) == [1]


@pytest.mark.usefixtures("no_hurry")
@pytest.mark.parametrize("compress", ["none", "gzip"])
def test_a_file_of_an_earlier_hour_is_rotated(tmp_path: Path, compress: str) -> None:
    """With the first write of the next one, by whoever writes it; within an hour it grows."""
    path = tmp_path / "out.jsonl"
    for hours, number in ((3, 1), (2, 2), (0, 3)):
        target = JsonLines(path, every="1h", compress=compress)
        target(events([number]))
        target.close()
        with path.open("ab") as torn:
            torn.write(b"torn")  # by a writer that was killed: it is in no file
        then_s = time.time() - hours * 3_600
        if hours:
            os.utime(path, (then_s, then_s))
    target = JsonLines(path, every="20000d", compress=compress)  # the hour may end in the midst of this test
    target(events([4]))
    target.close()
    assert len(list(tmp_path.iterdir())) == 3
    assert [json.loads(line)["data"]["n"] for line in path.read_text().splitlines()] == [3, 4]
    if compress == "gzip":
        assert unpacked(tmp_path) == [1, 2, 3, 4]
    else:
        assert written(tmp_path) == [1, 2, 3, 4]


def test_what_was_acknowledged_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync: the file's data with each batch, and its name with the first."""
    synced: list[str] = []
    data, names = os.fdatasync, os.fsync

    def noted(what: str, really: Callable[[int], None]) -> Callable[[int], None]:
        def call(number: int) -> None:
            synced.append(what)
            really(number)

        return call

    monkeypatch.setattr(os, "fdatasync", noted("data", data))
    monkeypatch.setattr(os, "fsync", noted("name", names))
    sink = JsonLines(tmp_path / "out.jsonl", fsync=True)
    sink(events([1]))
    sink(events([2]))
    assert synced == ["data", "name", "data"]
    JsonLines(tmp_path / "other.jsonl")(events([1]))
    assert len(synced) == 3


def test_a_folder_that_goes_away_makes_no_dead_letter(consuming: Consuming, tmp_path: Path) -> None:
    """Somebody has to mend it: events wait, and are written once it is there again."""
    folder = tmp_path / "logs"
    folder.mkdir()
    target = sink(f"jsonl:{folder}/out.jsonl", patience=0)
    folder.rmdir()
    with pytest.raises(SinkRefused, match="No such file"):
        JsonLines.__call__(target._sink, events([1]))  # type: ignore[arg-type]
    consuming.app.consumer(consuming.stream, group="g", batch=10, retry=1)(target)
    consuming.send({"n": 1}, {"n": 2})
    with consuming.running():
        until(lambda: consuming.waiting() == 2, what="both are put off")
        folder.mkdir()
        consuming.advance(120_000)
        consuming.until_drained()
    assert written(folder) == [1, 2]
    assert consuming.dead() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("compress=xz", "compress='xz': one of none, zstd, gzip"),
        ("fsync=maybe", "fsync='maybe': yes or no"),
        ("every=soon", "every='soon' is not a duration"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(given: str, said: str, tmp_path: Path) -> None:
    """With what is allowed."""
    with pytest.raises(UsageError) as caught:
        sink(f"jsonl:{tmp_path}/x?{given}")
    assert said in str(caught.value)
