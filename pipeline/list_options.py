"""ListOptions: how a list queue is laid out on the server, as those who used it before agreed on."""

from dataclasses import dataclass

from pipeline.codec import Codec
from pipeline.errors import UsageError
from pipeline.keys import ListKeys
from pipeline.task import PAYLOADS, payload_codec

ENDS = ("left", "right")
ORDERS = ("fifo", "lifo", "priority")
FORMATS = ("unique", "classic")
MIN_OLD_TIMEOUT_MS = 1_000
WORKERS = "workers"
"""The group of a list, unless it is called otherwise."""


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{option}={value!r}: one of {', '.join(allowed)} (ListOptions)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """One list queue.

    Raises:
        UsageError: a name or option that cannot be.
    """

    name: str
    """The key of the list (or, with order=priority, of the sorted set), exactly as everybody calls it."""
    push: str = "left"
    """The end that tasks are pushed to: left (LPUSH, the classic way) or right (RPUSH)."""
    order: str = "fifo"
    """fifo: taken from the other end; lifo: from the same; priority: the key is a sorted set, lowest score first."""
    payload: str = "auto"
    """What payloads are: json, text, msgpack, or auto: as their bytes tell."""
    format: str = "unique"
    """Members of sorted sets. unique: every push is a task of its own. classic: the member is the payload, as old code
    writes and reads it, so that equal payloads are one task."""
    scheduled: str = "scheduled"
    """With format=classic, the sorted set of delayed tasks that old code uses; with unique it is a key of our own."""
    old_processing: str = ""
    """The list that old workers of this queue, and of no other, move tasks to while they run: what dead ones left there
    is put back. Nothing in it says which queue a task was taken from, so it is not looked at unless it is named here.
    Old code calls it `processing`."""
    old_records: str = "processing:"
    """What the keys of those workers' records begin with."""
    old_timeout_ms: int = 300_000
    """How long old workers' tasks run at most, in ms, where no record says so. At least 1 s."""

    def __post_init__(self) -> None:
        ListKeys(self.name)
        _one_of("push", self.push, ENDS)
        _one_of("order", self.order, ORDERS)
        _one_of("format", self.format, FORMATS)
        _one_of("payload", self.payload, tuple(PAYLOADS))
        if self.old_timeout_ms < MIN_OLD_TIMEOUT_MS:
            raise UsageError(
                f"old_timeout_ms={self.old_timeout_ms:,}: at least {MIN_OLD_TIMEOUT_MS:,} (ListOptions)"
            )
        if self.old_processing and not self.old_records:
            raise UsageError("old_records='': what the keys of old records begin with (ListOptions)")
        for key in (self.scheduled, self.old_processing or self.scheduled):
            ListKeys(key)  # what we keep beside it shares its slot
        if self.name in (self.old_processing, self.scheduled):
            raise UsageError(
                f"list {self.name!r}: its processing list and its scheduled tasks are other keys"
            )

    @property
    def keys(self) -> ListKeys:
        """The names of its keys."""
        return ListKeys(self.name)

    @property
    def codec(self) -> Codec:
        """What payloads are called on the wire."""
        return payload_codec(self.payload)

    @property
    def take(self) -> str:
        """The end that tasks are taken from: left or right. The next task stands there."""
        other = {"left": "right", "right": "left"}
        return self.push if self.order == "lifo" else other[self.push]

    @property
    def key_types(self) -> dict[str, str]:
        """What each key of the list holds that no other stream has, as TYPE calls it."""
        keys = self.keys
        return {
            keys.list: "zset" if self.is_sorted else "list",
            keys.hand: "list",
            keys.popped: "hash",
            keys.seen: "hash",
            keys.due if self.format == "unique" else self.scheduled: "zset",
        }

    @property
    def next_end(self) -> str:
        """Where the next task stands, as scripts call it: left, right, or lowest (of a sorted set)."""
        return "lowest" if self.is_sorted else self.take

    @property
    def is_sorted(self) -> bool:
        """Whether the key holds a sorted set: a priority queue."""
        return self.order == "priority"


def list_options(queue: str | ListOptions) -> ListOptions:
    """The options of a list that may be given by its name alone. Raises: UsageError."""
    if isinstance(queue, ListOptions):
        return queue
    if not isinstance(queue, str):
        raise UsageError(f"list={queue!r}: the name of a list, or ListOptions")
    return ListOptions(name=queue)
