"""Settler: acknowledges, moves and hands back entries whose events all have an outcome, and notes who begins alone.

Its commands go out on whichever connection is free, many at a time; what a broken connection left unanswered is asked
again, which is harmless: an entry that is not pending any more is neither acknowledged nor moved a second time.
If killed, what was not settled stays pending under our name and is taken over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from consumers.state import MemberState, Refused, now_ms
from consumers.window import Held
from pipeline.backoff import RECONNECT
from pipeline.errors import MillstreamError, NotConnectedError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.filters import GroupFilter
from pipeline.keys import GroupRef, escape, slot_of
from pipeline.server.connect import Link
from pipeline.server.error_map import UNKNOWN, row_of, server_error
from pipeline.server.groups import (
    MAX_IDS,
    Command,
    Move,
    MovedEntry,
    Settled,
    alone_command,
    emit_command,
    move_command,
    nonce,
    parse_settled,
    settle_command,
)
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import Script, script

MOVE_BYTES = 1 << 20
"""Bytes of moved events in one call, about."""
MOVES = 200
"""Moved events in one call, about: the server adds them one by one, and does nothing else meanwhile."""
MOST_EMITTED = 1_000
"""Events that one entry emits in the step that settles it; those of a pack that emits more are appended ahead."""
MOST_GIVEN = 50_000
"""So many entries that were handed back are remembered; of what is forgotten, one may run once more than it should."""
NOT_DONE = frozenset(("again", "retry", "dead"))
"""Where events go that are not done."""


@dataclass(slots=True)
class Settlement:
    """One command that settles entries, and the entries it settles."""

    script: Script | None
    """None: a look whether the entry is still ours."""
    command: Command
    held: Sequence[Held]
    ahead: Move | None = None
    """An emitted event that is appended before its entry is settled, where one script cannot do both."""
    any_slot: bool = False
    """Made without regard to slots: the server had not said yet that it is a cluster."""

    @property
    def settles(self) -> int:
        """How many entries are settled once it is carried out, if all goes well."""
        return 0 if self.script is None or self.ahead is not None or self.begins else len(self.held)

    @property
    def begins(self) -> bool:
        """It settles nothing: its entry begins to run alone."""
        return self.script is not None and self.script.name == "alone"


class Settler:
    """Settles what state.settling holds. Any thread may call it; each entry is in one call at a time."""

    def __init__(self, state: MemberState) -> None:
        self._state = state
        self._untaught: set[Script] = set()
        self._ahead: dict[Held, int] = {}
        """How many emitted events of an entry are on their way, ahead of it."""
        self._ours: set[Held] = set()
        """Entries that were still ours just before."""
        self._problems: dict[Held, dict[int, str]] = {}
        """Why an event that was emitted ahead was refused for good, by the event of the entry."""
        self._alone: dict[Held, int] = {}
        """Entries that the server refused to move, for a cause that is not known to pass; how often."""
        self._later: dict[Held, int] = {}
        """When each of them is asked for again, in a call of its own, by now_ms(); those under way are not here."""
        self._finished = 0  # events settled by the answer that is being taken in

    def run_once(self, link: Link) -> int:
        """Settle all that is finished, over this link; how many entries were asked for."""
        count = 0
        while True:
            self.teach(link)
            settlements = self.prepare()
            if settlements:
                self.settle(link, settlements)
            count += sum(len(s.held) for s in settlements)
            if not self._untaught:
                return count

    @property
    def untaught(self) -> bool:
        """Whether the server did not know a script: teach() it."""
        return bool(self._untaught)

    def unknown(self, missing: Script) -> None:
        """The server does not know a script that somebody else sent over a link of ours."""
        self._untaught.add(missing)

    def teach(self, link: Link) -> None:
        """Load scripts that the server did not know. Only while no reply is outstanding on the link."""
        while self._untaught:
            try:
                missing = self._untaught.pop()
            except KeyError:  # the other thread has it
                return
            link.load(missing)

    def settle(self, link: Link, settlements: Sequence[Settlement]) -> None:
        """Send prepared settlements and take in their answers."""
        try:
            link.send(*(s.command for s in settlements))
        except NotConnectedError:
            self.put_back(settlements)
            raise
        self.absorb(link, settlements)

    def prepare(self) -> list[Settlement]:
        """Take what is finished out of the queue, as commands to send; each must be absorbed or put back."""
        state = self._state
        if not state.settling and not self._later and not state.beginning:
            return []
        begins: list[Settlement] = []
        with state.lock:
            while state.beginning:
                held = state.beginning.popleft()
                if not held.taken_over and not held.returning:
                    command = alone_command(held.ref, state.consumer, held.entry_id, held.deliveries)
                    begins.append(Settlement(script("alone"), command, [held]))
            ready = [held for held in state.settling if not held.taken_over]
            state.settling.clear()
            if self._later:
                ready += self._due_alone()
        if self._ours:
            self._ours = {held for held in self._ours if not held.taken_over}
        plain: dict[tuple[GroupRef, str, bool], list[Held]] = {}
        moved: dict[GroupRef, list[Held]] = {}
        ahead: list[Settlement] = []
        given: dict[tuple[GroupRef, bool], list[Held]] = {}
        ref, token, some_passed, alike = None, "", False, list[Held]()
        passed, filter_ = state.passed, state.filter
        clustered = state.cluster
        for held in ready:
            if passed and filter_.mixed and _wanted(passed.get(held, ()), filter_):
                state.doubted.append(held)
            elif held.returning:
                given.setdefault((held.ref, held in state.releasing), []).append(held)
            elif held.moves:
                if first := self._before(held):
                    ahead += first
                else:
                    moved.setdefault(held.ref, []).append(held)
            else:
                if (
                    held.ref is not ref
                    or held.token != token
                    or (passed and some_passed is not (held in passed))
                ):  # most are like the one before
                    ref, token, some_passed = held.ref, held.token, held in passed
                    alike = plain.setdefault((ref, state.tokens.newest(token), some_passed), [])
                alike.append(held)
        settlements = begins + ahead
        for (ref, token, some_passed), group in plain.items():
            for part in _parts(group):
                command = settle_command(
                    ref,
                    state.consumer,
                    token,
                    [held.entry_id for held in part],
                    passed_by=filter_.text if some_passed else "",
                )
                settlements.append(Settlement(script("settle"), command, part))
        for ref, group in moved.items():
            for part in self._move_parts(group):
                entries = [MovedEntry(held.entry_id, state.consumer, held.moves) for held in part]
                passed_by = filter_.text if passed and any(held in passed for held in part) else ""
                command = move_command(ref, entries, passed_by=passed_by)
                settlements.append(Settlement(script("move"), command, part, any_slot=not clustered))
        for (ref, release), group in given.items():
            # Beyond claim_after, so that whoever looks next takes it (scripts and commands may read the clock a little
            # apart); released ones wait out claim_after.
            idle_ms = 0 if release else state.claim_after_ms + 1_000
            for part in _parts(group):
                command = script("hand_back").command(
                    [ref.key, ref.keys.groups, ref.keys.never],
                    [
                        ref.group,
                        escape(ref.group),
                        state.consumer,
                        idle_ms,
                        nonce(),
                        ref.alone,
                        *(h.entry_id for h in part),
                    ],
                )
                settlements.append(Settlement(script("hand_back"), command, part))
        return settlements

    def put_back(self, settlements: Sequence[Settlement]) -> None:
        """Ask again later for what was not answered."""
        with self._state.lock:
            for settlement in settlements:
                if settlement.begins:
                    self._state.beginning.extend(settlement.held)
                elif settlement.ahead is None:
                    self._state.settling.extend(settlement.held)
                else:
                    self._ours.discard(settlement.held[0])
                    self._landed(settlement.held[0])

    def absorb(self, link: Link, settlements: Sequence[Settlement]) -> None:
        """Read one answer per settlement from the link, in order.

        Raises:
            MillstreamError: the first error the server answered with (that settlement is asked again), or the
            connection broke (all unanswered ones are).
        """
        failure: MillstreamError | None = None
        for i, settlement in enumerate(settlements):
            try:
                reply = link.read_or_error()
            except NotConnectedError:
                self.put_back(settlements[i:])
                raise
            if isinstance(reply, MillstreamError):
                if settlement.ahead is not None and isinstance(reply, WrongKeyTypeError):
                    self._refused_ahead(settlement, reply)
                    continue
                if _whole_move(settlement) and row_of(reply).code == UNKNOWN:
                    self._part(settlement.held, reply)
                    continue
                self.put_back([settlement])
                code = getattr(reply, "code", "")
                if code == "CROSSSLOT" and settlement.any_slot:
                    self._state.cluster = True  # it would not tell us before; others may be under way
                elif code == "NOSCRIPT" and settlement.script is not None:
                    self._untaught.add(settlement.script)  # loaded once no reply is outstanding
                else:
                    failure = failure or reply
            else:
                failure = self._take_in(settlement, reply) or failure
        if settlements:
            self._state.count_ended()
        if failure is not None:
            raise failure

    def _take_in(self, settlement: Settlement, reply: Reply) -> MillstreamError | None:
        state = self._state
        with state.lock:
            failure = None
            if settlement.ahead is not None:
                state.counts.emitted += 1
                self._landed(settlement.held[0], settlement.ahead)
            elif settlement.begins:
                self._begun(settlement.held[0], there=reply == 1)
            elif settlement.script is None:
                self._looked_at(settlement.held[0], reply)
            elif settlement.script.name == "settle":
                self._settled(settlement.held, parse_settled(reply))
            elif settlement.script.name == "move":
                failure = self._moved(settlement.held, reply)
            else:
                if len(state.given) > MOST_GIVEN:
                    state.given.clear()
                for held in settlement.held:
                    state.releasing.discard(held)
                    state.passed.pop(held, None)
                    if state.window.remove(
                        held
                    ):  # else it was claimed before this answer was seen, and runs here
                        state.given.add((held.ref, held.entry_id))
                state.counts.handed_back += reply
            state.window.finished(self._finished, now_ms())
            self._finished = 0
        return failure

    def _begun(self, held: Held, *, there: bool) -> None:
        """An entry may begin to run alone, or is not ours any more. Under the lock."""
        state = self._state
        if there:
            held.noted = held.deliveries
        elif not held.returning:
            state.lose(held)
        state.duty_wake.set()

    def _settled(self, held: Sequence[Held], settled: Settled) -> None:
        state = self._state
        if settled.other_filter is not None:
            state.filter = state.filter.now(settled.other_filter)
            state.doubted.extend(held)
            state.duty_wake.set()
            return
        lost = set(settled.taken_over)
        if lost:
            for one in held:
                if one.entry_id in lost:
                    state.lose(one)
            held = [one for one in held if one.entry_id not in lost]
        events = state.window.remove_all(held)
        if state.settled is not None:
            state.settled.update((one.ref, one.entry_id) for one in held)
        self._finished += events
        state.counts.done += events
        if state.callbacks is not None:
            state.callbacks.settled(held)
        if state.passed:
            for one in held:
                state.passed.pop(one, None)
        state.counts.settled += settled.count

    def _moved(self, held: Sequence[Held], answers: Reply) -> MillstreamError | None:
        state = self._state
        if answers and answers[0] == b"FILTER":
            state.filter = state.filter.now(text(answers[1]))
            state.doubted.extend(held)
            state.duty_wake.set()
            return None
        for one, answer in zip(held, answers, strict=False):
            if answer in (1, 2):
                if state.callbacks is not None:
                    state.callbacks.moved(one, done_here=answer == 1)
                self._done(one)
                state.counts.settled += 1
                for move in one.moves:
                    if move.kind == "retry":
                        state.counts.retried += 1
                        state.put_off(float(move.fields[0]))
                    elif move.kind == "dead":
                        state.counts.dead += 1
                        state.counts.rejected += move.outcome is not None and move.outcome.rejected
                if answer == 1:
                    state.counts.emitted += sum(move.kind == "emit" for move in one.moves)
                else:
                    state.counts.skipped += 1  # done elsewhere meanwhile
            elif isinstance(answer, list):
                problems = {answer[i]: text(answer[i + 1]) for i in range(1, len(answer), 2)}
                state.refused.append(Refused(one, problems, half=answer[0] == b"HALF"))
                state.duty_wake.set()
            elif answer == 0:
                self._alone.pop(one, None)
                state.lose(one)
        problem = next((answer for answer in answers if isinstance(answer, bytes)), None)
        if problem is None:
            return None
        stopped_at = answers.index(problem)
        error = server_error(problem.decode(errors="replace"), f"moving entries of {state.keys.stream!r}")
        if row_of(error).code == UNKNOWN:
            self._refused_alone(held[stopped_at], error)
            state.settling.extend(held[stopped_at + 1 :])
            return None
        state.settling.extend(held[stopped_at:])
        return error

    def _refused_alone(self, held: Held, error: MillstreamError) -> None:
        """Nobody knows whether the cause passes: ask for this entry later, and by itself. Under the lock."""
        state = self._state
        tries = self._alone[held] = self._alone.get(held, 0) + 1
        self._later[held] = now_ms() + RECONNECT.wait_ms(tries)
        if tries == 1:
            state.say.warning(
                "move refused",
                "the server refuses to move this entry: it stays pending, is tried again, and holds up no other",
                stream=held.ref.keys.stream,
                group=held.ref.group,
                entry_id=held.shown_id,
                error=str(error),
            )

    def _part(self, held: Sequence[Held], error: MillstreamError) -> None:
        """A whole call was refused: each of its entries is asked for by itself, which shows whose fault it is."""
        with self._state.lock:
            if len(held) == 1:
                self._refused_alone(held[0], error)
                return
            for one in held:
                self._alone.setdefault(one, 0)
                self._later[one] = now_ms()

    def _due_alone(self) -> list[Held]:
        """Take out what is to be asked for again by itself. Under the lock."""
        for held in [held for held in self._alone if held.taken_over]:
            del self._alone[held]
            self._later.pop(held, None)
        now = now_ms()
        due = [held for held, due_ms in self._later.items() if due_ms <= now]
        for held in due:
            del self._later[held]
        return due

    def _move_parts(self, held: Sequence[Held]) -> list[list[Held]]:
        """Cut into calls; what was refused before goes by itself."""
        if not self._alone:
            return _move_parts(held)
        alone = self._alone
        return _move_parts(one for one in held if one not in alone) + [[one] for one in held if one in alone]

    def _before(self, held: Held) -> list[Settlement]:
        """What has to be done before an entry can be settled: its events emitted that one script cannot append.

        First a look whether it is still ours: who was taken over emits nothing. Another may take it over in the very
        moment; what that one's run emits then has the same ids.
        """
        state = self._state
        emits = [move for move in held.moves if move.kind == "emit"]
        if emits and len(emits) <= MOST_EMITTED:
            own = slot_of(held.ref.key) if state.cluster else 0
            emits = [move for move in emits if slot_of(move.keys[0]) != own] if state.cluster else []
        if not emits:
            return []
        if held not in self._ours:
            look = ("XPENDING", held.ref.key, held.ref.group, held.entry_id, held.entry_id, 1)
            return [Settlement(None, look, [held])]
        with state.lock:
            self._ahead[held] = len(emits)
        return [Settlement(script("emit"), emit_command(move), [held], move) for move in emits]

    def _looked_at(self, held: Held, rows: Reply) -> None:
        if rows and text(rows[0][1]) == self._state.consumer:
            self._ours.add(held)
            self._state.settling.append(held)
        else:
            self._state.lose(held)

    def _landed(self, held: Held, emitted: Move | None = None) -> None:
        """An event emitted ahead is in its stream, or (None) has to be sent again. Under the lock."""
        if emitted is not None:
            held.moves = [move for move in held.moves if move is not emitted]
        self._ahead[held] -= 1
        if self._ahead[held]:
            return
        del self._ahead[held]
        problems = self._problems.pop(held, None)
        if not any(move.kind == "emit" for move in held.moves):
            self._ours.discard(held)
        if held.taken_over:
            self._ours.discard(held)
        elif problems:
            self._state.refused.append(Refused(held, problems))
            self._state.duty_wake.set()
        else:
            self._state.settling.append(held)

    def _refused_ahead(self, settlement: Settlement, error: MillstreamError) -> None:
        held, move = settlement.held[0], settlement.ahead
        assert move is not None, "it was emitted ahead"
        with self._state.lock:
            self._problems.setdefault(held, {})[move.event] = str(error)
            self._landed(held, move)

    def _done(self, held: Held) -> None:
        self._state.passed.pop(held, None)
        if self._alone:
            self._alone.pop(held, None)
        events = self._state.window.remove_all([held])
        if self._state.settled is not None:
            self._state.settled.add((held.ref, held.entry_id))
        self._finished += events
        if held.verdict is None:
            moved = sum(move.kind in NOT_DONE for move in held.moves)
            self._state.counts.done += max(events - moved, 0)


def _wanted(events: Sequence[Event], filter_: GroupFilter) -> bool:
    """Whether one of the events that were passed over is taken by another member, as is known by now."""
    return any(filter_.wanted_elsewhere(event.type) for event in events)


def _whole_move(settlement: Settlement) -> bool:
    return settlement.ahead is None and settlement.script is not None and settlement.script.name == "move"


def _parts(held: list[Held]) -> list[list[Held]]:
    """Cut into parts of at most MAX_IDS entries."""
    return [held[start : start + MAX_IDS] for start in range(0, len(held), MAX_IDS)]


def _move_parts(held: Iterable[Held]) -> list[list[Held]]:
    """Cut into parts of at most MAX_IDS entries, and of about MOVES moves and MOVE_BYTES."""
    parts: list[list[Held]] = []
    moves = size = 0
    for one in held:
        if not parts or len(parts[-1]) >= MAX_IDS or moves >= MOVES or size >= MOVE_BYTES:
            parts.append([])
            moves = size = 0
        parts[-1].append(one)
        moves += len(one.moves)
        size += sum(len(word) for move in one.moves for word in move.fields if isinstance(word, bytes))
    return parts
