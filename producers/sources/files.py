"""FollowedFile: reads the lines of a log file across rotation, truncation, compression and restarts.

Stands on the file system. Its position (place.py) names the file and the offset of the next line, so that a renamed,
copied or compressed file is finished before the next is read. A line without its end waits for it, also across
restarts. A file that cannot be read is said once and looked at again. It may be parked: closed, and opened again where
there is something new.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.errors import NotFoundError, UsageError
from pipeline.observe.log import get_logger
from producers.sources.lines import MAX_LINE_BYTES, Lines, LineSplitter
from producers.sources.opened import BLOCK_BYTES, Damaged, Opened, open_file, what_it_is
from producers.sources.place import TAIL_BYTES, Position, head_of, tail_of
from producers.sources.records import RecordOptions, Records
from producers.sources.rotated import Rotated, Sibling

FINISHED_MS = 1_000
"""How long a file that was rotated may go without a new line before it counts as finished, in ms: its writer writes to
the next one by then."""
VANISHED_MS = 60_000
"""How long a file is kept open that is gone without another in its place, in ms."""
WRITING_MS = 10_000
"""How long a compressed file that is cut off may not have been written to, and yet still be finished, in ms."""
UNREADABLE_MS = 1_000
"""How often a file that cannot be read is looked at again, in ms."""

_log = get_logger("source")


@dataclass(slots=True)
class Read:
    """Lines of one file, and for each the position behind it. To be used before the file is read again."""

    lines: list[bytes] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    cut: dict[int, int] = field(default_factory=dict)
    prefix: str = ""
    tail: Callable[[int], str] = str

    def position(self, index: int) -> str:
        """The position behind the line with this index."""
        end = self.ends[index]
        return f"{self.prefix}:{self.tail(end)}:{end}"


class FollowedFile:
    """The lines written under one path. With follow=False: those that are there now, each file read to its end.

    Raises:
        NotFoundError: no such file (with follow=True it is waited for). UsageError: unreadable, or not a file; while
            following only at the start, and if strict.
    """

    def __init__(
        self,
        path: str,
        *,
        follow: bool = True,
        from_end: bool = False,
        max_line_bytes: int = MAX_LINE_BYTES,
        strict: bool = True,
        records: RecordOptions | None = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self.finished = False
        """With follow=False: everything was read."""
        self.active_ms = now_ms()
        """When there was something new."""
        self._follow = follow
        self._from_end = from_end
        self._max_line_bytes = max_line_bytes
        self._rotated = Rotated(self.path)
        self._file: Opened | None = None
        self._splitter = LineSplitter()
        self._records = None if records is None else Records(records)
        self._tails: dict[int, str] = {}
        """Of those offsets that may have to be named although what stands before them was read long ago."""
        self._block, self._before, self._start = b"", b"", 0
        self._head = (0, "")
        self._parked: Position | None = None
        """Where to go on, in whatever file it is by then."""
        self._read_to: Position | None = None
        """The same file as far as it was read, which tells it better."""
        self._done: Position | None = None
        """The end of the file that was finished last: the one that follows it is next."""
        self._before_this: Position | None = None
        """The end of the file before this one, as long as nothing was read of this one."""
        self._copy = False
        self._gone_ms: float | None = None
        self._retry_ms = 0.0
        self._next_look_ms = 0.0
        self._seen: tuple[int, int, int, int] | None = None
        self._said = ""
        if strict:
            with contextlib.suppress(FileNotFoundError) if follow else contextlib.nullcontext():
                self._check()

    @property
    def open(self) -> bool:
        """Whether it holds a descriptor."""
        return self._file is not None

    @property
    def vanished(self) -> bool:
        """Nothing is held open, and there is nothing under its path."""
        return self._file is None and not os.path.exists(self.path)

    def resume(self, position: str | None) -> None:
        """Go on from a stored position, in whatever file it has become; None: from the start, or the present end."""
        self.close()
        self.finished = False
        known = Position.parse(position) if position else None
        if known is None:
            if position:
                _log.warning(
                    "stored position is not one of a file: starting at its beginning", position=position
                )
            self._open(self.path, 0, at_end=self._from_end and not position)
            return
        self._parked = known
        self._reopen()

    def read(self) -> Read | None:
        """The next lines; an empty Read in the midst of a long line; None if there is nothing new now."""
        if self.finished:
            return None
        if self._file is None:
            if now_ms() < self._retry_ms or not self._reopen():
                return None
        elif self._nothing_new():
            return self._due()
        file = self._file
        assert file is not None, "opened"
        before, start = file.last, file.offset
        try:
            block = file.read()
        except Damaged as error:
            return self._damaged(file, error)
        except OSError as error:
            self._fail(f"cannot read {file.path}: {error.strerror}")
            self.park()
            return None
        if block is None:
            return self._truncated(file)
        if not block:
            self._block = b""
            return self._at_end(file) or self._due()
        if self._before_this is not None and not self._still_next(file):
            return None
        self.active_ms = now_ms()
        if self._said:
            _log.info("file can be read again", path=self.path)
            self._said = ""
        self._seen = None
        self._block, self._before, self._start = block, before, start
        lines = self._splitter.feed(block)
        if self._records is not None:
            lines = self._records.feed(lines, self.active_ms)
        self._note_tails(file, lines)
        return self._read(file, lines)

    def _still_next(self, file: Opened) -> bool:
        """Whether the file that is read for the first time is what follows the last one: it may have been copied and
        truncated before there was anything of it to tell the copy by."""
        known, self._before_this = self._before_this, None
        assert known is not None, "asked"
        following = self._rotated.after(known)
        if following is None or following[0].identity == (file.device, file.inode):
            return True
        self.close()
        self._done = known
        return False

    @property
    def quiet(self) -> bool:
        """It is parked, and there is nothing new."""
        return self._file is None and self._nothing_new()

    def park(self) -> bool:
        """Close the file; read() opens it again, wherever it is by then, once there is something new.

        False if a record waits for its next line: it would be read again, and wait again.
        """
        if self._records is not None and self._records.pending:
            return False
        if self._file is not None:
            known, whole = (
                self._position(self._file, self._unsent),
                self._position(self._file, self._file.offset),
            )
            seen, before, gone_ms = self._seen, self._before_this, self._gone_ms
            self.close()
            if before is not None:
                self._done = before
            else:
                self._parked, self._read_to, self._seen, self._gone_ms = known, whole, seen, gone_ms
        return True

    def close(self) -> None:
        """Let the file go; resume() opens one again."""
        file, self._file = self._file, None
        self._gone_ms, self._seen, self._parked, self._done, self._copy = None, None, None, None, False
        self._before_this = self._read_to = None
        self._block, self._splitter = b"", LineSplitter()
        if self._records is not None:
            self._records.begin(0)
        if file is not None:
            file.close()

    def position(self) -> str:
        """Where the first line that was not given out yet begins; empty while there is no file."""
        if self._file is None:
            return str(self._parked or self._done or "")
        return str(self._position(self._file, self._unsent))

    # Reading.

    @property
    def _unsent(self) -> int:
        """Where the first line begins that was not given out yet."""
        if self._records is not None and self._records.pending:
            return self._records.start
        return self._splitter.offset - self._splitter.half

    def _note_tails(self, file: Opened, lines: Lines) -> None:
        """Of offsets that may be named once this block is gone; and of the end of a record that came before it."""
        unsent = self._unsent
        tails = {unsent: self._tail(unsent), file.offset: tail_of(file.last)}
        if self._records is not None:
            for offset in (self._records.end, *lines.ends[:1]):
                tails[offset] = self._tail(offset)
        self._tails = tails

    def _due(self) -> Read | None:
        """A record that has waited long enough for its next line."""
        records = self._records
        if records is None or self._file is None or not records.due(now_ms(), self._splitter.half):
            return None
        return self._read(self._file, records.rest())

    def _read(self, file: Opened, lines: Lines) -> Read:
        if not lines.lines:
            return Read()
        return Read(lines.lines, lines.ends, lines.cut, self._position(file, 0).prefix, self._tail)

    def _tail(self, offset: int) -> str:
        """The hash of what stands before an offset: within the block that was read last, or noted."""
        noted = self._tails.get(offset)
        if noted is not None:
            return noted
        at = offset - self._start
        if at >= TAIL_BYTES:
            return tail_of(self._block[at - TAIL_BYTES : at])
        return tail_of((self._before + self._block[:at])[-TAIL_BYTES:]) if at >= 0 else ""

    def _position(self, file: Opened, offset: int) -> Position:
        if self._head[0] != len(file.first):
            self._head = (len(file.first), head_of(file.first))
        return Position(
            device=file.device,
            inode=file.inode,
            head_bytes=self._head[0],
            head=self._head[1],
            offset=offset,
            written_ns=file.written_ns,
            tail=self._tail(offset) if offset else "",
        )

    def _nothing_new(self) -> bool:
        """Whether all is as it was when there was nothing new, at the cost of one look."""
        return self._seen is not None and self._seen == self._look()

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            here = os.stat(self.path)
        except OSError:
            return None
        return here.st_dev, here.st_ino, here.st_size, here.st_mtime_ns

    def _at_end(self, file: Opened) -> Read | None:
        if not self._follow or file.compressed:
            return self._finish(file)
        here = self._look()
        if here is not None and here[:2] == (file.device, file.inode):
            self._gone_ms = None
            # What was written since the read is seen by the next: it is larger, or newer, than what was read.
            self._seen = here if here[2:] == (file.offset, file.written_ns) else None
            return None
        self._gone_ms = self._gone_ms or now_ms()
        if now_ms() < self._next_look_ms:
            return None
        self._next_look_ms = (
            now_ms() + FINISHED_MS / 4
        )  # a look takes time where the folder has thousands of files
        following = self._rotated.after(self._position(file, file.offset))
        quiet_ms = now_ms() - max(self._gone_ms, self.active_ms)
        if following is None:
            # Renamed, and nothing new yet under its name: it may still be written to.
            if quiet_ms >= VANISHED_MS:
                self.park()
            return None
        if self._copy or self._writer_left(file, following[0], quiet_ms):
            return self._finish(file)
        return None

    def _writer_left(self, file: Opened, following: Sibling, quiet_ms: float) -> bool:
        """Whether nobody writes to a rotated file any more: the next one is in use, and this one has been quiet."""
        if not following.size_bytes:
            return False
        if quiet_ms >= FINISHED_MS:
            return True
        # Where the next one was rotated, too, this one was left longer ago than it was looked at.
        rotated = following.path != self.path
        return rotated and time.time() * 1_000 - file.written_ns / 1e6 >= FINISHED_MS

    def _finish(self, file: Opened) -> Read:
        """The rest of a file that ends here; afterwards the next is read, if there is one."""
        self._block, self._before, self._start = b"", file.last, file.offset
        lines = self._splitter.rest()
        if self._records is not None:
            lines = self._records.feed(lines, now_ms())
            lines.extend(self._records.rest())
        tails = self._tails | {file.offset: tail_of(file.last)}
        rest = self._read(file, lines)
        rest.tail = lambda offset: tails.get(offset, "")
        done = self._position(file, file.offset)
        self.close()
        self._done = done
        return rest

    def _truncated(self, file: Opened) -> Read | None:
        """copytruncate: what was not read yet may be in the copy; then from the start."""
        known, whole = self._position(file, self._unsent), self._position(file, file.offset)
        self.close()
        self._parked, self._read_to = known, whole
        self._reopen(truncated=True)
        return None

    def _damaged(self, file: Opened, error: Damaged) -> Read | None:
        """A compressed file that ends too soon: it may still be written; if nobody does, what it held is gone."""
        self._fail(str(error))
        if time.time() * 1_000 - file.written_ns / 1e6 < WRITING_MS:
            self.park()
            return None
        _log.error("the rest of a compressed file is lost: lines are missing", path=file.path)
        return self._finish(file)

    # Opening.

    def _reopen(self, *, truncated: bool = False) -> bool:
        """Open what comes next: the file that was parked, the one after that which was finished, or the path."""
        if self._parked is not None:
            known, whole = self._parked, self._read_to or self._parked
            if self._seen is not None and self._seen == self._look():
                return False
            path = self._rotated.find(whole)
            if path is not None:
                if truncated:
                    _log.info("file was truncated", path=self.path, read_to=known.offset, copy=path)
                moved = truncated and path != self.path
                return self._open(path, known.offset, at=known, copy=moved)
            following = self._rotated.after(whole, gone=True)
            if following is None:
                if self._seen is not None:
                    self._seen = None
                return False
            if truncated:
                _log.info("file was truncated", path=self.path, read_to=known.offset, copy="none")
            else:
                _log.warning(
                    "the file read before is gone: lines may be missing", path=self.path, offset=known.offset
                )
            return self._open(following[0].path, known.offset if following[1] else 0, expected=following[0])
        if self._done is not None:
            following = self._rotated.after(self._done)
            if following is None:
                self.finished = not self._follow
                return False
            known = self._done
            if not self._open(following[0].path, following[1], expected=following[0]):
                return False
            if not following[1]:
                self._before_this = known
            return True
        return self._open(self.path, 0)

    def _open(
        self,
        path: str,
        offset: int,
        *,
        at_end: bool = False,
        expected: Sibling | None = None,
        at: Position | None = None,
        copy: bool = False,
    ) -> bool:
        try:
            if path == self.path:
                self._check()
            file = open_file(path, _last_line(path) if at_end else offset)
        except FileNotFoundError:
            if not self._follow and expected is None and at is None:
                raise NotFoundError(f"no such file: {path}") from None
            return False  # it is waited for, or was renamed just now
        except (OSError, UsageError) as error:
            self._fail(
                str(error) if isinstance(error, UsageError) else f"cannot read {path}: {error.strerror}"
            )
            return False
        if (expected is not None and (file.device, file.inode) != expected.identity) or (
            at is not None and at.tail and at.tail != tail_of(file.last)
        ):
            file.close()  # rotated or truncated between the look and now
            return False
        gone_ms = self._gone_ms if at is not None else None  # of one that was parked
        self.close()
        self._file, self._copy, self._gone_ms = file, copy, gone_ms
        self._splitter = LineSplitter(file.offset, self._max_line_bytes)
        if self._records is not None:
            self._records.begin(file.offset)
        self._tails = {file.offset: tail_of(file.last)}
        self._head = (0, "")
        self._next_look_ms = 0.0
        return True

    def _check(self) -> None:
        """Refuse what is not a regular file, or cannot be read."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            if self._follow:
                raise
            raise NotFoundError(f"no such file: {self.path}") from None
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(what_it_is(self.path, status.st_mode))
        if not os.access(self.path, os.R_OK):
            raise UsageError(f"cannot read {self.path}: {os.strerror(errno.EACCES)}")

    def _fail(self, why: str) -> None:
        """Following: say it once, and look again later; else an error."""
        if not self._follow:
            raise UsageError(why)
        self._retry_ms = now_ms() + UNREADABLE_MS
        if why != self._said:
            self._said = why
            _log.warning("file cannot be read just now", path=self.path, error=why)


def position_at(path: str, offset: int) -> Position:
    """The position of an offset at which a line begins, to be stored so that a source begins there.

    Raises:
        OSError, UsageError: the file cannot be read.
    """
    file = open_file(path, offset)
    try:
        return Position(
            device=file.device, inode=file.inode, head_bytes=len(file.first), head=head_of(file.first),
            offset=offset, written_ns=file.written_ns, tail=tail_of(file.last),
        )  # fmt: skip
    finally:
        file.close()


def now_ms() -> float:
    """The steady clock, in ms."""
    return time.monotonic() * 1_000


def _last_line(path: str) -> int:
    """Where the line begins that is being written now: behind the file's last newline."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        return start + newline + 1 if newline >= 0 else end if start else 0
