"""ParquetFolder: a batch handler that writes events to Parquet files in a folder, each of a bounded size and time.

A Parquet file cannot be read before it is finished, and a batch is acknowledged long before that. So a batch goes to a
journal first, written through to the disk; a full or old journal is turned into a Parquet file under another name,
which is renamed when it is whole. A process that is killed at any instruction leaves a journal, which the next one
turns into the file of the same name. Within a file, an event that came twice is one row.
"""

import fcntl
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumers.sinks.as_json import data_json
from consumers.sinks.event_rows import level_of, stream_of
from consumers.sinks.kind import SinkKind
from consumers.sinks.rotated import sync_folder
from consumers.sinks.sink_url import Option, SinkUrl
from pipeline.errors import DecodeError, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.observe.log import Limited, get_logger
from pipeline.outcome import Outcomes
from pipeline.units import Duration, Size, duration_ms, size_bytes

HAS_PYARROW = find_spec("pyarrow") is not None
"""Whether the extra `parquet` is installed."""

if TYPE_CHECKING:
    import pyarrow

GROUP_ROWS = 20_000
"""Rows that are turned at a time: what memory holds, and a row group of the file."""
LOOK_S = 30.0
"""How often journals are looked for that a killed process left."""
WORST_S = 60.0
"""Between tries to turn a journal where the disk is full, at most."""
_JOURNAL = re.compile(r"\.events-\d{8}T\d{6}Z-[0-9a-f]{12}\.journal")
_log = get_logger("sink")
_say = Limited(_log)


class Journal:
    """What was acknowledged and is not in a Parquet file yet: a line of JSON per event. Locked by who writes it."""

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self.file = file
        self.begun_s = time.monotonic()
        self.size = 0

    @classmethod
    def new(cls, folder: Path) -> "Journal":
        """A fresh one."""
        while True:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            path = folder / f".events-{stamp}-{secrets.token_hex(6)}.journal"
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            journal = cls(path, file)
            if journal.lock():
                try:
                    sync_folder(folder)
                except OSError:
                    journal.remove()  # there is nothing in it, and the next try has another one
                    raise
                return journal
            journal.close()  # somebody took it for a dead process's in between

    @classmethod
    def left_in(cls, folder: Path) -> "Iterator[Journal]":
        """Those of processes that are gone, locked."""
        for path in sorted(folder.glob(".events-*.journal")):
            if not _JOURNAL.fullmatch(path.name):
                continue
            try:
                journal = cls(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            except FileNotFoundError:
                continue
            except OSError as error:  # another user's, say: the others are turned all the same
                _say.warning(
                    "left", "a journal that a dead process left cannot be opened: it stays", file=str(path),
                    why=error.strerror,
                )  # fmt: skip
                continue
            if journal.lock():
                yield journal
            else:
                journal.close()

    @property
    def parquet(self) -> Path:
        """The file it becomes: the same, however often that is begun."""
        return self.path.with_name(self.path.name.removeprefix(".").removesuffix(".journal") + ".parquet")

    def lock(self) -> bool:
        """Whether it is ours now: no other process has it, and it is still there."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there, own = self.path.stat(), os.fstat(self.file)
        except (BlockingIOError, FileNotFoundError):
            return False
        return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)

    def write(self, data: bytes) -> None:
        """Append, through to the disk; OSError: nothing of it is there."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self.file, view) :]
            os.fdatasync(self.file)
        except OSError:
            os.ftruncate(self.file, self.size)
            raise
        self.size += len(data)

    def lines(self) -> Iterator[list[Any]]:
        """Its events in order; what a killed writer left torn at the end is none."""
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    row = json.loads(line)
                    row[-1] = list(row[-1].items())
                    yield row

    def remove(self) -> None:
        """It is in its Parquet file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of it."""
        os.close(self.file)


class ParquetFolder:
    """Writes events to `events-<time>-<random>.parquet` in a folder. Several processes may write to one folder.

    Example:
        with sink("parquet:events?every=10m") as files:
            app.consumer("orders", group="lake", batch=500)(files)
            app.run()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        rotate: Size = "64MB",
        every: Duration = "10m",
        compress: str = "zstd",
    ) -> None:
        """rotate: size of the events as JSON at which a file is finished; every: age at which it is; compress: zstd,
        snappy or none.

        Raises:
            UsageError: pyarrow is not installed, or the folder cannot be written.
        """
        if not HAS_PYARROW:
            raise UsageError("Parquet files are written by pyarrow: pip install 'millstream[parquet]'")
        self._folder = Path(folder)
        self._rotate_bytes = size_bytes(rotate, "rotate")
        self._every_s = duration_ms(every, "every") / 1_000
        self._compress = compress
        self._state = threading.Condition()
        self._current: Journal | None = None
        self._full: list[Journal] = []
        """To be turned, oldest first; one at a time, or the batches wait."""
        self._thread: threading.Thread | None = None
        self._closing = False
        try:
            self._folder.mkdir(exist_ok=True)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise PermissionError(0, "Permission denied")
        except OSError as error:
            raise UsageError(f"cannot write to folder {self._folder}: {error.strerror}") from None

    def __call__(self, events: list[Event]) -> Outcomes:
        """Write the events to the journal; one that is corrupt fails alone.

        Raises:
            OSError: the disk is full: none of them is written. SinkRefused: the folder is gone, or may not be written.
        """
        outcomes = Outcomes()
        data = b"".join(_lines(events, outcomes))
        with self._state:
            self._start()
            while len(self._full) > 1:  # it cannot be turned as fast as it comes, or not at all
                if not self._state.wait(5):
                    raise TimeoutError("full journals wait to be turned into Parquet files")
            try:
                if self._current is None:
                    self._current = Journal.new(self._folder)
                    self._state.notify_all()  # it will be old at some time
                self._current.write(data)
            except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
                raise SinkRefused(f"cannot write to folder {self._folder}: {error.strerror}") from None
            if self._current.size >= self._rotate_bytes:
                self._rotate()
        return outcomes

    def close(self) -> None:
        """Turn what is held into Parquet files."""
        with self._state:
            thread, self._closing = self._thread, True
            self._state.notify_all()
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._closing = False
            self._thread = threading.Thread(target=self._work, name="millstream-parquet", daemon=True)
            self._thread.start()

    def _rotate(self) -> None:
        if self._current is not None:
            self._full.append(self._current)
            self._current = None
            self._state.notify_all()

    def _work(self) -> None:
        """Turn journals as they become full or old, and those of processes that are gone."""
        look_s, failures = 0.0, 0
        while True:
            if time.monotonic() >= look_s:
                look_s = time.monotonic() + LOOK_S
                self._adopt()
            with self._state:
                now_s = time.monotonic()
                due_s = (
                    look_s if self._current is None else min(look_s, self._current.begun_s + self._every_s)
                )
                if not self._full and not self._closing and now_s < due_s:
                    self._state.wait(due_s - now_s)
                if self._current is not None and (
                    self._closing or time.monotonic() >= self._current.begun_s + self._every_s
                ):
                    self._rotate()
                journal = self._full[0] if self._full else None
                if journal is None:
                    if self._closing:
                        self._thread = None
                        return
                    continue
            failures = 0 if self._turned(journal) else failures + 1
            with self._state:
                if failures == 0:
                    self._full.remove(journal)
                    self._state.notify_all()
                elif self._closing:  # the next process turns them
                    for left in self._full:
                        left.close()
                    self._full.clear()
                    self._thread = None
                    return
                else:
                    self._state.wait(min(2.0**failures, WORST_S))

    def _adopt(self) -> None:
        try:
            for journal in Journal.left_in(self._folder):
                if not self._turned(journal):
                    journal.close()
        except OSError as error:
            _say.warning("adopt", "journals cannot be looked for", error=str(error))

    def _turned(self, journal: Journal) -> bool:
        """Turn a journal into its file; False if the disk does not take it: the journal stays then."""
        part = journal.path.with_name(f"{journal.path.name}.tmp")
        try:
            if write_parquet(journal.lines(), part, self._compress):
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                part.replace(journal.parquet)
            else:
                part.unlink(missing_ok=True)
            sync_folder(self._folder)
            journal.remove()
        except (OSError, MemoryError, ImportError) as error:
            _say.warning(
                "turn",
                "a journal cannot be turned into a Parquet file yet: it stays",
                file=str(journal.path),
                why=str(error) or type(error).__name__,
            )
            return False
        except Exception as error:  # noqa: BLE001 - a journal that the disk has spoilt must not keep the others waiting
            broken = journal.path.with_name(journal.path.name.removeprefix(".") + ".broken")
            try:
                journal.path.replace(broken)
            except OSError as why:
                _say.warning("turn", "a journal that cannot be read cannot be put aside", why=str(why))
                return False
            journal.close()
            part.unlink(missing_ok=True)
            _log.error("a journal cannot be read: it is put aside", file=str(broken), error=repr(error)[:500])
        return True


def _lines(events: list[Event], outcomes: Outcomes) -> Iterator[bytes]:
    for index, event in enumerate(events):
        try:
            row = [
                event.id, stream_of(event), event.time_ms, event.type, event.key, event.source, level_of(event),
                data_json(event), event.headers,
            ]  # fmt: skip
        except (DecodeError, UsageError) as error:
            outcomes.fail(index, error)
        else:
            # Lone surrogates cannot be in a Parquet file either.
            yield (
                json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
            )


def schema() -> "pyarrow.Schema":
    """The columns of the files."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            pa.field("event_id", text, nullable=False),
            pa.field("stream", text, nullable=False),
            pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
            pa.field("type", text, nullable=False),
            pa.field("key", text, nullable=False),
            pa.field("source", text, nullable=False),
            pa.field("level", text),
            pa.field("data", text, nullable=False),
            pa.field("headers", pa.map_(text, text), nullable=False),
        ]
    )


def write_parquet(rows: Iterator[list[Any]], path: Path, compress: str) -> int:
    """Write rows to a file, each event once; how many. There is no file if there are none.

    Raises:
        OSError: the disk is full, or such.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    columns, seen, count, writer = schema(), set(), 0, None
    try:
        more = True
        while more:
            group: list[list[Any]] = []
            for row in rows:
                if (row[0], row[1]) not in seen:
                    seen.add((row[0], row[1]))
                    group.append(row)
                if len(group) == GROUP_ROWS:
                    break
            else:
                more = False
            if not group:
                break
            if writer is None:
                writer = pq.ParquetWriter(path, columns, compression=compress)
            arrays = [
                pa.array(values, type=field.type)
                for values, field in zip(zip(*group, strict=True), columns, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=columns))
            count += len(group)
    finally:
        if writer is not None:
            writer.close()
    return count


def _from_url(url: SinkUrl) -> ParquetFolder:
    if not url.place:
        raise UsageError("parquet: names no folder, as in parquet:events")
    given = url.options
    return ParquetFolder(
        url.place, rotate=given["rotate"], every=given["every"] / 1_000, compress=given["compress"]
    )


KIND = SinkKind(
    make=_from_url,
    options=(
        Option(
            "rotate",
            "size",
            "64MB",
            "size of the events as JSON at which a file is finished",
            least=1,
            most=1_000_000_000,
        ),
        Option("every", "duration", "10m", "age at which a file is finished", least=100),
        Option(
            "compress", "choice", "zstd", "how columns are compressed", choices=("zstd", "snappy", "none")
        ),
    ),
    batch_events=1_000,
)
