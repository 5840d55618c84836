"""Lists: what members ask of a list queue, as commands to send and answers to parse.

A task that a member takes moves from the list's end into a stream of the list's own (`ListKeys.stream`), and is from
then on an entry like any other; see lua/list_feed.lua.
"""

from functools import lru_cache

from pipeline.header import SINGLE, UNCOMPRESSED, write_header
from pipeline.limits import DEFAULT_LIMITS
from pipeline.list_options import WORKERS, ListOptions
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS, Command
from pipeline.server.replies import Reply
from pipeline.server.scripts import Arg, script

PRODUCER = "list"
"""Stands as producer in the headers of entries that hold tasks."""


@lru_cache(maxsize=64)
def task_header(options: ListOptions) -> bytes:
    """The field `h` of a list's tasks; of a sorted set's, all of it that stands before the score."""
    headers = {"list": options.name} | ({"priority": ""} if options.is_sorted else {})
    header = write_header(
        SINGLE, options.codec, UNCOMPRESSED, 1, PRODUCER, 0, "", "", None, headers, "", DEFAULT_LIMITS
    )
    return header[:-1] if options.is_sorted else header


def feed_command(
    options: ListOptions, count: int, *, group: str = WORKERS, hand_only: bool = False
) -> Command:
    """Move tasks into the stream, until so many are there that nobody has read; at most MAX_IDS.

    hand_only: no more than lies in the hand, and `count` of them.
    """
    return script("list_feed").command(*_feed_words(options, count, group, hand_only=hand_only))


def _feed_words(
    options: ListOptions, count: int, group: str, *, hand_only: bool
) -> tuple[list[str], list[Arg]]:
    keys = options.keys
    end = "" if hand_only else "lowest" if options.is_sorted else options.take
    return (
        [keys.list, keys.hand, keys.stream, keys.tasks.never],
        [group, min(count, MAX_IDS), end, task_header(options), int(options.format == "unique")],
    )


def parse_fed(reply: Reply) -> int:
    """The answer to feed_command: how many tasks were moved."""
    moved: int = reply[0]
    return moved


def hand_over_command(options: ListOptions, block_ms: int) -> Command:
    """Wait for a task and put it into the hand. To be sent with feed_command(hand_only=True) right behind it.

    Source: https://redis.io/docs/latest/commands/blmove/
    """
    keys = options.keys
    return ("BLMOVE", keys.list, keys.hand, options.take.upper(), "RIGHT", block_ms / 1_000)


def drain_hand(link: Link, options: ListOptions, group: str = WORKERS) -> int:
    """Move what lies in the hand into the stream; how many tasks."""
    moved = 0
    while True:
        words = _feed_words(options, MAX_IDS, group, hand_only=True)
        count = parse_fed(link.run(script("list_feed"), *words))
        moved += count
        if count < MAX_IDS:
            return moved
