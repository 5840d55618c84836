"""RelayedList: tasks from a list to a stream that no script can reach with it: on another server, or in another slot.

In three steps, each of which bears being repeated. Tasks are taken into a list of the bridge's own, where each has a
number; they are appended to the stream together with the number of the last of them, as the position of their source;
they are removed. Whatever breaks in between, the position says which of those that are held are in the stream.
"""

import secrets
import zlib

from pipeline.errors import DecodeError, MillstreamError, NotConnectedError
from pipeline.keys import StreamKeys
from pipeline.server.append import Appended, AppendOptions, append_command, parse_append
from pipeline.server.bridging import Held, checked, drop_command, hold_command, load_scripts, parse_held
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

    def touch(self, link: Link) -> None:
        """Write something over this connection: what waits for a level waits for what it wrote itself."""
        record = self._keys.producer(self._producer)
        link.call("HSET", record, "touched", self._batches)
        link.call("PEXPIRE", record, self._append.expiry_ms)


class _CrossedError(NotConnectedError):
    """Another bridge of this name is at work: what we know of both sides is not so any more, and is looked at anew."""


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
        self._removed = self._delivered = self._number = self._taken = 0
        """Numbers of the last task that is no longer held; in the stream as confirmed as asked; there; taken."""
        self._position = ""

    def to_the_end(self) -> None:
        """See Way.run(). Once stopped, what is held is yet delivered: it would be in nobody's sight."""
        course = self._course
        self._find_place()
        made = Made()
        while True:
            if not made.tasks and made.stopped is None:
                made = course.next(self._pending)
            if made.tasks:
                made = self._step(made)
            elif made.stopped is not None:
                self._finish()
                held = course.queue.keys.bridge(self._relay.name)
                raise DecodeError(f"{made.stopped} (the task and what is behind it are held in {held!r})")
            elif course.stop.is_set():
                self._finish()
                return
            elif self._take() or not self._confirmed():
                continue
            else:
                self._finish()
                if not course.follow:
                    return
                course.await_task(self._source)
                if self._source.closed:
                    return  # stopped, and nothing is held

    def _step(self, made: Made) -> Made:
        """Append tasks, and meanwhile make the entries of the next ones; these."""
        course, relay = self._course, self._relay
        number = self._number + len(made.tasks)
        after = _position(number, made.tasks[-1][0])
        commands = relay.append(made, self._id, self._position, after)
        self._target.send(*commands)
        asked = self._ask()
        coming = course.next(self._pending) if made.stopped is None else Made(stopped=made.stopped)
        answers = [self._target.read_or_error() for _ in commands]
        self._pending += self._answer(asked)
        appended = parse_append(answers[0])
        if isinstance(appended, MillstreamError):
            raise appended
        if not isinstance(appended, Appended):
            raise _CrossedError(
                f"stream {course.stream!r}: another bridge has moved the position of this one"
            )
        self._number, self._position = number, after
        if len(answers) == 1 or relay.level.reached(answers[1]):
            self._delivered = number  # WAIT covers all that was written before it
        course.moved(made, list(range(len(made.tasks))))
        if made.stopped is not None and not coming.tasks:
            coming.stopped = made.stopped
        return coming

    def _take(self) -> bool:
        """Take more tasks; whether there were any."""
        taken = self._answer(self._ask())
        self._pending += taken
        return bool(taken)

    def _ask(self) -> bool:
        """Send what removes tasks that are in the stream, if there are any, and takes more; whether there were."""
        queue, name = self._course.queue, self._relay.name
        most = 0 if self._course.stop.is_set() else self._course.most
        hold = hold_command(queue, name, most, self._counter(self._removed))
        count = self._delivered - self._removed
        if not count:
            self._source.send(hold)
            return False
        before, after = self._counter(self._removed), self._counter(self._delivered)
        self._source.send(drop_command(queue, name, before, after, count), hold)
        self._removed = self._delivered
        return True

    def _answer(self, removing: bool) -> list[bytes]:
        """The tasks that were taken."""
        dropped = self._source.read_or_error() if removing else None
        held = parse_held(checked(self._source.read_or_error()))
        if removing and checked(dropped)[0] != b"dropped":
            raise self._crossed()
        if held.counter != self._counter(self._removed) or held.before != self._taken - self._removed:
            raise self._crossed()
        self._taken += len(held.payloads)
        return held.payloads

    def _confirmed(self) -> bool:
        """Whether all that is in the stream is there as confirmed as asked; waits for it once more."""
        wait = self._relay.wait
        if self._delivered < self._number and wait is not None:
            if self._relay.level.reached(self._target.call(*wait)):
                self._delivered = self._number
            else:
                self._course.limited.warning("level", "tasks are in the stream, but not confirmed")
        return self._delivered == self._number

    def _finish(self) -> None:
        """Remove all that is in the stream."""
        while self._delivered != self._removed:
            self._pending += self._answer(self._ask())

    def _find_place(self) -> None:
        """Look what is held, and how much of it is in the stream."""
        queue, name = self._course.queue, self._relay.name
        look = hold_command(queue, name, 0, f"{secrets.token_hex(8)}:0")
        self._life = self._begun(parse_held(self._source.call(*look)))
        stored = self._target.call("GET", self._relay.position_key(self._id))
        reply = self._source.calls([("MULTI",), look, ("LRANGE", queue.keys.bridge(name), 0, -1), ("EXEC",)])[
            -1
        ]
        held, there = checked(reply)
        same = self._begun(parse_held(held)) == self._life
        if not same or stored != self._target.call("GET", self._relay.position_key(self._id)):
            raise self._crossed()
        self._position = text(stored or b"")
        number = int(self._position.partition(":")[0]) if stored else self._removed
        ahead = number - self._removed
        if ahead > len(there) or (ahead > 0 and _position(number, there[ahead - 1]) != self._position):
            self._begin_anew()
            return
        if ahead < 0:
            self._course.limited.warning(
                "lost",
                "the stream's server has lost tasks that it had confirmed",
                tasks=-ahead,
                stream=self._course.stream,
            )
        ahead = max(ahead, 0)
        self._number = self._removed + ahead
        self._taken = self._removed + len(there)
        self._delivered = self._removed
        self._pending = there[ahead:]
        if ahead and self._relay.wait is not None:
            self._relay.touch(self._target)
        elif ahead:
            self._delivered = self._number

    def _begun(self, held: Held) -> str:
        """The name of the counter's life; its number is noted."""
        life, _, number = held.counter.rpartition(":")
        self._removed = int(number)
        return life

    def _begin_anew(self) -> None:
        """The list's server has lost its last writes: which task has which number is no longer known."""
        queue = self._course.queue
        self._course.limited.warning(
            "anew", "the list's server has lost its last writes: tasks that it holds again are sent again",
            list=queue.name,
        )  # fmt: skip
        before, after = self._counter(self._removed), f"{secrets.token_hex(8)}:0"
        if self._source.call(*drop_command(queue, self._relay.name, before, after, 0))[0] != b"dropped":
            raise self._crossed()
        self._find_place()

    def _counter(self, number: int) -> str:
        return f"{self._life}:{number}"

    def _crossed(self) -> _CrossedError:
        return _CrossedError(f"list {self._course.queue.name!r}: another bridge of this name is at work")

    @property
    def _id(self) -> str:
        """The source's id beside the stream: numbers of another life are others."""
        return f"bridge:{self._course.queue.name}:{self._life}"


def _position(number: int, payload: bytes) -> str:
    """The position behind a task, by its number; and what the task was, by its checksum."""
    return f"{number}:{zlib.crc32(payload):08x}"
