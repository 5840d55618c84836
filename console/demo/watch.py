"""Watch: looks at everything a few times a second: the server, the groups, the workers, and the accounts.

Stands on the facts, the crews and the ledger. It never counts what it expects, only what it reads: what the server
confirmed and what the groups wrote. Changes nothing but the connection it looks through.
"""

import queue
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from console.demo.account import AccountReader, Confirmed, Handled, now_ms
from console.demo.crew import Change, Crew
from console.demo.facts import Standing, dead_letters, held_by, standing
from console.demo.folder import GROUPS, STREAM, RunFolder
from console.demo.happenings import Happenings
from console.demo.ledger import Ledger
from console.demo.takeover import Takeover
from pipeline.errors import MillstreamError
from pipeline.keys import StreamKeys
from pipeline.server.connect import Connector, Link
from pipeline.server.embedded import EmbeddedServer
from pipeline.units import show_duration

KILLED = -9
RATE_S = 3.0
"""The rate of sending is measured over so long."""


class Watch:
    """What is known just now. Used by one thread; note() may be called from any."""

    def __init__(
        self, run: RunFolder, server: EmbeddedServer, connector: Connector, happenings: Happenings, me: str
    ) -> None:
        """me: who is said to have killed what the demo's keys or its script killed."""
        self.keys = StreamKeys(STREAM)
        self.ledger = Ledger(GROUPS)
        self.standings: dict[str, Standing] = {}
        self.takeovers: list[Takeover] = []
        self.lost: dict[str, list[str]] = {group: [] for group in GROUPS}
        """Ids found lost while all goes on: confirmed, settled by the group, and nowhere written."""
        self.away_since_s: float | None = None
        """Since when the server cannot be reached; None if it can."""
        self.restarts = 0
        """How often the server was killed and came back."""
        self.server_pid = server.pid
        self._run = run
        self._server = server
        self._connector = connector
        self._happenings = happenings
        self._me = me
        self._crews: Sequence[Crew] = ()
        self._changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._untold: deque[Change] = deque()
        self._killed_by_us: set[int] = set()
        self._server_killed_s: float | None = None
        self._link: Link | None = None
        self._confirmed: dict[Path, AccountReader] = {}
        self._handled: dict[Path, AccountReader] = {}
        self._counts: dict[str, int] = {}
        self._rates: deque[tuple[float, int]] = deque()
        self._dead_from = dict.fromkeys(GROUPS, "-")
        self._started_ms = now_ms()

    def meet(self, crews: Sequence[Crew]) -> None:
        """These are the workers."""
        self._crews = crews

    def note(self, change: Change) -> None:
        """A worker started or ended; told at the next look."""
        self._changes.put(change)

    def killed_worker(self, pid: int) -> None:
        """We killed it."""
        self._killed_by_us.add(pid)

    def killed_server(self) -> None:
        """We killed the server."""
        self._server_killed_s = time.monotonic()

    def look(self) -> None:
        """Look at everything once."""
        link = self.link()
        if link is not None:
            try:
                self._look_at_server(link)
            except MillstreamError:  # killed meanwhile, or loading: the next look finds out
                self._gone()
        self._read_accounts()
        for takeover in self.takeovers:
            takeover.tell(now_ms())
        for group in GROUPS:
            if link is not None and group in self.standings:
                self.lost[group] = self.ledger.groups[group].missing(self.standings[group].floor)

    def link(self) -> Link | None:
        """A connection to the server, which is started again if it was killed; None while it is away."""
        if self._link is None or self._link.closed:
            try:
                link = self._connector.link("demo")
                link.call("EXISTS", STREAM)  # refused while it loads its data
            except MillstreamError:
                self._gone()
                return None
            self._link = link
        self._back()
        return self._link

    @property
    def sent(self) -> int:
        """Events that the server confirmed."""
        return self.ledger.confirmed

    def sent_by(self, who: str) -> int:
        """Of these, the ones of one sender."""
        return self._counts.get(who, 0)

    @property
    def rate_per_s(self) -> float:
        """Events confirmed a second, lately."""
        if len(self._rates) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._rates[0], self._rates[-1]
        return (last - first) / max(last_s - first_s, 0.001)

    @property
    def drained(self) -> bool:
        """Whether every group has nothing left to do, as far as the last look tells."""
        return len(self.standings) == len(GROUPS) and all(one.drained for one in self.standings.values())

    @property
    def waiting(self) -> int:
        """Confirmed events that some group has still to handle."""
        return self.ledger.confirmed - self.ledger.handled_by_all

    def _look_at_server(self, link: Link) -> None:
        for group in GROUPS:
            # Before the accounts are read: what is settled by now stands in them.
            found = standing(link, self.keys, group)
            if found is not None:
                self.standings[group] = found
            self._read_dead(link, group)
        while not self._changes.empty():
            self._untold.append(self._changes.get())
        while self._untold:
            self._tell(link, self._untold[0])
            self._untold.popleft()
        for takeover in self.takeovers:
            if takeover.took_ms is None and not takeover.done:
                left = held_by(link, self.keys, takeover.group, takeover.pid)
                takeover.look(left.count, self._others(takeover.group, takeover.pid), now_ms())

    def _read_dead(self, link: Link, group: str) -> None:
        while found := dead_letters(link, self.keys, group, self._dead_from[group]):
            for next_id, letter in found:
                self._dead_from[group] = next_id
                if letter.stream == STREAM and letter.entry_id:
                    self.ledger.groups[group].bury(letter.entry_id)
                if letter.last_failed_ms >= self._started_ms:
                    self._happenings.say(f"dead letter in {group}: {letter.reason}")

    def _tell(self, link: Link, change: Change) -> None:
        """Say what became of a worker, and follow what it held."""
        if change.what != "exited":
            return
        if change.code != KILLED:
            if change.code == 0:
                self._happenings.say(
                    f"{change.pid} ({change.group}) was told to stop, and handed back what it held"
                )
            else:
                self._happenings.say(
                    f"worker {change.pid} ({change.group}) ended with code {change.code}: see "
                    f"{self._run.log(f'worker-{change.group}')}"
                )
            return
        who = f"{change.pid} ({change.group})"
        self.takeovers.append(
            Takeover(
                self._happenings,
                change.group,
                change.pid,
                by=f"{self._me} killed {who}" if change.pid in self._killed_by_us else f"{who} was killed",
                at_ms=change.at_ms,
                held=held_by(link, self.keys, change.group, change.pid),
                others=self._others(change.group, change.pid),
            )
        )

    def _others(self, group: str, dead: int) -> list[int]:
        """The workers of the group that have joined it, and may take over what a dead one held."""
        held = self.standings[group].held if group in self.standings else {}
        alive = [pid for crew in self._crews if crew.group == group for pid in crew.pids() if pid]
        return [pid for pid in alive if pid in held and pid != dead]

    def _read_accounts(self) -> None:
        for path in self._run.confirmed_accounts():
            who = path.name.partition("-")[2]
            reader = self._confirmed.setdefault(path, AccountReader(path))
            for one in map(Confirmed.parse, reader.new_lines()):
                self.ledger.confirm(one.event_id, one.entry_id)
                self._counts[who] = self._counts.get(who, 0) + 1
        for group in GROUPS:
            for pid, path in self._run.handled_accounts(group):
                reader = self._handled.setdefault(path, AccountReader(path))
                self._read_handled(group, pid, map(Handled.parse, reader.new_lines()))
        self._measure()

    def _read_handled(self, group: str, pid: int, lines: Iterable[Handled]) -> None:
        following = [one for one in self.takeovers if one.group == group and not one.done]
        wanted = {
            self.ledger.event_at(entry_id): takeover
            for takeover in following
            for entry_id in takeover.held.entries
        }
        for line in lines:
            self.ledger.groups[group].handle(line.event_id, replayed=line.replayed)
            if line.event_id in wanted:
                wanted[line.event_id].handled(pid, line)

    def _measure(self) -> None:
        now_s = time.monotonic()
        self._rates.append((now_s, self.ledger.confirmed))
        while self._rates[0][0] < now_s - RATE_S:
            self._rates.popleft()

    def _gone(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self.away_since_s is None:
            self.away_since_s = time.monotonic()

    def _back(self) -> None:
        """The server answers; if it is another process than before, say so."""
        pid = self._server.pid
        if pid and pid != self.server_pid:
            before, self.server_pid = self.server_pid, pid
            since_s = self._server_killed_s or self.away_since_s or time.monotonic()
            ours = self._server_killed_s is not None
            by = f"{self._me} killed the server ({before})" if ours else f"the server ({before}) was killed"
            away = show_duration((time.monotonic() - since_s) * 1_000)
            self._happenings.say(f"{by}; it runs again as {pid} on the same data after {away}")
            self._server_killed_s = None
            self.restarts += 1
        self.away_since_s = None
