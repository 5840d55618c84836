"""Pushing: a list queue as these tests fill it and look at it, command by command."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from pipeline.due import Due
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.list_due import PromotedTasks, promote_tasks
from pipeline.server.list_push import Pushed, push
from tests.server.server_state import ServerState


@dataclass
class Pushing(ServerState):
    """One producer of one list queue, over one link."""

    link: Link
    options: ListOptions
    producer: str = "p"
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def push(
        self,
        *payloads: bytes,
        due: Due | None = None,
        after_ms: int | None = None,
        priority: float | None = None,
        number: int | None = None,
    ) -> Pushed:
        """One call."""
        return push(
            self.link,
            self.options,
            self.producer,
            next(self.numbers) if number is None else number,
            payloads,
            due=Due(after_ms=after_ms) if after_ms is not None else due,
            priority=priority,
        )

    def at(self, ms: float, *payloads: bytes, priority: float | None = None) -> Pushed:
        """Delayed until then; what is past is due at once."""
        return self.push(*payloads, due=Due(at_ms=int(ms)), priority=priority)

    def promote(self, *, cluster: bool = False) -> PromotedTasks:
        """One call."""
        return promote_tasks(self.link, self.options, cluster=cluster)

    def promote_all(self, *, cluster: bool = False) -> int:
        """As many calls as it takes; how many tasks."""
        moved = 0
        while done := self.promote(cluster=cluster).moved:
            moved += done
        return moved

    def taken(self) -> list[bytes]:
        """All tasks, in the order in which workers would take them."""
        name = self.options.name
        if self.options.is_sorted:
            return list(self.link.call("ZRANGE", name, 0, -1))
        tasks = self.link.call("LRANGE", name, 0, -1)
        return list(tasks) if self.options.take == "left" else list(tasks[::-1])

    def delayed(self) -> dict[bytes, float]:
        """Members of the delayed ones, with their scores."""
        reply = self.link.call("ZRANGE", self.delayed_key, 0, -1, "WITHSCORES")
        return {reply[i]: float(reply[i + 1]) for i in range(0, len(reply), 2)}

    @property
    def delayed_key(self) -> str:
        """Where delayed tasks are."""
        return self.options.scheduled if self.options.format == "classic" else self.options.keys.due


def numbered(first: int, last: int) -> Sequence[bytes]:
    """Payloads that are their numbers."""
    return [b"%d" % number for number in range(first, last + 1)]
