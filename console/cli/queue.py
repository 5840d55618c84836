"""millstream queue: list queues, shared with old producers and workers: push, pop, look, and lead them over."""

import click

from console.cli.queue_bridge import bridge
from console.cli.queue_changes import promote, recover, return_
from console.cli.queue_pop import peek, pop
from console.cli.queue_push import push
from console.cli.queue_status import status
from console.cli.verb import Noun


@click.group(
    "queue",
    cls=Noun,
    default="status",
    examples=[
        ("millstream queue status emails", "what waits, is in progress, delayed, timed out, dead"),
        ("millstream queue push emails 'hello ada'", "one task"),
        ("millstream queue peek emails", "the next ten; none is taken"),
        ("millstream queue pop emails --timeout 10s", "the next one, off the list"),
        ("millstream queue bridge emails --to emails-stream", "the tasks of a list into a stream"),
    ],
)
def verb() -> None:
    """List queues: tasks in a Redis list, shared with old producers and workers."""


for command in (status, peek, push, pop, bridge, promote, recover, return_):
    verb.add_command(command)
