"""ConsumerSpec: one declared consumer: a handler for a group of a stream, with its options."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pipeline.errors import UsageError
from pipeline.keys import StreamKeys, check_name
from pipeline.list_options import WORKERS, ListOptions, list_options
from pipeline.options import ConsumerOptions

ASYNC_CONCURRENCY = 64
THREADS = 8
CALLBACKS = {
    "on_success": ("event", "delivery"),
    "on_retry": ("event", "delivery", "outcome"),
    "on_dead": ("event", "letter"),
}
"""Options that are called, and with what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """What `@app.consumer(...)` declares.

    Raises:
        UsageError: a stream or group name that cannot be, or a handler that is not callable as one.
    """

    stream: str
    group: str
    handler: Callable[..., Any] = field(repr=False)
    options: ConsumerOptions = field(default_factory=ConsumerOptions)
    namespace: str = ""
    """Put before the names of streams that the handler emits to, with a colon, as it stands before `stream`."""
    list: ListOptions | None = None
    """The list queue whose tasks are consumed; `stream` is then its own (ListKeys.stream)."""

    def __post_init__(self) -> None:
        StreamKeys(self.stream)
        check_name("group", self.group)
        if self.list is not None and self.stream != self.list.keys.stream:
            raise UsageError(f"list {self.list.name!r}: its stream is {self.list.keys.stream!r}")
        if self.list is not None and self.options.start != ConsumerOptions().start:
            raise UsageError(f"list {self.list.name!r}: start= says where in a stream; a list has no history")
        if not callable(self.handler):
            raise UsageError(
                f"the handler of group {self.group!r} is a {type(self.handler).__name__}, not a function"
            )
        count = _positional(self.handler)
        if count is not None and count not in (1, 2):
            takes = "list of events" if self.options.batch else "event"
            raise UsageError(
                f"handler {self.name} takes {count} arguments; it takes one (the {takes}) or two (and the delivery)"
            )
        if self.options.once and not self.options.batch and count == 1:
            raise UsageError(
                f"once=True: handler {self.name} takes no delivery, so nothing it does can be part of the step that "
                "notes the event as done: take it as the second argument, for delivery.effect(), delivery.emit() or a "
                "PostgresInbox"
            )
        if self.options.batch and count == 2:
            raise UsageError(f"batch handler {self.name} takes 2 arguments; it takes one, the list of events")
        for name, given in CALLBACKS.items():
            callback = getattr(self.options, name)
            if callback is None:
                continue
            if not callable(callback):
                raise UsageError(
                    f"{name} of handler {self.name} is a {type(callback).__name__}, not a function"
                )
            if _positional(callback) not in (None, len(given)):
                raise UsageError(
                    f"{name} of handler {self.name} takes {_positional(callback)} arguments; it is given "
                    f"{len(given)}: {', '.join(given)}"
                )
            if _is_async(callback) and not self.is_async:
                raise UsageError(
                    f"{name} of handler {self.name} is async and the handler is not: there is no event loop for it"
                )

    @property
    def name(self) -> str:
        """The handler's name, for people."""
        return getattr(self.handler, "__qualname__", type(self.handler).__name__)

    @property
    def consumed(self) -> str:
        """The name of the stream, or of the list, on the server."""
        return self.stream if self.list is None else self.list.name

    def stream_name(self, stream: str) -> str:
        """A stream's name on the server, with the namespace."""
        return f"{self.namespace}:{stream}" if self.namespace else stream

    @property
    def is_async(self) -> bool:
        """Whether the handler is a coroutine function."""
        return _is_async(self.handler)

    @property
    def wants_delivery(self) -> bool:
        """Whether the handler takes the delivery as its second argument."""
        return _positional(self.handler) == 2

    @property
    def concurrency(self) -> int:
        """Deliveries (batches, for a batch handler) handled at a time."""
        if self.options.concurrency is not None:
            return self.options.concurrency
        if self.options.batch:
            return 1
        return ASYNC_CONCURRENCY if self.is_async else THREADS


def consumed(
    stream: str | None,
    queue: str | ListOptions | None,
    group: str | None,
    stream_name: Callable[[str], str] = str,
) -> tuple[str, str, ListOptions | None]:
    """What is consumed: the stream's name on the server, the group, and the list, if it is one.

    Raises:
        UsageError: neither a stream nor a list, or both; no group, and no list.
    """
    if (stream is None) is (queue is None):
        raise UsageError("a consumer takes either a stream or a list: consumer('orders', …) or list='emails'")
    if queue is not None:
        options = list_options(queue)
        return options.keys.stream, WORKERS if group is None else group, options
    if group is None:
        raise UsageError(f"stream {stream!r}: group= says for whom it is consumed")
    assert stream is not None, "one of the two is given"
    return stream_name(stream), group, None


def _is_async(function: Callable[..., Any]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _positional(handler: Callable[..., Any]) -> int | None:
    """How many positional arguments a handler needs or names; None where it cannot be told, or takes any number."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature: they get the event
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    # A second parameter with a default is the author's own (a bound loop variable), not the delivery, unless so named.
    return sum(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and (p.default is p.empty or p.name == "delivery")
        for p in parameters
    )


class TypePattern:
    """An event type filter, of which * stands for any text.

    Not a regular expression: types come from anyone, and one of a few thousand characters can keep that busy for hours.
    """

    __slots__ = ("_first", "_last", "_least", "_middle", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        parts = text.split("*")
        self._first, self._last = parts[0], parts[-1]
        self._middle = [part for part in parts[1:-1] if part]
        self._least = len(text) - text.count("*") if len(parts) > 1 else -1
        """Length of the shortest text that fits; -1: only the pattern itself does."""

    def fits(self, text: str) -> bool:
        """Whether the text is one that the pattern stands for."""
        if self._least < 0:
            return text == self._text
        if len(text) < self._least or not text.startswith(self._first) or not text.endswith(self._last):
            return False
        at, end = len(self._first), len(text) - len(self._last)
        for part in self._middle:  # where it comes first leaves most to the others
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True


@cache
def type_pattern(pattern: str) -> TypePattern:
    """The pattern, made once."""
    return TypePattern(pattern)


def takes_type(types: tuple[str, ...], event_type: str) -> bool:
    """Whether a handler with these type filters takes an event of this type; no filters take all."""
    return not types or any(type_pattern(pattern).fits(event_type) for pattern in types)
