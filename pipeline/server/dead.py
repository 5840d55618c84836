"""Dead: the dead letters of a group as the server keeps them: read, moved to where they run again, removed."""

from collections.abc import Sequence

from pipeline.errors import MillstreamError
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.error_map import server_error
from pipeline.server.overview import named
from pipeline.server.replies import Fields, parse_entries, text
from pipeline.server.scripts import Arg, script


def read_letters(
    link: Link, keys: StreamKeys, group: str, start: str, end: str, *, count: int
) -> list[tuple[bytes, Fields]]:
    """(id, fields) of dead letters from start to end, both included ("(" before start leaves it out), oldest first.

    Raises:
        WrongKeyTypeError: the key holds something else.
    """
    found = link.calls([("XRANGE", keys.dead(group), start, end, "COUNT", count)])[0]
    if isinstance(found, MillstreamError):
        raise named(found, keys.stream)
    return [(entry_id, fields or []) for entry_id, fields in parse_entries(found)]


def newest_letter(link: Link, keys: StreamKeys, group: str) -> str | None:
    """The id of the last one that died; None if there is none."""
    found = link.calls([("XREVRANGE", keys.dead(group), "+", "-", "COUNT", 1)])[0]
    if isinstance(found, MillstreamError):
        raise named(found, keys.stream)
    return text(found[0][0]) if found else None


def revive_letters(
    link: Link, keys: StreamKeys, group: str, letters: Sequence[tuple[str, Sequence[Sequence[bytes]]]]
) -> list[int]:
    """Move letters, each with the entries it becomes, to the group's `again` stream; each once, in one step.

    Returns:
        For each: 1 if it was moved, 0 if it is not there any more.

    Raises:
        MillstreamError: what stopped it; those before it were moved, it and those after it were not.
    """
    args: list[Arg] = []
    for dead_id, entries in letters:
        args += (dead_id, len(entries))
        for fields in entries:
            args += (len(fields), *fields)
    answers = link.run(script("revive"), [keys.dead(group), keys.again(group)], args)
    for answer in answers:
        if isinstance(answer, bytes):
            raise server_error(answer.decode(errors="replace"), f"retrying dead letters of {keys.stream!r}")
    return [int(answer) for answer in answers]


def drop_letters(link: Link, keys: StreamKeys, group: str, ids: Sequence[str]) -> int:
    """Remove letters; how many were there."""
    removed: int = link.call("XDEL", keys.dead(group), *ids)
    return removed
