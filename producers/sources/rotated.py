"""Rotated files: which files of a folder were once written under a path, in which order, and where a file is now.

Stands on the file system. The names that rotation gives are numbered (app.log.1), dated (app.log-20261126,
app-2026-11-26.log), and either of them compressed; where the path is a link that is switched, files that are called
like its target but for the digits. What came after a file is told by the time it was written to last, which those who
rename, copy and compress keep or set later.
"""

import contextlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from producers.sources.opened import ENDINGS, is_another, matches
from producers.sources.place import Position

TRIES = 5
"""So often a folder is looked through again that was changed meanwhile."""

_SMALL_NUMBER = 10_000
"""What is less counts up with age, mostly, app.log.2 being older than app.log.1; what is more is a date."""
_ENDING = "(?:" + "|".join(map(re.escape, ENDINGS)) + ")?"
_ENDS = re.compile(f"{_ENDING[:-1]}$")
_SUFFIX = r"[.\-_][0-9][0-9T.\-_:]*"
_DATED = r"[.\-_][0-9]{4}[0-9T.\-_:]*[0-9]{2}[0-9T.\-_:]*"
_ROTATED = re.compile(rf"(.+?){_SUFFIX}")
_DATED_INSIDE = re.compile(rf"(.+?){_DATED}(\.[A-Za-z]\w*)")


@dataclass(frozen=True, slots=True)
class Sibling:
    """A file that may once have been written under a path."""

    path: str
    device: int
    inode: int
    written_ns: int
    size_bytes: int

    @property
    def identity(self) -> tuple[int, int]:
        """What makes it this file, whatever it is called."""
        return self.device, self.inode

    @property
    def newness(self) -> int:
        """Ascending with the numbers that rotation gives; those of dates are positive, the others not."""
        return _newness(self.path)

    @property
    def order(self) -> tuple[int, int]:
        """Ascending with the time it was written to last; of two at the same moment the numbers say it."""
        return self.written_ns, self.newness


def origins(name: str) -> list[str]:
    """The names a file may have had before it was rotated to this one."""
    found = []
    name = _ENDS.sub("", name)
    if match := _ROTATED.fullmatch(name):
        found.append(match[1])
    if match := _DATED_INSIDE.fullmatch(name):
        found.append(match[1] + match[2])
    return found


class Rotated:
    """What became of the files that were written under one path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def find(self, known: Position) -> str | None:
        """The path under which the file of a position stands now: its own, a new one, or a copy's; None: it is gone."""
        for _ in range(TRIES):
            before = self._folder_changed_ns()
            found = self._find(known)
            if found is not None or self._folder_changed_ns() == before:
                return found
        return None

    def after(self, known: Position, *, gone: bool = False) -> tuple[Sibling, int] | None:
        """The file that was written next, and where in it to go on; None: there is none yet.

        Of what follows the oldest is first, and the path itself last. What is nothing but a copy of the known file, or
        that file compressed, does not follow it; if the path itself begins with all that was read, it goes on there.
        gone: the known file was looked for and is nowhere, whatever has its inode now.
        """
        here = _sibling(self.path)
        # An inode that was let go may be another file's by now, so content has the last word.
        same = None if gone else (known.device, known.inode)
        if here is not None and here.identity == same:
            if not is_another(self.path, known):
                return None
            same = None
        for each in self._later(known, same):
            if here is not None and here.identity == each.identity:
                continue
            if known.tells_copies and matches(each.path, known, by_inode=False):
                continue
            if each.written_ns == known.written_ns and matches(each.path, known.beginning, by_inode=False):
                continue  # an older copy of what was read, made at the same moment as the last line
            return each, 0
        if here is None:
            return None
        if known.tells_copies and matches(self.path, known, by_inode=False):
            return here, known.offset
        return here, 0

    def _later(self, known: Position, same: tuple[int, int] | None) -> Sequence[Sibling]:
        """Siblings that were written after the known file, oldest first."""
        if not known.written_ns:
            return []
        siblings = self._siblings()
        own = next(
            (each for each in siblings if each.identity == same and not is_another(each.path, known)), None
        )
        order = (known.written_ns, own.newness if own else -_SMALL_NUMBER)
        later = [each for each in siblings if each is not own and each.order > order]
        return sorted(later, key=lambda each: each.order)

    def _find(self, known: Position) -> str | None:
        if matches(self.path, known, by_inode=True):
            return self.path
        folder = os.path.dirname(os.path.realpath(self.path))
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            same = [entry.path for entry in entries if entry.inode() == known.inode]
            for path in same:
                if matches(path, known, by_inode=True):
                    return path
        if not known.tells_copies:
            return None
        copies = [each for each in self._siblings() if each.written_ns >= known.written_ns]
        # What is not compressed first: it is quickly looked at. The newest first: a copy is made of what was just read.
        copies.sort(key=lambda each: (each.path.endswith(ENDINGS), -each.written_ns))
        for path in (self.path, *(each.path for each in copies)):
            if matches(path, known, by_inode=False):
                return path
        return None

    def _siblings(self) -> Sequence[Sibling]:
        folder, name = os.path.split(os.path.realpath(self.path))
        found = []
        begins, shape = os.path.splitext(name)[0], None
        if os.path.islink(self.path):  # it may be switched from one file to the next: those called alike
            begins = re.split(r"[0-9]", name, maxsplit=1)[0]
            shape = re.compile(re.sub(r"[0-9]+", "[0-9]+", re.escape(name)) + _ENDING)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == name or not entry.name.startswith(begins):
                    continue
                if name in origins(entry.name) or (shape is not None and shape.fullmatch(entry.name)):
                    sibling = _sibling(entry.path)
                    if sibling is not None:
                        found.append(sibling)
        return found

    def _folder_changed_ns(self) -> int:
        with contextlib.suppress(OSError):
            return os.stat(os.path.dirname(os.path.realpath(self.path))).st_mtime_ns
        return 0


def _sibling(path: str) -> Sibling | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Sibling(path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def _newness(path: str) -> int:
    name = _ENDS.sub("", os.path.basename(path))
    digits = "".join(re.findall(r"[0-9]+", name)[-6:])[-18:]
    number = int(digits or "0")
    return -number if number < _SMALL_NUMBER else number
