"""The sink parquet: what was acknowledged is in a file that anybody can read, whatever is killed, once per file."""

import errno
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.sinks.by_url import sink
from consumers.sinks.parquet import Journal, ParquetFolder
from pipeline.errors import DecodeError, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.wire import decode_entry, encode_entry
from tests.consuming import Consuming
from tests.until import until

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra `parquet`) is not installed")

WRITER = """
import sys
from consumers.sinks.parquet import ParquetFolder
from pipeline.event import Event
sink = ParquetFolder(sys.argv[1], rotate=int(sys.argv[3]))
number = int(sys.argv[2])
while True:
    sink([Event({"n": n}, id=f"e{n}", time_ms=0) for n in range(number, number + 10)])
    number += 10
    print(number, flush=True)
"""


def events(*numbers: int) -> list[Event]:
    """Events with these numbers as data."""
    return [Event({"n": n}, id=f"e{n}", type="t", key="k", time_ms=1_700_000_000_123) for n in numbers]


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of all files, file by file."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def numbers(folder: Path) -> list[int]:
    """The numbers of the events in all files, in order."""
    return sorted(json.loads(row["data"])["n"] for row in rows(folder))


def test_an_event_is_a_row_with_types(tmp_path: Path) -> None:
    """Time in ms, headers as a map, data as JSON; nothing but finished files remains."""
    event = Event(
        {"level": "error", "text": 'ü "漢" \\ \n \x00', "far": float("inf")}, id="1", type="log.error", key="k",
        time_ms=1_700_000_000_123, headers={"traceparent": "00"}, source="/shop",
    )  # fmt: skip
    fields = encode_entry(Event({"n": 7}), producer="p", number=7)
    corrupt = decode_entry(b"1-0", [*fields[:3], b"\xc1" + fields[3][1:]]).events[0]
    with sink(f"parquet:{tmp_path}/new") as target:
        outcomes = target([event, corrupt, *events(2)])
    assert outcomes is not None
    assert isinstance(outcomes.errors[1], DecodeError)
    (path,) = (tmp_path / "new").iterdir()
    first, second = pq.read_table(path).to_pylist()
    assert first["time"].timestamp() == 1_700_000_000.123
    assert json.loads(first.pop("data")) == {"level": "error", "text": 'ü "漢" \\ \n \x00', "far": "inf"}
    assert {**first, "time": None} == {
        "event_id": "1", "stream": "", "time": None, "type": "log.error", "key": "k", "source": "/shop",
        "level": "error", "headers": [("traceparent", "00"), ("source", "/shop")],
    }  # fmt: skip
    assert (second["event_id"], second["level"], second["headers"]) == ("e2", None, [])
    assert str(pq.read_schema(path).field("time").type) == "timestamp[ms, tz=UTC]"


def test_an_event_that_comes_again_is_one_row_of_a_file(tmp_path: Path) -> None:
    """In whatever batch."""
    target = ParquetFolder(tmp_path)
    target(events(1, 2, 1))
    target(events(2, 3))
    target.close()
    assert numbers(tmp_path) == [1, 2, 3]


def test_a_file_is_finished_by_size_or_by_age(tmp_path: Path) -> None:
    """While others are written; what is idle is finished too."""
    target = ParquetFolder(tmp_path, rotate="1kB", every="1d")
    for number in range(0, 100, 10):
        target(events(*range(number, number + 10)))
    until(lambda: len(list(tmp_path.glob("*.parquet"))) >= 3)
    target.close()
    assert numbers(tmp_path) == list(range(100))
    target = ParquetFolder(tmp_path, every="0.2s")
    target(events(100))
    until(lambda: 100 in numbers(tmp_path), what="the only event of a file is readable")
    target(events(101))
    until(lambda: 101 in numbers(tmp_path))
    target.close()


@pytest.mark.slow
def test_what_a_killed_process_acknowledged_is_in_a_file(tmp_path: Path) -> None:
    """Killed at any moment, time and again: the next process finishes its journal, torn line and all."""
    number = 0
    for rotate in (3_000, 10_000_000):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number), str(rotate)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(30):
            number = int(process.stdout.readline())
        process.kill()
        assert process.wait() == -signal.SIGKILL
        rest = process.stdout.read().split()
        process.stdout.close()
        number = int(rest[-1]) if rest else number
    for journal in tmp_path.glob(".events-*.journal"):
        with journal.open("ab") as file:
            file.write(b'["torn')
    target = ParquetFolder(tmp_path)
    target(events(-1))
    target.close()
    found = numbers(tmp_path)
    assert set(range(-1, number)) <= set(found)
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}


def test_a_journal_that_was_turned_already_makes_no_second_file(tmp_path: Path) -> None:
    """As after a kill between the rename and the removal: the file is written again under its name."""
    journal = Journal.new(tmp_path)
    target = ParquetFolder(tmp_path)
    target(events(1))
    (current,) = (path for path in tmp_path.glob(".events-*.journal") if path != journal.path)
    shutil.copy(current, tmp_path / "kept")
    target.close()
    (tmp_path / "kept").rename(current)
    target(events(2))
    target.close()
    assert numbers(tmp_path) == [1, 2]
    assert journal.path.exists(), "what another process writes is left alone"
    journal.remove()


def test_a_spoilt_journal_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, it is kept, and the others are turned."""
    (tmp_path / ".events-20261126T000000Z-0123456789ab.journal").write_bytes(b"\x00\x00\n")
    (tmp_path / ".events-others.journal").write_bytes(b"somebody's")
    with caplog.at_level(logging.INFO, "millstream"):
        target = ParquetFolder(tmp_path)
        target(events(1))
        target.close()
    assert numbers(tmp_path) == [1]
    assert (tmp_path / "events-20261126T000000Z-0123456789ab.journal.broken").exists()
    assert (tmp_path / ".events-others.journal").exists()
    assert "cannot be read" in caplog.text


def test_a_journal_that_cannot_be_opened_keeps_no_other_from_being_turned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another user's, say: those beside it become files, and are not held until this process ends."""
    journals = [tmp_path / f".events-2026112{day}T000000Z-0123456789ab.journal" for day in (5, 6, 7)]
    for number in (0, 2):
        journals[number].write_bytes(
            f'["{number}","s",1,"t","k","",null,"{{\\"n\\":{number}}}",{{}}]\n'.encode()
        )
    journals[1].mkdir()
    with caplog.at_level(logging.INFO, "millstream"):
        target = ParquetFolder(tmp_path)
        target(events(1))
        target.close()
    assert numbers(tmp_path) == [0, 1, 2]
    assert "cannot be opened" in caplog.text
    assert [path for path in journals if path.exists()] == [journals[1]]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_folder_that_cannot_be_synced_fills_with_no_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """An error of the disk leaves neither files nor what is open behind; a file system without it is used as it is."""

    def failing(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("consumers.sinks.rotated.os.fsync", failing)
        if number == errno.EIO:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                with pytest.raises(OSError, match="Input/output"):
                    Journal.new(tmp_path)
            assert list(tmp_path.iterdir()) == []
            assert len(os.listdir("/proc/self/fd")) == before
        else:
            Journal.new(tmp_path).remove()


def test_a_journal_that_memory_does_not_suffice_for_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole: the next try, or the next process, turns it; nothing is put aside."""
    target = ParquetFolder(tmp_path)

    def no_memory(*_: object) -> int:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("consumers.sinks.parquet.write_parquet", no_memory)
        target(events(1))
        target.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".journal"]
    target(events(2))
    target.close()
    assert numbers(tmp_path) == [1, 2]


@pytest.fixture
def file_limit() -> Iterator[None]:
    """A limit of 20,000 bytes a file for this process: writes beyond it fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_batch_that_does_not_fit_is_not_written_at_all(tmp_path: Path, file_limit: None) -> None:
    """The error is raised, and what was acknowledged before is there afterwards."""
    target = ParquetFolder(tmp_path)
    target(events(*range(50)))
    with pytest.raises(OSError, match="File too large"):
        target(events(*range(50, 400)))
    target(events(50))
    target.close()
    assert numbers(tmp_path) == list(range(51))


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """At once, or, if it goes away meanwhile, until somebody mends it."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "no" / "such"):
        with pytest.raises(UsageError, match="cannot write to folder"):
            ParquetFolder(folder)
    with pytest.raises(UsageError, match=r"there is no option 'size'; there are: rotate, every, compress"):
        sink(f"parquet:{tmp_path}?size=3")
    target = ParquetFolder(tmp_path / "new")
    (tmp_path / "new").rmdir()
    with pytest.raises(SinkRefused, match="No such file"):
        target(events(1))
    (tmp_path / "new").mkdir()
    target(events(1))
    target.close()
    assert numbers(tmp_path / "new") == [1]


def test_a_stream_becomes_files(consuming: Consuming, tmp_path: Path) -> None:
    """Through a consumer, with the stream's name in each row."""
    with sink(f"parquet:{tmp_path}?rotate=10kB") as target:
        consuming.app.consumer(consuming.stream, group="g", batch=100)(target)
        consuming.send(*({"n": n} for n in range(500)))
        consuming.run_until_drained()
    assert numbers(tmp_path) == list(range(500))
    assert {row["stream"] for row in rows(tmp_path)} == {consuming.stream}
