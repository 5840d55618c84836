"""Old code and ours beside each other on one queue: its name, a task, and what tests ask of both."""

from collections.abc import Callable
from typing import Any

from pipeline.event import Event

NAME = "emails"
TASK = b'{"function": "send_email", "args": ["ann@example.com"]}'
TASK_DATA = {"function": "send_email", "args": ["ann@example.com"]}


def tasks(client: Any, key: str = NAME) -> list[bytes]:
    """What a list holds, the task that is taken next from the right first."""
    held: list[bytes] = client.lrange(key, 0, -1)
    return held[::-1]


def keeping(ran: list[Any]) -> Callable[[Event], None]:
    """A handler that notes what it runs."""

    def run(event: Event) -> None:
        ran.append(event.data)

    return run


def calls(client: Any) -> dict[str, int]:
    """How often each command was carried out."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): facts["calls"] for name, facts in stats.items()}
