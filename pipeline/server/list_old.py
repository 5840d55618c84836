"""List old: puts back what dead old workers left in their processing list, with a record or without.

An old worker moves a task to the processing list, writes a record of it, and removes both when it has run. Every look
is a bounded step. What it changes is one script for each task (lua/list_old_task.lua for a record that timed out,
list_old_bare.lua for copies without a record), in which all is looked at again, or steps (list_old_steps.py): any
number of callers may run, and be killed, beside each other and beside old code. Since when copies have stood without a
record is kept on the server (list_old_seen.lua).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.errors import MillstreamError, WrongKeyTypeError
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.list_old_record import FIELDS, OldRecord, parse_record
from pipeline.server.list_old_steps import DEPTH, MOST_COPIES, named, run_named, steps_for
from pipeline.server.list_owner import declare_own
from pipeline.server.replies import Reply, text

CHUNK = 500
"""Most tasks, and keys of records, that are asked for at a time."""
CHUNK_BYTES = 1_000_000
"""Tasks are asked for about so many bytes at a time."""
CHUNKS = 4
"""So often in one step."""
MOST_NAMED = 10_000
"""Records of other names than the classic one that are remembered."""
GAP_MS = 10_000
"""Between two looks so much time counts, in ms, or a quarter of the old timeout: in a longer pause anything may have
come and gone."""
TAKEN_COSTS = 2
"""When an equal task is taken, copies without a record count from the old timeout by this later on. Two workers that
hold equal tasks all the time, each for less than an old timeout, take more than two in one: theirs never count long."""
KEPT_MS = 86_400_000
"""What was seen is kept for so long without another look, in ms; so is whose processing list it is."""
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


class OldTasks:
    """One list's old processing list, looked through in steps. Where it is in it, it knows itself."""

    def __init__(self, options: ListOptions, *, cluster: bool = False) -> None:
        """cluster: whether the server keeps slots apart."""
        self._options = options
        self._idle = not options.old_processing or options.is_sorted
        self._records = options.old_records
        self._steps = steps_for(options, cluster=cluster)
        self._gap_ms = max(GAP_MS, options.old_timeout_ms // 4)
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
        self._recorded: dict[str, str] = {}
        """Digest of a task with the classic record to when that says that it was taken."""
        self._levels: dict[str, list[tuple[int, int]]] = {}
        """Digest of a task to (since when, how many copies) have stood without a record, as the server knows it."""
        self._stamps: dict[str, str] = {}
        """Digest of such a task to its record's time as the server knows it."""
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
            declare_own(link, self._options, "old_processing")
            found.tasks += self._steps.go_on(link)
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

    def _enter(self, link: Link) -> bool:
        """Begin at the tail; False if there is nothing to look at."""
        options, keys = self._options, self._options.keys
        length, seen = link.calls([("LLEN", options.old_processing), ("EXISTS", keys.seen)])
        if isinstance(length, WrongKeyTypeError):
            raise named(link, length, options)
        if not _checked(length) and not _checked(seen):
            return False
        self._informed = self._named is not None
        self._observed_ms = self._tell(link, [])
        self._recall(link)
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
            if stands and record is not None:
                self._recorded[digest] = repr(record.since_s)
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
            surplus, stamp = more.get(digest, 0), self._recorded.get(digest, "")
            known = sum(count for _, count in self._levels.get(digest, ()))
            if surplus != known or (surplus and stamp not in ("", self._stamps.get(digest))):
                changed += [digest, surplus, stamp]
        for start in range(0, len(changed), CHUNK * 3):
            self._tell(link, changed[start : start + CHUNK * 3])

    def _tell(self, link: Link, changed: Sequence[str | int]) -> int:
        keys, timeout_ms = self._options.keys, self._options.old_timeout_ms
        args = [self._gap_ms, KEPT_MS + 2 * timeout_ms, timeout_ms // TAKEN_COSTS, *changed]
        reply = run_named(link, "list_old_seen", [keys.seen, keys.tasks.never], args, self._options)
        return int(reply)

    def _recall(self, link: Link) -> None:
        """Learn what the server knows of copies without a record."""
        self._levels, self._stamps = {}, {}
        cursor: Reply = b"0"
        while True:
            cursor, flat = link.call("HSCAN", self._options.keys.seen, cursor, "COUNT", CHUNK)
            for digest, value in zip(map(text, flat[::2]), map(text, flat[1::2]), strict=True):
                stamp, *levels = value.split(" ")
                pairs = [level.partition("=") for level in levels]
                if digest != "@":
                    self._stamps[digest] = stamp[1:]
                    self._levels[digest] = [
                        (int(since), int(count))
                        for since, _, count in pairs
                        if since.isdigit() and count.isdigit()
                    ]
            if cursor == b"0":
                return

    def _long(self, digest: str) -> bool:
        """Whether copies of a task have stood without a record for a full old timeout, as far as is known."""
        levels = self._levels.get(digest)
        return bool(levels and self._observed_ms - levels[0][0] >= self._options.old_timeout_ms)

    def _put_bare(self, link: Link, task: bytes, digest: str) -> int:
        records = [self._record_key(task), *sorted((self._named or {}).get(digest, ()))]
        put = 0
        while True:
            done = self._steps.bare(link, task, digest, records)
            put += done
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

    def _read(self, link: Link, keys: Sequence[str], found: Recovered) -> list[tuple[str, OldRecord | None]]:
        """What the records say; None for one that is not there, or is none."""
        replies = link.calls([("HMGET", key, *FIELDS) for key in keys])
        records: list[tuple[str, OldRecord | None]] = []
        for key, reply in zip(keys, replies, strict=True):
            record = None
            if isinstance(reply, WrongKeyTypeError):
                found.report(key, "it holds something else than a hash")
            else:
                record = parse_record(_checked(reply), self._options.old_timeout_ms / 1_000)
            records.append((key, record))
        return records

    def _put_back(self, link: Link, key: str, found: Recovered) -> str:
        """Put the task of a record back, if all is still so; what was done: see list_old_task."""
        what, said = self._steps.recorded(link, key)
        if what == "malformed":
            found.report(key, said)
        found.forgotten += what == "forgotten"
        found.tasks += what == "recovered"
        return what

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


def _checked(reply: Reply) -> Reply:
    """The reply, or its error raised."""
    if isinstance(reply, MillstreamError):
        raise reply
    return reply
