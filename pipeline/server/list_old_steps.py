"""List old steps: how a task of an old worker comes back to its list: in one script, or in steps across cluster slots.

Across slots, first somebody gets the task to himself: its record is deleted (list_old_task), or the time for which
its copies were seen is taken over (list_old_claim). Then copies are held beside the processing list under a number
(list_old_hold), added to the list if that number was not yet (list_place), and held no more. Killed behind the first
step, the task stands without a record, and comes back after an old timeout; killed later, whoever comes next goes on.
"""

from collections.abc import Sequence
from typing import Protocol

from pipeline.errors import MillstreamError, WrongKeyTypeError
from pipeline.keys import StreamKeys, slot_of
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.groups import other_types
from pipeline.server.list_due import held_key
from pipeline.server.list_old_record import FIELDS, parse_record
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import Arg, script

DEPTH = 10_000
"""The oldest tasks of a processing list: only these are looked at, and others when these have gone."""
MOST_COPIES = 100
"""Copies of one task that are put back by one script."""


class OldSteps(Protocol):
    """How tasks are put back."""

    def go_on(self, link: Link) -> int:
        """Finish what somebody began and did not finish; how many tasks came back by it."""

    def recorded(self, link: Link, key: str) -> tuple[str, str]:
        """Put the task of a record back, if all is still so: see list_old_task for the answer."""

    def bare(self, link: Link, task: bytes, digest: str, records: Sequence[str]) -> int:
        """Put copies without a record back, MOST_COPIES at most; how many. records: where records of it may be."""


def steps_for(options: ListOptions, *, cluster: bool) -> OldSteps:
    """One step, if all keys share a slot or nobody minds. cluster: whether the server keeps slots apart."""
    # Records of a prefix without a tag are each in a slot of its own.
    keys = (options.name, options.old_processing, f"{options.old_records}0", f"{options.old_records}1")
    return _Apart(options) if cluster and len(set(map(slot_of, keys))) > 1 else _Together(options)


def run_named(link: Link, name: str, keys: Sequence[str], args: Sequence[Arg], options: ListOptions) -> Reply:
    """Run a script; a key of another type is named."""
    try:
        return link.run(script(name), keys, args)
    except WrongKeyTypeError as error:
        raise named(link, error, options) from None


def named(link: Link, error: WrongKeyTypeError, options: ListOptions) -> WrongKeyTypeError:
    """The error, with the name of the key that holds something else."""
    keys = {
        options.name: "list",
        options.old_processing: "list",
        options.keys.seen: "hash",
        held_key(options.old_processing, options.name): "list",
    }
    for key, holds, kind in other_types(link, keys):
        return WrongKeyTypeError(f"key {key!r} holds a {holds}, and no {kind} (list queue {options.name!r})")
    return error


class _Together:
    """Each task in one script."""

    def __init__(self, options: ListOptions) -> None:
        self._options = options

    def go_on(self, link: Link) -> int:
        return 0

    def recorded(self, link: Link, key: str) -> tuple[str, str]:
        options = self._options
        keys = [key, options.old_processing, options.name, options.keys.tasks.never]
        args: list[Arg] = [options.old_timeout_ms / 1_000, options.push]
        what, said = run_named(link, "list_old_task", keys, args, options)
        return text(what), text(said)

    def bare(self, link: Link, task: bytes, digest: str, records: Sequence[str]) -> int:
        options, ours = self._options, self._options.keys
        keys = [options.old_processing, options.name, ours.seen, ours.tasks.never, *records]
        args: list[Arg] = [options.push, task, digest, options.old_timeout_ms, MOST_COPIES, 2 * DEPTH]
        return int(run_named(link, "list_old_bare", keys, args, options))


class _Apart:
    """Each task in steps of one slot."""

    def __init__(self, options: ListOptions) -> None:
        self._options = options
        beside = StreamKeys(options.old_processing)
        self._held = [options.old_processing, held_key(options.old_processing, options.name), beside.never]

    def go_on(self, link: Link) -> int:
        number, _, *payloads = self._hold(link, b"", 0)
        return self._place(link, number, payloads) if payloads else 0

    def recorded(self, link: Link, key: str) -> tuple[str, str]:
        options = self._options
        reply = run_named(link, "list_old_task", [key], [options.old_timeout_ms / 1_000], options)
        what, task = text(reply[0]), reply[1]
        if what != "timed out":
            return what, text(task)
        # Of the record there may be another by now: then one copy is that one's.
        stay = int(link.call("EXISTS", key))
        return ("recovered", "") if self._move(link, task, 1, stay, 0) else ("forgotten", "")

    def bare(self, link: Link, task: bytes, digest: str, records: Sequence[str]) -> int:
        options, ours = self._options, self._options.keys
        time = link.call("TIME")
        stay = 0
        for reply in link.calls([("HMGET", key, *FIELDS) for key in records]):
            if isinstance(reply, WrongKeyTypeError):
                continue  # no record
            if isinstance(reply, MillstreamError):
                raise reply
            record = parse_record(reply, 0)
            stay += record is not None and record.task == task and record.usable(int(time[0]))
        args: list[Arg] = [digest, options.old_timeout_ms, MOST_COPIES]
        count = int(run_named(link, "list_old_claim", [ours.seen, ours.tasks.never], args, options))
        return self._move(link, task, count, stay, 2 * DEPTH) if count else 0

    def _move(self, link: Link, task: bytes, most: int, stay: int, depth: int) -> int:
        """Have copies held and placed; how many."""
        while True:
            number, new, *payloads = self._hold(link, task, most, stay, depth)
            if not payloads:
                return 0
            placed = self._place(link, number, payloads)
            if new:
                return placed or len(payloads)  # or somebody else has placed them meanwhile

    def _place(self, link: Link, number: bytes, payloads: Sequence[bytes]) -> int:
        options = self._options
        position = options.keys.position(f"old:{options.old_processing}")
        keys = [options.name, position, options.keys.tasks.never]
        placed = int(run_named(link, "list_place", keys, [number, options.push, *payloads], options))
        self._hold(link, b"", 0, placed=number)
        return placed

    def _hold(
        self, link: Link, task: bytes, most: int, stay: int = 0, depth: int = 0, *, placed: bytes = b""
    ) -> list[Reply]:
        args: list[Arg] = [task, most, stay, depth, placed]
        held: list[Reply] = run_named(link, "list_old_hold", self._held, args, self._options)
        return held
