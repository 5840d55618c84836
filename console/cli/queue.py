"""millstream queue: list queues, as they were before streams."""

import click

from console.cli.queue_bridge import bridge
from console.cli.verb import Noun


@click.group(
    "queue",
    cls=Noun,
    default="bridge",
    examples=[("millstream queue bridge emails --to emails-stream", "the tasks of a list into a stream")],
)
def verb() -> None:
    """List queues: the tasks that old producers push, and old workers take."""


verb.add_command(bridge)
