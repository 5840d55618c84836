"""GroupMachine: any interleaving of what producers, members and operators do, on a real server, kept book of.

Draws are plain numbers, and what they mean depends on what there is: so an example says the same on every server.
"""

import contextlib
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from consumers import persistent, replay_pending
from consumers.dead_letters import DeadLetters
from consumers.replay import Replay
from consumers.reset import plan_reset, reset_group
from pipeline.backoff import Backoff
from pipeline.errors import MillstreamError, NoSuchGroupError, NotConnectedError, ServerRefusedError
from pipeline.keys import GroupRef, StreamKeys
from pipeline.outcome import Kind
from pipeline.position import parse_entry_id
from pipeline.server import resetting
from pipeline.server.changes import trim_stream
from pipeline.server.groups import pause, resume, retire
from pipeline.server.overview import server_ms
from tests.conftest import Server
from tests.model import ledger
from tests.model.fickle import FickleConnector
from tests.model.ledger import Deed, Ledger
from tests.model.member import ATTEMPTS, CLAIM_AFTER_MS, SteppedMember
from tests.model.sender import Sender
from tests.model.sight import Cursor, look

GROUPS = ("a", "b")
MEMBERS = 3
"""Members of each group."""
SMALL = st.integers(0, 7)
GROUP = st.integers(0, 9).map(lambda n: GROUPS[n > 6])
MEMBER = st.integers(0, MEMBERS - 1)
ENDS = st.sampled_from([Kind.DONE] * 4 + [Kind.RETRY] * 3 + [Kind.LATER, Kind.DEAD])
STEPS_OF_EACH = 40
"""Steps of an example."""
ROUNDS = 400
"""So many turns at most until a group has worked off all it has, with nothing in its way."""

STEPS = frozenset((ledger.READ, ledger.SETTLE))
DUTY = frozenset((ledger.SETTLE, ledger.TAKE))


class Killed(Exception):
    """Whoever did something was killed in the midst of it."""


class GroupMachine(RuleBasedStateMachine):
    """One stream, two groups, three members each, two producers."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.connector = FickleConnector(server.address)
        self.link = self.connector.link("machine")
        self.keys = StreamKeys(f"model-{uuid.uuid4().hex[:12]}")
        self.ledger = Ledger(GROUPS, ATTEMPTS)
        self.members: dict[tuple[str, int], SteppedMember] = {}
        self.names: dict[str, str] = {}
        self.senders = [Sender(f"p{n}", self.names) for n in range(2)]
        self.incarnations = Counter[tuple[str, int]]()
        self.full = False
        self.seen = look(self.link, self.keys, GROUPS)

    # Looking.

    def teardown(self) -> None:
        """With nothing in its way, each group works off all it has."""
        try:
            self.memory(False)
            if sys.exc_info()[0] is None:
                for group in GROUPS:
                    self.drain(group)
        finally:
            for member in self.members.values():
                member.crash()
            with contextlib.suppress(NotConnectedError):
                self.link.call("DEL", self.keys.stream, *self._own_keys())
            self.link.close()
            self.connector.close()

    def check(self, deed: Deed) -> None:
        """See what there is, and compare."""
        before, self.seen = self.seen, look(self.link, self.keys, GROUPS)
        self.ledger.check(before, self.seen, deed)

    def member(self, group: str, slot: int) -> SteppedMember:
        """The member in this place; a new one, where none is."""
        if (group, slot) not in self.members:
            self.incarnations[group, slot] += 1
            name = f"{group}{slot}.{self.incarnations[group, slot]}"
            self.members[group, slot] = SteppedMember(self.connector, self.keys, group, name)
        return self.members[group, slot]

    def step(
        self, group: str, slot: int, may: frozenset[str], do: Callable[[SteppedMember], None],
        *, behind: int = 0, meanwhile: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """A step of a member; meanwhile: somebody else's, behind so many requests of the connection it makes."""
        member = self.member(group, slot)
        if member.paused:
            may -= {ledger.READ, ledger.TAKE, ledger.PROMOTE}  # what it holds is settled all the same
        deed = Deed(may, group, member.name, runs=member.runs(), min_idle_ms=CLAIM_AFTER_MS)
        if meanwhile is not None:

            def interrupt() -> None:
                self.check(deed)
                meanwhile()

            self.connector.meanwhile = (behind, interrupt)
        do(member)
        self.connector.meanwhile = None
        self.check(deed)

    # Producers.

    @rule(
        who=st.integers(0, 1), entries=st.integers(1, 4), packed=st.integers(0, 3), named=SMALL, heard=SMALL
    )
    def send(self, who: int, entries: int, packed: int, named: int, heard: int) -> None:
        """A batch with the next number; one entry may be a pack, one may have an id, the answer may be lost."""
        sender = self.senders[who]
        batch = sender.batch(entries, packed=packed, named=named)
        self._append(sender, batch.number, heard=heard > 0)

    @rule(who=st.integers(0, 1), which=SMALL)
    def send_again(self, who: int, which: int) -> None:
        """An earlier batch, once more: its answer was lost, or it comes late."""
        sender = self.senders[who]
        if sender.batches:
            self._append(sender, list(sender.batches)[-1 - which % len(sender.batches)], heard=True)

    @rule(who=st.integers(0, 1))
    def send_out_of_order(self, who: int) -> None:
        """A batch before the one that goes before it."""
        sender = self.senders[who]
        first, second = sender.batch(1), sender.batch(2)
        self._append(sender, second.number, heard=True)
        self._append(sender, first.number, heard=True)
        self._append(sender, second.number, heard=True)

    @rule(who=st.integers(0, 1))
    def give_a_send_up(self, who: int) -> None:
        """A number that was used and whose batch is never sent again: the base goes on."""
        sender = self.senders[who]
        sender.give_up(sender.batch(1).number)

    @rule(who=st.integers(0, 1))
    def forget_a_producer(self, who: int) -> None:
        """Its record expires."""
        sender = self.senders[who]
        self.link.call("DEL", self.keys.producer(sender.name))
        sender.expired()

    def _append(self, sender: Sender, number: int, *, heard: bool) -> None:
        due = sender.expected(number)
        answer = sender.append(self.link, self.keys, number)
        if isinstance(answer, ServerRefusedError):
            assert self.full and answer.code == "OOM" and due == "ok", answer
            self.check(Deed())
            return
        appended = sender.judge(number, due, answer, heard=heard)
        for entry_id, (events, is_pack) in appended.items():
            self.ledger.sizes[entry_id] = (events, is_pack)
        self.check(Deed(appended={entry_id: size for entry_id, (size, _) in appended.items()}))

    # Members.

    @rule(group=GROUP, slot=MEMBER)
    def read(self, group: str, slot: int) -> None:
        """A step of a reader."""
        self.step(group, slot, STEPS, SteppedMember.read)

    @rule(group=GROUP, slot=MEMBER, ends=st.lists(st.tuples(SMALL, ENDS), min_size=1, max_size=4))
    def work(self, group: str, slot: int, ends: list[tuple[int, Kind]]) -> None:
        """A read, handlers that run, and a read that settles what they did."""
        self.step(group, slot, STEPS, SteppedMember.read)
        self.step(group, slot, STEPS, SteppedMember.read)
        for which, kind in ends:
            self.member(group, slot).finish(which, kind)
        self.step(group, slot, STEPS, SteppedMember.read)

    @rule(group=GROUP, slot=MEMBER, ends=st.lists(st.tuples(SMALL, ENDS), min_size=1, max_size=3))
    def fail_and_run_again(self, group: str, slot: int, ends: list[tuple[int, Kind]]) -> None:
        """What failed becomes due at once, and runs again."""
        self.work(group, slot, [(0, Kind.RETRY)])
        self.due(group, 1)
        self.promote(group, slot, full=False)
        self.work(group, slot, ends)

    @rule(group=GROUP, slot=MEMBER, count=st.integers(1, 4))
    def start(self, group: str, slot: int, count: int) -> None:
        """Handlers begin."""
        for _ in range(count):
            self.member(group, slot).start()

    @rule(group=GROUP, slot=MEMBER, which=SMALL, kind=ENDS)
    def finish(self, group: str, slot: int, which: int, kind: Kind) -> None:
        """A handler ends."""
        self.member(group, slot).finish(which, kind)

    @rule(group=GROUP, slot=MEMBER)
    def settle(self, group: str, slot: int) -> None:
        """The duty thread settles what is finished."""
        self.step(group, slot, STEPS, SteppedMember.settle)

    @rule(group=GROUP, slot=MEMBER)
    def settle_all(self, group: str, slot: int) -> None:
        """With nothing in its way, a member settles all that has ended with it."""
        well = True
        for turn in (SteppedMember.read, SteppedMember.read, SteppedMember.read, SteppedMember.settle):
            self.step(group, slot, STEPS, turn)
            well = well and self.member(group, slot).went_well
        for (again, entry_id), run in self.member(group, slot).runs().items() if well else ():
            cursor = self.seen.groups[group].cursor(again=again)
            one = cursor.pending.get(entry_id) if cursor else None
            if run.decided and one is not None and one.owner == self.member(group, slot).name:
                raise ledger.Broken(f"group {group}: {entry_id} ended, and is not settled: {run}")

    @rule(group=GROUP, slot=MEMBER)
    def beat(self, group: str, slot: int) -> None:
        """A heartbeat."""
        self.step(group, slot, STEPS, SteppedMember.beat)

    @rule(group=GROUP, slot=MEMBER, missing=st.booleans())
    def sweep(self, group: str, slot: int, missing: bool) -> None:
        """A heartbeat, and a look for what was abandoned."""
        self.step(group, slot, STEPS, SteppedMember.beat)
        self.step(group, slot, DUTY | STEPS, lambda member: member.sweep(missing=missing))

    @rule(group=GROUP, slot=MEMBER)
    def keep_house(self, group: str, slot: int) -> None:
        """The position is saved."""
        self.step(group, slot, STEPS, SteppedMember.keep_house)

    @rule(group=GROUP, slot=MEMBER)
    def crash(self, group: str, slot: int) -> None:
        """kill -9; its duty expires, and another takes its place."""
        member = self.members.pop((group, slot), None)
        if member is not None:
            member.crash()
            self._expire_duty(group, member.name)

    @rule(group=GROUP, slot=MEMBER, ends=st.lists(st.tuples(SMALL, ENDS), max_size=3), then=st.integers(0, 4))
    def stand_still(self, group: str, slot: int, ends: list[tuple[int, Kind]], then: int) -> None:
        """A member stands still for longer than its lease: another takes its entries over; then it goes on."""
        for _ in range(2):
            self.step(group, slot, STEPS, SteppedMember.read)
        for which, kind in ends:
            self.member(group, slot).finish(which, kind)
        self._overtake(group, slot)
        if then == 0:
            self.settle(group, slot)
        elif then == 1:
            self.read(group, slot)
        elif then == 2:
            self.renew(group, slot)
        elif then == 3:
            self.stop(group, slot)
        else:
            self.settle_all(group, slot)

    @rule(group=GROUP, slot=MEMBER, behind=st.integers(0, 4))
    def overtake_in_the_midst(self, group: str, slot: int, behind: int) -> None:
        """The answer to a read is lost; while the member asks what it holds, another takes that over."""
        self.step(group, slot, STEPS, SteppedMember.read)
        self.lose(group, slot, "reader", 0)
        self.step(group, slot, STEPS, SteppedMember.read)
        self.step(
            group, slot, STEPS, lambda member: member.connect("reader"),
            behind=behind, meanwhile=lambda: self._overtake(group, slot),
        )  # fmt: skip

    def _overtake(self, group: str, slot: int) -> None:
        self.age(group, 0, everything=True)
        self._expire_duty(group, self.member(group, slot).name)
        self.sweep(group, (slot + 1) % MEMBERS, missing=True)

    @rule(group=GROUP, slot=MEMBER, incarnation=st.integers(1, 3))
    def retire(self, group: str, slot: int, incarnation: int) -> None:
        """A name goes, if it holds nothing."""
        retire(self.link, self.keys, group, f"{group}{slot}.{incarnation}")
        self.check(Deed(group=group))

    @rule(group=GROUP, slot=MEMBER)
    def take_over_from_the_dead(self, group: str, slot: int) -> None:
        """A worker dies with what it holds, time passes, and the next member sweeps until nothing is left of it."""
        self.crash(group, slot)
        self.age(group, 0, everything=True)
        other = (slot + 1) % MEMBERS
        self.sweep(group, other, missing=True)

    @rule(group=GROUP, slot=MEMBER)
    def stop(self, group: str, slot: int) -> None:
        """SIGTERM: what did not start is handed back, what runs ends, and the member leaves."""
        if (group, slot) not in self.members:
            return
        member = self.members[group, slot]
        self.step(group, slot, STEPS, SteppedMember.stop)
        while member.hand.running:
            member.finish(0, Kind.DONE)
        self.step(group, slot, STEPS, SteppedMember.leave)
        del self.members[group, slot]
        member.crash()
        self._expire_duty(group, member.name)

    @rule(group=GROUP, slot=MEMBER, purpose=st.sampled_from(["reader", "duty"]), after=st.integers(-1, 2))
    def lose(self, group: str, slot: int, purpose: str, after: int) -> None:
        """A request, or some of the replies from now on, are lost on the way."""
        self.member(group, slot).trouble(purpose, after)

    @rule(group=GROUP, slot=MEMBER, lost=st.booleans())
    def reconnect(self, group: str, slot: int, lost: bool) -> None:
        """A new connection, maybe as an answer was lost: what pends with the member and was never seen is fetched."""
        if lost:
            self.lose(group, slot, "reader", 0)
            self.step(group, slot, STEPS, SteppedMember.read)
        self.step(group, slot, STEPS, lambda member: member.connect("reader"))
        member = self.member(group, slot)
        runs = member.runs()
        for again in (False, True) if member.went_well and not member.paused else ():
            cursor = self.seen.groups[group].cursor(again=again)
            there = self.seen.groups[group].again_entries if again else self.seen.entries
            for entry_id, one in cursor.pending.items() if cursor else ():
                if one.owner == member.name and (again, entry_id) not in runs and entry_id in there:
                    raise ledger.Broken(
                        f"group {group}: {entry_id} is {member.name}'s, who knows nothing of it"
                    )

    # Time.

    @rule(group=GROUP, part=SMALL, everything=st.booleans())
    def age(self, group: str, part: int, everything: bool) -> None:
        """Entries in somebody's hands were not renewed for long: all, or those of one consumer."""
        for again in (False, True):
            ref = GroupRef(self.keys, group, again=again)
            cursor = self.seen.groups[group].cursor(again=again)
            owners = sorted({one.owner for one in cursor.pending.values()}) if cursor else []
            for entry_id, one in cursor.pending.items() if cursor else ():
                if everything or one.owner == owners[part % len(owners)]:
                    self.link.call(
                        *("XCLAIM", ref.key, group, one.owner, 0, entry_id),
                        *("IDLE", CLAIM_AFTER_MS + 60_000, "JUSTID"),
                    )
        self.check(Deed(frozenset((ledger.REMOVE,)), group))

    @rule(group=GROUP, slot=MEMBER)
    def renew(self, group: str, slot: int) -> None:
        """Time passes for a member: it renews what it holds."""
        self.member(group, slot).forget_time()
        self.step(group, slot, STEPS, SteppedMember.beat)

    @rule(group=GROUP, part=st.integers(1, 3))
    def due(self, group: str, part: int) -> None:
        """Some retries become due."""
        for number, name in enumerate(sorted(self.seen.groups[group].waiting)):
            if number % part == 0 and not self.full:
                self.link.call("ZADD", self.keys.retry(group), "XX", 1, name)
        self.seen = look(self.link, self.keys, GROUPS)

    @rule(group=GROUP, slot=MEMBER, full=st.booleans())
    def promote(self, group: str, slot: int, full: bool) -> None:
        """What is due is promoted, or waits on because there is no memory for it."""
        was = self.full
        self.memory(full or was)
        self.step(group, slot, STEPS | {ledger.PROMOTE}, SteppedMember.promote)
        self.memory(was)

    # Operators, and accidents.

    @rule(group=GROUP)
    def replay_pending(self, group: str) -> None:
        """What was abandoned runs again at once."""
        with (
            contextlib.suppress(MillstreamError),
            Replay(self.keys.stream, group, connector=self.connector) as replay,
        ):
            replay.run(replay.plan_pending(idle=CLAIM_AFTER_MS / 1_000, force=True), patience=0)
        self.check(Deed(frozenset((ledger.REPLAY_PENDING,)), group, min_idle_ms=CLAIM_AFTER_MS))

    @rule(group=GROUP, first=SMALL, count=SMALL, lost=st.integers(-1, 12))
    def replay_range(self, group: str, first: int, count: int, lost: int) -> None:
        """Some entries once more; a reply may be lost on the way."""
        entries = sorted(self.seen.entries, key=parse_entry_id)[first : first + count]
        seen = self.seen.groups[group]
        if not entries or self.full or seen.again is None or seen.main is None:
            return
        connector = FickleConnector(self.server.address)
        try:
            with (
                contextlib.suppress(NoSuchGroupError),
                Replay(self.keys.stream, group, connector=connector) as replay,
            ):
                plan = replay.plan_range(entries[0], entries[-1])
                replay.close()  # the next connection
                connector.lose_from = lost if lost > 0 else None
                replay.run(plan)
        finally:
            connector.close()
        may = frozenset((ledger.REPLAY_RANGE,))
        self.check(Deed(may, group, replayed=tuple(entries)))

    @rule(group=GROUP, slot=MEMBER, stands=SMALL)
    def pause(self, group: str, slot: int, stands: int) -> None:
        """The group is paused, and a member hears of it; what it holds is settled, and nothing is read until later."""
        pause(self.link, self.keys, group, by="machine", reason="try")
        self.check(Deed(group=group))
        self.beat(group, slot)
        self.settle_all(group, slot)
        self.sweep(group, slot, missing=True)
        self.promote(group, slot, full=False)
        if stands:
            self.resume(group)
            self.beat(group, slot)

    @rule(group=GROUP)
    def resume(self, group: str) -> None:
        """Its members read again, once they hear of it."""
        resume(self.link, self.keys, group)
        self.check(Deed(group=group))

    @rule(group=GROUP, slot=MEMBER, count=st.integers(1, 4), drop=st.booleans(), lost=st.integers(-1, 5))
    def look_after_the_dead(self, group: str, slot: int, count: int, drop: bool, lost: int) -> None:
        """Dead letters run again, or are dropped: once, though the request or an answer is lost, and though it is done
        twice.
        """
        self.work(group, slot, [(0, Kind.DEAD)])
        ids = sorted(self.seen.groups[group].dead, key=parse_entry_id)[-count:]
        if not ids or self.full:
            return
        with DeadLetters(self.keys.stream, group, connector=self.connector) as dead:
            letters = [dead.get(one) for one in ids]
            dead.close()  # the next connection
            self.connector.lose_from = lost or None
            try:
                moved = dead.drop(letters) if drop else dead.retry(letters)
            finally:
                self.connector.lose_from = None
            if moved != len(ids):
                raise ledger.Broken(f"{moved} dead letters were moved, of {ids}")
            deed = Deed(
                frozenset((ledger.DROP if drop else ledger.REVIVE,)), group,
                letters={one.id: len(one.again("")) for one in letters},
            )  # fmt: skip
            self.check(deed)
            dead.close()  # an answer lost now would count what it names as moved
            if moved := dead.drop(letters) if drop else dead.retry(letters):
                raise ledger.Broken(f"{moved} dead letters were moved once more, of {ids}")
            self.check(Deed(group=group))

    @rule(group=GROUP, to=st.integers(0, 9), silent=SMALL, killed=st.integers(0, 9), lost=st.integers(0, 9))
    def reset(self, group: str, to: int, silent: int, killed: int, lost: int) -> None:
        """The position is moved, if members are silent (they may stand still); a reply may be lost on the way.

        Its caller may be killed behind so many requests, and begin anew.
        """
        if self.full or self.seen.groups[group].main is None:
            return
        if silent:
            self.age(group, 0, everything=True)
            for name in self.link.call("HKEYS", self.keys.members(group)):
                self.link.call("HSET", self.keys.members(group), name, f"{CLAIM_AFTER_MS}:0")
        entries = sorted(self.seen.entries, key=parse_entry_id)
        where = "start" if to == 0 else "end" if to == 1 or not entries else entries[to % len(entries)]
        first = {"start": (0, 0), "end": (1 << 64, 0)}.get(where) or parse_entry_id(where)
        deed = Deed(frozenset((ledger.RESET,)), group, first=first)
        live = self._live(group)
        if killed and not live:
            self.connector.meanwhile = (killed - 1, _killed)
            with contextlib.suppress(Killed):
                self._reset(group, where, self.connector)
            self.connector.meanwhile = None
            self.check(replace(deed, complete=False))
        self.connector.lose_from = lost or None
        try:
            self._reset(group, where, self.connector)
        except MillstreamError:
            if not live:
                raise
            deed = Deed(group=group)
        else:
            if live:
                raise ledger.Broken(f"group {group} was reset, and {live} members live")
        finally:
            self.connector.lose_from = None
        self.check(deed)

    def _reset(self, group: str, to: str, connector: FickleConnector) -> None:
        """Two entries at a time; members may have come since it was planned."""
        planning = self.server.connector()
        plan = plan_reset(self.keys.stream, group, to, connector=planning)
        planning.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resetting, "MAX_IDS", 2)
            patch.setattr(replay_pending, "PAGE_ENTRIES", 2)
            patch.setattr(replay_pending, "CALL_EVENTS", 2)
            patch.setattr(persistent, "WAITS", Backoff(initial_ms=1, longest_ms=1))
            reset_group(replace(plan, members=0), connector=connector)

    def _live(self, group: str) -> int:
        """How many members were not silent for their claim_after."""
        now_ms = server_ms(self.link)
        records = self.link.call("HVALS", self.keys.members(group))
        told = [tuple(map(int, record.split(b":"))) for record in records]
        return sum(now_ms - seen <= claim_after for claim_after, seen in told)

    @rule(group=GROUP, again=st.booleans())
    def destroy_group(self, group: str, again: bool) -> None:
        """XGROUP DESTROY."""
        with contextlib.suppress(MillstreamError):
            self.link.call("XGROUP", "DESTROY", GroupRef(self.keys, group, again=again).key, group)
        self.check(Deed(frozenset((ledger.DESTROY,)), group))

    @rule(which=SMALL)
    def remove_entry(self, which: int) -> None:
        """XDEL."""
        entries = sorted(self.seen.entries, key=parse_entry_id)
        if which < len(entries):
            self.link.call("XDEL", self.keys.stream, entries[-1 - which])
            self.check(Deed(frozenset((ledger.REMOVE,))))

    @rule()
    def trim(self) -> None:
        """What all groups have settled goes; of a group that never was, or was wiped, nobody knows."""
        if not all("since" in seen.facts for seen in self.seen.groups.values()):
            return
        with contextlib.suppress(MillstreamError):
            for _ in trim_stream(self.link, self.keys.stream, "9999999999999-0"):
                pass
        self.check(Deed(frozenset((ledger.TRIM,))))

    @rule()
    def flush_scripts(self) -> None:
        """SCRIPT FLUSH."""
        self.link.call("SCRIPT", "FLUSH")

    @rule(sure=st.integers(0, 5))
    def wipe(self, sure: int) -> None:
        """All that there is of this stream is deleted, as by FLUSHALL."""
        if sure == 0:
            self.link.call("DEL", self.keys.stream, *self._own_keys())
            for sender in self.senders:
                sender.expired()
            self.names.clear()
            self.check(Deed(frozenset((ledger.WIPE,))))

    @rule(full=st.booleans())
    def run_out(self, full: bool) -> None:
        """The server is out of memory, or no more."""
        self.memory(full)

    def memory(self, full: bool) -> None:
        """Set whether it is."""
        if full != self.full:
            self.link.call("CONFIG", "SET", "maxmemory", 1 if full else 0)
            self.full = full

    # The end.

    def drain(self, group: str) -> None:
        """All members die; one that is left works off all there is."""
        for slot in range(MEMBERS):
            self.crash(group, slot)
        self.resume(group)
        for _ in range(ROUNDS):
            if not self._left(group):
                return
            self.age(group, 0, everything=True)
            self.due(group, 1)
            self.promote(group, 0, full=False)
            self.sweep(group, 0, missing=True)
            self.step(group, 0, STEPS, SteppedMember.read)
            self.step(group, 0, STEPS, SteppedMember.read)
            member = self.member(group, 0)
            while member.start() is not None:
                pass
            while member.hand.running:
                member.finish(0, Kind.DONE)
            self.step(group, 0, STEPS, SteppedMember.settle)
        raise ledger.Broken(f"group {group} is stuck with {self._left(group)}")

    def _left(self, group: str) -> list[object]:
        seen = self.seen.groups[group]
        cursor = seen.main or self.ledger.accounts[group].lost_main or Cursor()
        unread = [entry_id for entry_id in self.seen.entries if cursor.unread(entry_id)]
        return [*cursor.pending, *unread, *seen.again_entries, *seen.waiting]

    def _own_keys(self) -> list[str]:
        keys, found, cursor = self.keys, list[str](), b"0"
        while True:
            cursor, names = self.link.call("SCAN", cursor, "MATCH", f"{keys.prefix}*", "COUNT", 1_000)
            found += [name.decode() for name in names]
            if cursor == b"0":
                return found

    def _expire_duty(self, group: str, name: str) -> None:
        if self.link.call("GET", self.keys.duty(group)) == name.encode():
            self.link.call("DEL", self.keys.duty(group))


class RestartingMachine(GroupMachine):
    """The same on a server of its own, which is killed now and then."""

    @rule()
    def restart(self) -> None:
        """kill -9, and a start on the same data, of which everything that was answered is on the disk."""
        self.server.kill()
        self.server.restart()
        self.full = False
        self.link.close()
        self.connector.forget_capabilities()
        self.connector.wait_until_up(20_000).close()
        self.link = self.connector.link("machine")
        self.check(Deed())


def _killed() -> None:
    raise Killed


def run_examples(
    kind: type[GroupMachine], server: Server, *, seeded: int, examples: int, only_find: bool = False
) -> None:
    """So many examples from this seed, made smaller if one fails; only_find: raised as it was found."""

    class Machine(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(server)

    run_state_machine_as_test(
        seed(seeded)(Machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS_OF_EACH,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate] if only_find else [Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
