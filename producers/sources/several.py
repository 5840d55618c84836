"""Several: many files into one stream at the same time, each a source of its own, in one thread.

Stands on FollowedFile and Feed, of which each file has one. Killed at any instant it neither loses nor repeats a line
of any file. Files take turns, a block each, so a busy one holds up no other; one that cannot be read is said and looked
at again. Memory is bounded: so many descriptors are open, and of a file only the line that is being written is kept.
"""

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.errors import ClosedError
from pipeline.observe.log import get_logger
from producers.producer import Producer
from producers.sources.feed import PACK_EVENTS, Fed, Feed, LineOptions, Positions
from producers.sources.files import FollowedFile, Read, now_ms
from producers.sources.lines import MAX_LINE_BYTES
from producers.sources.report import Report
from producers.sources.watched import Watched

POLL_S = 0.1
"""How often a file without news is looked at, in seconds; one without for long, among many, up to once a second."""
PUT_LINES = 1_000
IDLE_PART = 50
"""A file is looked at so often within the time for which it had no news."""
MANY_FILES = 500
"""Up to so many files are all looked at every POLL_S."""
MOST_OPEN = 1_000
DROP_LOOKS = 3

_log = get_logger("source")


def file_source(path: str) -> str:
    """The source id of a file: this host and its absolute path."""
    return f"file:{socket.gethostname()}:{os.path.abspath(path)}"


def follow_files(
    producer: Producer,
    stream: str,
    paths: Sequence[str],
    *,
    source: str = "",
    from_end: bool = False,
    options: LineOptions | None = None,
    pack: int = PACK_EVENTS,
    max_line_bytes: int = MAX_LINE_BYTES,
    max_open_files: int = 0,
    stop: threading.Event | None = None,
    progress: Callable[[Fed], None] | None = None,
) -> Fed:
    """Send the lines of all files that paths and patterns (`/var/log/**/*.log`) mean, and will mean, until `stop`.

    Each line once, those of a file in order. Patterns are looked at again every second; what they find then is read
    from its start. What is rotated away from a file is read as that file's, whatever pattern matches it.

    Args:
        source: what the names of the positions begin with, followed by the path; default: this host.
        from_end: of a file without a position that is there now, begin with the line that is being written.
        options: what a line becomes; its source is each file's path.
        pack, max_line_bytes, stop, progress: as those of follow_file().
        max_open_files: so many are held open; default: half of what the process may, at most 1,000. Others are opened
            again when there is something new in them.

    Returns:
        The counts; confirmed is the number of lines that are in the stream.

    Raises:
        UsageError: a path that is named is a folder, a pipe, or compressed. AccessDeniedError, WrongKeyTypeError,
            ServerRefusedError: the server will not have the lines.
    """
    stop = stop or threading.Event()
    fed = Fed()
    report = Report(fed, progress)
    crowd = _Crowd(
        producer, stream, Watched(paths), source, options or LineOptions(), pack, max_line_bytes,
        max_open_files or min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, MOST_OPEN), fed, stop,
    )  # fmt: skip
    try:
        crowd.look(from_end=from_end)
        while not stop.is_set():
            report.soon()
            if crowd.watched.due():
                crowd.look()
            if not crowd.turn():
                stop.wait(POLL_S)
        crowd.finish(producer.options.exit_ms / 1_000)
    except ClosedError:
        if not stop.is_set():  # the producer was closed beneath us
            raise
    finally:
        crowd.close()
        report.now()
    return fed


class Source:
    """One file on its way into a stream."""

    def __init__(self, file: FollowedFile, feed: Feed) -> None:
        self.file = file
        self.feed = feed
        self.due_ms = 0.0
        """When to look at it next."""
        self.absent = 0
        """So often in a row it was neither there nor meant."""
        self._in_place = True

    def step(self) -> bool | None:
        """Read once, and put what there is; None where there is nothing new now, False if its place was lost."""
        if not self._in_place:
            self.file.resume(self.feed.recover())
            self._in_place = True
        read = self.file.read()
        if read is None:
            self._in_place = self.feed.check()
            return None
        self._in_place = self._put(read)
        return self._in_place

    def quiet(self) -> bool:
        """Whether there is nothing to do: the file is parked and nothing new, and what was put is well."""
        self._in_place = self._in_place and self.feed.check()
        return self._in_place and self.file.quiet

    def wait(self, timeout_s: float) -> bool:
        """Wait for what was put to end; whether all of it did, and well."""
        self._in_place = self.feed.wait(timeout_s)
        return self._in_place and not self.feed.unconfirmed

    def _put(self, read: Read) -> bool:
        for start in range(0, len(read.lines), PUT_LINES):
            few = read.lines[start : start + PUT_LINES]
            cut = {i - start: n for i, n in read.cut.items() if 0 <= i - start < len(few)} if read.cut else {}
            if not self.feed.put(few, cut, lambda index, start=start: read.position(start + index)):  # type: ignore[misc]
                return False
        return True


class _Crowd:
    """The sources of follow_files()."""

    def __init__(
        self,
        producer: Producer,
        stream: str,
        watched: Watched,
        source: str,
        options: LineOptions,
        pack: int,
        max_line_bytes: int,
        max_open_files: int,
        fed: Fed,
        stop: threading.Event,
    ) -> None:
        self.watched = watched
        self._producer = producer
        self._stream = stream
        self._name = source
        self._options = options
        self._pack = pack
        self._max_line_bytes = max_line_bytes
        self._max_open_files = max(max_open_files, 1)
        self._fed = fed
        self._stop = stop
        self._positions = Positions(producer, stop)
        self._sources: dict[str, Source] = {}
        self._opened: dict[Source, None] = {}
        """In the order in which they were opened; some may be closed by now."""

    def look(self, *, from_end: bool = False) -> None:
        """Begin with files that are new, and let go of those that are gone for good."""
        meant = dict.fromkeys(self.watched.files())
        for path in meant:
            if path not in self._sources and not self._stop.is_set():
                self._sources[path] = self._begin(path, from_end)
        for path, source in list(self._sources.items()):
            source.absent = source.absent + 1 if path not in meant and source.file.vanished else 0
            if source.absent >= DROP_LOOKS and source.feed.idle:
                source.file.close()
                self._opened.pop(source, None)
                del self._sources[path]

    def turn(self) -> bool:
        """One turn for every file that is due; whether one of them had something."""
        busy = False
        now = now_ms()
        longest_s = min(max(POLL_S, POLL_S * len(self._sources) / MANY_FILES), 1.0)
        held = sum(source.file.open for source in self._sources.values())
        for source in self._sources.values():
            if source.due_ms > now:
                continue
            got = None
            was_open = source.file.open
            if was_open or not source.quiet():
                if not was_open and held >= self._max_open_files:
                    if not self._park_one():
                        continue
                    held -= 1
                got = source.step()
                held += source.file.open - was_open
                if source.file.open and not was_open:
                    self._note_opened(source)
            if got is None:
                idle_s = (now - source.file.active_ms) / 1_000
                source.due_ms = now + 1_000 * min(max(idle_s / IDLE_PART, POLL_S), longest_s)
            else:
                busy = True
            if self._stop.is_set():
                break
        return busy

    def _park_one(self) -> bool:
        """Close the file that has been open longest; False if each has a record that waits for its next line."""
        for source in list(self._opened):
            if not source.file.open:
                del self._opened[source]
            elif source.file.park():
                del self._opened[source]
                return True
        return False

    def _note_opened(self, source: Source) -> None:
        self._opened.pop(source, None)
        self._opened[source] = None

    def finish(self, within_s: float) -> None:
        """Wait for what is on its way."""
        until_s = time.monotonic() + within_s
        left = 0
        for source in self._sources.values():
            source.feed.wait(max(until_s - time.monotonic(), 0))
            left += source.feed.unconfirmed
        if left:
            _log.warning("stopped with lines unconfirmed: the next run reads them again", lines=left)

    def close(self) -> None:
        """Let all go."""
        for source in self._sources.values():
            source.file.close()
        self._positions.close()

    def _begin(self, path: str, from_end: bool) -> Source:
        name = f"{self._name}:{path}" if self._name else file_source(path)
        file = FollowedFile(path, from_end=from_end, max_line_bytes=self._max_line_bytes, strict=False,
                            records=self._options.records)  # fmt: skip
        feed = Feed(
            self._producer, self._stream, source=name, options=replace(self._options, source=path),
            pack=self._pack, stop=self._stop, fed=self._fed, positions=self._positions,
        )  # fmt: skip
        stored = feed.stored()
        file.resume(stored)
        if stored is None and from_end and file.position():
            feed.remember(file.position())
        source = Source(file, feed)
        if len(self._sources) >= self._max_open_files:  # as many may be open already
            file.park()
        elif file.open:
            self._note_opened(source)
        return source
