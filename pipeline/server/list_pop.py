"""List pop: the plain pop of a list queue, in two steps so that a lost answer loses nothing, and what it left behind.

Stands on lua/list_pop.lua and lua/list_return.lua. A caller names each call by a token of his own, is told the tasks,
and says that he has them; until then the server keeps them. If he is killed in between, they are given back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import MillstreamError, WrongKeyTypeError
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.groups import of_other_types
from pipeline.server.replies import text
from pipeline.server.scripts import Arg, script

MOST_POPPED = 100
"""Tasks of one call, at most."""
KEPT_MS = 60_000
"""So long the server keeps what was popped and not said to have arrived, in ms, before it is given back."""
RETURNED = 500
"""Tasks given back by one call, at most."""


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What was put back to where the next task is taken from."""

    of_callers: int
    """Popped by callers who died before they had it."""
    of_hand: int
    """Handed to a waiting worker who is not there any more."""


def pop_tasks(link: Link, options: ListOptions, token: str, count: int = 1) -> list[bytes]:
    """Take up to `count` tasks, at most 100. Called again with its token, it answers the same.

    Raises:
        WrongKeyTypeError: the list is no list (or, with order=priority, no sorted set).
        NotConnectedError: the connection broke; to be called again with the same token.
    """
    keys = options.keys
    args: list[Arg] = [options.next_end, token, count, options.format]
    try:
        payloads: list[bytes] = link.run(script("list_pop"), [keys.list, keys.hand, keys.popped], args)
    except MillstreamError as error:
        raise of_list(error, options, link) from None
    return payloads


def popped(link: Link, options: ListOptions, token: str) -> bool:
    """The tasks of a token have arrived; False if they are kept no longer (said before, or given back)."""
    return bool(link.call("HDEL", options.keys.popped, token))


def return_tasks(
    link: Link,
    options: ListOptions,
    *,
    older_ms: int = KEPT_MS,
    hand: bool = True,
    tokens: Sequence[str] = (),
) -> GivenBack:
    """Give back what was taken and begun by nobody, at most 500 tasks; to be repeated until there is nothing.

    tokens: of callers, give back what these hold, at most 100, and nothing else.
    """
    keys = options.keys
    names = [keys.list, keys.hand, keys.popped, keys.tasks.never]
    args: list[Arg] = [options.next_end, older_ms, int(hand), RETURNED, *tokens]
    try:
        of_callers, of_hand = link.run(script("list_return"), names, args)
    except MillstreamError as error:
        raise of_list(error, options, link) from None
    return GivenBack(of_callers, of_hand)


def put_back(link: Link, options: ListOptions, payload: bytes) -> None:
    """Put a task back that is known to nobody but the caller; in a sorted set, before all others."""
    keys = options.keys
    if options.is_sorted:
        link.call("RPUSH", keys.hand, payload)
    else:
        link.call("LPUSH" if options.take == "left" else "RPUSH", keys.list, payload)


def of_list(error: MillstreamError, options: ListOptions, link: Link) -> MillstreamError:
    """The error as it concerns the list; a key of another type is named, with what to do about it."""
    if not isinstance(error, WrongKeyTypeError):
        return error
    wrong = wrong_kind(options, text(link.call("TYPE", options.name)))
    if wrong is not None:
        return wrong
    others = ", ".join(of_other_types(link, options.key_types))
    if not others:
        return error
    named = WrongKeyTypeError(f"list {options.name!r}: {others}")
    named.code = "WRONGTYPE"
    return named


def wrong_kind(options: ListOptions, kind: str) -> WrongKeyTypeError | None:
    """The error for a list whose key is of this type, as TYPE says it; None if it is of the right one, or none."""
    wanted = "zset" if options.is_sorted else "list"
    if kind in (wanted, "none"):
        return None
    name = options.name
    advice = {
        "stream": f"a stream is read by a consumer: Consumer({name!r}, group=…), millstream tail, millstream consume",
        "zset": "a sorted set is a priority queue: order=priority (--order priority)",
        "list": "a list has order=fifo or lifo, not priority",
    }.get(kind, "a list queue's key holds a list, or with order=priority a sorted set")
    error = WrongKeyTypeError(f"{name!r} is a {_KINDS.get(kind, kind)}, not a {_KINDS[wanted]}: {advice}")
    error.code = "WRONGTYPE"
    return error


_KINDS = {"zset": "sorted set", "list": "list", "string": "string", "hash": "hash"}
