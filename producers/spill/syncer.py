"""Syncer: has files on the disk itself a moment after they were written, from a thread of its own.

Waiting for a disk may take long, and who writes has lines to take meanwhile.
"""

import os
import threading

from pipeline.observe.log import Limited, get_logger
from producers.spill.segment import datasync


class Syncer:
    """Syncs what it was given last, one file at a time."""

    def __init__(self) -> None:
        self._due = threading.Condition()
        self._fds: list[int] = []
        self._ending = False
        self._thread: threading.Thread | None = None
        self._limited = Limited(get_logger("logs"))

    def sync(self, fd: int) -> None:
        """Have what was written to this file so far on the disk, soon."""
        with self._due:
            if len(self._fds) > 1:  # the disk does not keep up; these are synced later than asked for
                return
            self._fds.append(os.dup(fd))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="millstream-spill", daemon=True)
                self._thread.start()
            self._due.notify()

    def close(self) -> None:
        """End the thread once it has synced what it was given."""
        with self._due:
            self._ending = True
            self._due.notify()

    def _run(self) -> None:
        while True:
            with self._due:
                self._due.wait_for(lambda: self._fds or self._ending)
                if not self._fds:
                    return
                fd = self._fds.pop(0)
            try:
                datasync(fd)
            except OSError as error:
                self._limited.warning(
                    "sync", "spilled log lines may be lost by a power failure", error=str(error)
                )
            finally:
                os.close(fd)
