"""MemberState: what the duties of one member share: what it holds, what is finished, and what it knows of its group."""

import os
import re
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consumers.executors import Finished
from consumers.tokens import Tokens
from consumers.window import Held, Window
from pipeline.breaker import Ended, trips
from pipeline.clock import ServerClock
from pipeline.errors import MillstreamError
from pipeline.event import Event
from pipeline.filters import GroupFilter
from pipeline.keys import GroupRef, StreamKeys
from pipeline.list_options import ListOptions
from pipeline.observe.log import Limited, get_logger
from pipeline.pause import Pause


class Callbacks(Protocol):
    """See callbacks.Callbacks."""

    def settled(self, held: Sequence[Held]) -> None:
        """These entries are acknowledged."""

    def moved(self, held: Held, *, done_here: bool) -> None:
        """This entry is settled, its events are where its moves say."""

    def full(self) -> bool:
        """Whether too much is to be told for more to be read."""


def now_ms() -> int:
    """The monotonic clock, in ms: what all waiting inside a member is measured by."""
    return int(time.monotonic() * 1_000)


def consumer_name() -> str:
    """A name for this member: host and pid for people, and a random part, since two members with one name would
    share what is pending and nothing could tell them apart."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def is_on(host: str, name: str) -> bool:
    """Whether consumer_name() gave this name on that host."""
    return re.fullmatch(re.escape(host) + r"-\d+-[0-9a-f]{6}", name) is not None


@dataclass(slots=True)
class Counts:
    """What a member has done since its start, for people and tests; the guarantees do not stand on it."""

    read: int = 0
    settled: int = 0
    taken_over_by_us: int = 0
    taken_over_from_us: int = 0
    retried: int = 0
    done: int = 0
    """Events whose handlers returned, and those that were passed over."""
    dead: int = 0
    """Dead letters."""
    rejected: int = 0
    """Of those, the ones that a handler rejected."""
    callbacks_failed: int = 0
    """Callbacks that raised."""
    handed_back: int = 0
    emitted: int = 0
    filtered: int = 0
    skipped: int = 0
    released: int = 0
    trimmed_unread: int = 0
    lost_retries: int = 0
    """Retries whose events were gone from the server when they were due."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry whose effects were refused: why, by event. half: all else of it has been done, and must not be again."""

    held: Held
    problems: Mapping[int, str]
    half: bool = False


@dataclass(slots=True)
class MemberState:
    """Shared by the threads of a member. `lock` guards window, settling, and the fields of each Held."""

    keys: StreamKeys
    group: str
    window: Window
    claim_after_ms: int
    own_claim_after_ms: int
    list_options: ListOptions | None = None
    """The list queue that feeds the stream, which is its own; None for any other stream."""
    cluster: bool = False
    """One script may use keys of one slot only."""
    pause_above: float = 0.5
    """See ConsumerOptions."""
    consumer: str = field(default_factory=consumer_name)
    lock: threading.RLock = field(default_factory=threading.RLock)
    seeing: threading.Lock = field(default_factory=threading.Lock)
    """Held by who claims, or looks for entries that are ours and were never seen: between the server's answer and the
    window an entry is in neither, and whoever found it there would run it beside the other, or after it."""
    finished: Finished = field(default_factory=deque)
    abandoned: dict[int, Event] = field(default_factory=dict)
    """By id(): events whose outcome was decided without their handler, which ran beyond max_run. It may yet return."""
    settling: deque[Held] = field(default_factory=deque)
    """All their events have an outcome: to be acknowledged, moved, or handed back."""
    beginning: deque[Held] = field(default_factory=deque)
    """To be noted by the server as running alone, before they begin: one at a time."""
    releasing: set[Held] = field(default_factory=set)
    """Of those, the ones another member must run."""
    given: set[tuple[GroupRef, bytes]] = field(default_factory=set)
    """Entries that were handed back, and are pending under our name until somebody claims them: not unseen, and not to
    run before. Whoever fetched one would run it with the count of a run before it."""
    settled: set[tuple[GroupRef, bytes]] | None = None
    """Entries that were settled since a sweep began to claim; None while none does. A claim that the server carried out
    before a settlement, and whose answer comes after the other's, brings what has been done."""
    filter: GroupFilter = field(default_factory=GroupFilter)
    """Which types the group takes, as last heard of."""
    passed: dict[Held, list[Event]] = field(default_factory=dict)
    """Events that were passed over, since the group does not take their type."""
    refused: deque[Refused] = field(default_factory=deque)
    """Entries that were not settled, as what their handlers wanted done in that step cannot be."""
    doubted: deque[Held] = field(default_factory=deque)
    """Entries with such events that were not settled, as the group's filter is another now: to be looked at again."""
    token: str = ""
    """The claims token last heard of: for entries that are read from now on."""
    tokens: Tokens = field(default_factory=Tokens)
    """Which older tokens are as good as the newest."""
    clock: ServerClock = field(default_factory=ServerClock)
    counts: Counts = field(default_factory=Counts)
    told: Ended = field(default_factory=Ended)
    """What of it the group was told of: how many events have ended, and died."""
    pause: Pause | None = None
    """The group is paused, as last heard of: nothing is read, claimed or promoted."""
    callbacks: Callbacks | None = None
    """Whom to tell of what was settled; None if nobody wants to know."""
    reader_wake: threading.Event = field(default_factory=threading.Event)
    duty_wake: threading.Event = field(default_factory=threading.Event)
    back: threading.Event = field(default_factory=threading.Event)
    """The server works again, or the member stops: ends the reader's wait after a failure."""
    reader_blocked: bool = False
    """The reader waits at the server: what is finished is settled by the duty thread."""
    reader_client: int = 0
    """The server's id of the reader's connection, to end its waiting by."""
    reader_waits: threading.Event = field(default_factory=threading.Event)
    """Of a list's member: the reader waits at the server, with room for what comes."""
    reader_landed: threading.Event = field(default_factory=threading.Event)
    """Of a list's member: a read that waited was answered since the watcher last looked."""
    watching: bool = False
    """The watcher is about to hand over a task, or waits for one at the server: there is to be room for it."""
    watcher_client: int = 0
    """The server's id of its connection."""
    unasked: bool = False
    """Events are taken one by one, and nobody has asked for one lately."""
    stop_asked: threading.Event = field(default_factory=threading.Event)
    sweeping: bool = False
    """A sweep brings entries, or waits for room in the window: what is finished is settled together with its claims, by
    the duty thread, and the reader leaves it its share of the room."""
    splitting: bool = False
    """A sweep brings packs, whose events go to the group's own stream one by one: the reader does the work."""
    again_suspects: bool = False
    """The group's own stream holds events that were running when a worker died."""
    claiming: int = 0
    """So many entries may come with the claim that is under way."""
    restamp: bool = False
    """The server's clock may have been set back: what is pending may be dated ahead."""
    taken_over: Counter[str] = field(default_factory=Counter)
    """Entries that were found not to be ours any more and of which nothing was said yet, by their claims tokens."""
    retry_due_ms: float | None = None
    """The first retry that this member put off since the promoter last looked, by the server's clock."""
    released_until_ms: int = 0
    """Until then this member leaves the duty to others: it released entries it cannot run."""
    on_stop: Callable[[], None] | None = None
    """Called when the member begins to stop: wakes who waits for deliveries."""
    raises: bool = False
    """Whoever runs the member raises its failure, so that it need not be said here."""
    failure: MillstreamError | None = None
    """Why the member cannot go on: wrong key type, access denied, all slots lost."""

    _ended: tuple[int, int] = (0, 0)
    refs: tuple[GroupRef, GroupRef] = field(init=False)
    """Where the group reads: what is due again first, then what is new."""
    say: Limited = field(init=False)

    def __post_init__(self) -> None:
        private = self.list_options is not None
        self.refs = (
            GroupRef(self.keys, self.group, again=True),
            GroupRef(self.keys, self.group, private=private),
        )
        self.say = Limited(get_logger("consumer"))

    @property
    def stopping(self) -> bool:
        """Nothing new is read; what did not start is handed back."""
        return self.stop_asked.is_set()

    @property
    def resting(self) -> bool:
        """Nothing new is started: what did not start is handed back."""
        return self.pause is not None or self.stop_asked.is_set()

    @property
    def waiting(self) -> bool:
        """Nothing more is read or claimed for now: the group is paused, or callbacks do not keep up."""
        return self.pause is not None or (self.callbacks is not None and self.callbacks.full())

    def count_ended(self) -> None:
        """Note how many events have ended by now: after all answers to what was settled together, whose dead letters
        are in calls of their own. Between those and the others, a group would seem to see nothing but deaths."""
        counts = self.counts
        with self.lock:
            self._ended = (counts.done - counts.filtered + counts.dead, counts.dead - counts.rejected)
        if self._ended[1] and self.alarming():
            self.duty_wake.set()

    def ended(self) -> Ended:
        """Events that have ended with this member since its start, as of count_ended()."""
        return Ended(*self._ended)

    def alarming(self) -> bool:
        """Whether the group is to hear at once of how many events died here."""
        return self.pause is None and trips(self.ended().since(self.told), self.pause_above) != ""

    def wake(self) -> None:
        """Something finished: wake whichever thread settles just now."""
        if self.reader_blocked or self.sweeping:
            self.duty_wake.set()
        else:
            self.reader_wake.set()

    def wake_all(self) -> None:
        """Wake both threads, and who waits for deliveries."""
        self.reader_wake.set()
        self.duty_wake.set()
        self.back.set()
        if self.on_stop is not None and self.stopping:
            self.on_stop()

    def fail(self, error: MillstreamError) -> None:
        """The member cannot go on; whoever runs it sees `failure`."""
        if self.failure is None:
            self.failure = error
            if not self.raises:
                get_logger("consumer").error(
                    "consumer has ended: no waiting mends it",
                    stream=self.keys.stream,
                    group=self.group,
                    error=str(error),
                )
        self.stop_asked.set()
        self.wake_all()

    def put_off(self, due_ms: float) -> None:
        """A retry waits until then: should this member be on duty, it need not hear of it from the server."""
        if self.retry_due_ms is None or due_ms < self.retry_due_ms:
            self.retry_due_ms = due_ms
            self.duty_wake.set()

    def lose(self, held: Held) -> None:
        """An entry is not ours any more: its outcome will not be settled. Call under the lock."""
        if self.window.remove(held):
            held.taken_over = True
            self.taken_over[held.token] += 1
            self.counts.taken_over_from_us += 1
            if self.passed:
                self.passed.pop(held, None)
