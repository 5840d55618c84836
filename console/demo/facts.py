"""GroupFacts of the demo: where a group stands just now, as the server says, and what its workers hold.

Stands on a Link and the overview. Reads only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.envelope import DeadLetter, read_dead
from pipeline.errors import DecodeError, MillstreamError, NoSuchGroupError, NotFoundError, UnknownFormatError
from pipeline.keys import GroupRef, StreamKeys
from pipeline.position import EntryId, after, parse_entry_id
from pipeline.server.connect import Link
from pipeline.server.groups import pending_of
from pipeline.server.overview import consumers, groups
from pipeline.server.replies import pairs, parse_entries, text

PAGE_ENTRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one group stands."""

    unread: int | None = None
    """Entries it has not read; None where the server cannot tell."""
    behind_ms: int = 0
    """How long its oldest unread entry has waited."""
    running: int = 0
    retrying: int = 0
    """Events due again later, or replayed and not yet read."""
    held: dict[int, int] = field(default_factory=dict)
    """Entries held, by the pid of the live worker that holds them."""
    floor: EntryId = (0, 0)
    """Every entry up to this one is settled; 0-0 where that cannot be told just now."""

    @property
    def drained(self) -> bool:
        """Whether nothing is left to do."""
        return self.unread == 0 and not self.running and not self.retrying


@dataclass(frozen=True, slots=True)
class Held:
    """What one worker holds."""

    count: int
    """Entries, those that it was given again included."""
    entries: Sequence[str]
    """Ids of the first few hundred on the stream itself."""


def standing(link: Link, keys: StreamKeys, group: str) -> Standing | None:
    """Where the group stands; None while the stream or the group does not exist yet."""
    try:
        floor = _floor(link, keys, group)
        about = groups(link, keys.stream, only=group)[0]
        names = consumers(link, keys.stream, group)
    except NotFoundError:
        return None
    return Standing(
        unread=about.unread,
        behind_ms=about.behind_ms,
        running=about.running,
        retrying=about.waiting,
        held={pid_of(one.name): one.pending for one in names if one.kind == "member"},
        floor=floor,
    )


def pid_of(consumer: str) -> int:
    """The process of a member, which its name tells (host-pid-random); 0 for names of other kinds."""
    parts = consumer.rsplit("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else 0


def held_by(link: Link, keys: StreamKeys, group: str, pid: int) -> Held:
    """What a worker holds, alive or not, on the stream and on the group's own."""
    try:
        names = [one for one in consumers(link, keys.stream, group) if pid_of(one.name) == pid]
        ref = GroupRef(keys, group)
        rows = [row for one in names for row in pending_of(link, ref, consumer=one.name)]
    except NotFoundError:
        return Held(0, ())
    return Held(sum(one.pending for one in names), tuple(text(row[0]) for row in rows))


def dead_letters(link: Link, keys: StreamKeys, group: str, start: str) -> list[tuple[str, DeadLetter]]:
    """The dead letters of a group from an id on, each with the id that follows its own."""
    found: list[tuple[str, DeadLetter]] = []
    for entry_id, fields in parse_entries(
        link.call("XRANGE", keys.dead(group), start, "+", "COUNT", PAGE_ENTRIES)
    ):
        try:
            letter, _ = read_dead(fields or [])
        except (DecodeError, UnknownFormatError):  # somebody else's: it says nothing about our events
            letter = None
        found.append((after(entry_id), letter or DeadLetter(reason="unreadable")))
    return found


def _floor(link: Link, keys: StreamKeys, group: str) -> EntryId:
    """The entry id up to which the group has settled everything; in one step, or entries could slip past."""
    *_, replies = link.calls(
        [
            ("MULTI",),
            ("XINFO", "GROUPS", keys.stream),
            ("XPENDING", keys.stream, group),
            ("XLEN", keys.again(group)),
            ("ZCARD", keys.retry(group)),
            ("EXEC",),
        ]
    )
    if isinstance(replies, MillstreamError):
        raise replies
    listed, pending, again, retries = replies
    if not isinstance(listed, list) or not isinstance(pending, list):  # an error within: neither is there yet
        raise NoSuchGroupError(f"stream {keys.stream!r} has no group {group!r}")
    if again or retries:
        return (0, 0)
    rows = {text(row["name"]): row for row in map(pairs, listed)}
    read = parse_entry_id(text(rows[group]["last-delivered-id"]))
    if not pending[0]:
        return read
    oldest = parse_entry_id(text(pending[1]))
    return min(read, (oldest[0], oldest[1] - 1))
