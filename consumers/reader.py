"""Reader: reads new entries while the window has room, and settles what is finished on the same connection.

Busy, it never blocks: two rounds of acks and a read are under way, so that the server works on one while the entries of
the other are taken in and handed on. Only after an empty read, with nothing to settle, it waits at the server. After
any error it starts with what it holds but never saw: a reply that was lost on the way. If killed, what it read stays
pending and is taken over. What comes one by one, and is handled quickly, is handled here (consumers/turns.py).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from consumers.claimer import smaller_share
from consumers.dispatch import Dispatch
from consumers.settler import Settlement, Settler
from consumers.state import MemberState, now_ms
from consumers.turns import Turns
from consumers.window import Held, HeldTask
from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.ladder import company
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS, Command, fetch_own, pending_of, read_command
from pipeline.server.lists import feed_command
from pipeline.server.replies import Reply, info_fields, parse_read
from pipeline.server.scripts import script

SLACK_MS = 4_000
"""A reply to a blocking read may come so much later than the block ends, in ms."""
FULL_WAIT_S = 0.5
"""With a full window the reader looks again after this, in s, even if nothing woke it."""


ROUNDS = 2
"""So many rounds may be under way at once."""

READ_BYTES = 49_152
"""About so many bytes are asked for in a read. What is more the server writes in parts, each behind the next request it
finds (NET_MAX_WRITES_PER_EVENT in its server.h): the answer to one round would wait until the next is carried out."""
FRAMING = 64
"""Of those, what an answer has around each entry. Tasks of a list are often no larger than that themselves."""
FEW = 8
"""While a blocking read brings no more entries than this, the next one blocks again."""
SPLIT_FROM = 50
"""Where there is room for more entries than this, a read leaves half of it to the next."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection, as the server knows it."""

    client: int
    """Its id there; 0 where the user may not ask."""
    process: str
    """The server process: its run_id; empty where the user may not ask."""


@dataclass(frozen=True, slots=True)
class Round:
    """What was written together: settlements, and a read of at most `room` entries (0: none)."""

    settlements: list[Settlement]
    room: int
    token: str
    """The claims token known before the read was sent: what moves ownership later changes it."""
    block_ms: int | None = None
    """So long the read waits at the server for something to come; None: not at all."""
    fed: int = 0
    """So many tasks of the list may be there for it."""


class Reader:
    """The reading side of one member."""

    def __init__(
        self,
        state: MemberState,
        dispatch: Dispatch,
        settler: Settler,
        *,
        block_ms: int,
        turns: Turns | None = None,
    ) -> None:
        """turns: if given, run() is to be called by whose turn it is, and handlers may run in its thread."""
        self._state = state
        self._dispatch = dispatch
        self._settler = settler
        self._block_ms = block_ms
        self._refs = {ref.key.encode(): ref for ref in state.refs}
        self._framing = 0 if state.list_options is None else FRAMING
        self._kind: type[Held] = Held if state.list_options is None else HeldTask
        """What an entry is held as; those of the group's own stream have to be looked at more closely either way."""
        self._turns = turns
        self._mine = True
        """It is still this reader's turn."""
        self._fresh: list[Held] = []
        self._under_way: deque[Round] = deque()
        self._busy = False
        """The last read brought something: another may be sent before the next is taken in."""
        self._recheck_ms = 0
        self._connection: Connection | None = None
        """The one that this reader has read over last."""
        self._unseen = False
        """There may be entries of ours that were never seen, for which it is not the time."""

    def run(self, link: Link) -> None:
        """Read over this link until the member stops, or a handler in this thread took so long that another reads.

        Raises:
            NoSuchGroupError: the group is lost; join again, then run with the same link or another.
            NotConnectedError: the link broke; run with another. Other errors: what the server refused.
        """
        with self.over(link):
            while self._mine and not self._state.stopping:
                if self._recheck_due():
                    self._recheck_ms = 0
                    self._land_all(link)
                    self._see_unseen(link)
                elif self._unseen and not self._state.resting:
                    self._land_all(link)
                    self._see_unseen(link)
                self.run_once(link)

    @contextmanager
    def over(self, link: Link) -> Iterator[None]:
        """What run() does before its first step over this link, and after its last, whatever ends it."""
        self._mine = True
        self._state.reader_blocked = False  # another reader may have left it so
        try:
            if self._half_open(
                link
            ):  # it may still wait at the server, and be given entries it cannot deliver
                self._recheck_ms = now_ms() + self._block_ms + SLACK_MS
            self._see_unseen(link)
            yield
            self._land_all(link)
        except NotConnectedError:
            raise
        except MillstreamError:
            self._clear_away(link)
            raise
        finally:
            for unanswered in self._under_way:
                self._settler.put_back(unanswered.settlements)
            self._under_way.clear()
            self._hand_on()  # whatever ended it: what is in the window is run, or given back

    def run_once(self, link: Link) -> int:
        """One step: settle and read, hand on, take in; how many entries were read."""
        state = self._state
        settlements: list[Settlement] = []
        if not state.sweeping:  # else the duty thread settles, with its claims
            self._dispatch.collect()
            if self._settler.untaught:
                self._land_all(link)
                self._settler.teach(link)
            settlements = self._settler.prepare()
        room = self._room(settlements) if self._busy or not self._under_way else 0
        going = bool(room or settlements)
        if going:
            self._take_off(link, Round(settlements, room, state.token, fed=self._fed_for(room)))
        elif not self._under_way and not self._fresh:
            if state.watching and not state.finished:
                link.calls([unwatch(state)])
            state.reader_wake.wait(FULL_WAIT_S)
            state.reader_wake.clear()
            return 0
        self._hand_on()  # while the server works
        if not self._under_way or (going and self._busy and len(self._under_way) < ROUNDS):
            return 0
        count = self._land(link)
        if not (count or self._under_way or settlements or self._settler.untaught) and (room := self._room()):
            count = self._wait(link, room)
        return count

    def _take_off(self, link: Link, what: Round) -> None:
        state = self._state
        commands = [settlement.command for settlement in what.settlements]
        if what.fed and state.list_options is not None:
            commands.append(feed_command(state.list_options, what.fed, group=state.group))
        if what.block_ms is not None and state.list_options is not None:
            state.reader_waits.set()
        if what.room:
            commands.append(read_command(state.refs, state.consumer, count=what.room, block_ms=what.block_ms))
        self._under_way.append(what)
        link.send(*commands)

    def _land(self, link: Link) -> int:
        """Take in the answers to the round that is under way for longest; how many entries it read."""
        what = self._under_way.popleft()
        count = 0
        unfed: MillstreamError | None = None
        try:
            self._settler.absorb(link, what.settlements)
        finally:
            if what.block_ms is not None and (self._state.settling or self._state.beginning):
                self._state.duty_wake.set()  # what was refused need not wait until something comes
            # Also when a settlement was refused: else the answer to this read would be taken for the next command's.
            if what.fed and not link.closed:
                unfed = self._fed(link)
            if what.room and not link.closed:
                count = self._take_in(
                    link.read(None if what.block_ms is None else what.block_ms + SLACK_MS), what.token
                )
                self._busy = count > 0
            if what.block_ms is not None and self._state.list_options is not None:
                self._state.reader_waits.clear()
                self._state.reader_landed.set()
        if unfed is not None:
            raise unfed
        if what.settlements and self._state.sweeping:
            self._state.duty_wake.set()
        return count

    def _fed_for(self, room: int, *, waits: bool = False) -> int:
        """How many tasks of the list may be there for a read: one less where the watcher may bring one."""
        state = self._state
        if state.list_options is None or not room:
            return 0
        return room - 1 if waits or state.watching else room

    def _fed(self, link: Link) -> MillstreamError | None:
        """Take in the answer to what moved tasks of the list ahead of a read; why it was refused."""
        reply = link.read_or_error()
        if getattr(reply, "code", "") == "NOSCRIPT":
            self._settler.unknown(script("list_feed"))
        elif isinstance(reply, MillstreamError):
            return reply
        return None

    def _land_all(self, link: Link) -> None:
        while self._under_way:
            self._land(link)

    def _clear_away(self, link: Link) -> None:
        """After a refusal: take in what is still to come on the link, so that it can be used on."""
        while self._under_way and not link.closed:
            try:
                self._land(link)
            except MillstreamError:  # refused for the same cause, which run() raises, and asked again
                pass

    def _wait(self, link: Link, room: int) -> int:
        """Wait at the server for what is new, again and again while little comes; the duty thread settles meanwhile."""
        state = self._state
        state.reader_blocked = True
        total = 0
        settlements: list[Settlement] = []
        try:
            # Finished before the flag was up.
            if not state.sweeping and (state.finished or state.settling or state.beginning):
                return 0
            while room and not state.stopping:
                fed = self._fed_for(room, waits=True)
                what, settlements = Round(settlements, room, state.token, self._block_ms, fed), []
                self._take_off(link, what)
                count = self._land(link)
                self._hand_on(
                    here=True
                )  # before anything else: there is nothing that it would have to wait for
                total += count
                if not self._mine or not 0 < count <= FEW or self._recheck_due() or self._settler.untaught:
                    break
                room = self._room()
                if room and not state.sweeping:
                    self._dispatch.collect()  # what was handled here
                    settlements = self._settler.prepare()
            return total
        finally:
            self._settler.put_back(settlements)  # the stop came before they were sent
            if self._mine:
                state.reader_blocked = False
                state.reader_waits.clear()  # also when the read failed: the watcher is to bring nothing

    def _recheck_due(self) -> bool:
        return self._recheck_ms > 0 and now_ms() > self._recheck_ms

    def _room(self, settlements: Sequence[Settlement] = ()) -> int:
        """How many entries may be read once these settlements are carried out."""
        state = self._state
        if state.waiting:
            return 0
        with state.lock:
            coming = sum(one.room for one in self._under_way)
            limit = state.window.limit()
            room = state.window.room(coming)
            if not coming and room > SPLIT_FROM:
                room //= 2  # the other half is for the next read, that goes while the entries of this one are handled
            if room:
                room = max(min(room, int(READ_BYTES / (state.window.entry_bytes + self._framing))), 1)
            if state.sweeping:
                room //= 2  # what a dead worker left is older than what is new: it gets its share of the room
            if limit is None and (state.again_suspects or state.splitting):
                limit = company(1)  # before they are read, or more would come than may be held
            if limit is None:
                return room
            free = limit - len(state.window) - coming - state.claiming
            free += sum(settlement.settles for settlement in settlements)
            if state.splitting:
                free -= smaller_share(limit)
            elif state.sweeping:
                room = min(room, smaller_share(limit) - coming)
            return max(0, min(room, free, -(-limit // ROUNDS)))

    def _take_in(self, reply: Reply, token: str) -> int:
        """Hold what a read brought; it is handed on with the next round."""
        state = self._state
        if reply and len(reply) == len(reply[0][1]) == 1 and reply[0][1][0] and not state.again_suspects:
            # Nothing is under way beside it: whoever sent it waits for nothing but this.
            ref = self._refs[reply[0][0]]
            (held,) = self._kind.read(ref, reply[0][1], token, now_ms())
            with state.lock:
                if state.window.add_one(held):
                    self._fresh.append(held)
                    state.counts.read += 1
                    return 1
        entries = parse_read(reply)
        now, count = now_ms(), 0
        for key, ref in self._refs.items():
            rows = entries.get(key)
            if not rows:
                state.again_suspects = state.again_suspects and not ref.again  # all read
                continue
            read = self._kind.read(ref, rows, token, now)
            count += len(read)
            with state.lock:
                if state.window.holds_any(ref, [held.entry_id for held in read]):
                    # The group was lost and recreated before them: these run here already. Or the stream was lost
                    # with it, and others of the same millisecond have their ids now.
                    for held in read:
                        known = state.window.get(ref, held.entry_id)
                        if known is None:
                            continue
                        if ref.again or list(known.fields) == list(held.fields):
                            known.token = token
                        else:
                            state.lose(known)
                    read = [held for held in read if state.window.get(ref, held.entry_id) is None]
                state.window.add_all(read)
                self._fresh += read
        state.counts.read += count
        return count

    def _hand_on(self, *, here: bool = False) -> None:
        """Give what was read to the handlers, or back, if the member stops; here: they may run in this thread."""
        fresh, self._fresh = self._fresh, []
        if fresh and self._state.resting:
            self._dispatch.hand_back(fresh)
        elif fresh:
            turns = self._turns
            work = self._dispatch.offer(fresh, here=here and turns is not None and turns.attended)
            if work is not None and turns is not None:
                turns.lend()
                work()
                self._mine = turns.back(self)
                if self._state.sweeping or not self._mine:
                    self._state.wake()  # another thread settles what has ended here

    def _half_open(self, link: Link) -> bool:
        """Note which connection this is; whether the server may go on serving the one before it.

        It may not know that one to be gone, and is told to close it: what that one would be given, nobody sees.
        """
        before, now = self._connection, connection_of(link)
        served = False
        if before is not None and (before != now or not now.client):
            # Ids begin anew with each server process: another one's would be another client.
            same = before.client and before.process and before.process == now.process
            kill = ("CLIENT", "KILL", "ID", before.client)  # 0 if it has gone already
            served = not same or isinstance(link.calls([kill])[0], MillstreamError)
        self._connection, self._state.reader_client = now, now.client
        return served

    def _see_unseen(self, link: Link) -> None:
        """Fetch entries that are pending under our name and were never seen here; not while the group is paused."""
        self._unseen = self._state.pause is not None
        if self._unseen:
            return
        unseen(link, self._state, self._fresh)
        self._hand_on()


def unseen(link: Link, state: MemberState, found: list[Held]) -> None:
    """Hold entries that are pending under our name and not in the window, and add them to `found`.

    What was found before the link broke stands in `found` too: it is in the window, and would wait there for ever.
    """
    with state.seeing:
        for ref in state.refs:
            start = "-"
            while True:
                token = state.token
                rows = pending_of(link, ref, consumer=state.consumer, start=start)
                with state.lock:
                    missing = [
                        entry_id
                        for entry_id, *_ in rows
                        if state.window.get(ref, entry_id) is None and (ref, entry_id) not in state.given
                    ]
                for entry_id, fields, deliveries in (
                    fetch_own(link, ref, state.consumer, missing) if missing else ()
                ):
                    held = Held(ref, entry_id, fields, token=token, deliveries=deliveries, now_ms=now_ms())
                    with state.lock:
                        if state.window.get(ref, entry_id) is None:
                            state.window.add(held)
                            found.append(held)
                if len(rows) < MAX_IDS:
                    break
                start = f"({rows[-1][0].decode()}"


def unwatch(state: MemberState) -> Command:
    """What ends the watcher's wait for the list: the member has no room, or rests. Refused: it ends by itself."""
    return ("CLIENT", "UNBLOCK", state.watcher_client)


def connection_of(link: Link) -> Connection:
    """Which connection this is, as far as the user may ask."""
    client, about = link.calls([("CLIENT", "ID"), ("INFO", "server")])
    return Connection(
        0 if isinstance(client, MillstreamError) else int(client),
        "" if isinstance(about, MillstreamError) else info_fields(about).get("run_id", ""),
    )
