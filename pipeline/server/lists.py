"""Lists: what members ask of a list queue, as commands to send and answers to parse.

A task that a member takes moves from the list's end into a stream of the list's own (`ListKeys.stream`), and is from
then on an entry like any other; see lua/list_feed.lua.
"""

import math
import time
from functools import lru_cache

from pipeline.codec import pack
from pipeline.errors import MillstreamError, NoSuchGroupError
from pipeline.header import SINGLE, UNCOMPRESSED, write_header
from pipeline.keys import GroupRef, escape
from pipeline.limits import DEFAULT_LIMITS
from pipeline.list_options import WORKERS, ListOptions
from pipeline.options import ConsumerOptions
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS, Command, pending_of
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import Arg, script

LIVE_MS = 2_000
"""A member that has not been heard of for longer counts as gone when the last one leaves: its heartbeat comes every
0.5 s. Should it live after all, it takes what was given back from the list again."""
CLAIM_AFTER_MS = ConsumerOptions().claim_after_ms
PENDING_IDS = 100
"""Pending entries in one call."""
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


NO_SCORE = pack("0")
"""Ends the header of a task of a sorted set whose score is not known."""


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
    end = "" if hand_only else options.next_end
    return (
        [keys.list, keys.hand, keys.stream, keys.tasks.never],
        [
            *(group, min(count, MAX_IDS), end, task_header(options), int(options.format == "unique")),
            NO_SCORE if options.is_sorted else b"",
        ],
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
    return ("BLMOVE", keys.list, keys.hand, options.take.upper(), "LEFT", block_ms / 1_000)


def drain_hand(link: Link, options: ListOptions, group: str = WORKERS) -> int:
    """Move what lies in the hand into the stream; how many tasks."""
    moved = 0
    while True:
        words = _feed_words(options, MAX_IDS, group, hand_only=True)
        count = parse_fed(link.run(script("list_feed"), *words))
        moved += count
        if count < MAX_IDS:
            return moved


def give_back(
    link: Link,
    options: ListOptions,
    group: str = WORKERS,
    *,
    everything: bool = False,
    leaving: bool = False,
    until_s: float = math.inf,
) -> int:
    """Put tasks that workers of ours have taken and never began back to the end of the list where tasks are taken.

    That is: what lies in the hand, what was moved into the stream and read by nobody, and what was handed back before
    it ran; in order. What ran and failed or crashed, or was put off, stays for workers of ours with its attempts.

    everything: that too, of whatever no worker holds: retries that wait, what is due again, and what a worker held that
        has not renewed it for claim_after. Whoever takes it next begins anew, with the first attempt. What a live
        worker holds, and dead letters, stay.
    leaving: only while no member has been heard of for LIVE_MS.
    until_s: begin no further call after that, by the monotonic clock.

    Returns:
        How many tasks were given back.
    Raises:
        WrongKeyTypeError: the list's key holds something else by now; nothing is lost.
    """
    main, again = (
        GroupRef(options.keys.tasks, group, private=True),
        GroupRef(options.keys.tasks, group, again=True),
    )
    given = _GiveBack(link, options, group, LIVE_MS if leaving else 0, until_s)
    least_idle_ms = _claim_after_ms(link, main) if everything else -1
    if everything:
        given.of_kind("retry", main)
        given.of_kind("unread", again)
        given.pending(again, least_idle_ms)
    given.of_kind("hand", main)
    given.of_kind("unread", main)
    given.pending(main, least_idle_ms)
    return given.count


class _GiveBack:
    """Calls of list_give_back, one after the other, until there is nothing left to give back."""

    def __init__(self, link: Link, options: ListOptions, group: str, silent_ms: int, until_s: float) -> None:
        self._link = link
        self._options = options
        self._group = group
        self._silent_ms = silent_ms
        self._until_s = until_s
        self._over = False
        self.count = 0

    def of_kind(self, kind: str, ref: GroupRef) -> None:
        """All of the hand, of the retries, or of what is unread in a stream."""
        while self._called(ref, [kind]):
            pass

    def pending(self, ref: GroupRef, least_idle_ms: int) -> None:
        """What is pending in a stream and never ran, or was not renewed for so long; -1: however long."""
        ids: list[bytes] = []
        start = "-"
        while not self._over:
            try:
                rows = pending_of(self._link, ref, start=start)
            except NoSuchGroupError:
                return
            ids += [
                entry_id
                for entry_id, _, idle_ms, deliveries in rows
                if not deliveries or 0 <= least_idle_ms <= idle_ms
            ]
            if len(rows) < MAX_IDS:
                break
            start = f"({text(rows[-1][0])}"
        ids.reverse()
        for at in range(0, len(ids), PENDING_IDS):
            while self._called(ref, ["pending", least_idle_ms, *ids[at : at + PENDING_IDS]]):
                pass  # what did not fit the call

    def _called(self, ref: GroupRef, what: list[Arg]) -> int:
        if self._over or time.monotonic() > self._until_s:
            return 0
        keys, options, group = self._options.keys, self._options, self._group
        given: int = self._link.run(
            script("list_give_back"),
            [
                *(keys.list, keys.hand, ref.key, keys.tasks.members(group), keys.tasks.retry(group)),
                *(keys.tasks.retry_bodies(group), keys.tasks.never),
            ],
            [
                group,
                options.next_end,
                task_header(options),
                int(options.format == "unique"),
                self._silent_ms,
                *what,
            ],
        )
        self._over = given < 0
        self.count += max(given, 0)
        return max(given, 0)


def anything_left(link: Link, options: ListOptions, group: str, consumer: str, held: int) -> bool:
    """Whether a task stands anywhere from where a consumer would get it beside the `held` ones that it has.

    Asked for in the order in which tasks go: one that moves meanwhile is seen twice rather than never.
    """
    keys = options.keys
    refs = [GroupRef(keys.tasks, group), GroupRef(keys.tasks, group, again=True)]
    length, in_hand, *rest = link.calls(
        [
            ("ZCARD" if options.is_sorted else "LLEN", keys.list),
            ("LLEN", keys.hand),
            *(("XLEN", ref.key) for ref in refs),
            *(("XPENDING", ref.key, group) for ref in refs),
        ]
    )
    for reply in (length, in_hand, *rest):
        if isinstance(reply, MillstreamError):
            raise reply
    entries, pending = sum(rest[:2]), [(row[0], row[3] or ()) for row in rest[2:]]
    ours = sum(int(count) for _, holders in pending for name, count in holders if text(name) == consumer)
    return length + in_hand > 0 or entries > sum(count for count, _ in pending) or ours > held


def _claim_after_ms(link: Link, ref: GroupRef) -> int:
    """After how long without renewal an entry of the group counts as abandoned."""
    return int(link.call("HGET", ref.keys.groups, f"{escape(ref.group)}:claim_after") or CLAIM_AFTER_MS)
