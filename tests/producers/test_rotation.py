"""Rotation of all kinds, followed and while nobody followed: what was not read yet is found, once, in order."""

import bz2
import gzip
import lzma
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sources import files
from producers.sources.files import FollowedFile
from producers.sources.follow import follow_file
from producers.sources.parsers import parse_text
from producers.sources.place import Position
from producers.sources.rotated import origins
from tests.conftest import Server
from tests.producers.reading import datas
from tests.until import until

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated file is finished after 0.2 s instead of 1 s."""
    monkeypatch.setattr(files, "FINISHED_MS", 200)


class Log:
    """A log that a service writes and somebody rotates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[str] = []

    def write(self, count: int, path: Path | None = None) -> None:
        with (path or self.path).open("a") as file:
            for _ in range(count):
                self.written.append(f"{len(self.written)} a line that tells itself from others")
                file.write(self.written[-1] + "\n")

    def named(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """The log of a test."""
    return Log(tmp_path / "app.log")


@pytest.fixture
def producer(server: Server) -> Iterator[Producer]:
    """A producer to the server of this run."""
    with Producer(server.address.shown) as producer:
        yield producer


class Followed:
    """follow_file() in a thread, time and again."""

    def __init__(self, producer: Producer, link: Link, stream: str, log: Log) -> None:
        self._producer, self._link, self._stream, self._log = producer, link, stream, log
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        self._stop = threading.Event()
        options: dict[str, Any] = {"parser": parse_text, "stop": self._stop}
        self._thread = threading.Thread(
            target=follow_file, args=(self._producer, self._stream, str(self._log.path)), kwargs=options
        )
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join(20)
            assert not self._thread.is_alive()
            self._thread = None

    def all_arrive(self) -> None:
        """What was written is in the stream: each line once, in order."""
        until(lambda: datas(self._link, self._stream)[-1:] == self._log.written[-1:], 20)
        assert datas(self._link, self._stream) == self._log.written


@pytest.fixture
def followed(producer: Producer, link: Link, stream: str, log: Log) -> Iterator[Followed]:
    """Not started yet."""
    followed = Followed(producer, link, stream, log)
    yield followed
    followed.stop()


def compress(path: Path, how: str) -> Path:
    """As gzip(1) and its like: the time is kept, and the plain file goes when the other is there."""
    status = path.stat()
    to = path.with_name(f"{path.name}.{how}")
    to.write_bytes(COMPRESS[how](path.read_bytes()))
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.unlink()
    return to


def rename(log: Log, turn: int) -> None:
    """Numbered: app.log.1 is the newest."""
    for number in range(turn, 0, -1):
        if log.named(f".{number}").exists():
            log.named(f".{number}").rename(log.named(f".{number + 1}"))
    log.path.rename(log.named(".1"))


def create(log: Log, turn: int) -> None:
    """A new file stands there at once, as logrotate's `create` makes it."""
    rename(log, turn)
    log.write(3, log.named(".1"))  # its writer has not noticed yet
    log.path.touch()


def copytruncate(log: Log, turn: int) -> None:
    """As logrotate's `copytruncate`, with dates."""
    shutil.copy(log.path, log.named(f"-2026112{turn}"))
    os.truncate(log.path, 0)


def copytruncate_compressed(log: Log, turn: int) -> None:
    """The copy is compressed at once."""
    shutil.copy(log.path, log.named(".1"))
    os.truncate(log.path, 0)
    compress(log.named(".1"), "gz").rename(log.named(f".{turn}.gz"))


def dated_inside(log: Log, turn: int) -> None:
    """As log4j does."""
    log.path.rename(log.path.with_name(f"app-2026-11-2{turn}.log"))


def compressed(log: Log, turn: int) -> None:
    """Dated, and compressed at once."""
    log.path.rename(log.named(f".2026112{turn}"))
    compress(log.named(f".2026112{turn}"), list(COMPRESS)[turn % 4])


def compressed_by_python(log: Log, turn: int) -> None:
    """As a rotator of logging's handlers does: without keeping the time."""
    log.named(f".{turn}.gz").write_bytes(gzip.compress(log.path.read_bytes()))
    log.path.unlink()


def reused_inode(log: Log, turn: int) -> None:
    """Kept in compressed form alone; whatever comes next may get its inode."""
    compressed(log, turn)
    for number in range(20):
        (log.path.parent / f"other {number}").touch()
        (log.path.parent / f"other {number}").unlink()


WAYS = [rename, create, copytruncate, copytruncate_compressed, dated_inside, compressed, compressed_by_python,
        reused_inode]  # fmt: skip


@pytest.mark.parametrize("rotate", WAYS)
def test_rotated_under_the_eyes_of_the_follower(
    rotate: Callable[[Log, int], None], log: Log, followed: Followed
) -> None:
    """Twice, with lines that it has not read yet."""
    log.write(50)
    followed.start()
    followed.all_arrive()
    for turn in (1, 2):
        log.write(40)
        rotate(log, turn)
        log.write(30)
        followed.all_arrive()


@pytest.mark.parametrize("rotate", WAYS)
def test_rotated_while_nobody_followed(
    rotate: Callable[[Log, int], None], log: Log, followed: Followed
) -> None:
    """Once behind the place where it stopped, and three times."""
    log.write(50)
    followed.start()
    followed.all_arrive()
    turn = 0
    for times in (1, 3):
        followed.stop()
        for _ in range(times):
            turn += 1
            log.write(40)
            rotate(log, turn)
        log.write(30)
        followed.start()
        followed.all_arrive()


def test_a_link_that_is_switched_is_followed_from_file_to_file(tmp_path: Path, producer: Producer, link: Link,
                                                               stream: str) -> None:  # fmt: skip
    """Also to those it pointed to while nobody looked."""
    log = Log(tmp_path / "current.log")
    followed = Followed(producer, link, stream, log)

    def switch(day: int) -> None:
        target = tmp_path / f"app-2026-11-{day:02}.log"
        target.touch()
        (tmp_path / "new").symlink_to(target)
        (tmp_path / "new").rename(log.path)
        log.write(20)

    (tmp_path / "other-2026-11-01.log").write_text("not ours\n")
    try:
        switch(1)
        followed.start()
        followed.all_arrive()
        switch(2)
        followed.all_arrive()
        followed.stop()
        for day in (3, 4, 5):
            switch(day)
        followed.start()
        followed.all_arrive()
    finally:
        followed.stop()


def test_a_file_truncated_and_grown_beyond_the_place_is_noticed_at_once(log: Log) -> None:
    """What stands there now is not taken for what comes next, though the first bytes are the same."""
    header = "# " + "the same header in every file " * 20 + "\n"
    log.path.write_text(header)
    log.write(1_000)
    file = FollowedFile(str(log.path))
    file.resume(None)
    before = file.read()
    assert before is not None
    assert len(before.lines) == 1_001
    shutil.copy(log.path, log.named(".1"))
    log.path.write_text(header)
    log.write(5_000)
    found: list[str] = []
    until(lambda: _read_on(file, found) and len(found) == 5_001)
    file.close()
    assert [header.strip(), *log.written[1_000:]] == found


def _read_on(file: FollowedFile, found: list[str]) -> bool:
    read = file.read()
    found += [line.decode().strip() for line in read.lines] if read else []
    return True


def test_of_a_file_that_is_gone_what_was_written_after_it_is_read(
    log: Log, followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    """That it is gone is said; a file rotated since then is not skipped, one from before is not read again."""
    log.named(".9").write_text("long ago\n")
    log.write(10)
    followed.start()
    followed.all_arrive()
    followed.stop()
    log.path.unlink()
    log.write(10)
    log.path.rename(log.named(".1"))
    log.write(10)
    followed.start()
    followed.all_arrive()
    assert "gone" in caplog.text


def test_a_copy_that_somebody_made_is_not_read_as_another_file(log: Log, followed: Followed) -> None:
    """It is the same lines."""
    log.write(50)
    followed.start()
    followed.all_arrive()
    shutil.copy(log.path, log.named(".1"))
    log.write(10)
    followed.all_arrive()
    log.path.rename(log.named(".2"))
    log.write(10)
    followed.all_arrive()


def test_a_compressed_file_that_is_corrupt_is_said_and_stops_nothing(
    log: Log, followed: Followed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it held behind the damage is lost, and said to be, once it is clear that nobody writes it any more."""
    monkeypatch.setattr(files, "WRITING_MS", 2_500)
    log.write(5)
    followed.start()
    followed.all_arrive()
    followed.stop()
    log.write(200_000)
    log.path.rename(log.named(".1"))
    packed = compress(log.named(".1"), "gz")
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    log.write(1)
    followed.start()
    try:
        until(lambda: "lines are missing" in caplog.text, 20)
        until(lambda: datas(followed._link, followed._stream)[-1:] == log.written[-1:], 20)
    finally:
        followed.stop()
    found = datas(followed._link, followed._stream)
    assert found[:1_000] == log.written[:1_000]
    assert len(found) == len(set(map(str, found)))
    assert caplog.text.count("cut off") == 1


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("app.log.1", ["app.log"]),
        ("app.log.12.gz", ["app.log"]),
        ("app.log-20261126", ["app.log"]),
        ("app.log.2026-11-26_02-28-19.zst", ["app.log"]),
        ("app-2026-11-26.log", ["app.log"]),
        ("app-20261126.log.xz", ["app.log"]),
        ("app-2.log", []),
        ("worker-12.log", []),
        ("app.log", []),
        ("app.log.old", []),
        ("app.gz", []),
    ],
)
def test_rotated_names_are_told(name: str, of: list[str]) -> None:
    """What may be the log of a second worker is not taken for a rotated file."""
    assert origins(name) == of


def test_a_position_is_what_it_was_written_as() -> None:
    """Also one without time and tail, as the first versions wrote it."""
    position = Position(device=1, inode=2, head_bytes=256, head="ab", offset=7, written_ns=9, tail="00ff")
    assert Position.parse(str(position)) == position
    assert Position.parse("1:2:3:ab:7") == Position(device=1, inode=2, head_bytes=3, head="ab", offset=7)
    assert Position.parse("s=1;i=2") is None
