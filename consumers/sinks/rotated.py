"""Rotated: the old files of a sink that compresses them: named by time, compressed in the background, so many kept.

`logs.jsonl` becomes `logs.jsonl.20261126T091500.000000Z`, and that becomes `….zst` or `….gz`. Each step is one
rename: a process that is killed leaves the plain file or the compressed one, and the next one compresses what is plain.
"""

import errno
import fcntl
import gzip
import os
import re
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import zstandard

from pipeline.observe.log import Limited, get_logger

SUFFIXES = {"zstd": ".zst", "gzip": ".gz"}
_STAMP = re.compile(r"\.\d{8}T\d{6}\.\d{6}Z")
_log = get_logger("sink")


class Rotated:
    """The old files beside `path`. One thread compresses; there is none while there is nothing to do."""

    def __init__(self, path: Path, compress: str, keep: int) -> None:
        """compress: zstd or gzip; keep: how many old files stay."""
        self._path = path
        self._compress = compress
        self._suffix = SUFFIXES[compress]
        self._keep = keep
        self._say = Limited(_log)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked = False

    def add(self) -> None:
        """Move the current file among the old ones; under the lock of that file."""
        at = time.time()
        while True:
            stamp = datetime.fromtimestamp(at, tz=UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            old = self._path.with_name(f"{self._path.name}.{stamp}")
            if not old.exists() and not old.with_name(old.name + self._suffix).exists():
                break
            at += 0.000_001
        self._path.replace(old)
        self.tidy()

    def tidy(self) -> None:
        """Have plain files compressed and the oldest removed, soon."""
        with self._lock:
            self._asked = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="millstream-compress", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait until that is done, at most so long."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._asked:
                    self._thread = None
                    return
                self._asked = False
            try:
                self._tidy_now()
            except OSError as error:  # the plain files are as good, and stay until there is room again
                self._say.warning(
                    "compress", "old files cannot be compressed: they stay as they are", error=str(error)
                )

    def _tidy_now(self) -> None:
        found: dict[str, list[Path]] = {}
        for path in self._path.parent.glob(f"{_plain(self._path.name)}.*"):
            stamp = _STAMP.match(path.name, len(self._path.name))
            if stamp is not None:
                found.setdefault(stamp[0], []).append(path)
        stamps = sorted(found)
        for old in stamps[: -self._keep]:
            for path in found[old]:
                path.unlink(missing_ok=True)
        for kept in stamps[-self._keep :]:
            plain = self._path.with_name(self._path.name + kept)
            if plain in found[kept]:
                self._compress_file(plain)

    def _compress_file(self, plain: Path) -> None:
        made = plain.with_name(plain.name + self._suffix)
        part = plain.with_name(made.name + ".tmp")
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is at it
            if not _is_at(part, file.fileno()):
                return  # another process has just done it
            try:
                source = plain.open("rb")
            except FileNotFoundError:
                part.unlink()
                return
            try:
                with source:
                    file.truncate(0)
                    self._copy(source, file)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                part.unlink(missing_ok=True)  # half a file would only fill the disk further
                raise
            part.replace(made)
        sync_folder(plain.parent)
        plain.unlink(missing_ok=True)

    def _copy(self, source: BinaryIO, file: BinaryIO) -> None:
        if self._compress == "zstd":
            zstandard.ZstdCompressor(level=3).copy_stream(source, file)
        else:
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                shutil.copyfileobj(source, packed, 1 << 20)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some network and FUSE file systems know no such thing
            raise
    finally:
        os.close(number)


def _is_at(path: Path, number: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(number)
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def _plain(name: str) -> str:
    """The name with nothing that a pattern would take for more."""
    return re.sub(r"([*?\[])", r"[\1]", name)
