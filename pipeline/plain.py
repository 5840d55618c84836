"""Plain: event data as the dicts, lists and scalars that a codec can write, or an error that names what cannot.

Dataclasses and pydantic models become dicts of their fields, tuples lists, subclasses of scalars the scalars. What
is plain already comes back as it is, not copied: that is nearly every event, so it is found out in C.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from pipeline.errors import EncodeError

WHAT_CAN_BE_SENT = (
    "data is made of dict, list, str, bytes, int, float, bool, None, datetime, Decimal, UUID, dataclasses and "
    "pydantic models"
)
_INSTEAD = {
    "set": "a list",
    "frozenset": "a list",
    "deque": "a list",
    "generator": "a list",
    "date": "a datetime, or its isoformat()",
    "time": "its isoformat()",
    "timedelta": "its total_seconds()",
    "complex": "a list of its real and imag",
    "ndarray": "its tolist()",
}


class Unsendable(Exception):
    """Why one value cannot be written, without its place: a step on the way to EncodeError, never seen outside."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one codec takes as it is, and how it writes what it does not."""

    scalars: frozenset[type]
    """Exact types that need neither a check nor a change."""
    leaf: Callable[[Any], Any]
    """The form written for any other value that is no container; raises Unsendable."""


def plain(value: Any, depth: int, rules: Rules) -> Any:
    """The value made of dicts with text keys, lists and what the rules give; itself where nothing has to change.

    Raises:
        Unsendable, TypeError and whatever a model's own code raises: refused() turns them into an EncodeError.
    """
    scalars = rules.scalars
    kind = type(value)
    if kind in scalars:
        return value
    if kind is dict:
        if depth <= 0:
            raise Unsendable("nested too deep")
        "".join(value)  # raises where a key is not text
        if scalars.issuperset(map(type, value.values())):
            return value
        depth -= 1
        return {k: v if type(v) in scalars else plain(v, depth, rules) for k, v in value.items()}
    if kind is list or kind is tuple:
        if depth <= 0:
            raise Unsendable("nested too deep")
        if scalars.issuperset(map(type, value)):
            return value
        depth -= 1
        return [v if type(v) in scalars else plain(v, depth, rules) for v in value]
    container = _container(value)
    return rules.leaf(value) if container is None else plain(container, depth, rules)


def _container(value: Any) -> dict[Any, Any] | list[Any] | None:
    """The dict or list a value stands for; None for what is no container."""
    kind = type(value)
    if is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in fields(kind)}
    if hasattr(kind, "model_dump"):
        dumped = value.model_dump()
        return dumped if type(dumped) in (dict, list) else [dumped]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return None


def scalar(value: Any) -> Any:
    """A value of a subclass (StrEnum, IntEnum, numpy.float64) as the scalar it is, bytearray as bytes.

    Raises:
        Unsendable: no scalar; the message says what to send instead.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    name = type(value).__name__
    if name in _INSTEAD:
        raise Unsendable(f"{_a(name)} cannot be sent; send {_INSTEAD[name]}")
    if hasattr(type(value), "__members__"):
        raise Unsendable(f"{_a(name)} (an Enum) cannot be sent; send its value")
    raise Unsendable(f"{_a(name)} cannot be sent; {WHAT_CAN_BE_SENT}")


def refused(data: Any, cause: Exception, write: Callable[[Any, int], object], max_depth: int) -> EncodeError:
    """The error for data that `write` (value, depth left) refused, naming the innermost place that is at fault."""
    path, value, depth = "data", data, max_depth
    while depth > 0 and (found := _first_refused(value, write, depth - 1)):
        step, value, cause = found
        path += step
        depth -= 1
    if depth == 0 and isinstance(cause, Unsendable):
        return EncodeError(f"{path[:80]}…: {cause}: at most {max_depth} dicts and lists within one another")
    return EncodeError(f"{path}: {_reason(value, cause)}")


def _first_refused(
    value: Any, write: Callable[[Any, int], object], depth: int
) -> tuple[str, Any, Exception] | None:
    for step, child in _children(value):
        try:
            write(child, depth)
        except Exception as error:  # noqa: BLE001 - a model's own code may raise anything; it becomes the reason
            return step, child, error
    return None


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        container: Any = value
    elif isinstance(value, str | bytes | bytearray | memoryview | int | float):
        return
    else:
        try:
            container = _container(value)
        except Exception:  # noqa: BLE001 - it cannot be read, so it has no children: the cause names it
            return
    if isinstance(container, dict):
        for name, child in container.items():
            yield f"[{name!r}]" if isinstance(value, Mapping) else f".{name}", child
    elif container is not None:
        for index, child in enumerate(container):
            yield f"[{index}]", child


def _reason(value: Any, cause: Exception) -> str:
    if isinstance(cause, Unsendable):
        return str(cause)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"the key {key!r} is {_a(type(key).__name__)}; keys are text"
            if not _is_unicode(key):
                return f"the key {key!r} is not valid Unicode (a lone surrogate)"
    if isinstance(value, str):
        return (
            "the text is not valid Unicode (a lone surrogate); decode it with errors='replace' or send bytes"
        )
    if isinstance(value, int):
        return f"the int has {value.bit_length()} bits; 64 can be sent (from -2**63 to 2**64-1)"
    return f"{_a(type(value).__name__)} cannot be sent ({type(cause).__name__}: {cause})"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
