"""Reader: reads new entries while the window has room, and settles what is finished on the same connection.

Busy, it never blocks: the next read and the acks go out together, before the entries of the last read are handed on.
Only after an empty read, with nothing to settle, it waits at the server. After any error it starts with what it
holds but never saw: a reply that was lost on the way. If killed, what it read stays pending and is taken over.
"""

from consumers.dispatch import Dispatch
from consumers.settler import Settler
from consumers.state import MemberState, now_ms
from consumers.window import Held
from pipeline.errors import MillstreamError, NotConnectedError
from pipeline.server.connect import Link
from pipeline.server.groups import MAX_IDS, fetch_own, pending_of, read_command
from pipeline.server.replies import Reply, parse_read

SLACK_MS = 4_000
"""A reply to a blocking read may come so much later than the block ends, in ms."""
FULL_WAIT_S = 0.5
"""With a full window the reader looks again after this, in s, even if nothing woke it."""


class Reader:
    """The reading side of one member."""

    def __init__(self, state: MemberState, dispatch: Dispatch, settler: Settler, *, block_ms: int) -> None:
        self._state = state
        self._dispatch = dispatch
        self._settler = settler
        self._block_ms = block_ms
        self._fresh: list[Held] = []
        self._recheck_ms = 0

    def run(self, link: Link) -> None:
        """Read over this link until the member stops.

        Raises:
            NoSuchGroupError: the group is lost; join again, then run with the same link or another.
            NotConnectedError: the link broke; run with another. Other errors: what the server refused.
        """
        try:
            self._state.reader_client = client_id(link)
            self._see_unseen(link)
            # A half-open connection may still have waited at the server, and been given entries it cannot deliver.
            self._recheck_ms = now_ms() + self._block_ms + SLACK_MS
            while not self._state.stopping:
                if self._recheck_ms and now_ms() > self._recheck_ms:
                    self._recheck_ms = 0
                    self._see_unseen(link)
                self.run_once(link)
        finally:
            self._hand_on()  # whatever ended it: what is in the window is run, or given back

    def run_once(self, link: Link) -> int:
        """One round: settle, read, hand on; how many entries were read."""
        state = self._state
        self._dispatch.collect()
        self._settler.teach(link)
        settlements = self._settler.prepare()
        room = self._room()
        if not room and not settlements and not self._fresh:
            state.reader_wake.wait(FULL_WAIT_S)
            state.reader_wake.clear()
            return 0
        token = state.token  # known before the read is sent: what moves ownership later changes it
        commands = [s.command for s in settlements]
        if room:
            commands.append(read_command(state.refs, state.consumer, count=room))
        try:
            link.send(*commands)
        except NotConnectedError:
            self._settler.put_back(settlements)
            raise
        finally:
            self._hand_on()  # while the server works
        count = 0
        try:
            self._settler.absorb(link, settlements)
        finally:
            # Also when a settlement was refused: else the answer to this read would be taken for the next command's.
            if room and not link.closed:
                count = self._take_in(link.read(), token)
        if settlements and state.sweeping:
            state.duty_wake.set()
        if room and not count and not settlements:
            count = self._wait(link, room)
        return count

    def _wait(self, link: Link, room: int) -> int:
        """Wait at the server for something new; meanwhile the duty thread settles."""
        state = self._state
        state.reader_blocked = True
        try:
            if state.finished or state.settling or state.stopping:  # finished before the flag was up
                return 0
            token = state.token
            link.send(read_command(state.refs, state.consumer, count=room, block_ms=self._block_ms))
            return self._take_in(link.read(self._block_ms + SLACK_MS), token)
        finally:
            state.reader_blocked = False

    def _room(self) -> int:
        state = self._state
        with state.lock:
            limit = state.window.limit()
            room = state.window.room()
            if (
                state.sweeping
            ):  # what a dead worker left is older than what is new: it gets its share of the room
                room //= 2
            return room if limit is None else max(0, min(room, limit - len(state.window)))

    def _take_in(self, reply: Reply, token: str) -> int:
        """Hold what a read brought; it is handed on with the next round."""
        state = self._state
        entries = parse_read(reply)
        now, count = now_ms(), 0
        for ref in state.refs:
            read = [
                Held(ref, entry_id, fields or (), token=token, deliveries=1, now_ms=now)
                for entry_id, fields in entries.get(ref.key.encode(), ())
            ]
            if not read:
                continue
            count += len(read)
            with state.lock:
                if state.window.holds_any(ref, [held.entry_id for held in read]):
                    # The group was lost and recreated before them: these run here already.
                    for held in read:
                        known = state.window.get(ref, held.entry_id)
                        if known is not None:
                            known.token = token
                    read = [held for held in read if state.window.get(ref, held.entry_id) is None]
                state.window.add_all(read)
                self._fresh += read
        state.counts.read += count
        return count

    def _hand_on(self) -> None:
        """Give what was read to the handlers, or back, if the member stops."""
        fresh, self._fresh = self._fresh, []
        if fresh and self._state.stopping:
            self._dispatch.hand_back(fresh)
        elif fresh:
            self._dispatch.offer(fresh)

    def _see_unseen(self, link: Link) -> None:
        """Fetch entries that are pending under our name and were never seen here."""
        unseen(link, self._state, self._fresh)
        self._hand_on()


def unseen(link: Link, state: MemberState, found: list[Held]) -> None:
    """Hold entries that are pending under our name and not in the window, and add them to `found`.

    What was found before the link broke stands in `found` too: it is in the window, and would wait there for ever.
    """
    for ref in state.refs:
        start = "-"
        while True:
            token = state.token
            rows = pending_of(link, ref, consumer=state.consumer, start=start)
            with state.lock:
                missing = [row[0] for row in rows if state.window.get(ref, row[0]) is None]
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


def client_id(link: Link) -> int:
    """The server's id of this connection; 0 where the user may not ask."""
    reply = link.calls([("CLIENT", "ID")])[0]
    return 0 if isinstance(reply, MillstreamError) else int(reply)
