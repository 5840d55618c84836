"""List push: the command that adds tasks to a list queue at most once, at once, delayed, or by priority.

Stands on lua/list_push.lua, which says when a call does nothing. A producer waits for one call's end before it makes
the next: numbers rise, and need not be without gaps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.due import Due
from pipeline.errors import MillstreamError, ServerRefusedError, UsageError
from pipeline.keys import StreamKeys
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.list_owner import declare_own
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import Arg, script

MAX_PAYLOADS = 500
"""Most tasks of one call, so that no call holds the server up."""
REMEMBERED_MS = 86_400_000
"""How long the server remembers a producer that pushes nothing, in ms: a call is not repeated for longer."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """The tasks of a call are there, each once."""

    length: int
    """How many tasks stand there now: in the list, the priority queue, or the delayed ones."""
    due_ms: int | None = None
    """When delayed tasks are due, by the server's clock in ms since 1970."""
    merged: Mapping[int, float] = field(default_factory=dict)
    """Format classic: which tasks (by their place in the call) were there already, and are one task now, to what they
    had before: the priority, or when they were due, in ms."""
    repeated: bool = False
    """True if an earlier try of the same call had pushed them."""
    count: int = 1
    """How many tasks these are, where somebody counted them."""


def push_command(
    options: ListOptions,
    producer: str,
    number: int,
    payloads: Sequence[bytes],
    *,
    due: Due | None = None,
    priority: float | None = None,
) -> tuple[Arg, ...]:
    """The EVALSHA for one call (script list_push).

    Args:
        number: above that of every earlier call of this producer, or that of the call that is repeated.
        payloads: 1 to MAX_PAYLOADS.
        due: when they are to run; None: at once.
        priority: for order=priority alone; lowest first, 0 by default.

    Raises:
        UsageError: no such queue can hold them.
    """
    return script("list_push").command(*_push(options, producer, number, payloads, due, priority))


def push(
    link: Link,
    options: ListOptions,
    producer: str,
    number: int,
    payloads: Sequence[bytes],
    *,
    due: Due | None = None,
    priority: float | None = None,
) -> Pushed:
    """push_command(), carried out.

    Raises:
        UsageError: see there, or the old key of delayed tasks is another list's. NotConnectedError: repeat it with the
        same number, it is pushed once.
        MillstreamError: the server refused, nothing was pushed.
    """
    if due is not None and options.format == "classic":
        declare_own(link, options, "scheduled")
    reply = link.run(script("list_push"), *_push(options, producer, number, payloads, due, priority))
    pushed = parse_pushed(reply, options)
    if isinstance(pushed, MillstreamError):
        raise pushed
    return pushed


def parse_pushed(reply: Reply, options: ListOptions) -> Pushed | MillstreamError:
    """What the script answered; an error answer is handed through, and what it never answers is one."""
    if isinstance(reply, MillstreamError):
        return reply
    try:
        status, said = text(reply[0]), text(reply[1])
        if status == "stale":
            return ServerRefusedError(
                f"a push of list {options.name!r} came after a later one of the same producer (number {said}): "
                "nothing was done"
            )
        length, due, *before = said.split(" ")
        pairs = [each.partition("=") for each in before if each]
        unit = 1_000 if options.format == "classic" and due else 1
        return Pushed(
            int(length),
            round(float(due) * unit) if due else None,
            {int(which) - 1: float(was) * unit for which, _, was in pairs},
            {"ok": False, "repeated": True}[status],
        )
    except (TypeError, ValueError, KeyError, IndexError):
        return ServerRefusedError(f"the push script answered {repr(reply)[:200]}")


def _push(
    options: ListOptions,
    producer: str,
    number: int,
    payloads: Sequence[bytes],
    due: Due | None,
    priority: float | None,
) -> tuple[list[str], list[Arg]]:
    """Keys and arguments of the script."""
    if not 1 <= len(payloads) <= MAX_PAYLOADS:
        raise UsageError(f"{len(payloads):,} payloads in one push: 1 to {MAX_PAYLOADS}")
    shown = _priority_text(options, due, priority)
    keys = options.keys
    if due is None:
        score, counted, prefix = shown, "", ""
        kind, target, beside = options.format if options.is_sorted else options.push, keys.list, keys.tasks
    else:
        classic = options.format == "classic"
        counted = ("s" if classic else "ms") if due.after_ms is not None else "at"
        score = str(due.after_ms) if due.after_ms is not None else _at(due, classic=classic)
        prefix = f"{shown}:" if options.is_sorted and not classic else ""
        kind, target = options.format, options.scheduled if classic else keys.due
        # The record of what was pushed stands beside what it is about: old names may be in another cluster slot.
        beside = StreamKeys(options.scheduled) if classic else keys.tasks
    return (
        [target, beside.producer(producer)],
        [number, REMEMBERED_MS, kind, score, counted, prefix, *payloads],
    )


def _at(due: Due, *, classic: bool) -> str:
    if due.at_ms is None:
        raise UsageError("a delayed task is due after a while, or at a time")
    return f"{due.at_ms / 1_000:.3f}" if classic else str(due.at_ms)


def _priority_text(options: ListOptions, due: Due | None, priority: float | None) -> str:
    """The priority as the server is told it; empty for a list."""
    if not options.is_sorted:
        if priority is not None:
            raise UsageError(
                f"list {options.name!r}: priority={priority!r} needs order='priority' (ListOptions)"
            )
        return ""
    if priority is None:
        return "0"
    if isinstance(priority, bool) or not isinstance(priority, int | float) or not math.isfinite(priority):
        raise UsageError(f"priority={priority!r} is not a finite number (the lowest runs first)")
    if due is not None and options.format == "classic":
        raise UsageError(
            f"list {options.name!r}: priority={priority!r} of a delayed task has no place in format='classic', where "
            "the key is the payload alone: it comes in with priority 0 (format='unique' keeps it, ListOptions)"
        )
    return (
        repr(float(priority)) if abs(priority) >= 1 << 53 or priority != int(priority) else str(int(priority))
    )
