"""RelayedList: tasks from a list to a stream that no script can reach with it: on another server, or in another slot.

In three steps, each of which bears being repeated. Tasks are taken into a list of the bridge's own, where each has a
number; they are appended to the stream together with the number of the last of them, as the position of their source;
they are removed. Whatever breaks in between, the position says which of those that are held are in the stream.
"""

import secrets
import zlib

from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.keys import StreamKeys
from pipeline.server.append import Appended, AppendOptions, append_command, parse_append
from pipeline.server.bridging import (
    Held,
    checked,
    drop_command,
    hold_command,
    load_scripts,
    parse_held,
    return_command,
)
from pipeline.server.connect import Connector, Link
from pipeline.server.replies import text
from pipeline.server.scripts import script
from producers.confirm import Level
from producers.sources.list_course import Course
from producers.sources.tasks import Made


class RelayedList:
    """One bridge, by its name. Two of one name at a time double nothing, but hold each other up."""

    def __init__(self, course: Course, source: Connector, bridge: str) -> None:
        self._course = course
        self._bridge = bridge
        self._connector = source
        self._keys = StreamKeys(course.stream)
        options = course.producer.options
        self._level = Level.of(options.confirm, options.confirm_timeout_ms)
        self._append = AppendOptions(max_stream_entries=options.max_stream_entries)
        self._batches = 0
        self._producer = f"bridge-{secrets.token_hex(8)}"
        self._source: Link | None = None
        self._target: Link | None = None

    def run(self) -> None:
        """See Way."""
        self._source = self._connector.link("bridge")
        self._target = self._course.producer.connector.link("bridge")
        load_scripts(self._source)
        self._target.load(script("append"))
        _Run(self, self._course, self._source, self._target).to_the_end()

    def close(self) -> None:
        """See Way."""
        for link in (self._source, self._target):
            if link is not None:
                link.close()
        self._source = self._target = None

    def append(self, made: Made, source: str, before: str, after: str) -> list[bytes | tuple[str | int, ...]]:
        """The commands that append tasks, and wait for the level of confirmation."""
        self._batches += 1
        fields = [field for _, header, body in made.tasks for field in (header, body)]
        command = append_command(
            self._keys,
            self._producer,
            number=self._batches,
            base=self._batches,  # what came before is not waited for: the position is what keeps order
            values=[fields],
            entries=len(made.tasks),
            source=source,
            before=before,
            after=after,
            options=self._append,
        )
        return [command] if self.wait is None else [command, self.wait]

    @property
    def wait(self) -> tuple[str | int, ...] | None:
        """The command that waits for the level; None where the answer to the append says enough."""
        return self._level.command(self._course.producer.connector.capabilities())

    @property
    def level(self) -> Level:
        """When a task counts as delivered."""
        return self._level

    @property
    def name(self) -> str:
        """The bridge's name."""
        return self._bridge

    def position_key(self, source: str) -> str:
        """The key of a source's position, beside the stream."""
        return self._keys.source(source)


class _Run:
    """From one connection to the next: what is known of both sides."""

    def __init__(self, relay: RelayedList, course: Course, source: Link, target: Link) -> None:
        self._relay = relay
        self._course = course
        self._source, self._target = source, target
        self._pending: list[bytes] = []
        """What is held and not in the stream, the next one first."""
        self._life = ""
        """The name of the counter's life; another one if the list's server has lost it."""
        self._removed = self._number = self._delivered = 0
        """Numbers of the last task that was removed from what is held; in the stream; there as confirmed as asked."""
        self._position = ""

    def to_the_end(self) -> None:
        course = self._course
        self._find_place()
        made = Made()
        while not course.stop.is_set():
            if not made.tasks:
                if made.stopped is None:
                    made = course.next(self._pending)
                if made.stopped is not None and not made.tasks:
                    self._give_back()
                    raise made.stopped
            if made.tasks:
                made = self._step(made)
                continue
            self._drop()
            if self._take() or not self._confirmed():
                continue
            if not course.follow:
                return
            course.await_task(self._source)
            if self._source.closed:
                return  # stopped, and nothing is held
        self._give_back()

    def _step(self, made: Made) -> Made:
        """Append tasks, and meanwhile make the entries of the next ones; these."""
        course, relay = self._course, self._relay
        number = self._number + len(made.tasks)
        after = _position(number, made.tasks[-1][0])
        commands = relay.append(made, self._id, self._position, after)
        self._target.send(*commands)
        self._source.send(self._hold())
        coming = course.next(self._pending) if made.stopped is None else Made(stopped=made.stopped)
        answers = [self._target.read_or_error() for _ in commands]
        held = self._held(checked(self._source.read_or_error()))
        appended = parse_append(answers[0])
        if isinstance(appended, MillstreamError):
            raise appended
        if not isinstance(appended, Appended):
            # Another bridge of this name is at work, or an append of ours whose answer was lost came late.
            raise NotConnectedError(f"stream {course.stream!r}: the bridge's position was moved by another")
        self._number, self._position = number, after
        if len(answers) == 1 or relay.level.reached(answers[1]):
            self._delivered = number  # WAIT covers all that was written before it
        course.moved(made, list(range(len(made.tasks))))
        self._pending += held.payloads
        self._drop()
        return coming

    def _confirmed(self) -> bool:
        """Whether all that is in the stream is there as confirmed as asked; waits for it once more."""
        wait = self._relay.wait
        if self._delivered < self._number and wait is not None:
            if self._relay.level.reached(self._target.call(*wait)):
                self._delivered = self._number
            else:
                self._course.limited.warning("level", "tasks are in the stream, but not confirmed")
        return self._delivered == self._number

    def _find_place(self) -> None:
        """Look what is held, and how much of it is in the stream."""
        held = self._held(self._source.call(*self._hold(0)), first=True)
        key = self._course.queue.keys.bridge(self._relay.name)
        there = self._source.call("LRANGE", key, 0, held.before - 1) if held.before else []
        stored = self._target.call("GET", self._relay.position_key(self._id))
        self._number = self._delivered = self._removed
        self._position = "" if stored is None else text(stored)
        if stored is None:
            self._pending = there
            return
        number = int(self._position.partition(":")[0])
        ahead = number - self._removed
        if ahead < 0:
            self._course.limited.warning(
                "lost",
                "the stream's server has lost what it had confirmed",
                tasks=-ahead,
                stream=self._course.stream,
            )
        elif ahead > len(there) or (ahead and _position(number, there[ahead - 1]) != self._position):
            self._begin_anew()
            self._find_place()
            return
        else:
            self._number = self._delivered = number
            self._drop()
        self._pending = there[max(ahead, 0) :]

    def _begin_anew(self) -> None:
        """The list's server has lost its last writes: which task has which number is no longer known."""
        self._course.limited.warning(
            "anew", "the list's server has lost its last writes: tasks that it holds again are sent again",
            list=self._course.queue.name,
        )  # fmt: skip
        before = f"{self._life}:{self._removed}"
        self._dropped(drop_command(self._course.queue, self._relay.name, before, f"{_new_life()}:0", 0))

    def _take(self) -> bool:
        """Take more tasks; whether there were any."""
        held = self._held(self._source.call(*self._hold()))
        self._pending += held.payloads
        return bool(held.payloads)

    def _hold(self, count: int | None = None) -> tuple[str | bytes | int | float, ...]:
        count = self._course.most if count is None else count
        return hold_command(self._course.queue, self._relay.name, count, f"{_new_life()}:0")

    def _held(self, reply: list[object], *, first: bool = False) -> Held:
        held = parse_held(reply)
        life, _, number = held.counter.rpartition(":")
        if first:
            self._life, self._removed = life, int(number)
        elif (life, int(number)) != (self._life, self._removed):
            raise NotConnectedError(
                f"list {self._course.queue.name!r}: another bridge of this name is at work"
            )
        return held

    def _drop(self) -> None:
        """Remove what is in the stream from what is held."""
        count = self._delivered - self._removed
        if count:
            before, after = f"{self._life}:{self._removed}", f"{self._life}:{self._delivered}"
            self._dropped(drop_command(self._course.queue, self._relay.name, before, after, count))
            self._removed = self._delivered

    def _dropped(self, command: tuple[str | bytes | int | float, ...]) -> None:
        if self._source.call(*command)[0] != b"dropped":
            raise NotConnectedError(
                f"list {self._course.queue.name!r}: another bridge of this name is at work"
            )

    def _give_back(self) -> None:
        """The bridge ends: what it holds and is not in the stream goes back to where it was taken from."""
        self._drop()
        counter = f"{self._life}:{self._removed}"
        stay = self._number - self._removed
        while self._source.call(*return_command(self._course.queue, self._relay.name, counter, stay))[1]:
            pass

    @property
    def _id(self) -> str:
        """The source's id beside the stream: numbers of another life are others."""
        return f"bridge:{self._course.queue.name}:{self._life}"


def _position(number: int, payload: bytes) -> str:
    """The position behind a task, by its number; and what the task was, by its checksum."""
    return f"{number}:{zlib.crc32(payload):08x}"


def _new_life() -> str:
    return secrets.token_hex(8)
