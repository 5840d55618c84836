"""List due: moves delayed tasks whose time has come to the list they are for.

In one slot that is one script (lua/list_promote.lua). Where the old key of delayed tasks is in another cluster slot
than the list, it is two (list_hold, list_place): what is due is held beside its key under a number, then added to the
list if that number was not yet, then held no more. Whoever comes next goes on with what is held.
"""

from typing import NamedTuple

from pipeline.errors import MillstreamError, WrongKeyTypeError
from pipeline.keys import StreamKeys, escape, slot_of
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.groups import other_types
from pipeline.server.list_owner import OWNED_MS, others_key, owner_key
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import script

BATCH = 100
"""Most tasks per call, so that no call holds the server up."""


class PromotedTasks(NamedTuple):
    """What a call of promote_tasks() did."""

    moved: int
    next_due_ms: float | None
    """When the next one is due, by the server's clock in ms since 1970: past, if more are due than one call moves; None
    if nothing waits."""
    merged: int = 0
    """Of those moved, the ones that a priority queue in the format classic held already."""


def promote_tasks(
    link: Link, options: ListOptions, *, cluster: bool = False, count: int = BATCH
) -> PromotedTasks:
    """Move at most `count` due tasks to the end that tasks are taken from; any number of callers may do so at once.

    The earliest due is taken first once all that are due are moved. Safe to repeat after a lost answer.

    Args:
        cluster: whether the server keeps slots apart.

    Raises:
        WrongKeyTypeError: a key holds something else; nothing was moved. UsageError: the old key of delayed tasks is
        another list's. MillstreamError: the server refused.
    """
    classic = options.format == "classic"
    key = options.scheduled if classic else options.keys.due
    kind = options.format if options.is_sorted else options.take
    if cluster and slot_of(key) != slot_of(options.name):
        return _in_two_steps(link, options, key, kind, count)
    try:
        moved, due, merged = link.run(
            script("list_promote"),
            [key, options.name, options.keys.tasks.never, *([owner_key(key)] if classic else [])],
            [count, "s" if classic else "ms", kind, "0" if classic else "1", options.name, OWNED_MS],
        )
    except WrongKeyTypeError as error:
        raise _named(link, error, options, key) from None
    if moved < 0:
        raise others_key(options, "scheduled", text(due))
    return PromotedTasks(moved, float(due) if due else None, merged)


def held_key(key: str, name: str) -> str:
    """The list beside `key`, in its slot, of what is on its way from there to the list `name`."""
    return f"{StreamKeys(key).prefix}list:held:{escape(name)}"


def _in_two_steps(link: Link, options: ListOptions, key: str, kind: str, count: int) -> PromotedTasks:
    position = options.keys.position(f"due:{key}")
    moved, placed = 0, b""
    while True:
        held: list[Reply] = link.run(
            script("list_hold"),
            [key, held_key(key, options.name), StreamKeys(key).never, owner_key(key)],
            [count, placed.decode(), options.name, OWNED_MS],
        )
        if held[0] == b"other":
            raise others_key(options, "scheduled", text(held[1]))
        number, due, *payloads = held
        if moved or not payloads:  # one batch a call; the next is held by now, and placed by the next call
            return PromotedTasks(moved, 0.0 if payloads else float(due) if due else None)
        try:
            link.run(
                script("list_place"),
                [options.name, position, options.keys.tasks.never],
                [number, kind, *payloads],
            )
        except MillstreamError as error:
            if isinstance(error, WrongKeyTypeError):
                raise _named(link, error, options, key) from None
            raise
        moved, placed = len(payloads), number


def _named(link: Link, error: WrongKeyTypeError, options: ListOptions, key: str) -> WrongKeyTypeError:
    """The error, with the name of the key that holds something else."""
    wanted = {options.name: "zset" if options.is_sorted else "list", key: "zset"}
    for name, holds, kind in other_types(link, wanted):
        return WrongKeyTypeError(
            f"key {name!r} holds a {holds}, and no {kind}: list queue {options.name!r} keeps "
            f"{'its tasks' if name == options.name else 'its delayed tasks'} there (ListOptions)"
        )
    return error
