"""List old record: what an old worker's record says of the task that it stands for."""

from typing import NamedTuple

from pipeline.server.replies import Reply

AHEAD_S = 86_400
"""A record that is dated further ahead than this is of no use, in s."""
FIELDS = ("task", "timestamp", "timeout")


class OldRecord(NamedTuple):
    """Read from a hash with the fields task, timestamp (s since 1970) and timeout (s)."""

    task: bytes | None
    since_s: float | None
    limit_s: float | None

    def usable(self, now_s: float) -> bool:
        """Whether it stands for a copy of its task. The scripts ask the same."""
        return (
            self.task is not None
            and self.since_s is not None
            and self.since_s <= now_s + AHEAD_S
            and self.limit_s is not None
            and self.limit_s >= 0
        )

    def timed_out(self, now_s: float) -> bool:
        """Whether its worker has had its time. Asked again in the step that puts the task back."""
        return self.since_s is not None and self.limit_s is not None and now_s > self.since_s + self.limit_s


def parse_record(reply: Reply, default_s: float) -> OldRecord | None:
    """The answer to HMGET of FIELDS; None if there is no such record. default_s: the timeout where it says none."""
    task, since, limit = reply
    if task is None and since is None and limit is None:
        return None
    return OldRecord(task, _number(since), default_s if limit is None else _number(limit))


def _number(value: bytes | None) -> float | None:
    """A number as the scripts read it too; None for anything else."""
    try:
        number = float(value or b"")
    except ValueError:
        return None
    return number if number == number else None
