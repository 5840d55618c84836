"""List old: puts back what dead old workers left in their processing list, with a record or without.

An old worker moves a task to the processing list, writes a record of it, and removes both when it has run. Stands on
lua/list_old_task.lua (a record that timed out), list_old_bare.lua (copies without a record) and list_old_seen.lua
(since when those were seen). Every look is a bounded step, and what it changes is one script for each task, in which
all is looked at again: any number of callers may run, and be killed, beside each other and beside old code.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.errors import MillstreamError, UnsupportedServerError, UsageError, WrongKeyTypeError
from pipeline.keys import StreamKeys, slot_of
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import script

CHUNK = 500
"""Most tasks, and keys of records, that are asked for at a time."""
CHUNK_BYTES = 1_000_000
"""Tasks are asked for about so many bytes at a time."""
CHUNKS = 4
"""So often in one step."""
DEPTH = 10_000
"""The oldest tasks of a processing list: only these are looked at, and others when these have gone."""
MOST_COPIES = 100
"""Copies of one task that are put back by one script."""
MOST_NAMED = 10_000
"""Records of other names than the classic one that are remembered."""
GAP_MS = 10_000
"""Between two looks so much time counts, in ms, or a quarter of the old timeout: in a longer pause anything may have
come and gone."""
KEPT_MS = 86_400_000
"""What was seen is kept for so long without another look, in ms; so is whose processing list it is."""
AHEAD_S = 86_400
"""A record that is dated further ahead than this is of no use, in s."""
MOST_MALFORMED = 20


@dataclass(slots=True)
class Recovered:
    """What one step found, or several."""

    tasks: int = 0
    """Tasks put back as their records said that they timed out."""
    bare: int = 0
    """Tasks put back that had stood without a record for a full old timeout."""
    forgotten: int = 0
    """Records deleted of tasks that were done: their worker was killed before it did that."""
    malformed: dict[str, str] = field(default_factory=dict)
    """Keys of records, a few of them, that say nothing that can be used, and why. They are left alone."""
    complete: bool = False
    """Everything has been looked at since the last time this was said."""

    def add(self, other: "Recovered") -> None:
        """Count another step in."""
        self.tasks += other.tasks
        self.bare += other.bare
        self.forgotten += other.forgotten
        for key, why in other.malformed.items():
            self.report(key, why)
        self.complete = other.complete

    def report(self, key: str, why: str) -> None:
        """A record that is of no use."""
        if len(self.malformed) < MOST_MALFORMED:
            self.malformed[key] = why


class _Record(NamedTuple):
    """What a record says, or that it says nothing that can be used."""

    task: bytes | None
    since_s: float | None
    limit_s: float | None

    def usable(self, now_s: float) -> bool:
        """Whether it stands for a copy of its task."""
        return (
            self.task is not None
            and self.since_s is not None
            and self.since_s <= now_s + AHEAD_S
            and self.limit_s is not None
            and self.limit_s >= 0
        )

    def timed_out(self, now_s: float) -> bool:
        """Whether its worker has had its time. Asked again in the step that puts the task back."""
        return self.since_s is not None and self.limit_s is not None and now_s > self.since_s + self.limit_s


class OldTasks:
    """One list's old processing list, looked through in steps. Where it is in it, it knows itself."""

    def __init__(self, options: ListOptions, *, cluster: bool = False) -> None:
        """cluster: whether the server keeps slots apart.

        Raises:
            UnsupportedServerError: the old keys are in other slots than the list.
        """
        self._options = options
        self._idle = not options.old_processing or options.is_sorted
        keys = {options.name, options.old_processing, options.old_records}
        if cluster and not self._idle and len(set(map(slot_of, keys))) > 1:
            raise UnsupportedServerError(
                f"list {options.name!r}: what old workers left in {options.old_processing!r} cannot be put back on a "
                "cluster, where its records are each in a slot of its own: give list, processing list and records one "
                "tag, as in '{mail}:emails', '{mail}:processing', '{mail}:processing:' (ListOptions)"
            )
        self._gap_ms = max(GAP_MS, options.old_timeout_ms // 4)
        self._records = options.old_records
        self._pattern = "".join(f"\\{c}" if c in "*?[]\\^" else c for c in options.old_records) + "*"
        self._named: dict[str, set[str]] | None = None
        """Digest of a task to the keys of records of it that are not where the classic ones are; None until all keys
        have been looked at: before that, nothing is known to be without a record."""
        self._walked = self._scanned = False
        self._chunk = 16
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._offset = 0
        self._walking = self._informed = False
        self._copies: Counter[str] = Counter()
        self._recorded: set[str] = set()
        """Digests of tasks with the classic record."""
        self._levels: dict[str, list[tuple[int, int]]] = {}
        self._observed_ms = 0
        self._cursor = 0
        self._naming: dict[str, set[str]] = {}

    def run_once(self, link: Link, *, chunks: int = CHUNKS) -> Recovered:
        """One bounded step: some of the processing list, some of the keys.

        Args:
            chunks: of the processing list, at most CHUNK tasks each.

        Raises:
            UsageError: another list has declared this processing list as its own. WrongKeyTypeError: a key holds
            something else. MillstreamError: the server refused, or went away; the next step begins anew.
        """
        found = Recovered()
        if self._idle:
            found.complete = True
            return found
        try:
            self._claim(link)
            self._scan(link, found)
            self._walk(link, found, chunks)
        except MillstreamError:
            self._begin_anew()
            raise
        found.complete = self._walked and self._scanned
        if found.complete:
            self._walked = self._scanned = False
        return found

    def _walk(self, link: Link, found: Recovered, chunks: int) -> None:
        """Look at some of the processing list, from its tail, where the oldest are, towards its head."""
        if not self._walking and not self._enter(link):
            self._walked = True
            return
        self._walking = True
        for _ in range(chunks):
            key, count = self._options.old_processing, min(self._chunk, DEPTH - self._offset)
            reply = link.calls([("LRANGE", key, -self._offset - count, -self._offset - 1), ("TIME",)])
            tasks, time = map(_checked, reply)
            gone = self._look_at(link, tasks, int(time[0]) + int(time[1]) / 1e6, found)
            self._offset += len(tasks) - gone
            if tasks:
                size = sum(map(len, tasks)) // len(tasks)
                self._chunk = max(min(CHUNK_BYTES // max(size, 1), CHUNK), 1)
            if len(tasks) < count or self._offset >= DEPTH:
                if self._informed:
                    self._note(link)
                self._offset, self._walking, self._walked = 0, False, self._informed
                self._copies.clear()
                self._recorded.clear()
                return

    def _claim(self, link: Link) -> None:
        """Declare the processing list as this list's own."""
        options = self._options
        owner = StreamKeys(options.old_processing).prefix + "list:owner"
        _, whose = link.calls([("SET", owner, options.name, "PX", KEPT_MS, "NX"), ("GET", owner)])
        if whose is None or isinstance(
            whose, MillstreamError
        ):  # out of memory: whoever declared it did so before
            return
        if text(whose) != options.name:
            raise UsageError(
                f"old_processing={options.old_processing!r} is what list {text(whose)!r} has declared as its own: "
                "nothing in it says which list a task was taken from, so only one list may name it (ListOptions)"
            )
        link.call("PEXPIRE", owner, KEPT_MS)

    def _enter(self, link: Link) -> bool:
        """Begin at the tail; False if there is nothing to look at."""
        options, keys = self._options, self._options.keys
        length, seen = link.calls([("LLEN", options.old_processing), ("EXISTS", keys.seen)])
        if isinstance(length, WrongKeyTypeError):
            raise _named(link, length, options)
        if not _checked(length) and not _checked(seen):
            return False
        self._informed = self._named is not None
        self._observed_ms = self._tell(link, [])
        self._levels = dict(self._seen(link))
        return True

    def _look_at(self, link: Link, tasks: Sequence[bytes], now_s: float, found: Recovered) -> int:
        """Look at some tasks; how many of them are gone from the processing list now."""
        some: dict[str, tuple[bytes, int]] = {}
        for task in reversed(tasks):  # the oldest first
            digest = _digest(task)
            some[digest] = (task, some[digest][1] + 1 if digest in some else 1)
        records = self._read(link, [self._record_key(task) for task, _ in some.values()], found)
        gone = 0
        for (digest, (task, copies)), (key, record) in zip(some.items(), records, strict=True):
            left = copies
            stands = record is not None and record.task == task and record.usable(now_s)
            if stands and record is not None and record.timed_out(now_s):
                what = self._put_back(link, key, found)
                left -= what == "recovered"
                stands = what == "kept"
            if self._informed and self._long(digest):
                put = self._put_bare(link, task, digest)
                found.bare += put
                left -= put
            if stands:
                self._recorded.add(digest)
            self._copies[digest] += left
            gone += copies - left
        return gone

    def _note(self, link: Link) -> None:
        """All has been counted: tell the server of what has more copies than records."""
        named = self._named or {}
        more = {
            digest: max(copies - (digest in self._recorded) - len(named.get(digest, ())), 0)
            for digest, copies in self._copies.items()
        }
        changed: list[str | int] = []
        for digest in more.keys() | self._levels.keys():
            surplus = more.get(digest, 0)
            if surplus != sum(count for _, count in self._levels.get(digest, ())):
                changed += [digest, surplus]
        for start in range(0, len(changed), CHUNK):
            self._tell(link, changed[start : start + CHUNK])

    def _tell(self, link: Link, changed: Sequence[str | int]) -> int:
        keys = self._options.keys
        kept_ms = KEPT_MS + 2 * self._options.old_timeout_ms
        return int(
            self._run(link, "list_old_seen", [keys.seen, keys.tasks.never], [self._gap_ms, kept_ms, *changed])
        )

    def _seen(self, link: Link) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        cursor: Reply = b"0"
        while True:
            cursor, flat = link.call("HSCAN", self._options.keys.seen, cursor, "COUNT", CHUNK)
            for field_name, value in zip(flat[::2], flat[1::2], strict=True):
                if field_name != b"@":
                    pairs = [level.partition("=") for level in text(value).split()]
                    yield (
                        text(field_name),
                        [
                            (int(since), int(count))
                            for since, _, count in pairs
                            if since.isdigit() and count.isdigit()
                        ],
                    )
            if cursor == b"0":
                return

    def _long(self, digest: str) -> bool:
        """Whether copies of a task have stood without a record for a full old timeout, as far as is known."""
        levels = self._levels.get(digest)
        return bool(levels and self._observed_ms - levels[0][0] >= self._options.old_timeout_ms)

    def _put_bare(self, link: Link, task: bytes, digest: str) -> int:
        options, keys = self._options, self._options.keys
        records = [self._record_key(task), *sorted((self._named or {}).get(digest, ()))]
        put = 0
        while True:
            done = self._run(
                link,
                "list_old_bare",
                [options.old_processing, options.name, keys.seen, keys.tasks.never, *records],
                [options.push, task, digest, options.old_timeout_ms, MOST_COPIES, 2 * DEPTH],
            )
            put += int(done)
            if done < MOST_COPIES:
                break
        left = put
        levels = self._levels[digest]
        while left and levels:
            since, count = levels.pop(0)
            off = min(left, count)
            left -= off
            if count > off:
                levels.insert(0, (since, count - off))
        return put

    def _scan(self, link: Link, found: Recovered) -> None:
        """Look at some of the server's keys: records whose task stands nowhere, or that are named otherwise."""
        for _ in range(CHUNKS):
            cursor, keys = link.call(
                *("SCAN", self._cursor, "MATCH", self._pattern, "COUNT", CHUNK, "TYPE", "hash")
            )
            self._cursor = int(cursor)
            if keys:
                time = link.call("TIME")
                now_s = int(time[0]) + int(time[1]) / 1e6
                for key, record in self._read(link, [text(key) for key in keys], found):
                    if record is None:
                        continue
                    if not record.usable(now_s) or record.timed_out(now_s):
                        self._put_back(link, key, found)
                    elif record.task is not None and key != self._record_key(record.task):
                        self._name(record.task, key)
            if self._cursor == 0:
                self._named, self._naming, self._scanned = self._naming, {}, True
                return

    def _name(self, task: bytes, key: str) -> None:
        if len(self._naming) < MOST_NAMED:
            self._naming.setdefault(_digest(task), set()).add(key)

    def _read(self, link: Link, keys: Sequence[str], found: Recovered) -> list[tuple[str, _Record | None]]:
        """What the records say; None for one that is not there, or is none."""
        replies = link.calls([("HMGET", key, "task", "timestamp", "timeout") for key in keys])
        records: list[tuple[str, _Record | None]] = []
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, WrongKeyTypeError):
                found.report(key, "it holds something else than a hash")
                records.append((key, None))
            elif _checked(reply) == [None, None, None]:
                records.append((key, None))
            else:
                task, since, limit = reply
                default_s = self._options.old_timeout_ms / 1_000
                records.append(
                    (key, _Record(task, _number(since), default_s if limit is None else _number(limit)))
                )
        return records

    def _put_back(self, link: Link, key: str, found: Recovered) -> str:
        """Put the task of a record back, if all is still so; what was done: see list_old_task."""
        options, keys = self._options, self._options.keys
        reply = self._run(
            link,
            "list_old_task",
            [key, options.old_processing, options.name, keys.tasks.never],
            [options.push, options.old_timeout_ms / 1_000],
        )
        what, said = map(text, reply)
        if what == "malformed":
            found.report(key, said)
        found.forgotten += what == "forgotten"
        found.tasks += what == "recovered"
        return what

    def _run(
        self, link: Link, name: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]
    ) -> Reply:
        try:
            return link.run(script(name), keys, args)
        except WrongKeyTypeError as error:
            raise _named(link, error, self._options) from None

    def _record_key(self, task: bytes) -> str:
        """Where old workers keep the record of a task."""
        return self._records + hashlib.md5(task, usedforsecurity=False).hexdigest()


def recover_old(link: Link, options: ListOptions, *, cluster: bool = False) -> Recovered:
    """One look at everything: see OldTasks. Copies without a record are put back by a later one.

    Raises:
        See OldTasks.
    """
    old, all_of_it = OldTasks(options, cluster=cluster), Recovered()
    while not all_of_it.complete:
        all_of_it.add(old.run_once(link))
    return all_of_it


def _digest(task: bytes) -> str:
    return hashlib.sha1(task, usedforsecurity=False).hexdigest()


def _number(value: bytes | None) -> float | None:
    """A number as the script reads it too; None for anything else."""
    try:
        number = float(value or b"")
    except ValueError:
        return None
    return number if number == number else None


def _checked(reply: Reply) -> Reply:
    """The reply, or its error raised."""
    if isinstance(reply, MillstreamError):
        raise reply
    return reply


def _named(link: Link, error: WrongKeyTypeError, options: ListOptions) -> WrongKeyTypeError:
    """The error, with the name of the key that holds something else."""
    keys = {options.name: "list", options.old_processing: "list", options.keys.seen: "hash"}
    for key, kind in keys.items():
        holds = text(link.call("TYPE", key))
        if holds not in ("none", kind):
            return WrongKeyTypeError(
                f"key {key!r} holds a {holds}, and no {kind} (list queue {options.name!r})"
            )
    return error
