"""Changes: what a person does to streams and groups from the outside: create, trim, remove. Each is one script.

Stands on a Link. If the caller is killed in between, a trim has removed some of what it was to remove, and can be
repeated; everything else has happened or has not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import MillstreamError
from pipeline.keys import StreamKeys, escape
from pipeline.server.connect import Link
from pipeline.server.overview import named
from pipeline.server.replies import text
from pipeline.server.scripts import script

TRIM_STEP = 10_000
"""Entries removed per call, so that the server is not held up."""


@dataclass(frozen=True, slots=True)
class TrimFloor:
    """How far a stream may be trimmed."""

    floor_id: str
    """Every group has settled all that lies below this id; never beyond what was asked for."""
    holder: str
    """The group that needs what lies at floor_id; empty if the trim is not held back."""


def create_stream(link: Link, name: str) -> bool:
    """Make an empty stream; False if it is there already.

    Raises:
        WrongKeyTypeError: the key holds something else.
    """
    StreamKeys(name)
    if link.call("EXISTS", name):
        reply = link.calls([("XLEN", name)])[0]
        if isinstance(reply, MillstreamError):
            raise named(reply, name)
        return False
    # An empty stream is what is left of one whose only group was removed again.
    replies = link.calls(
        [
            ("MULTI",),
            ("XGROUP", "CREATE", name, "millstream:create", "$", "MKSTREAM"),
            ("XGROUP", "DESTROY", name, "millstream:create"),
            ("EXEC",),
        ]
    )
    for reply in replies:
        if isinstance(reply, MillstreamError):
            raise named(reply, name)
    return True


def trim_floor(link: Link, name: str, below_id: str) -> TrimFloor:
    """How far the stream may be trimmed if all below this id were to go; nothing is removed.

    Raises:
        NoSuchStreamError: there is none.
    """
    return _trim(link, name, below_id, 0)[1]


def trim_stream(link: Link, name: str, below_id: str) -> Iterator[int]:
    """Remove what lies below the id and every group has settled; yields how many entries each step removed."""
    while True:
        removed, _ = _trim(link, name, below_id, TRIM_STEP)
        if not removed:
            return
        yield removed


def remove_group(link: Link, name: str, group: str, *, with_dead: bool) -> bool:
    """Remove a group and what is kept for it; False if there is none.

    Raises:
        MillstreamError: members of it are alive; nothing was removed.
    """
    keys = StreamKeys(name)
    removed, live = link.run(
        script("remove_group"),
        [
            *(keys.stream, keys.groups, keys.again(group), keys.retry(group), keys.retry_bodies(group)),
            *(keys.dead(group), keys.members(group), keys.duty(group)),
        ],
        [group, escape(group), int(with_dead)],
    )
    if live:
        members = "a member" if live == 1 else f"{live:,} members"
        raise MillstreamError(f"group {group!r} of stream {name!r} has {members} alive: stop them first")
    return bool(removed == 1)


def _trim(link: Link, name: str, below_id: str, most: int) -> tuple[int, TrimFloor]:
    keys = StreamKeys(name)
    try:
        removed, floor, holder = link.run(script("trim"), [keys.stream, keys.groups], [below_id, most])
    except MillstreamError as error:
        raise named(error, name) from None
    return removed, TrimFloor(text(floor), text(holder))
