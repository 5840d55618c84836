"""A log rotated every second while its follower is killed time and again: no line missing, none twice, in order."""

import gzip
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from pipeline.server.replies import parse_entries
from pipeline.wire import decode_entry
from tests.conftest import Server
from tests.console.command import started
from tests.producers.reading import events
from tests.until import until

LINES_PER_S = 10_000
SLICES = 20
KEPT = 500


class Writer:
    """A service that writes 10,000 lines a second, and rotates its log every second without losing any itself."""

    def __init__(self, path: Path, seconds: int) -> None:
        self.path = path
        self.written = 0
        self.late_s = 0.0
        self._seconds = seconds
        self._file = path.open("ab", buffering=0)

    def write(self, count: int) -> None:
        numbers = range(self.written, self.written + count)
        self._file.write(b"".join(b"%09d GET /things/%d 200 in 12 ms\n" % (n, n % 977) for n in numbers))
        self.written += count

    def run(self, rotate: "Callable[[Writer], None]") -> None:
        begun = time.monotonic()
        for turn in range(self._seconds * SLICES):
            self.write(LINES_PER_S // SLICES)
            if turn % SLICES == SLICES - 1:
                rotate(self)
            early_s = begun + (turn + 1) / SLICES - time.monotonic()
            self.late_s = max(self.late_s, -early_s)
            if early_s > 0:
                time.sleep(early_s)
        self._file.close()

    def reopen(self) -> None:
        self._file.close()
        self._file = self.path.open("ab", buffering=0)

    def make_room(self, ending: str = "") -> Path:
        """The path of the newest rotated file, all others being counted up. None is removed before it was read."""
        for number in range(KEPT, 0, -1):
            for each in ("", ".gz"):
                old = self.path.with_name(f"{self.path.name}.{number}{each}")
                if old.exists():
                    if number == KEPT:
                        old.unlink()
                    else:
                        old.rename(self.path.with_name(f"{self.path.name}.{number + 1}{each}"))
        return self.path.with_name(f"{self.path.name}.1{ending}")


def rename(writer: Writer) -> None:
    """The old file is moved away, and compressed by the next rotation (delaycompress)."""
    newest = writer.make_room()
    writer.path.rename(newest)
    writer.reopen()
    before = newest.with_name(f"{writer.path.name}.2")
    if before.exists():
        status = before.stat()
        packed = before.with_name(before.name + ".gz")
        packed.write_bytes(gzip.compress(before.read_bytes(), 1))
        os.utime(packed, ns=(status.st_atime_ns, status.st_mtime_ns))
        before.unlink()


def create(writer: Writer) -> None:
    """The new file is there at once; the writer notices a moment later."""
    writer.path.rename(writer.make_room())
    writer.path.touch()
    writer.write(LINES_PER_S // SLICES)
    writer.reopen()


def copytruncate(writer: Writer) -> None:
    """The writer's file stays the same; between copy and truncation it writes nothing."""
    shutil.copy(writer.path, writer.make_room())
    os.truncate(writer.path, 0)


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rotate", [rename, create, copytruncate])
def test_a_log_rotated_every_second_whose_follower_is_killed(
    rotate: Callable[[Writer], None], server: Server, link: Link, stream: str, tmp_path: Path,
    request: pytest.FixtureRequest, rng: random.Random, record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """Two minutes and ten kills in full, four seconds and two kills else."""
    seconds, kills = (120, 10) if request.config.getoption("--full") else (4, 2)
    writer = Writer(tmp_path / "app.log", seconds)
    arguments = ("produce", stream, str(writer.path), "--follow", "--parse", "raw", "-q")
    thread = threading.Thread(target=writer.run, args=(rotate,))
    writer.write(1)
    process = started(*arguments, url=server.address.shown)
    until(lambda: link.call("EXISTS", stream), 30)  # it follows from here on, whatever is rotated
    thread.start()
    for _ in range(kills):
        before = link.call("XLEN", stream)
        until(lambda before=before: link.call("XLEN", stream) > before, 30)  # type: ignore[misc]
        thread.join(rng.uniform(0.2, 2 * seconds / kills - 0.2) / 2)
        process.kill()
        process.wait()
        process = started(*arguments, url=server.address.shown)
    thread.join()
    writer._file = writer.path.open("ab", buffering=0)
    writer.write(1)
    writer._file.close()
    written_s = time.monotonic()
    last = b"%09d" % (writer.written - 1)
    until(lambda: _last(link, stream) == last, 120, every_s=0.2)
    behind_s = time.monotonic() - written_s
    process.terminate()
    assert process.wait(20) == 0
    numbers = [int(str(event.data)[:9]) for event in events(link, stream)]
    print(f"{rotate.__name__}: {len(numbers):,} lines of {writer.written:,} written in {seconds} s, "  # noqa: T201
          f"{kills} kills, behind by {behind_s:.1f} s at the end, writer late by {writer.late_s:.2f} s")  # fmt: skip
    assert numbers == list(range(writer.written)), _what_is_wrong(numbers, writer.written)


def _last(link: Link, stream: str) -> bytes:
    [(entry_id, fields)] = parse_entries(link.call("XREVRANGE", stream, "+", "-", "COUNT", 1))
    return str(decode_entry(entry_id, fields or []).events[-1].data)[:9].encode()


def _what_is_wrong(numbers: list[int], written: int) -> str:
    missing = sorted(set(range(written)) - set(numbers))
    return (
        f"{len(missing)} missing from {missing[:3]}, {len(numbers) - len(set(numbers))} twice, "
        f"order kept: {numbers == sorted(numbers)}"
    )
