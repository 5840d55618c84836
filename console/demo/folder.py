"""DemoFolder: the demo's data folder: the server's data, what the groups wrote, and the accounts of each run.

    FOLDER/              the embedded server's data: kept, so that the next run and every other verb find it
    FOLDER/archive.jsonl what the group `archive` wrote, of all runs
    FOLDER/alerts.jsonl  the warnings and errors that the group `alerts` picked
    FOLDER/demo/         the accounts and logs of the last runs, a folder each

One demo at a time uses a folder: it holds a lock, and so does each of its processes. If it is killed, the locks are
free as soon as they are gone.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from pipeline.errors import MillstreamError, UsageError
from pipeline.server.file_lock import FileLock

STREAM = "logs"
GROUPS = ("archive", "alerts")
KEPT_RUNS = 3
ORPHANS_S = 20.0
"""Processes of a demo that was killed end by themselves within this time."""


class InUseError(MillstreamError):
    """Another demo uses the folder."""


class RunFolder:
    """Where one run keeps its accounts and logs. Also what its processes are given."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def home(self) -> Path:
        """The demo's data folder."""
        return self.path.parent.parent

    @property
    def url(self) -> str:
        """The address of the server; whoever connects by it is one of its users, and the last one stops it."""
        return embedded_url(self.home, always=True)

    def confirmed(self, who: str) -> Path:
        """The account of what was confirmed to one sender."""
        return self.path / f"confirmed-{who}"

    def handled(self, group: str, pid: int) -> Path:
        """The account of what one worker handled."""
        return self.path / f"handled-{group}-{pid}"

    def confirmed_accounts(self) -> list[Path]:
        """All accounts of what was confirmed."""
        return sorted(self.path.glob("confirmed-*"))

    def handled_accounts(self, group: str) -> Iterator[tuple[int, Path]]:
        """All accounts of what a group handled, with the worker's pid."""
        for path in sorted(self.path.glob(f"handled-{group}-*")):
            yield int(path.name.rpartition("-")[2]), path

    def log(self, who: str) -> Path:
        """What a process has to say."""
        return self.path / f"{who}.log"

    def output(self, group: str) -> Path:
        """What a group writes."""
        return self.home / f"{group}.jsonl"

    def join(self) -> None:
        """Count this process as one of the demo's, for as long as it lives."""
        fd = os.open(self.path.parent / "processes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)


class DemoFolder:
    """The data folder, held by one demo from the beginning to the end of a with block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs = path / "demo"
        self._lock: FileLock | None = None

    def __enter__(self) -> RunFolder:
        """Hold the folder and begin a run.

        Raises:
            InUseError: another demo has it. UsageError: it cannot be written.
        """
        try:
            # What is copied from log files is for the eyes that may read those.
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._runs.mkdir(exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise UsageError(f"--dir: {self.path} cannot be written")
            self._hold()
            run = self._runs / time.strftime("%Y%m%d-%H%M%S")
            while run.exists():
                run = run.with_name(run.name + "x")
            run.mkdir()
            self._remove_old(run)
        except OSError as error:
            raise UsageError(f"--dir: {self.path} cannot be used: {error.strerror or error}") from None
        return RunFolder(run)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()

    def _hold(self) -> None:
        lock = FileLock(self._runs / "lock")
        if not lock.try_acquire():
            holder = lock.path.read_text("ascii", "replace").strip()
            lock.close()
            who = f" (process {holder})" if holder else ""
            raise InUseError(
                f"{self.path} is in use by another demo{who}: quit that one, or give this one --dir with another folder"
            )
        os.ftruncate(lock.fd, 0)
        os.pwrite(lock.fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        orphans = FileLock(self._runs / "processes")
        gone = orphans.acquire(ORPHANS_S)
        orphans.close()
        if not gone:
            lock.release()
            raise InUseError(
                f"processes of an earlier demo in {self.path} have not ended within {ORPHANS_S:g} s"
            )

    def _remove_old(self, current: Path) -> None:
        runs = sorted(path for path in self._runs.iterdir() if path.is_dir() and path != current)
        for path in runs[: max(len(runs) - KEPT_RUNS + 1, 0)]:
            shutil.rmtree(path, ignore_errors=True)


def embedded_url(folder: Path, *, always: bool = False) -> str:
    """The address of the embedded server of a folder."""
    return f"embedded://{quote(str(folder.absolute()))}" + ("?fsync=always" if always else "")
