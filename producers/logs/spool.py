"""Spool: how log lines reach the producer when nothing may be lost while the server is away: in order, by way of files.

Stands on source positions: every entry carries the number of its last line, and the script that appends it stores that
number; so an entry may be sent, and sent again by whichever process, and is in the stream once. What is on its way is
also kept here until it is confirmed. It is written to files once the server takes no more, or takes longer than a
second; what comes later goes behind it, and the files are read and sent as the server takes them.
If killed: what is in files is sent by the next process that ships to the same stream from the same folder; what is not
is lost. Used by one thread.
"""

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.codec import Codec
from pipeline.errors import BufferFull, ClosedError, NotConfirmed
from pipeline.observe.log import Limited, get_logger
from pipeline.options import LogOptions
from pipeline.packed import PackedEvents
from pipeline.server.file_lock import FileLock
from producers.batch import ElsewhereError, Fate, Step
from producers.encoder import Encoder, Pack
from producers.producer import Producer
from producers.receipt import Ending
from producers.spill.folder import SpillFolder
from producers.spill.record import Record
from producers.spill.segment import Segment
from producers.spill.syncer import Syncer

POSITION_EXPIRY_MS = 7 * 86_400_000
"""How long the server remembers how far a spill came, after the last line of it."""
SEGMENTS = 64
"""Files that a full spill consists of."""
MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES = 65_536, 8_000_000
SECURE_S = 1.0
"""What is not confirmed after this time is written to a file."""
ADOPT_S = 30.0
"""How often a process looks for what others left behind."""
DISK_RETRY_S = 1.0
UNREAD_S = 1.0
"""How long a file that cannot be read just now is left alone."""
PASSING = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR))
"""Failures to read that say nothing of the file: what waits in it waits on."""
TURN_S = 0.05
"""How long entries are sent from files before new lines are looked at."""
ROOM_MS = 20
"""How long one of them waits for room."""
FIRST_HOLD_S, LONGEST_HOLD_S = 0.05, 5.0
"""How long nothing is sent after a failure; doubled while nothing succeeds."""
GRAVE_TYPES = frozenset(("log.error", "log.critical"))

_log = get_logger("logs")


@dataclass(slots=True)
class _Handed:
    """An entry that the producer has, and that is not known to be in the stream."""

    last: int
    events: int
    before: str
    ending: Ending
    since_s: float
    record: Record | None
    """What it is, unless it can be read from a file."""
    segment: Segment | None
    at: int


@dataclass(slots=True)
class _Spill:
    """What one process has to send, this one or one that died."""

    id: str
    lock: FileLock | None = None
    segments: deque[Segment] = field(default_factory=deque)
    """Files that are not read to their end; the first is being read, the last may be being written."""
    read: deque[Segment] = field(default_factory=deque)
    """Files before them, of which something is not confirmed."""
    handed: deque[_Handed] = field(default_factory=deque)
    again: deque[Record] = field(default_factory=deque)
    """What failed and is in no file: it goes before everything else."""
    peeked: tuple[Record, Segment, int] | None = None
    unread_s: float = 0.0
    """When to look again at a file that could not be read; 0: it can be."""
    before: str = ""
    """Where the source stands once all that was handed is in the stream."""
    confirmed: int = 0
    """The last number known to be in the stream."""


class Spool:
    """One shipper's way to the server."""

    def __init__(
        self, stream: str, folder: SpillFolder, options: LogOptions, dropped: Callable[[int, str], None]
    ) -> None:
        self._stream = stream
        self._folder = folder
        self._options = options
        self._dropped = dropped
        self.producer: Producer | None = None
        """Until there is one, everything goes to files."""
        self.away = False
        """Whether the server did not take lines in time when that was looked at last."""
        self.spilled = 0
        """Lines written to files so far."""
        self._encoder = Encoder(Codec.MSGPACK)
        self._own = _Spill(self._encoder.producer)
        self._adopted: deque[_Spill] = deque()
        self._segment_bytes = max(min(options.spill_bytes // SEGMENTS, MAX_SEGMENT_BYTES), MIN_SEGMENT_BYTES)
        self._numbers = 0
        self._next_number = 1
        self._look_s = 0.0
        self._disk_s = 0.0
        self._hold_s, self._hold_until_s = FIRST_HOLD_S, 0.0
        self._syncer = Syncer()
        self._sync_s = 0.0
        self._unsynced = False
        self._limited = Limited(_log)

    @property
    def id(self) -> str:
        """The first part of the ids of this process's lines."""
        return self._own.id

    @property
    def idle(self) -> bool:
        """Everything is in the stream."""
        return not (self._adopted or self._own.handed or self._own.again or self._unread(self._own))

    @property
    def waits(self) -> bool:
        """Whether something is in a file and not on its way: what comes now goes behind it."""
        return self._waiting() is not None

    def records(self, events: PackedEvents) -> list[Record]:
        """Lines as numbered entries.

        Raises:
            EncodeError, EventTooLargeError: a line cannot be sent; none has a number.
        """
        first = self._numbers + 1
        if self._options.pack:
            made: Iterable[Pack] = self._encoder.packed(events, most=self._options.pack, first_number=first)
        else:
            made = [
                Pack(self._encoder.single(event, first + index), index, 1, 0)
                for index, event in enumerate(events)
            ]
        records = [Record(first + one.start, one.events, *one.fields[1::2]) for one in made]
        self._numbers += len(events)
        return records

    def ready(self) -> bool:
        """Whether lines can be taken; else there is neither a server nor a disk that would."""
        return not self._own.again or self.secure()

    def put(self, record: Record, *, block_ms: float = 0) -> None:
        """Give an entry to the producer, or write it behind those that wait; keep it if neither takes it."""
        own = self._own
        if self._waiting() is None and self._hand(own, record, block_ms=block_ms):
            return
        if not (self.secure() and self._write(own, [record])):
            own.again.append(record)

    def step(self) -> bool:
        """Learn what became of what was handed, send from the files, write what is on its way for too long.

        Whether there is more to be sent just now.
        """
        now_s = time.monotonic()
        if now_s >= self._look_s:
            self._look_s = now_s + ADOPT_S
            self._adopt()
        for spill in [*self._adopted, self._own]:
            self._learn(spill)
        more = False
        while (waiting := self._waiting()) is not None:
            more = self._hand_next(waiting)
            if not more or time.monotonic() - now_s > TURN_S:
                break
        for spill in list(self._adopted):
            if not spill.handed and not self._unread(spill):
                self._adopted.remove(spill)
                self._remove(spill)
        handed = self._own.handed
        if self._own.again:
            self.secure()
        # What is in no file are the last ones, so the oldest of them is found from behind.
        if handed and handed[-1].segment is None:
            oldest = next(one for one in handed if one.segment is None)
            if now_s - oldest.since_s > SECURE_S:
                self.secure()
        self._sync(now_s)
        self.away = waiting is not None or (bool(handed) and handed[0].segment is not None)
        return waiting is not None and more

    def secure(self) -> bool:
        """Write to a file what is on its way, or failed, and is in none; False if that cannot be."""
        own = self._own
        handed = [one for one in own.handed if one.segment is None]
        if not handed and not own.again:
            return True
        if time.monotonic() < self._disk_s:
            return False
        records = [one.record for one in handed if one.record is not None]
        try:
            if handed:
                segment = self._segment(own)
                at = segment.write(records)
                for one, record in zip(handed, records, strict=True):
                    one.segment, one.at, one.record = segment, at, None
                    at += len(record.encode())
                segment.rewind(segment.size)  # they are on their way: what comes behind them is to be read
                self.spilled += sum(record.events for record in records)
            if own.again:
                self._segment(own).write(list(own.again))
                self.spilled += sum(record.events for record in own.again)
                own.again.clear()
        except OSError as error:
            self._disk_failed(error)
            return False
        self._unsynced = True
        return True

    def close(self) -> int:
        """Let go of the files, after what they hold was written; the number of lines that are in none."""
        secured = self.secure()
        for spill in [*self._adopted, self._own]:
            self._learn(spill)
            if not spill.handed and not spill.again and not self._unread(spill):
                self._remove(spill)
        left = 0 if secured else sum(one.events for one in self._own.handed if one.segment is None)
        left += sum(record.events for record in self._own.again)
        for segment in self._files():
            if self._options.spill_sync_ms and segment.writing:
                try:
                    segment.sync()
                except OSError as error:
                    self._disk_failed(error)
            segment.close()
        for spill in [*self._adopted, self._own]:
            if spill.lock is not None:
                spill.lock.release()
        self._syncer.close()
        return left

    def forget(self) -> None:
        """In a forked child: the files are the parent's."""
        for segment in self._files():
            segment.close()

    def _files(self) -> list[Segment]:
        return [
            segment for spill in [*self._adopted, self._own] for segment in [*spill.read, *spill.segments]
        ]

    # To the producer.

    def _waiting(self) -> _Spill | None:
        """Whose turn it is to be sent: those that others left come first, and are in the stream before the next begins:
        what is refused of one, as it stands elsewhere than we know, must not come behind what is later."""
        for spill in self._adopted:
            if spill.handed or self._unread(spill):
                return spill
        return self._own if self._own.again or self._unread(self._own) else None

    def _unread(self, spill: _Spill) -> bool:
        """Whether something in the files was not handed yet, as far as they can be read."""
        return self._peek(spill) is not None or bool(spill.unread_s)

    def _peek(self, spill: _Spill) -> tuple[Record, Segment, int] | None:
        """The next entry in the files; None: there is none, or (unread_s) it cannot be read just now."""
        if spill.unread_s and time.monotonic() < spill.unread_s:
            return None
        spill.unread_s = 0.0
        while spill.peeked is None and spill.segments:
            segment = spill.segments[0]
            try:
                one = segment.next()
            except OSError as error:
                self._limited.warning("read", "spilled log lines cannot be read", error=str(error))
                if error.errno in PASSING:
                    spill.unread_s = time.monotonic() + UNREAD_S
                    return None
                one = None
                segment.seal()
            if one is None:
                if segment.writing:
                    return None
                if segment.damaged_bytes:
                    self._limited.warning(
                        "damaged", "spilled log lines are damaged and passed over", file=segment.path.name,
                        bytes=segment.damaged_bytes,
                    )  # fmt: skip
                spill.read.append(spill.segments.popleft())
                continue
            record, at = one
            if record.last > spill.confirmed:
                spill.peeked = (record, segment, at)
        return spill.peeked

    def _hand_next(self, spill: _Spill) -> bool:
        peeked = self._peek(spill)
        if spill.unread_s:  # what is in no file is later
            return False
        if spill.again and (peeked is None or spill.again[0].first < peeked[0].first):
            if not self._hand(spill, spill.again[0], block_ms=ROOM_MS):
                return False
            spill.again.popleft()
            return True
        if peeked is None:
            return False
        record, segment, at = peeked
        if not self._hand(spill, record, segment=segment, at=at, block_ms=ROOM_MS):
            return False
        spill.peeked = None
        return True

    def _hand(
        self,
        spill: _Spill,
        record: Record,
        *,
        segment: Segment | None = None,
        at: int = 0,
        block_ms: float = 0,
    ) -> bool:
        """Give an entry to the producer, if it has room."""
        now_s = time.monotonic()
        if self.producer is None or now_s < self._hold_until_s:
            return False
        behind = spill.handed[-1].ending if spill.handed else None
        if behind is not None and behind.fate in (Fate.FAILED, Fate.UNKNOWN):
            return False  # it would fail, too: first step() has to learn that
        after = str(record.last)
        chunk = self.producer.carried(
            (record.header, record.body),
            record.events,
            Step(spill.id, spill.before, after, POSITION_EXPIRY_MS, behind),
        )
        try:
            self.producer.add(self._stream, chunk, block_ms=block_ms)
        except (BufferFull, ClosedError):
            return False
        kept = record if segment is None else None
        spill.handed.append(
            _Handed(record.last, record.events, spill.before, chunk.ending, now_s, kept, segment, at)
        )
        spill.before = after
        return True

    def _learn(self, spill: _Spill) -> None:
        """What became of what was handed; of what failed, begin again."""
        handed = spill.handed
        confirmed = False
        while handed and (fate := handed[0].ending.fate) is not None:
            if fate is not Fate.CONFIRMED and fate is not Fate.NOT_REACHED:
                self._begin_again(spill)
                break
            spill.confirmed = max(spill.confirmed, handed.popleft().last)
            confirmed = True
        if confirmed:
            self._hold_s = FIRST_HOLD_S
        self._tidy(spill)

    def _begin_again(self, spill: _Spill) -> None:
        """Of what was handed something is not in the stream: go on from where the source stands."""
        error = spill.handed[0].ending.error
        spill.before = spill.handed[0].before
        if isinstance(error, ElsewhereError):
            spill.before = error.position
            if error.position.isascii() and error.position.isdigit():
                spill.confirmed = max(spill.confirmed, int(error.position))
        else:
            assert not isinstance(error, NotConfirmed), "that is in the stream"
            if not isinstance(error, ClosedError):
                self._limited.warning(
                    "again", "log lines wait: the server does not take them", why=str(error)
                )
            self._hold_until_s = time.monotonic() + self._hold_s
            self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S)
        missing = [one for one in spill.handed if one.last > spill.confirmed]
        spill.handed.clear()
        spill.again.extendleft(one.record for one in reversed(missing) if one.record is not None)
        if spill.peeked is not None:  # read again
            spill.peeked[1].rewind(spill.peeked[2])
            spill.peeked = None
        placed = next((one for one in missing if one.segment is not None), None)
        if placed is None or placed.segment is None:
            return
        if placed.segment in spill.read:
            for segment in spill.segments:
                segment.rewind(0)
            while placed.segment in spill.read:
                spill.segments.appendleft(spill.read.pop())
                spill.segments[0].rewind(0)
        while spill.segments[0] is not placed.segment:  # read to its end, and nothing of it is missing
            spill.read.append(spill.segments.popleft())
        spill.segments[0].rewind(placed.at)

    # The files.

    def _write(self, spill: _Spill, records: list[Record]) -> bool:
        if time.monotonic() < self._disk_s:
            return False
        try:
            self._segment(spill).write(records)
        except OSError as error:
            self._disk_failed(error)
            return False
        self.spilled += sum(record.events for record in records)
        self._unsynced = True
        return True

    def _segment(self, spill: _Spill) -> Segment:
        """The file that is written now, one with room.

        Raises:
            OSError: none can be made.
        """
        if spill.segments and spill.segments[-1].writing:
            segment = spill.segments[-1]
            if segment.size < self._segment_bytes:
                return segment
            if self._options.spill_sync_ms:
                self._syncer.sync(segment.fd)
        if spill.lock is None:
            spill.lock = self._folder.own(spill.id)
        self._make_room()
        number = self._next_number
        fresh = Segment.create(self._folder.next_path(spill.id, number))
        self._next_number = number + 1
        if spill.segments:
            spill.segments[-1].seal()
        spill.segments.append(fresh)
        return fresh

    def _make_room(self) -> None:
        """Drop the oldest lines until one more file has room: first those below ERROR, file by file."""
        while self._folder.size_bytes() + self._segment_bytes > self._options.spill_bytes:
            # A file of which something is on its way stays.
            whole = [
                (spill, segment)
                for spill in [*self._adopted, self._own]
                for segment in spill.segments
                if not segment.begun and not segment.writing
            ]
            if not whole:
                return
            spill, segment = next((one for one in whole if not one[1].thinned), whole[0])
            if segment.thinned or not self._thin(spill, segment):
                gone = segment.count(spill.confirmed)
                segment.remove()
                spill.segments.remove(segment)
                self._dropped(gone, "spill full")

    def _thin(self, spill: _Spill, segment: Segment) -> bool:
        """Leave the grave lines of a file; False if it holds none, or cannot be written anew."""
        try:
            gone = segment.thin(GRAVE_TYPES.__contains__, spill.confirmed)
        except OSError as error:
            self._limited.warning("thin", "spilled log lines cannot be written anew", error=str(error))
            return False
        self._dropped(gone, "spill full")
        return True

    def _tidy(self, spill: _Spill) -> None:
        """Remove the files of which everything is in the stream."""
        oldest = spill.handed[0].segment if spill.handed else None
        while spill.read and spill.read[0] is not oldest:
            spill.read.popleft().remove()
        # The last one is written to as long as something waits or is on its way.
        if oldest is None and not self._unread(spill) and spill.segments:
            spill.segments.popleft().remove()
            self._remove(spill)

    def _remove(self, spill: _Spill) -> None:
        """Everything of it is in the stream."""
        for segment in [*spill.read, *spill.segments]:
            segment.remove()
        spill.read.clear()
        spill.segments.clear()
        if spill.lock is not None:
            self._folder.remove(spill.id, spill.lock)
            spill.lock = None

    def _adopt(self) -> None:
        """Take over what processes left that are no more."""
        mine = {spill.id for spill in [*self._adopted, self._own]}
        try:
            found = self._folder.orphans(mine)
        except OSError as error:
            self._limited.warning("adopt", "the spill folder cannot be read", error=str(error))
            return
        for spill_id, lock, segments in found:
            self._adopted.append(_Spill(spill_id, lock, deque(segments)))
            _log.info("log lines that another process left are sent", files=len(segments), spill=spill_id)

    def _sync(self, now_s: float) -> None:
        if not self._unsynced or not self._options.spill_sync_ms or now_s < self._sync_s:
            return
        self._sync_s = now_s + self._options.spill_sync_ms / 1_000
        self._unsynced = False
        segments = self._own.segments
        if segments and segments[-1].writing:
            self._syncer.sync(segments[-1].fd)

    def _disk_failed(self, error: OSError) -> None:
        self._disk_s = time.monotonic() + DISK_RETRY_S
        self._limited.warning(
            "disk", "log lines cannot be written to the spill folder: the oldest in memory are dropped for newer ones",
            error=error.strerror or str(error), spill=self._options.spill,
        )  # fmt: skip
