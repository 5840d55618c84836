"""FileLock: a lock on a file that the kernel takes back when its holder dies, however it dies.

Stands on flock(2). If killed: the lock is free at once. A forked child holds none of its parent's locks.
"""

import os
import time
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows: whoever needs a lock is told so
    fcntl = None  # type: ignore[assignment]

_open: set[int] = set()
POLL_S = 0.01


class FileLock:
    """An exclusive lock on one file, which is created if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._inode = 0

    def try_acquire(self) -> bool:
        """Whether the lock was free, and is ours now."""
        if fcntl is None:
            raise OSError("file locks need Linux or macOS")
        self.watch()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def watch(self) -> None:
        """Open the file, so that the lock can be asked for even after the file's name is gone."""
        if self._is_open():
            try:
                if os.stat(self.path).st_ino == self._inode:
                    return
            except FileNotFoundError:
                return
            self.close()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(self._fd).st_ino
        _open.add(self._fd)

    def acquire(self, timeout_s: float) -> bool:
        """Wait for the lock, at most timeout_s."""
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def release(self) -> None:
        """Give the lock back, also on behalf of copies of it in children."""
        if self._is_open():
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.close()

    @property
    def fd(self) -> int:
        """The descriptor that carries the lock, to be inherited by a process that shall hold it."""
        return self._fd

    def close(self) -> None:
        """Close the file. The lock, if it was ours, stays with a process that inherited fd, until it ends."""
        if self._is_open():
            _open.discard(self._fd)
            os.close(self._fd)
        self._fd = -1

    def _is_open(self) -> bool:
        # In a forked child the descriptor was closed, and its number may be another file's by now.
        return self._fd in _open and os.fstat(self._fd).st_ino == self._inode

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _forget_in_child() -> None:
    # A lock belongs to the open file, which a fork shares: unless the child closes its copy, a lock outlives its
    # holder for as long as the child runs.
    for fd in _open:
        os.close(fd)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
