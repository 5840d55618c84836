"""fill_list(): the events of a stream into a list queue, each once and in order, for workers that stay with lists.

How far it has come stands beside the list, and is written by the script that pushes: whatever breaks, the position
says what is in the list. The stream may be on any server. A group of the bridge's name follows the position, so that
its lag is seen, and that trimming waits for it.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.codec import Codec
from pipeline.errors import (
    DecodeError,
    EncodeError,
    EventTooLargeError,
    MillstreamError,
    NoSuchGroupError,
    NoSuchStreamError,
    NotConnectedError,
    ServerRefusedError,
    UnknownFormatError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.event import Event
from pipeline.keys import StreamKeys, check_name, check_stream_name
from pipeline.list_options import ListOptions
from pipeline.observe.log import Limited, get_logger
from pipeline.pace import Pace
from pipeline.position import before, parse_entry_id, position_id
from pipeline.server.bridge_ends import BridgeEnds
from pipeline.server.bridge_sign import BridgeSign
from pipeline.server.bridging import MOST_BYTES, MOST_TASKS, checked, load_scripts, push_command
from pipeline.server.connect import Connector, Link
from pipeline.server.groups import join
from pipeline.server.lasting import until_done
from pipeline.server.overview import count_entries, server_ms
from pipeline.server.replies import RawEntry, pairs, parse_entries, text
from pipeline.task import encode_task
from pipeline.wire import decode_entry, pushed_payload

FIRST_ENTRIES = 50
"""Read before it is known how large entries are."""
WAIT_MS = 20_000
"""How long one wait for an entry lasts at the server; then it is asked anew whether it is still there."""
LOOK_MS = 100
"""How soon a wait notices that it is to end."""
CONSUMER = "bridge"
"""Its name in the group, where it reads nothing."""
FOLLOW_S = 0.2
"""How often the group is moved to where the bridge is."""
PROGRESS_S = 0.2
BEHIND_S = 1.0
"""Of the time in which there was nothing to do, no more than this is made up for: the rate is steady."""

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_log = get_logger("bridge")


@dataclass(slots=True)
class Filled:
    """What became of a stream's events so far."""

    pushed: int = 0
    """Events that are in the list, or were taken from it."""
    unfit: int = 0
    """Events that no task could be made of: corrupt ones, and data that the payload's format does not know. They stay
    in the stream, as long as that keeps them."""
    gone: int = 0
    """Entries that were trimmed before the bridge came to them; known from Redis 7.0 on."""
    restarts: int = 0
    """How often the position had to be read again."""


def fill_list(
    queue: ListOptions | str,
    stream: str,
    *,
    url: str | None = None,
    stream_url: str | None = None,
    follow: bool = True,
    since: str = "start",
    bridge: str = "",
    rate: float | None = None,
    stop: threading.Event | None = None,
    filled: Filled | None = None,
    progress: Callable[[Filled], None] | None = None,
    connector: Connector | None = None,
    stream_connector: Connector | None = None,
) -> Filled:
    """Push the events of a stream to a list, each once, in order. With follow=True until `stop`, else to the end.

    A payload is the event's data: bytes and text as they are, all else as JSON (with payload="msgpack" as that).

    Args:
        url, stream_url: the list's server, and that of the stream where it is another one.
        since: where to begin for the first time: start, end, -15m, an ISO time or an entry id.
        bridge: the name under which it is kept how far this has come. Default: the stream's name.
        rate: at most so many events a second.
        filled: the counts to go on with. progress: called with them now and then.
        connector, stream_connector: instead of the URLs; they stay the caller's.

    Raises:
        UsageError: names or options that cannot be; or a bridge from this list to this stream is at work.
        WrongKeyTypeError: one of the keys is none of its kind.
        NoSuchStreamError: with follow=False, there is no such stream. UnknownFormatError: an entry of a newer version.
    """
    queue = ListOptions(name=queue) if isinstance(queue, str) else queue
    check_filling(queue, stream)
    position_id(since, 0, "since")
    stop, filled = stop or threading.Event(), Filled() if filled is None else filled
    there = connector or Connector(url, name="millstream-bridge")
    here = stream_connector or (Connector(stream_url, name="millstream-bridge") if stream_url else there)
    filler = _Filler(
        queue, stream, check_name("bridge", bridge or stream), follow, since, stop, filled, rate, progress
    )

    ends = BridgeEnds(queue, stream, there, here)
    sign = BridgeSign(there, queue, stream, to_stream=False, stop=stop)

    def attempt() -> None:
        sign.put_up()
        ends.check_names()
        with_list = with_stream = None
        try:
            with_list, with_stream = there.link("bridge"), here.link("bridge")
            filler.run(with_list, with_stream)
        finally:
            for link in (with_list, with_stream):
                if link is not None:
                    link.close()

    def trouble(error: MillstreamError) -> None:
        filled.restarts += 1
        filler.limited.warning("trouble", "the bridge waits for the server", why=str(error))

    try:
        until_done(attempt, stop=stop, done=lambda: filled.pushed, trouble=trouble, over=[here, there])
    except WrongKeyTypeError as error:
        raise ends.named(error, bridge or stream) from None
    finally:
        filler.report()
        try:
            sign.close()
        finally:
            if here is not there and stream_connector is None:
                here.close()
            if connector is None:
                there.close()
    return filled


def check_filling(queue: ListOptions, stream: str) -> None:
    """Refuse a stream and a list that cannot be bridged, wherever they are.

    Raises:
        UsageError: the list is a sorted set.
    """
    check_stream_name(stream)
    if queue.is_sorted:
        raise UsageError(
            f"list {queue.name!r}: order=priority is a sorted set, and events of a stream have no priorities"
        )


class _CrossedError(NotConnectedError):
    """Another bridge of this name is at work: the position is read anew."""


@dataclass(frozen=True, slots=True)
class _Task:
    """An event on its way."""

    payload: bytes | None
    """None: no task can be made of it."""
    position: str
    """Behind it."""
    entries: int
    """1 for the last event of an entry."""


class _Filler:
    """One bridge from a stream to a list. A position is `<entry id>`, or within a pack `<entry id>/<events of it>`."""

    def __init__(
        self,
        queue: ListOptions,
        stream: str,
        bridge: str,
        follow: bool,
        since: str,
        stop: threading.Event,
        filled: Filled,
        rate: float | None,
        progress: Callable[[Filled], None] | None,
    ) -> None:
        self.limited = Limited(_log)
        self._queue, self._stream, self._follow, self._since = queue, stream, follow, since
        self._source = f"bridge:{bridge}"
        self._keys = StreamKeys(stream)
        self._group = f"bridge:{queue.name}" + (f":{bridge}" if bridge != stream else "")
        self._stop, self._filled, self._progress = stop, filled, progress
        self._next_report_s = 0.0
        self._rate = rate
        self._pace, self._paced = Pace(time.monotonic(), rate), 0
        self._position = self._whole = self._next = ""
        """What is pushed; the last entry that is, with all its events; where reading goes on."""
        self._within_id, self._within = "", 0
        """The entry that was begun, and how many of its events are pushed."""
        self._read: int | None = None
        self._ahead: int | None = None
        """How many entries had been added up to that last entry, and up to the last one read; None: unknown."""
        self._next_move_s = 0.0
        self._page = FIRST_ENTRIES
        self._entries: list[RawEntry] = []
        self._tasks: list[_Task] = []
        self._failure: UnknownFormatError | None = None
        self._as_json = queue.codec in (Codec.TASK, Codec.TASK_JSON)

    def run(self, to_list: Link, from_stream: Link) -> None:
        """Go on from the stored position, to the end or the stop."""
        self._list, self._link = to_list, from_stream
        load_scripts(to_list)
        if not self._follow and not from_stream.call("EXISTS", self._stream):
            raise NoSuchStreamError(f"there is no stream {self._stream!r}")
        self._find_place()
        while not self._stop.is_set():
            if self._step():
                continue
            if self._failure is not None:
                self._move_group()
                raise self._failure
            self._move_group()
            if not self._follow:
                return
            self._await()
        if not from_stream.closed:
            self._move_group()

    def report(self) -> None:
        """Say how far it has come."""
        self._next_report_s = time.monotonic() + PROGRESS_S
        if self._progress is not None:
            self._progress(self._filled)

    def _step(self) -> bool:
        """Push what is there, and meanwhile read on and make tasks of it; whether there was anything."""
        batch = self._batch()
        if batch:
            payloads = [task.payload for task in batch if task.payload is not None]
            self._list.send(
                push_command(self._queue, self._source, self._position, batch[-1].position, payloads)
            )
        reads = len(self._tasks) < MOST_TASKS and self._failure is None
        if reads:
            self._link.send(*self._read_commands())
        self._make_tasks()
        if batch:
            self._pushed(batch)
        if reads:
            self._took_in([self._link.read_or_error() for _ in range(4)][-1])
        if time.monotonic() >= self._next_move_s:
            self._move_group()
        return bool(batch or self._entries or self._tasks)

    def _batch(self) -> list[_Task]:
        most = self._pace.most(MOST_TASKS)
        count = size = 0
        for task in self._tasks[:most]:
            size += len(task.payload or b"")
            if count and size > MOST_BYTES:
                break
            count += 1
        batch = self._tasks[:count]
        del self._tasks[:count]
        return batch

    def _pushed(self, batch: list[_Task]) -> None:
        status, position = checked(self._list.read_or_error())
        if status != b"pushed":
            raise _CrossedError(
                f"list {self._queue.name!r}: another bridge of this name is at work, and is at {text(position)}"
            )
        self._position = text(position)
        unfit = sum(task.payload is None for task in batch)
        self._filled.pushed += len(batch) - unfit
        self._filled.unfit += unfit
        whole = [task.position for task in batch if task.entries]
        if whole:
            self._whole = whole[-1]
            if self._read is not None:
                self._read += len(whole)
        if time.monotonic() >= self._next_report_s:
            self.report()
        if self._rate is not None:
            self._keep_pace(self._rate, len(batch))

    def _keep_pace(self, rate: float, pushed: int) -> None:
        self._paced += pushed
        now_s = time.monotonic()
        wait_s = self._pace.wait_s(self._paced, now_s)
        if wait_s:
            self._stop.wait(wait_s)
        elif now_s - self._pace.begun_s - self._paced / rate > BEHIND_S:
            self._pace, self._paced = Pace(now_s, rate), 0

    def _read_commands(self) -> list[tuple[str | int, ...]]:
        """Read on, and how many entries the stream ever had and has now, at the same moment."""
        return [
            ("MULTI",),
            ("XINFO", "STREAM", self._stream),
            ("XRANGE", self._stream, self._next, "+", "COUNT", self._page),
            ("EXEC",),
        ]

    def _took_in(self, reply: Any) -> None:
        info, entries = checked(reply)
        self._entries = parse_entries(entries)
        if isinstance(info, list):
            facts = pairs(info)
            last = text(facts["last-generated-id"])
            if facts["length"] and parse_entry_id(last) < parse_entry_id(self._whole):
                self.limited.warning(
                    "anew",
                    "the stream is another one, or lost its end: nothing is pushed below the position",
                    stream=self._stream,
                    last_id=last,
                    position=self._whole,
                )
            if "entries-added" in facts:
                self._count_gone(facts["entries-added"] - facts["length"])
        if self._entries:
            self._next = f"({text(self._entries[-1][0])}"
            size = sum(len(value) for _, fields in self._entries for value in fields or ())
            self._page = max(1, min(MOST_TASKS, MOST_BYTES * len(self._entries) // max(size, 1)))

    def _count_gone(self, removed: int) -> None:
        """Entries that the stream no longer has, more than the bridge has read: it never will."""
        if self._ahead is not None:
            if removed > self._ahead:
                gone = removed - self._ahead
                self._filled.gone += gone
                self._ahead = removed
                self._read = None if self._read is None else self._read + gone
                self.limited.warning(
                    "gone",
                    "entries were trimmed before the bridge came to them",
                    stream=self._stream,
                    entries=gone,
                )
            self._ahead += len(self._entries)

    def _make_tasks(self) -> None:
        """The tasks of the entries that were read."""
        entries, self._entries = self._entries, []
        for entry_id, fields in entries:
            shown = text(entry_id)
            skip, self._within = (self._within, 0) if shown == self._within_id else (0, self._within)
            try:
                entry = decode_entry(entry_id, fields or [])
                events = entry.events
            except UnknownFormatError as error:
                self._failure = UnknownFormatError(f"entry {shown} of stream {self._stream!r}: {error}")
                return
            except DecodeError as error:
                self._unfit(shown, error)
                self._tasks.append(_Task(None, shown, 1))
                continue
            last = len(events) - 1
            for index in range(skip, last + 1):
                payload: bytes | None
                try:
                    event = events[index]
                    payload = self._payload(event)
                except (DecodeError, EncodeError, EventTooLargeError) as error:
                    self._unfit(shown, error)
                    payload = None
                position = shown if index == last else f"{shown}/{index + 1}"
                self._tasks.append(_Task(payload, position, int(index == last)))

    def _payload(self, event: Event) -> bytes:
        """What old workers read."""
        pushed = pushed_payload(event)
        if pushed is not None:
            return pushed
        data = event.data
        if self._as_json and data.__class__ in (dict, list):
            # What was read holds what JSON knows, or is refused here; looking at each value would double the work.
            try:
                return _dumps(data).encode()
            except (TypeError, ValueError, RecursionError):
                pass  # said by who knows what is wrong, or written by the rules (times)
        return encode_task(data, self._queue.codec)

    def _unfit(self, entry_id: str, error: MillstreamError) -> None:
        self.limited.warning(
            "unfit", "no task can be made of an event: it is left out", stream=self._stream, entry_id=entry_id,
            why=str(error),
        )  # fmt: skip

    def _await(self) -> None:
        """Return once the stream has more, or after a while; at once when the bridge is stopped."""
        self.report()
        after = self._next.removeprefix("(")
        self._link.send(("XREAD", "COUNT", 1, "BLOCK", WAIT_MS, "STREAMS", self._stream, after))
        until_s = time.monotonic() + WAIT_MS / 1_000
        while time.monotonic() < until_s and not self._link.ready(LOOK_MS):
            if self._stop.is_set():
                self._link.close()
                return
        self._link.read()

    def _find_place(self) -> None:
        """Read the position, or note where to begin; and see where the group is."""
        self._entries, self._tasks, self._failure = [], [], None
        key = self._queue.keys.position(self._source)
        stored = self._list.call("GET", key)
        if stored is None:
            begin = self._begin()
            status, stored = self._list.call(*push_command(self._queue, self._source, "", begin, []))
            if status != b"pushed":
                raise _CrossedError(f"list {self._queue.name!r}: another bridge of this name has begun")
        self._position = text(stored)
        self._within_id, _, within = self._position.partition("/")
        self._within = int(within or 0)
        self._whole = before(self._within_id) if self._within else self._within_id
        self._next = self._within_id if self._within else f"({self._within_id}"
        self._read = self._join()
        self._ahead = self._read
        self._next_move_s = time.monotonic() + FOLLOW_S

    def _begin(self) -> str:
        """The position before the first entry that is meant; where the group stands, if the list's server lost it."""
        at = self._group_at()
        if at is not None:
            _log.warning(
                "the position beside the list is lost: the bridge goes on where its group stands",
                list=self._queue.name,
                stream=self._stream,
                entry_id=at,
            )
            return at
        begin = position_id(self._since, server_ms(self._link), "since")
        if begin != "$":
            return before(begin)
        reply = self._link.calls([("XINFO", "STREAM", self._stream)])[0]
        return text(pairs(reply)["last-generated-id"]) if isinstance(reply, list) else "0-0"

    def _group_at(self) -> str | None:
        """The last entry that the group is done with; None where there is no such group."""
        rows = self._link.calls([("XINFO", "GROUPS", self._stream)])[0]
        found = [pairs(row) for row in rows] if isinstance(rows, list) else []
        return next(
            (text(row["last-delivered-id"]) for row in found if text(row["name"]) == self._group), None
        )

    def _join(self) -> int | None:
        """Make sure that the group is there; how many entries had been added up to our position, None if unknown."""
        join(self._link, self._keys, self._group, start=self._whole, lost=False)
        rows = [pairs(row) for row in self._link.call("XINFO", "GROUPS", self._stream)]
        row = next(row for row in rows if text(row["name"]) == self._group)
        facts = pairs(self._link.call("XINFO", "STREAM", self._stream))
        at = text(row["last-delivered-id"])
        read: int | None = row.get("entries-read")
        here, there = parse_entry_id(self._whole), parse_entry_id(at)
        if read is not None and there <= here and at != "0-0":
            # It may lie behind: what lies between cannot have been trimmed.
            return read + sum(count_entries(self._link, self._stream, f"({at}", self._whole))
        if "entries-added" not in facts:
            return None
        first = facts.get("first-entry")
        if first is None or here >= parse_entry_id(facts["last-generated-id"]):
            return int(facts["entries-added"])
        gone: int = facts["entries-added"] - facts["length"]
        return gone if here < parse_entry_id(first[0]) else None

    def _move_group(self) -> None:
        """Have the group stand where the bridge is: never beyond it, or what it needs could be trimmed."""
        self._next_move_s = time.monotonic() + FOLLOW_S
        command: list[str | int] = ["XGROUP", "SETID", self._stream, self._group, self._whole]
        if self._read is not None:
            command += ["ENTRIESREAD", self._read]
        # A look at what pends, which is nothing: so that the group is seen to be attended.
        looks = ("XREADGROUP", "GROUP", self._group, CONSUMER, "COUNT", 1, "STREAMS", self._stream, "0")
        for reply in self._link.calls([command, looks]):
            # The answer to XGROUP where the stream itself is gone has no code of its own.
            gone = isinstance(reply, ServerRefusedError) and "requires the key to exist" in str(reply)
            if gone or isinstance(reply, NoSuchGroupError):
                join(self._link, self._keys, self._group, start=self._whole, lost=False)
                return
            checked(reply)
