"""Grouped: a stream with a consumer group, as the tests of the group scripts set it up and look at it."""

from collections.abc import Sequence

from pipeline.breaker import Ended
from pipeline.keys import GroupRef, StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import (
    NOTHING_ENDED,
    Duty,
    Joined,
    Move,
    MovedEntry,
    Settled,
    Taken,
    heartbeat,
    join,
    move_command,
    parse_settled,
    read_command,
    settle_command,
    take,
)
from pipeline.server.replies import RawEntry, Reply, pairs, parse_entries, parse_read, text
from pipeline.server.scripts import Script, script
from tests.server.server_state import ServerState

LATEST_MS = 1 << 52
"""A server time that no clock reaches."""


def run_command(link: Link, used: Script, command: Sequence[str | bytes | int | float]) -> Reply:
    """One command that names a script, which is loaded first."""
    link.load(used)
    return link.call(*command)


class Grouped(ServerState):
    """One group of one stream, driven command by command; consumers are names."""

    def __init__(self, link: Link, stream: str, group: str = "g") -> None:
        self.link = link
        self.keys = StreamKeys(stream)
        self.group = group
        self.main = GroupRef(self.keys, group)
        self.again = GroupRef(self.keys, group, again=True)

    def join(self, *, start: str = "0-0", lost: bool = False) -> Joined:
        """Make sure the group exists."""
        return join(self.link, self.keys, self.group, start=start, lost=lost)

    def add(self, count: int, ref: GroupRef | None = None) -> list[bytes]:
        """Append entries `n 0`, `n 1` …; their ids."""
        key = (ref or self.main).key
        return [self.link.call("XADD", key, "*", "n", number) for number in range(count)]

    def read(self, consumer: str, count: int = 100, ref: GroupRef | None = None) -> list[bytes]:
        """Read new entries for a consumer; their ids."""
        ref = ref or self.main
        reply = parse_read(self.link.call(*read_command([ref], consumer, count=count)))
        return [entry_id for entry_id, _ in reply.get(ref.key.encode(), ())]

    def held(self, consumer: str, count: int, ref: GroupRef | None = None) -> list[bytes]:
        """Append entries and read them for a consumer."""
        self.add(count, ref)
        return self.read(consumer, count, ref)

    def age(self, ids: Sequence[bytes], idle_ms: int, ref: GroupRef | None = None) -> None:
        """Let pending entries look as if their consumer had not renewed them for so long."""
        ref = ref or self.main
        for entry_id in ids:
            owner = self.pending(ref)[entry_id][0]
            self.link.call("XCLAIM", ref.key, ref.group, owner, 0, entry_id, "IDLE", idle_ms, "JUSTID")

    def pending(self, ref: GroupRef | None = None) -> dict[bytes, tuple[str, int]]:
        """Entry id to (consumer, deliveries) of all that is pending."""
        ref = ref or self.main
        rows = self.link.call("XPENDING", ref.key, ref.group, "-", "+", 10_000)
        return {row[0]: (text(row[1]), row[3]) for row in rows}

    def idle_ms(self, entry_id: bytes, ref: GroupRef | None = None) -> int:
        """For how long a pending entry was not renewed."""
        ref = ref or self.main
        return int(self.link.call("XPENDING", ref.key, ref.group, entry_id, entry_id, 1)[0][2])

    def fact(self, name: str) -> str:
        """What S:groups holds for this group: token, sweep, pos:main, …; empty where it holds nothing."""
        return text(self.link.call("HGET", self.keys.groups, f"{self.group}:{name}") or b"")

    @property
    def token(self) -> str:
        """The claims token now."""
        return self.fact("token")

    def take(
        self, consumer: str, *, ref: GroupRef | None = None, min_idle_ms: int = 1_000, cursor: str = "0-0",
        count: int = 50, latest_ms: int = LATEST_MS,
    ) -> Taken:  # fmt: skip
        """One claim."""
        return take(
            self.link, ref or self.main, consumer,
            min_idle_ms=min_idle_ms, cursor=cursor, count=count, latest_ms=latest_ms,
        )  # fmt: skip

    def settle(
        self, consumer: str, ids: Sequence[bytes], *, token: str, ref: GroupRef | None = None
    ) -> Settled:
        """Acknowledge entries that were read under this token."""
        command = settle_command(ref or self.main, consumer, token, ids)
        return parse_settled(run_command(self.link, script("settle"), command))

    def move(
        self, entries: Sequence[MovedEntry], *, ref: GroupRef | None = None, min_idle_ms: int = 0
    ) -> list[int | bytes]:
        """Take entries out of pending."""
        command = move_command(ref or self.main, entries, min_idle_ms=min_idle_ms)
        answers: list[int | bytes] = run_command(self.link, script("move"), command)
        return answers

    def beat(
        self, member: str, *, wants: int = 1, claim_after_ms: int = 1_000, hold_ms: int = 60_000,
        swept: str = "", ended: Ended = NOTHING_ENDED,
    ) -> Duty:  # fmt: skip
        """One heartbeat of a member."""
        return heartbeat(
            self.link, self.keys, self.group, member,
            claim_after_ms=claim_after_ms, wants=wants, hold_ms=hold_ms, swept=swept, ended=ended,
        )  # fmt: skip

    def entries(self, key: str) -> list[RawEntry]:
        """All entries of a stream."""
        return parse_entries(self.link.call("XRANGE", key, "-", "+"))

    def consumers(self) -> dict[str, int]:
        """Consumer names of the group on the stream, with what each holds."""
        reply = self.link.call("XINFO", "CONSUMERS", self.keys.stream, self.group)
        return {text(facts["name"]): facts["pending"] for facts in map(pairs, reply)}


def moved(entry_id: bytes, consumer: str, *moves: Move) -> MovedEntry:
    """An entry to be moved."""
    return MovedEntry(entry_id, consumer, moves)


def to_again(value: bytes = b"v") -> Move:
    """An event that runs again."""
    return Move("again", [b"a", value])


def to_dead(value: bytes = b"v") -> Move:
    """An event that dies."""
    return Move("dead", [b"d", value])


def to_retry(due_ms: int, member: str = "m", body: bytes = b"\x92\xa1a\xa1v") -> Move:
    """An event that waits; the body is the array ["a", "v"]."""
    return Move("retry", [due_ms, member, body])
