"""Result: what the comparison at the end found, read anew from the complete accounts and dead letters."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from console.demo.account import AccountReader, Confirmed, Handled
from console.demo.facts import dead_letters
from console.demo.folder import GROUPS, STREAM, RunFolder
from console.demo.ledger import GroupCounts, compare
from pipeline.keys import StreamKeys
from pipeline.position import parse_entry_id, show_entry_id
from pipeline.server.connect import Link

LAST_EVENTS = 500
"""So many are offered to be replayed: what waits for a group without workers is bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The counts of one run."""

    sent: int
    """Events that the server confirmed."""
    groups: dict[str, GroupCounts]
    last_from: str
    """The entry id from which on lie the last few hundred events."""
    lost: dict[str, list[str]]
    """Per group, the ids of confirmed events that it neither handled nor buried."""

    @property
    def lost_count(self) -> int:
        """Events lost by at least one group."""
        return len(set().union(*self.lost.values()))

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "sent": self.sent,
            "groups": {
                name: {
                    "handled": counts.handled,
                    "redelivered": counts.redelivered,
                    "dead": counts.dead,
                    "lost": counts.lost,
                }
                for name, counts in self.groups.items()
            },
            "lost": self.lost_count,
        }


def result_of(run: RunFolder, link: Link) -> Result:
    """Compare everything once more, from the files and the server, with nothing remembered from before."""
    keys = StreamKeys(STREAM)
    last = heapq.nlargest(LAST_EVENTS, (parse_entry_id(entry_id) for _, entry_id in _confirmed(run)))
    ledger = compare(
        confirmed=_confirmed(run),
        handled={
            group: (
                (line.event_id, line.replayed)
                for _, path in run.handled_accounts(group)
                for line in map(Handled.parse, AccountReader(path).new_lines())
            )
            for group in GROUPS
        },
        dead={group: _dead_entries(link, keys, group) for group in GROUPS},
    )
    return Result(
        sent=ledger.confirmed,
        groups=ledger.counts(),
        last_from=show_entry_id(last[-1]) if last else "start",
        lost=ledger.lost(),
    )


def _confirmed(run: RunFolder) -> Iterator[tuple[str, str]]:
    for path in run.confirmed_accounts():
        for line in map(Confirmed.parse, AccountReader(path).new_lines()):
            yield line.event_id, line.entry_id


def _dead_entries(link: Link, keys: StreamKeys, group: str) -> Iterator[str]:
    start = "-"
    while letters := dead_letters(link, keys, group, start):
        for start, letter in letters:  # noqa: B007 - the last one is where the next page begins
            if letter.stream == keys.stream and letter.entry_id:
                yield letter.entry_id
