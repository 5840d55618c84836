"""Watched: which files several paths and patterns mean, looked at again for those that are new.

Stands on the file system. A pattern means files alone: folders, pipes, compressed files and what was rotated away from
a file that is followed itself are left out, as nobody appends to them or they are read as that file's past.
"""

import glob
import os
import time
from collections.abc import Container, Sequence

from pipeline.errors import NotFoundError, UsageError
from pipeline.observe.log import get_logger
from producers.sources.opened import ENDINGS, what_it_is
from producers.sources.rotated import origins

LOOK_S = 1.0
"""How often patterns are looked at again, in seconds; where that takes long, ten times as long as it takes."""

_log = get_logger("source")


def is_pattern(path: str) -> bool:
    """Whether it has a *, a ? or a [, and is no file of just that name."""
    return glob.has_magic(path) and not os.path.lexists(path)


def files_of(paths: Sequence[str]) -> list[str]:
    """The files that paths and patterns mean just now, each once, in their order; those of a pattern sorted.

    Raises:
        NotFoundError: a path names no file, or a pattern none.
    """
    found: dict[str, None] = {}
    for path in paths:
        if not is_pattern(path):
            found[os.path.abspath(path)] = None
            continue
        matched = [each for each in _matched(path) if os.path.isfile(each)]
        if not matched:
            raise NotFoundError(f"no file matches {path}")
        found.update(dict.fromkeys(matched))
    return list(found)


class Watched:
    """Paths and patterns to be followed.

    Raises:
        UsageError: a path that was named is a folder, a pipe, or compressed.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        named = dict.fromkeys(os.path.abspath(path) for path in paths if not is_pattern(path))
        # A shell that expands app.log* names the rotated files, too.
        self._named = {path: None for path in named if _origin(path, named) is None}
        for path in named.keys() - self._named.keys():
            _log.warning("file is read as part of another", path=path, of=_origin(path, named))
        self._patterns = [path for path in paths if is_pattern(path)]
        self._next_s = 0.0
        self._left_out: set[str] = set()
        for path in self._named:
            if path.endswith(ENDINGS):
                raise UsageError(
                    f"cannot follow {path}: it is compressed and does not grow; without --follow it is sent once"
                )
            if os.path.lexists(path) and not os.path.isfile(path) and os.path.exists(path):
                raise UsageError(what_it_is(path, os.stat(path).st_mode))

    def due(self) -> bool:
        """Whether patterns are to be looked at again."""
        return bool(self._patterns) and time.monotonic() >= self._next_s

    def files(self) -> list[str]:
        """The files there are now, and those that were named whether they are there or not."""
        began_s = time.monotonic()
        matched: dict[str, None] = {}
        for pattern in self._patterns:
            matched.update(dict.fromkeys(_matched(pattern)))
        all_of = self._named | matched
        found = list(self._named)
        for path in matched:
            if path in self._named or path.endswith(ENDINGS) or not os.path.isfile(path):
                continue
            of = _origin(path, all_of)
            real = os.path.realpath(path)
            if of is None and (real == path or real not in all_of):
                found.append(path)
            elif path not in self._left_out:
                self._left_out.add(path)
                _log.info("file is read as part of another", path=path, of=of or real)
        self._left_out.intersection_update(matched)
        took_s = time.monotonic() - began_s
        self._next_s = time.monotonic() + max(LOOK_S, 10 * took_s)
        return found


def _origin(path: str, others: Container[str]) -> str | None:
    """Of which of the others it was rotated away, by its name."""
    folder, name = os.path.split(path)
    return next((of for each in origins(name) if (of := os.path.join(folder, each)) in others), None)


def _matched(pattern: str) -> list[str]:
    return sorted(map(os.path.abspath, glob.iglob(pattern, recursive=True)))
