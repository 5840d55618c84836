"""Effects: what one run of a handler wants done in the step that settles its event: events to emit, commands to run.

All of it is checked and encoded when it is given, so that what cannot be is the handler's error then and there.
Nothing of it is done unless the run succeeds. Pure.
"""

import hashlib
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.errors import EventTooLargeError, UsageError
from pipeline.event import Event
from pipeline.keys import check_stream_name, stream_of
from pipeline.replayed import once_id
from pipeline.wire import encode_again, encode_entry

MAX_EMITTED = 500
"""Most events that one run of a handler emits: they are added in one step."""
MAX_CALLS = 100
"""Most commands of one run."""
MAX_BYTES = 8 << 20
"""Most bytes of what one run emits and calls."""
MAX_ENTRY_VALUES = 4_000
DEDUPE_MS = 86_400_000
"""How long the id of an emitted event keeps others with the same id out, where ids are what makes it once, in ms."""
LONGEST_ORIGIN = 160
"""An emitted event names the event it came of in full up to so many characters; beyond, by a digest."""
_TRACE = ("traceparent", "tracestate")
_INT64 = range(-(2**63), 2**63)

Arg = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Emitted:
    """An event that is appended when the run that emitted it is settled. Awaiting it waits for nothing."""

    stream: str
    """Its stream's name on the server."""
    event_id: str
    dedupe_id: str
    """What S:ids knows it by, where it is appended before its origin is settled."""
    fields: Sequence[bytes] = field(repr=False)
    dedupe: bool = False
    """The handler gave its id: it is appended only if no event of that id was, within the last day."""

    def __await__(self) -> Generator[None, None, "Emitted"]:
        yield from ()
        return self


@dataclass(frozen=True, slots=True)
class Call:
    """A command that runs in the step that settles."""

    command: str
    key: str
    args: Sequence[Arg]
    type: str
    """What the key may hold: a type of TYPE, or any."""


class Effects:
    """Collects them for one run of a handler."""

    __slots__ = ("_bytes", "_types", "calls", "emitted")

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.emitted: list[Emitted] = []
        self._bytes = 0
        self._types: dict[str, str] = {}

    def emit(
        self,
        stream: str,
        data: Any,
        origin: "Origin",
        *,
        type: str = "",  # noqa: A002 - CloudEvents' word
        key: str = "",
        id: str = "",  # noqa: A002
        headers: Mapping[str, str] | None = None,
        time: datetime | None = None,
    ) -> Emitted:
        """Note an event to be emitted to the stream (its name on the server); data may be an Event.

        Raises:
            UsageError: a stream that cannot be, or too many events. EncodeError, EventTooLargeError: it cannot be sent.
        """
        check_stream_name(stream)
        if len(self.emitted) >= MAX_EMITTED:
            raise UsageError(f"one run emits at most {MAX_EMITTED} events, as they are added in one step")
        if isinstance(data, Event):
            if type or key or id or headers or time:
                raise UsageError("an Event says itself what its type, key, id, headers and time are")
            event = data
        else:
            traced = {name: origin.headers[name] for name in _TRACE if name in origin.headers}
            event = Event(data, type=type, key=key, id=id, time=time, headers={**traced, **(headers or {})})
        if event._origin is not None:  # it came from a stream: it goes on as it is
            emitted = Emitted(stream, event.id, once_id(event.id, origin.why), encode_again(event))
        else:
            number = len(self.emitted) + 1
            fields = encode_entry(event, producer=origin.producer, number=number)
            event_id = event.given_id or f"{origin.producer}-{number}"
            emitted = Emitted(stream, event_id, event_id, fields, dedupe=bool(event.given_id))
        if len(emitted.fields) > MAX_ENTRY_VALUES:
            raise EventTooLargeError(
                f"an event of {len(emitted.fields) // 2:,} fields exceeds {MAX_ENTRY_VALUES // 2:,}, the most that "
                "can be emitted"
            )
        self._count(sum(map(len, emitted.fields)))
        self.emitted.append(emitted)
        return emitted

    def call(self, command: str, key: str, *args: Arg) -> None:
        """Note a command to be run.

        Raises:
            UsageError: a command that is none of COMMANDS, arguments it does not take, a key of Millstream's own, or
            one that another command of this run uses as another type; too many commands.
        """
        if len(self.calls) >= MAX_CALLS:
            raise UsageError(f"one run has at most {MAX_CALLS} effects, as they are carried out in one step")
        name = str(command).upper()
        shape = COMMANDS.get(name)
        if shape is None:
            raise UsageError(f"effect {command!r}: one of {', '.join(COMMANDS)}")
        if not isinstance(key, str) or not key:
            raise UsageError(f"effect {name}: the key is text, not {key!r}")
        if stream_of(key) is not None:
            raise UsageError(f"effect {name}: {key!r} is a key of Millstream's own")
        for arg in args:
            if isinstance(arg, bool) or not isinstance(arg, str | bytes | int | float):
                raise UsageError(f"effect {name}: an argument is text, bytes or a number, not {arg!r}")
        problem = shape.problem(args)
        if problem:
            raise UsageError(f"effect {name} {key!r}: {problem}")
        known = self._types.setdefault(key, shape.type)
        if known != shape.type and "any" not in (known, shape.type):
            raise UsageError(f"effect {name} {key!r}: it is a {known} to another effect of this run")
        self._count(sum(len(arg) if isinstance(arg, str | bytes) else 8 for arg in args))
        self.calls.append(Call(name, key, args, shape.type))

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise EventTooLargeError(
                f"what one run emits and calls exceeds {MAX_BYTES:,} bytes, as it is done in one step"
            )


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that emits: what its events are derived from."""

    producer: str
    """Stands for the producer of what it emits: `<producer>-<n>` is the same id each time that it runs."""
    headers: Mapping[str, str]
    why: str
    """Again.why of the event that is handled."""

    @classmethod
    def of(cls, event: Event, stream: str, group: str, why: str) -> "Origin":
        """The run of a group's handler for this event."""
        text = f"{once_id(event.id, why)}:{stream}:{group}"
        if len(text) > LONGEST_ORIGIN:  # a chain that goes round would make it longer each time
            text = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return cls(text, event.headers, why)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a command takes behind its key, as far as it can be checked beforehand."""

    type: str
    least: int = 1
    most: int | None = 1
    """Arguments; None: any number."""
    each: int = 1
    """They come in groups of so many."""
    integers: tuple[int, ...] = ()
    """Which of each group are whole numbers of 64 bit."""
    numbers: tuple[int, ...] = ()
    """Which are numbers."""

    def problem(self, args: Sequence[Arg]) -> str:
        """What is wrong with these arguments; empty if nothing is known to be."""
        if len(args) < self.least or (self.most is not None and len(args) > self.most):
            wanted = (
                f"{self.least}" if self.most == self.least else f"{self.least} to {self.most or 'any number'}"
            )
            return f"{wanted} arguments behind the key, not {len(args)}"
        if len(args) % self.each:
            return f"arguments come in groups of {self.each}, not {len(args)}"
        for i, arg in enumerate(args):
            if i % self.each in self.integers and not _whole(arg):
                return f"{arg!r} is not a whole number of 64 bit"
            if i % self.each in self.numbers and not _number(arg):
                return f"{arg!r} is not a number"
        return ""


COMMANDS: Mapping[str, Shape] = {
    "SET": Shape("string"),
    "APPEND": Shape("string"),
    "INCR": Shape("string", 0, 0),
    "DECR": Shape("string", 0, 0),
    "INCRBY": Shape("string", integers=(0,)),
    "DECRBY": Shape("string", integers=(0,)),
    "INCRBYFLOAT": Shape("string", numbers=(0,)),
    "HSET": Shape("hash", 2, None, 2),
    "HSETNX": Shape("hash", 2, 2),
    "HDEL": Shape("hash", 1, None),
    "HINCRBY": Shape("hash", 2, 2, 2, integers=(1,)),
    "HINCRBYFLOAT": Shape("hash", 2, 2, 2, numbers=(1,)),
    "LPUSH": Shape("list", 1, None),
    "RPUSH": Shape("list", 1, None),
    "LTRIM": Shape("list", 2, 2, integers=(0,)),
    "SADD": Shape("set", 1, None),
    "SREM": Shape("set", 1, None),
    "ZADD": Shape("zset", 2, None, 2, numbers=(0,)),
    "ZINCRBY": Shape("zset", 2, 2, 2, numbers=(0,)),
    "ZREM": Shape("zset", 1, None),
    "DEL": Shape("any", 0, 0),
    "EXPIRE": Shape("any", integers=(0,)),
    "PEXPIRE": Shape("any", integers=(0,)),
}
"""What an effect may be: writes to one key, whose refusal can be foreseen from its arguments and what the key holds."""


def _whole(arg: Arg) -> bool:
    try:
        text = arg.decode("ascii") if isinstance(arg, bytes) else str(arg)
        return text == str(int(text)) and int(text) in _INT64
    except ValueError:
        return False


def _number(arg: Arg) -> bool:
    try:
        return math.isfinite(float(arg)) and (not isinstance(arg, str | bytes) or arg == arg.strip())
    except ValueError:
        return False
