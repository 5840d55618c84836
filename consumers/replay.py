"""Replay: gives one group a selection of history again, through its own `again` stream; other groups see nothing.

A range of the stream is copied, with the record of how far it has come written by the script that adds; pending
entries and dead letters are moved, each in one step. So whatever is interrupted, killed or repeated hands over nothing
twice that the server has confirmed.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from consumers import replay_dead, replay_pending
from consumers.burying import burying
from consumers.persistent import Persistent
from consumers.replay_history import Counting, counted, starts_at, steps
from consumers.replay_throttle import TellProgress, Throttle
from pipeline.errors import MillstreamError, NoSuchGroupError, NotFoundError, UsageError
from pipeline.keys import GroupRef, StreamKeys, check_name
from pipeline.position import after, before, parse_entry_id, position_id
from pipeline.replay_plan import ReplayDone, ReplayPlan
from pipeline.replay_record import new_record, read_record
from pipeline.selection import Selection
from pipeline.server.connect import Connector
from pipeline.server.groups import join
from pipeline.server.overview import GroupFacts, StreamFacts, groups, server_ms, stream_facts
from pipeline.server.replaying import Fed, feed, pending_span, stored_record, stored_records
from pipeline.units import Duration, Rate, duration_ms, rate_per_s

PATIENCE = "1m"
"""Trouble with the server is waited out for so long."""


class Replay:
    """Replays of one group: planned, with all counts, before anything is done; then run.

    Example:
        with Replay("logs", "archive", url="redis://localhost:6379/0") as replay:
            plan = replay.plan_range("-15m", types=["error.*"])
            print(f"{plan.selected} of {plan.events} events; {plan.unread} of them were not read yet")
            replay.run(plan, rate="500/s")
    """

    def __init__(
        self, stream: str, group: str, *, url: str | None = None, connector: Connector | None = None
    ) -> None:
        """url: where the server is, else MILLSTREAM_URL, else REDIS_URL; connector: one to use, which stays open.

        Raises:
            UsageError: a name that cannot be. NoServerError: no address given or found.
        """
        self.keys = StreamKeys(stream)
        self.group = check_name("group", group)
        self._own = connector is None
        self._connector = connector or Connector(url)
        self._server = Persistent(self._connector, "replay")

    def plan_range(
        self,
        start: str,
        end: str = "end",
        *,
        types: tuple[str, ...] | list[str] = (),
        keys: tuple[str, ...] | list[str] = (),
        match: str = "",
        again: bool = False,
        counting: Counting | None = None,
        names: tuple[str, str] = ("start", "end"),
    ) -> ReplayPlan:
        """What a replay of a range of the stream would hand over. Nothing is changed.

        Args:
            start, end: an entry id (it is included), start, end, -15m, or an ISO time (what came before it is the end).
                end stands for what the stream holds now. types, keys, match: as of Selection.
            again: events that `once=` would skip run again, too.
            counting: told how many entries were looked at so far. names: what errors call start and end.

        Raises:
            NoSuchStreamError, NoSuchGroupError: there is none. UsageError: no position, or a range that is reversed or
            holds no entry.
        """
        selection = Selection(types=types, keys=keys, match=match)
        facts, group = self._facts()
        if group.of_list:
            raise UsageError(
                f"stream {self.keys.stream!r} holds what workers have taken from the list {group.of_list!r} until it "
                "is settled, and no history: pending tasks and dead letters can run again, a range of it cannot"
            )
        now_ms = self._server.ask(server_ms)
        first = position_id(start, now_ms, names[0])
        first = after(facts.newest_id) if first == "$" else first
        last = _last_id(end, position_id(end, now_ms, names[1]), facts.newest_id)
        said = f"{names[0]}={start} {names[1]}={end}"
        _check_order(first, end, position_id(end, now_ms, names[1]), said)
        oldest, known = starts_at(facts, first)
        plan = ReplayPlan(
            id=secrets.token_hex(8), source="range", first_id=first, last_id=last, selection=selection,
            again=again, starts_at=oldest, older_known=known, members=group.members,
        )  # fmt: skip
        if parse_entry_id(first) <= parse_entry_id(last):
            plan = counted(
                self._server, self.keys, self.group, plan, read_id=group.last_read_id, counting=counting
            )
        if not plan.entries:
            holds = (
                "is empty" if facts.first_id is None else f"holds entries {facts.first_id} to {facts.last_id}"
            )
            raise UsageError(f"{said}: the range holds no entry; stream {self.keys.stream!r} {holds}")
        return plan

    def plan_pending(
        self,
        *,
        idle: Duration | None = None,
        force: bool = False,
        start: str = "start",
        end: str = "end",
        types: tuple[str, ...] | list[str] = (),
        keys: tuple[str, ...] | list[str] = (),
        match: str = "",
        again: bool = False,
        ids: tuple[str, ...] | list[str] = (),
        names: tuple[str, str, str] = ("start", "end", "idle"),
    ) -> ReplayPlan:
        """What of the group's pending entries would run again at once, instead of being taken over one by one.

        Args:
            idle: only what was left alone for so long; default: the group's claim_after. force: also what is being
                handled just now, which then runs twice. ids: only these entries. The rest as of plan_range(); start and
                end are the entries that the events were first appended in.

        Raises:
            NoSuchStreamError, NoSuchGroupError: there is none. UsageError: no position or duration, a range that is
            reversed, or an idle time below claim_after without force.
        """
        selection = Selection(types=types, keys=keys, match=match)
        facts, group = self._facts()
        now_ms = self._server.ask(server_ms)
        first = position_id(start, now_ms, names[0])
        first = after(facts.newest_id) if first == "$" else first
        last = _last_id(end, position_id(end, now_ms, names[1]), facts.newest_id)
        _check_order(first, end, position_id(end, now_ms, names[1]), f"{names[0]}={start} {names[1]}={end}")
        plan = ReplayPlan(
            id=secrets.token_hex(8), source="pending", first_id=first, selection=selection, again=again,
            last_id=last, members=group.members,
            idle_ms=replay_pending.least_idle_ms(group, idle, force, names[2]),
            ids=tuple(ids),
        )  # fmt: skip
        return replay_pending.counted(self._server, self.keys, self.group, plan, group)

    def plan_dead(
        self,
        *,
        start: str = "start",
        end: str = "end",
        errors: tuple[str, ...] | list[str] = (),
        types: tuple[str, ...] | list[str] = (),
        keys: tuple[str, ...] | list[str] = (),
        match: str = "",
        again: bool = False,
    ) -> ReplayPlan:
        """What of the dead letters would run again, with all attempts before them. Arguments as of DeadLetters.find().

        Raises:
            NoSuchStreamError, NoSuchGroupError: there is none. UsageError: no position, or a range that is reversed.
        """
        selection = Selection(types=types, keys=keys, match=match)
        _, group = self._facts()
        plan = ReplayPlan(
            id=secrets.token_hex(8), source="dead", first_id=start, last_id=end, selection=selection,
            again=again, errors=tuple(errors), members=group.members,
        )  # fmt: skip
        return replay_dead.counted(self._connector, self._server, self.keys, self.group, plan)

    def bury(
        self,
        plan: ReplayPlan,
        reason: str,
        *,
        rate: Rate | None = None,
        patience: Duration = PATIENCE,
        progress: TellProgress | None = None,
    ) -> ReplayDone:
        """Make dead letters of what plan_pending() selected, instead of running it again; each in one step.

        Args:
            reason: what the letters say. The rest, and the errors, as of run().

        Raises:
            UsageError: no plan of pending entries, or no reason.
        """
        if plan.source != "pending":
            raise UsageError(f"only pending entries can be buried, not a replay of {plan.source}")
        if not reason.strip():
            raise UsageError("reason='': say why they are given up, for whoever looks at the dead letters")
        with self._throttled(plan, rate, patience, progress) as throttle:
            moves_of = burying(self.keys.stream, self.group, reason)
            replay_pending.run(self._server, self.keys, self.group, plan, throttle, moves_of)
        done = throttle.handed_over
        return ReplayDone(id=plan.id, handed_over=done, fewer=max(plan.selected - done, 0))

    def resume(self, replay_id: str) -> ReplayPlan:
        """The rest of a replay of a range that was interrupted; run() goes on with it.

        Raises:
            NotFoundError: the server keeps no such replay.
            UsageError: it is one of another group.
        """
        stored = self._server.ask(lambda link: stored_record(link, self.keys, replay_id))
        if not stored:
            raise NotFoundError(
                f"stream {self.keys.stream!r} has no replay {replay_id!r}; they are kept for seven days"
            )
        record = read_record(stored)
        if record.group != self.group:
            raise UsageError(f"replay {replay_id!r} is one for group {record.group!r}, not {self.group!r}")
        return record.plan(members=self._facts()[1].members)

    def unfinished(self) -> list[ReplayPlan]:
        """Replays of ranges to this group that were interrupted or run just now, found among all keys of the server.

        Raises:
            NoSuchStreamError, NoSuchGroupError: there is none.
        """
        self._facts()
        found = self._server.ask(lambda link: list(stored_records(link, self.keys)))
        records = [read_record(stored) for stored in found]
        mine = [one for one in records if one.group == self.group and not one.finished]
        return [one.plan() for one in sorted(mine, key=lambda one: one.begun_ms)]

    def run(
        self,
        plan: ReplayPlan,
        *,
        rate: Rate | None = None,
        patience: Duration = PATIENCE,
        progress: TellProgress | None = None,
    ) -> ReplayDone:
        """Hand over what was planned; for a range, also after an interruption: what was confirmed is not repeated.

        Waits while the group has some thousands of entries before it that are due again. Whatever ends it, resume()
        goes on with a range; pending entries and dead letters are planned anew.

        Args:
            rate: at most so many events a second, evenly, such as "500/s"; None: as fast as the server takes them.
            patience: trouble with the server (away, out of memory, loading) is waited out for so long at a time.
            progress: told how far it has come, at each step and while it waits.

        Raises:
            NotConnectedError, ServerRefusedError: trouble that lasted. NoSuchGroupError: the group was removed.
            MillstreamError: the server has lost its data, or the replay's record.
        """
        with self._throttled(plan, rate, patience, progress) as throttle:
            if plan.source == "range":
                self._run_range(plan, throttle)
            elif plan.source == "pending":
                replay_pending.run(self._server, self.keys, self.group, plan, throttle)
            else:
                replay_dead.run(self._connector, self._server, self.keys, self.group, plan, throttle)
        done = throttle.handed_over
        return ReplayDone(id=plan.id, handed_over=done, fewer=max(plan.selected - done, 0))

    def close(self) -> None:
        """Close the connection."""
        self._server.close()
        if self._own:
            self._connector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _throttled(
        self, plan: ReplayPlan, rate: Rate | None, patience: Duration, progress: TellProgress | None
    ) -> Iterator[Throttle]:
        """The throttle of one run, while which trouble with the server is waited out."""
        per_s = None if rate is None else rate_per_s(rate)
        self._server.patience_ms = duration_ms(patience, "patience")
        try:
            yield Throttle(
                self._server, self.keys, self.group, planned=plan.selected, handed_over=plan.handed_over,
                rate=per_s, progress=progress,
            )  # fmt: skip
        finally:
            self._server.patience_ms, self._server.say = 0, _nothing

    def _facts(self) -> tuple[StreamFacts, GroupFacts]:
        stream = self.keys.stream
        facts = self._server.ask(lambda link: stream_facts(link, stream))
        return facts, self._server.ask(lambda link: groups(link, stream, only=self.group))[0]

    def _run_range(self, plan: ReplayPlan, throttle: Throttle) -> None:
        known = self._begun(plan)
        while not (record := read_record(known)).finished:
            throttle.handed_over = record.handed_over
            for step in steps(self._server, self.keys.stream, record, throttle.most()):
                throttle.before()
                record = replace(
                    record,
                    next_id=step.next_id,
                    next_index=step.next_index,
                    handed_over=record.handed_over + len(step.events),
                )
                fed = self._feed(plan.id, known, record.text(), step.events)
                if fed.record != record.text():
                    # Another run of the same replay, or a server that lost its last writes: on from where it stands.
                    known = self._stands(plan, fed, known)
                    break
                known = fed.record
                throttle.after(
                    len(step.events), step.size_bytes, handed_over=record.handed_over, waiting=fed.waiting
                )
        throttle.handed_over = record.handed_over

    def _begun(self, plan: ReplayPlan) -> str:
        """The record of the replay, which is there from now on."""
        server, keys, group = self._server, self.keys, self.group
        stored = server.ask(lambda link: stored_record(link, keys, plan.id))
        if stored:
            return stored
        if plan.handed_over:
            raise _lost(plan, plan.handed_over, plan.first_id)
        # A group that a stranger made has no stream of its own yet, and none that is gone comes back by this.
        server.ask(lambda link: pending_span(link, GroupRef(keys, group)))
        server.ask(lambda link: join(link, keys, group, start="$", lost=False))
        new = new_record(plan, group, server.ask(server_ms)).text()
        fed = self._feed(plan.id, "", new, [])
        return new if fed.added else self._stands(plan, fed, new)

    def _feed(self, replay_id: str, known: str, new: str, events: list[list[bytes]]) -> Fed:
        return self._server.ask(
            lambda link: feed(link, self.keys, self.group, replay_id, before=known, after=new, entries=events)
        )

    def _stands(self, plan: ReplayPlan, fed: Fed, known: str) -> str:
        """The record that the server keeps in place of the one we know."""
        if fed.record and fed.group_there:
            return fed.record
        record = read_record(known)
        if fed.group_there and not record.handed_over:
            return self._begun(plan)  # a server that lost its last second lost nothing else of it
        if fed.record:
            raise NoSuchGroupError(
                f"group {self.group!r} of stream {self.keys.stream!r} was removed, with what had been handed over"
            )
        raise _lost(plan, record.handed_over, record.next_id)


def _lost(plan: ReplayPlan, handed_over: int, next_id: str) -> MillstreamError:
    return MillstreamError(
        f"the server has lost the record of replay {plan.id}: it was flushed, or came back without its data; "
        f"up to {handed_over:,} events had been handed over, those before {next_id}; plan it anew from where it is due"
    )


def _last_id(written: str, position: str, newest_id: str) -> str:
    """The last entry id meant: at most what the stream holds now, so that the end does not run away."""
    if position == "$":
        return newest_id
    # A time means all before it; an entry id means that entry too.
    last = position if written.strip() == position or not position.endswith("-0") else before(position)
    return min(last, newest_id, key=parse_entry_id)


def _check_order(first: str, written: str, position: str, said: str) -> None:
    """UsageError if a range ends before it begins, whatever the stream holds of it."""
    last = first if position == "$" else _last_id(written, position, first)
    if parse_entry_id(first) > parse_entry_id(last):
        raise UsageError(f"{said}: the range is reversed: {first} comes after {last}")


def _nothing(trouble: str) -> None:
    """Nobody listens."""
