"""Any order of writing, reading, rotating, compressing, parking and being killed: each line once, in order."""

import bz2
import gzip
import lzma
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from producers.sources import files
from producers.sources.files import FollowedFile
from producers.sources.records import RULES, RecordOptions

PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".gz", gzip.compress),
    (".zst", zstandard.ZstdCompressor().compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
]


class World:
    """A log, its rotator, and a follower that may be killed. Times are set, so that no two are the same."""

    def __init__(self, folder: Path, rng: random.Random, records: bool) -> None:
        self.path = folder / "app.log"
        self.rng = rng
        self.written: list[bytes] = []
        self.found: list[bytes] = []
        self.confirmed: list[tuple[int, str]] = []
        self.story: list[str] = []
        self._records = RecordOptions(rule=RULES["indent"], wait_ms=0) if records else None
        self._now_ns = 1_700_000_000_000_000_000
        self._dates = 20_261_000
        self._dated = rng.random() < 0.5
        self._header = b"# the same header in each file " * 20 + b"\n" if rng.random() < 0.3 else b""
        self.path.touch()
        self.write()
        self.follower = self._new(None)
        while len(self.confirmed) < len(
            self.written
        ):  # what was rotated before a position is known is nobody's
            self.read()

    def step(self) -> None:
        step = self.rng.choices(
            [self.write, self.read, self.rename, self.copytruncate, self.compress, self.kill, self.park],
            [8, 10, 2, 2, 2, 2, 2],
        )[0]
        self.story.append(step.__name__)
        step()

    def write(self) -> None:
        with self.path.open("ab") as file:
            if self._header and not file.tell():
                file.write(self._header)
                self.written.append(self._header[:-1])
            for _ in range(self.rng.choice((1, 3, 40))):
                number = len(self.written)
                line = b"%d a line that tells itself from all others" % number
                if self._records is not None:
                    line += b"\n more of it" * self.rng.randrange(3)
                self.written.append(line)
                file.write(line + b"\n")
        self._touch(self.path)

    def read(self) -> bool:
        read = self.follower.read()
        if read is None:
            return False
        for index, line in enumerate(read.lines):
            self.found.append(line)
            self.confirmed.append((len(self.found), read.position(index)))
        return True

    def rename(self) -> None:
        if self.path.stat().st_size:
            self.path.rename(self._newest())
            self.path.touch()
            if self.rng.random() < 0.5:
                self.write()

    def copytruncate(self) -> None:
        if self.path.stat().st_size:
            copy = self._newest()
            shutil.copy(self.path, copy)
            self._touch(copy)
            os.truncate(self.path, 0)
            self._touch(self.path)

    def compress(self) -> None:
        plain = [path for path in self._rotated() if path.suffix not in (".gz", ".zst", ".bz2", ".xz")]
        if plain:
            path = self.rng.choice(plain)
            ending, pack = self.rng.choice(PACKERS)
            status = path.stat()
            packed = path.with_name(path.name + ending)
            packed.write_bytes(pack(path.read_bytes()))
            os.utime(packed, ns=(status.st_atime_ns, status.st_mtime_ns))
            path.unlink()

    def kill(self) -> None:
        """What was read last may not have been confirmed."""
        keep = max(len(self.confirmed) - self.rng.choice((0, 0, 1, 5)), 1)
        if self.found[keep - 1] == self._header[:-1]:  # up to here all files are the same, to the byte
            return
        self.confirmed = self.confirmed[:keep]
        count, position = self.confirmed[-1]
        del self.found[count:]
        self.follower.close()
        self.follower = self._new(position)

    def park(self) -> None:
        self.follower.park()

    def finish(self) -> None:
        self.written.append(b"the last line, behind which nothing comes")
        with self.path.open("ab") as file:
            file.write(self.written[-1] + b"\n")
        self._touch(self.path)
        for _ in range(2_000):
            if self.found[-1:] == self.written[-1:]:
                break
            self.read()
        self.follower.close()

    def _new(self, position: str | None) -> FollowedFile:
        follower = FollowedFile(str(self.path), records=self._records)
        follower.resume(position)
        return follower

    def _rotated(self) -> list[Path]:
        return [path for path in self.path.parent.iterdir() if path != self.path]

    def _newest(self) -> Path:
        if self._dated:
            self._dates += 1
            return self.path.with_name(f"app.log-{self._dates}")
        numbered = {}
        for path in self._rotated():
            numbered[int(path.name.split(".")[2])] = path
        for number in sorted(numbered, reverse=True):
            path = numbered[number]
            path.rename(path.with_name(path.name.replace(f".{number}", f".{number + 1}", 1)))
        return self.path.with_name("app.log.1")

    def _touch(self, path: Path) -> None:
        self._now_ns += 1_000_000_000
        os.utime(path, ns=(self._now_ns, self._now_ns))


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("seed", range(15))
def test_each_line_is_read_once_and_in_order(
    seed: int, records: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scaled: Callable[[int], int]
) -> None:
    """Whatever happens between; with --full ten times as many stories."""
    for name in ("FINISHED_MS", "UNREADABLE_MS"):
        monkeypatch.setattr(files, name, 0)
    for turn in range(scaled(40)):
        folder = tmp_path / str(turn)
        folder.mkdir()
        world = World(folder, random.Random(f"{seed} {turn}"), records)
        for _ in range(world.rng.randrange(5, 60)):
            world.step()
        world.finish()
        assert world.found == world.written, f"{turn} {_difference(world)} {' '.join(world.story)}"
        shutil.rmtree(folder)


def _difference(world: World) -> str:
    at = next((n for n, (a, b) in enumerate(zip(world.found, world.written, strict=False)) if a != b), -1)
    return f"at {at}: found {world.found[at : at + 2]!r}, written {world.written[at : at + 2]!r}"
