"""Tasks: the payloads of a list queue as entries of a stream.

What cannot be decoded, or not be written as an event, goes on as the bytes it is: readers say what is wrong with it
(DecodeError), and it is a dead letter of each group that comes to it. So it is never lost, and stops nobody.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.codec import EXACT, Codec, encode_msgpack, pack_exact
from pipeline.errors import DecodeError, EncodeError, EventTooLargeError, UsageError
from pipeline.header import SINGLE, UNCOMPRESSED, SingleHeaders, write_header
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.task import decode_task, function_of
from producers.sources.parsers import valid

BAD = ("keep", "stop")
_ENTRY_BYTES = 4_096
"""Room for what an entry has beside its body."""
_SAID = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """How a task becomes an event.

    Raises:
        UsageError: an option that cannot be.
    """

    type: str | Callable[[Any], str] = function_of
    """One text for all, or made of the task's data; by default the name of the function it asks for."""
    key: str | Callable[[Any], str] = ""
    bad: str = "keep"
    """What becomes of a payload that cannot be decoded. keep: it goes on as it is, and is a dead letter of each group;
    stop: the bridge ends with an error before it."""

    def __post_init__(self) -> None:
        if self.bad not in BAD:
            raise UsageError(f"bad={self.bad!r}: one of {', '.join(BAD)} (TaskOptions)")


@dataclass(slots=True)
class Made:
    """Tasks as they are moved: payload, header and body of each."""

    tasks: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    """Index to the reason of those that go on as they are."""
    stopped: DecodeError | None = None
    """With bad=stop: what is wrong with the task behind these."""


class TaskEntries:
    """Makes entries, numbered: one producer's."""

    def __init__(
        self, producer: str, codec: Codec, options: TaskOptions, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._producer = producer
        self._codec = codec
        self._options = options
        self._limits = limits
        self._headers = SingleHeaders(producer, Codec.MSGPACK, limits)
        self._number = 0

    def made(self, payloads: Sequence[bytes]) -> Made:
        """The entries of these tasks; with bad=stop only those before the first that is."""
        made = Made()
        tasks, codec, limits = made.tasks, self._codec, self._limits
        most = limits.max_entry_bytes - _ENTRY_BYTES
        type_of, key_of, write, number = (
            self._options.type,
            self._options.key,
            self._headers.write,
            self._number,
        )
        for payload in payloads:
            number += 1
            try:
                data = decode_task(payload, codec, limits)
                type_ = type_of if type_of.__class__ is str else _said_of("type", type_of, data, payload)  # type: ignore[arg-type]
                key = key_of if key_of.__class__ is str else _said_of("key", key_of, data, payload)  # type: ignore[arg-type]
                try:  # what was decoded just now holds nothing but what is written as it stands
                    body = pack_exact(data, None, EXACT)
                except TypeError:
                    body = encode_msgpack(data, limits)  # says what it is
                header = write(number, type_, key)
                if len(body) + len(header) > most:
                    raise EventTooLargeError(f"a task of {len(payload):,} bytes is none that an event may be")
            except (DecodeError, EncodeError, EventTooLargeError) as error:
                if self._options.bad == "stop" and isinstance(error, DecodeError):
                    made.stopped = error
                    break
                made.kept[len(tasks)] = str(error)
                header, body = self._as_it_is(number, str(error)), payload
            tasks.append((payload, header, body))
        self._number = number
        return made

    def _as_it_is(self, number: int, why: str) -> bytes:
        return write_header(
            SINGLE, self._codec, UNCOMPRESSED, 1, self._producer, number, "", "", None,
            {"kept": valid(why)[:_SAID]}, "", self._limits,
        )  # fmt: skip


def _said_of(option: str, function: Callable[[Any], str], data: Any, payload: bytes) -> str:
    """What the caller's function says of a task.

    Raises:
        UsageError: it fails. A key that is missing cannot be mended once the event is in the stream, so none is sent.
    """
    try:
        return valid(function(data))
    except Exception as error:
        raise UsageError(
            f"TaskOptions.{option} fails with {type(error).__name__} ({error}) for the task {payload[:_SAID]!r}, "
            "which is not moved"
        ) from error
