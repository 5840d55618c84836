"""Bridging: the commands that move tasks between a list and a stream, and what the server answers to them.

Stands on lua/bridge_*.lua, which say what is one step. Does no I/O: whoever holds the link sends and reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import MillstreamError, UsageError
from pipeline.keys import StreamKeys
from pipeline.list_options import ListOptions
from pipeline.server.append import pack_words
from pipeline.server.connect import Link
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import Arg, script

MOST_TASKS = 500
"""Most tasks of one script call."""
LEAST_STANDING = 16
"""Of a list that is taken from the end it is pushed to: so many that were pushed since it was looked at may stand
before what was seen; more where more is moved."""
MOST_BYTES = 1_000_000
"""Most bytes of payloads of one script call, unless one alone has more."""
MOST_HELD = 2_000
"""Most tasks that a bridge to elsewhere holds."""
SCRIPTS = ("bridge_move", "bridge_hold", "bridge_drop", "bridge_push")


@dataclass(frozen=True, slots=True)
class Moved:
    """Answer to move_command()."""

    moved: int
    standing: int
    """How many stand at the take end that were pushed there since: they are next."""
    passed_over: frozenset[int]
    """Indices, up to the last one that was moved, of what others had taken."""

    def indices(self) -> list[int]:
        """Which of the tasks were moved."""
        last = self.moved + len(self.passed_over)
        return [index for index in range(last) if index not in self.passed_over]


@dataclass(frozen=True, slots=True)
class Held:
    """Answer to hold_command()."""

    counter: str
    """How many tasks were ever removed from what is held: `<name>:<number>`; a counter that was lost has a new name."""
    before: int
    """How many were held before these."""
    payloads: list[bytes]


def check_names(options: ListOptions, stream: str) -> None:
    """Refuse a list and a stream of one server that are one key.

    Raises:
        UsageError: they are.
    """
    if stream in (options.name, options.keys.stream):
        raise UsageError(
            f"list {options.name!r} and stream {stream!r} are one key: give the stream another name"
        )


def load_scripts(link: Link) -> None:
    """Make the bridge's scripts known to a server: their commands are sent without looking whether it knows them."""
    for name in SCRIPTS:
        link.load(script(name))


def look_command(options: ListOptions, count: int, skip: int = 0) -> tuple[Arg, ...]:
    """Read up to `count` tasks from the take end on, leaving out the first `skip`, and leave them there."""
    if options.take == "right":
        return ("LRANGE", options.name, -skip - count, -skip - 1)
    return ("LRANGE", options.name, skip, skip + count - 1)


def parse_look(options: ListOptions, reply: list[bytes]) -> list[bytes]:
    """The payloads, the next one first."""
    return reply[::-1] if options.take == "right" else reply


def wait_command(options: ListOptions, seconds: float) -> tuple[Arg, ...]:
    """Wait until the list holds a task, and leave it there: it is moved from the take end to the take end."""
    end = options.take.upper()
    return ("BLMOVE", options.name, options.name, end, end, seconds)


def move_command(
    options: ListOptions, stream: str, tasks: Sequence[tuple[bytes, bytes, bytes]], *, cap_entries: int = 0
) -> bytes:
    """Move tasks, each as payload, header and body, into a stream of the same slot; packed."""
    keys = [options.name, stream, StreamKeys(stream).never]
    given: list[Arg] = [options.take, cap_entries, _may_stand(options, len(tasks))]
    words = [str(word).encode() for word in script("bridge_move").command(keys, given)]
    for task in tasks:
        words += task
    return pack_words(words)


def _may_stand(options: ListOptions, tasks: int) -> int:
    return max(LEAST_STANDING, tasks) if options.take == options.push else 0


def parse_moved(reply: list[int]) -> Moved:
    """What the script answered."""
    return Moved(reply[0], reply[1], frozenset(which - 1 for which in reply[2:]))


def hold_command(options: ListOptions, bridge: str, count: int, new_counter: str) -> tuple[Arg, ...]:
    """Take up to `count` tasks from the list into what the bridge holds."""
    keys = options.keys
    return script("bridge_hold").command(
        [keys.list, keys.bridge(bridge), counter_key(options, bridge), keys.tasks.never],
        [options.take, count, MOST_HELD, new_counter],
    )


def parse_held(reply: list[Any]) -> Held:
    """What the script answered."""
    return Held(text(reply[0]), int(reply[1]), reply[2:])


def drop_command(options: ListOptions, bridge: str, before: str, after: str, count: int) -> tuple[Arg, ...]:
    """Remove the `count` oldest tasks from what the bridge holds."""
    keys = options.keys
    return script("bridge_drop").command(
        [keys.bridge(bridge), counter_key(options, bridge), keys.tasks.never], [before, after, count]
    )


def counter_key(options: ListOptions, bridge: str) -> str:
    """The key of a bridge's counter."""
    return options.keys.position(f"held:{bridge}")


def push_command(
    options: ListOptions, source: str, before: str, after: str, payloads: Sequence[bytes]
) -> tuple[Arg, ...]:
    """Push tasks to the list if the position of the source is `before`; it then is `after`."""
    keys = options.keys
    return script("bridge_push").command(
        [keys.list, keys.position(source)], [options.push, before, after, *payloads]
    )


def checked(reply: Reply) -> Any:
    """The reply; an error answer is raised."""
    if isinstance(reply, MillstreamError):
        raise reply
    return reply


def push_once_command(
    options: ListOptions, tasks: Sequence[tuple[str, bytes]], remember_ms: int
) -> tuple[Arg, ...]:
    """Push tasks, each as the id it is remembered by for remember_ms, and its payload; but those remembered."""
    keys = options.keys
    return script("list_once").command(
        [keys.list, *(keys.tasks.ids(task_id) for task_id, _ in tasks)],
        [options.push, remember_ms, *(payload for _, payload in tasks)],
    )
