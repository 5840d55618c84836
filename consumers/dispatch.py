"""Dispatch: hands the events of entries to executors, and turns what handlers decided into what is settled.

Pure but for handing events to executors: it routes by type, keeps suspects of a crash in small company
(pipeline/ladder.py), and writes down where each event of an entry goes. Called by the reader and the duty thread.
"""

import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from consumers.delivery import held_of
from consumers.executors import Executor, Work
from consumers.inbox import Inbox
from consumers.state import MemberState, Refused, now_ms
from consumers.window import Held
from pipeline.declare import ConsumerSpec, takes_type
from pipeline.effects import DEDUPE_MS, Effects
from pipeline.envelope import Again, DeadLetter, again_fields, dead_fields, read_again, retry_body
from pipeline.errors import (
    AccessDeniedError,
    DecodeError,
    EffectRefusedError,
    MaxRunError,
    MillstreamError,
    UnknownFormatError,
    UnknownFunctionError,
)
from pipeline.event import Event
from pipeline.keys import StreamKeys, slot_of
from pipeline.ladder import MAX_CRASHES, company, convicted
from pipeline.outcome import DONE, HAND_BACK, Kind, Outcome, after_failure
from pipeline.replayed import WORD, read_replayed
from pipeline.server.groups import Move
from pipeline.wire import encode_again

HOST = socket.gethostname()
ASK_AGAIN_MS = 100
"""The inbox is asked again so long after it could not be, in ms."""
ELSEWHERE = HAND_BACK
"""Where an event goes that no handler here takes, and another member's does."""


class Dispatch:
    """The way from entries to handlers and back, for one member."""

    def __init__(
        self, state: MemberState, routes: Sequence[tuple[ConsumerSpec, Executor]], inbox: Inbox | None = None
    ) -> None:
        """inbox: where handlers with `once=` are among them."""
        self._state = state
        self._routes = routes
        self._inbox = inbox if any(spec.options.once for spec, _ in routes) else None
        self._takes_all = (
            routes[0][1] if len(routes) == 1 and not routes[0][0].options.types and not self._inbox else None
        )
        """The one executor, if there is nothing to be routed."""
        self._unasked: list[Held] = []
        """Entries of which the inbox could not be asked yet whether their events are done."""
        self._ask_at_ms = 0
        self._suspects: list[Held] = []
        self._solo: Held | None = None
        """The one beside which nothing is started until it is settled. It runs once the server has noted that."""
        self._solo_runs = False
        self._fewest_held = 0
        """The least that was held beside waiting suspects; 0 while none wait."""
        self._fewer_ms = 0
        """When it last got less."""
        self._collecting = threading.Lock()

    def offer(self, entries: Sequence[Held], *, here: bool = False) -> Work | None:
        """Start the events of entries that are in the window, or decide about them without a handler.

        here, and what is returned: see Executor.submit().
        """
        if len(entries) == 1 and self._takes_all is not None and not self._suspects and self._solo is None:
            (held,) = entries
            if held.count == held.deliveries == 1 and not held.ref.again:
                with self._state.lock:
                    self._state.window.counted_all(entries, 1)
                return self._takes_all.submit(entries, here=here)
        ready: list[Held] = []
        counted: dict[int, list[Held]] = {}
        suspects: dict[int, list[Held]] = {}
        for held in entries:
            count = held.count
            if count and held.deliveries == 1 and not held.ref.again:
                counted.setdefault(count, []).append(held)
                ready.append(held)
            elif count and 1 < held.deliveries <= MAX_CRASHES and not held.ref.again and not held.is_pack:
                suspects.setdefault(held.deliveries - 1, []).append(held)
            elif self._may_start(held):
                ready.append(held)
        window = self._state.window
        with self._state.lock:
            for count, alike in counted.items():
                window.counted_all(alike, count)
            for crashes, alike in suspects.items():
                still = [held for held in alike if not held.taken_over]
                limit = company(crashes)
                assert limit is not None, "it has crashed"
                window.counted_all(still, 1)
                for held in still:
                    window.suspect(held, limit)
                self._suspects += still
            if self._solo is not None and self._holds(self._solo):
                for held in ready:  # of a read that was under way: another member may be free
                    self._return(held)
                ready = []
        work = self._start(ready, here=here) if ready else None
        self.start_suspects()
        return work

    def collect(self) -> None:
        """Take in the outcomes of handlers; entries without unfinished events go to the settler."""
        state = self._state
        finished = state.finished
        if finished:
            with self._collecting, state.lock:
                take, settle, abandoned = finished.popleft, state.settling.append, state.abandoned
                for _ in range(len(finished)):
                    item = take()
                    if isinstance(item, Held):  # its one event is done
                        held = item
                    elif isinstance(item, Event):  # done, too
                        held = item._origin
                        if id(item) in abandoned:
                            del abandoned[id(item)]
                            continue
                    else:
                        event, outcome = item
                        if id(event) in abandoned:
                            del abandoned[id(event)]
                        elif not held_of(event).taken_over:
                            self._finish(event, outcome)
                        continue
                    if held.taken_over:
                        continue
                    held.unfinished -= 1
                    if not held.unfinished:
                        if held.verdict is not None:
                            self._convict(held)
                        settle(held)
        if state.doubted or state.refused:
            with state.lock:
                self._reconsider()
                while state.refused:
                    self._refuse(state.refused.popleft())
        if self._unasked:
            self._ask_again()
        if self._solo is not None:
            self._attend()
        self.start_suspects()

    def fail_overdue(self) -> None:
        """Events beyond max_run have failed: their slot is given up, their outcome decided here."""
        state = self._state
        for spec, executor in self._routes:
            for event in executor.overdue(time.monotonic()):
                error = MaxRunError(
                    f"handler {spec.name} ran longer than max_run={spec.options.max_run_ms} ms"
                )
                held = held_of(event)
                with state.lock:
                    # It may have ended, and been collected, since: what is finished twice settles its pack too early.
                    if not any(one is event for one in executor.overdue(time.monotonic())):
                        continue
                    self._finish(event, after_failure(error, held.attempt, spec.options.retry))
                    state.abandoned[id(event)] = event
                executor.give_up(event)
            if executor.exhausted():
                state.fail(
                    MaxRunError(f"all slots of handler {spec.name} are taken by handlers that never return")
                )

    def give_up(self, lost: Sequence[Held]) -> None:
        """These entries are not ours any more: cancel what can be cancelled. Not under the lock."""
        gone = set(lost)
        for _, executor in self._routes:
            for event in executor.held_by(gone):
                executor.give_up(event)

    def hand_back_unstarted(self) -> None:
        """Give up what no handler has begun."""
        waiting = [item for _, executor in self._routes for item in executor.drain()]
        with self._state.lock:
            unstarted = [*self._suspects, *self._unasked]
            if self._solo is not None and not self._solo_runs:
                unstarted.append(self._solo)
                self._solo = None
            self._suspects, self._unasked = [], []
            for held in unstarted:
                self._return(held)
            by_entry: dict[Held, list[Event]] = {}
            for item in waiting:
                if isinstance(item, Held):
                    self._return(item)
                else:
                    by_entry.setdefault(held_of(item), []).append(item)
            for held, events in by_entry.items():
                if len(events) == held.events:
                    self._return(held)
                else:
                    for event in events:
                        self._finish(event, HAND_BACK)

    def hand_back(self, entries: Sequence[Held]) -> None:
        """Give up entries that were read and not offered."""
        with self._state.lock:
            for held in entries:
                self._return(held)

    def idle(self) -> bool:
        """Whether no handler runs and none is about to."""
        unstarted = self._suspects or self._unasked or (self._solo and not self._solo_runs)
        return not unstarted and all(executor.idle() for _, executor in self._routes)

    def start_suspects(self) -> None:
        """Start what may have killed a worker, once the member holds little enough beside it."""
        if not self._suspects:
            return
        state = self._state
        with state.lock:
            self._suspects = [held for held in self._suspects if not held.taken_over]
            limit = state.window.limit()
            if not self._suspects or limit is None:
                return
            if len(state.window) > limit:
                if len(state.window) == len(
                    self._suspects
                ):  # nothing but suspects: keep a few, others may have the rest
                    for held in self._suspects[limit:]:
                        self._return(held)
                    del self._suspects[limit:]
                elif not self._fewest_held or len(state.window) < self._fewest_held:
                    self._fewest_held, self._fewer_ms = len(state.window), now_ms()
                elif now_ms() - self._fewer_ms > state.claim_after_ms:
                    # What runs beside them takes long: another member may be free sooner.
                    for held in self._suspects:
                        self._release(held)
                    self._suspects.clear()
                    self._fewest_held = 0
                return
            ready, self._suspects = self._suspects, []
            self._fewest_held = 0
            if limit == 1:
                (self._solo,) = ready
                # A handler that was given up and still runs may be what kills: then the crash shows nothing.
                self._solo_runs = any(executor.haunted() for _, executor in self._routes)
                if not self._solo_runs:
                    state.beginning.append(self._solo)
                    state.wake()
                    return
        if limit == 1:
            self._start_solo(*ready)
        else:
            self._start(ready)

    def _attend(self) -> None:
        """Start what is to run alone, once the server has noted that; forget it once it is settled."""
        with self._state.lock:
            solo = self._solo
            if solo is None:
                return
            if not self._holds(solo):
                self._solo = None
                return
            if self._solo_runs or solo.returning or solo.noted != solo.deliveries:
                return
            self._solo_runs = True
        self._start_solo(solo)

    def _start_solo(self, held: Held) -> None:
        if self._may_start(held, alone=True):
            self._start([held])

    def _holds(self, held: Held) -> bool:
        return self._state.window.get(held.ref, held.entry_id) is held

    def _may_start(self, held: Held, *, alone: bool = False) -> bool:
        """Look at an entry; whether its events may be started now, or it was decided about, or must wait.

        alone: nothing runs beside it. What has to run alone is not even looked into before.
        """
        state = self._state
        try:
            if held.ref.again and held.again is None:
                held.again, fields = read_again(held.fields)
                if held.again is None:
                    raise DecodeError("an entry of the group's own stream lacks its envelope")
                held.set_fields(fields)
                held.first_id = held.again.entry_id.encode()
                replayed = read_replayed(held.again.why)
                if replayed is not None:
                    held.add_headers(replayed.headers)
            if convicted(held.crashes, deliveries=held.deliveries, noted=held.noted):
                reason = (
                    f"killed its worker: {held.crashes} runs ended without an outcome, and it had begun alone"
                )
                self._bury(held, Outcome(Kind.DEAD, reason=reason, error="WorkerKilled"))
                return False
            limit = None if alone else company(held.crashes)
            count = 0
            if limit != 1:
                count = held.event_count()
                if held.is_pack and held.deliveries > 1:
                    held.check()  # it is split below
        except UnknownFormatError as error:
            with state.lock:
                self._release(held)
            state.say.warning(
                "unknown format",
                "entry was written by a newer version: it is left to a member that knows it; upgrade this consumer",
                stream=state.keys.stream,
                group=state.group,
                entry_id=held.entry_id.decode(),
                problem=str(error),
            )
            return False
        except DecodeError as error:
            self._bury(held, after_failure(error, held.attempt, self._routes[0][0].options.retry))
            return False
        with state.lock:
            if held.taken_over:
                return False
            if limit != 1:
                if held.is_pack and held.deliveries > 1:
                    self._split(held, held.all_events())
                    return False
                state.window.counted(held, count)
            if limit is not None:
                state.window.suspect(held, limit)
                state.again_suspects = state.again_suspects or held.ref.again
                self._suspects.append(held)
                return False
        return True

    def _start(self, ready: Sequence[Held], *, here: bool = False) -> Work | None:
        if self._takes_all is not None:
            return self._takes_all.submit(ready, here=here)
        routed: list[list[Event]] = [[] for _ in self._routes]
        routes = []
        for held in ready:
            events = held.all_events()
            routes.append((held, events, [self._route(event) for event in events]))
        decided = {} if self._inbox is None else self._sifted(self._inbox, routes)
        if decided is None:
            return None
        for held, events, goes in routes:
            if ELSEWHERE in goes:
                self._leave(held, events)
                continue
            for event, where in zip(events, goes, strict=True):
                before = decided.get(id(event))
                if before is None and isinstance(where, int):
                    routed[where].append(event)
                    continue
                with self._state.lock:
                    if where is DONE:
                        self._state.counts.filtered += 1
                        self._state.passed.setdefault(held, []).append(event)
                    self._finish(event, before or where)  # type: ignore[arg-type] # no handler's number
        wanted = [
            (executor, events) for events, (_, executor) in zip(routed, self._routes, strict=True) if events
        ]
        here = here and len(wanted) == 1
        works = [executor.submit(events, here=here) for executor, events in wanted]
        return works[0] if here else None

    def _sifted(
        self, inbox: Inbox, routes: Sequence[tuple[Held, Sequence[Event], Sequence[int | Outcome]]]
    ) -> dict[int, Outcome] | None:
        """What the inbox says of the events of handlers with `once=`; None if it cannot be asked: it is, soon."""
        asked = [
            (event, spec)
            for _, events, goes in routes
            if ELSEWHERE not in goes
            for event, where in zip(events, goes, strict=True)
            if isinstance(where, int) and (spec := self._routes[where][0]).options.once
        ]
        try:
            return inbox.sift(asked) if asked else {}
        except AccessDeniedError as error:
            self._state.fail(error)
        except MillstreamError as error:
            self._state.say.warning("inbox", "cannot ask which events are done: they wait", error=str(error))
        with self._state.lock:
            self._unasked += [held for held, _, _ in routes]
        self._ask_at_ms = now_ms() + ASK_AGAIN_MS
        return None

    def _ask_again(self) -> None:
        """Start what the inbox could not be asked about before."""
        if self._state.stopping or now_ms() < self._ask_at_ms:
            return
        with self._state.lock:
            ready, self._unasked = [held for held in self._unasked if not held.taken_over], []
        if ready:
            self._start(ready)

    def _route(self, event: Event) -> int | Outcome:
        """Which handler takes an event: its number; or what becomes of the event without one.

        Without one it is DONE if the group does not take its type, ELSEWHERE if another member does.
        """
        try:
            event_type = event.type
        except DecodeError as error:  # its header is corrupt behind the first bytes
            return after_failure(error, held_of(event).attempt, self._routes[0][0].options.retry)
        for number, (spec, _) in enumerate(self._routes):
            if takes_type(spec.options.types, event_type):
                return number
        if self._state.filter.wanted_elsewhere(event_type):
            return ELSEWHERE
        return DONE if self._state.list_options is None else self._unknown(event, event_type)

    def _unknown(self, event: Event, event_type: str) -> Outcome:
        """A task of a list that nobody takes: there is no other group that might."""
        error: MillstreamError
        known = ", ".join(sorted({name for spec, _ in self._routes for name in spec.options.types}))
        try:
            _ = event.data
            what = (
                f"function {event_type!r} is not known here" if event_type else "the task names no function"
            )
            error = UnknownFunctionError(f"{what}; known: {known}")
        except DecodeError as problem:
            error = problem
        return after_failure(error, held_of(event).attempt, self._routes[0][0].options.retry)

    def _leave(self, held: Held, events: Sequence[Event]) -> None:
        """Let an entry go whose events, or some of them, another member takes: a pack event by event."""
        try:
            with self._state.lock:
                if held.events == 1:
                    self._release(held)
                else:
                    self._split(held, events, "released")
        except DecodeError as error:
            self._bury(held, after_failure(error, held.attempt, self._routes[0][0].options.retry))
            return
        self._say_left(held)

    def _reconsider(self) -> None:
        """Entries with events that were passed over by a filter that no longer stands. Under the lock."""
        state = self._state
        while state.doubted:
            held = state.doubted.popleft()
            if held.taken_over:
                continue
            passed = state.passed.pop(held, [])
            wanted = [event for event in passed if state.filter.wanted_elsewhere(event.type)]
            if wanted:
                state.counts.filtered -= len(wanted)
                self._say_left(held)
                if held.events == 1:
                    self._release(held)
                    continue
                try:
                    held.moves = (*held.moves, *(self._to_again(held, event, "released") for event in wanted))
                except DecodeError as error:
                    held.verdict = after_failure(error, held.attempt, self._routes[0][0].options.retry)
                    self._convict(held)
            if len(passed) > len(wanted):
                state.passed[held] = [e for e in passed if not any(e is one for one in wanted)]
            state.settling.append(held)

    def _say_left(self, held: Held) -> None:
        self._state.counts.released += 1
        self._state.say.warning(
            "released",
            "no handler here takes this type, but another member of the group does: the entry is left to it",
            stream=self._state.keys.stream,
            group=self._state.group,
            entry_id=held.shown_id,
            others=", ".join(self._state.filter.others),
        )

    def _finish(self, event: Event, outcome: Outcome) -> None:
        """Write down one event's outcome. Under the lock."""
        held = held_of(event)
        if self._inbox is not None and outcome.kind is not Kind.DONE:
            held.moves = [m for m in held.moves if m.kind != "done" or m.event != event._index]
        try:
            if outcome.kind is Kind.HAND_BACK:
                if held.events == 1:
                    held.returning = True
                else:
                    held.moves = (*held.moves, self._to_again(held, event, "handed back"))
            elif outcome.kind is not Kind.DONE:
                held.moves = (*held.moves, self._move(event, outcome))
            elif outcome.effects is not None:
                held.moves = (*held.moves, *self._wanted(event, outcome.effects))
        except DecodeError as error:  # not the event alone: what it came in cannot be taken apart
            retry = self._routes[0][0].options.retry
            held.verdict = held.verdict or after_failure(error, held.attempt, retry)
        held.unfinished -= 1
        if held.unfinished == 0:
            if held.verdict is not None:
                self._convict(held)
            self._state.settling.append(held)

    def _wanted(self, event: Event, effects: Effects) -> Sequence[Move]:
        """What the handler wants done for an event; its failure, if that is known not to be possible."""
        held = held_of(event)
        if self._state.cluster:
            slot = slot_of(held.ref.key)
            for call in effects.calls:
                if slot_of(call.key) != slot:
                    error = EffectRefusedError(
                        f"effect {call.command} {call.key!r}: in a cluster the key shares the stream's slot, as in "
                        f"{held.ref.keys.prefix + call.key!r}"
                    )
                    return [self._move(event, self._failed(event, error))]
        return effect_moves(effects, event._index)

    def _failed(self, event: Event, error: BaseException) -> Outcome:
        """What follows from a failure that its handler did not raise."""
        where = self._route(event)
        spec, _ = self._routes[where if isinstance(where, int) else 0]
        return after_failure(error, held_of(event).attempt, spec.options.retry)

    def _refuse(self, refused: Refused) -> None:
        """Events whose effects cannot be carried out have failed. Under the lock.

        What was carried out in part is a dead letter at once: a retry would carry that part out again.
        """
        held = refused.held
        if held.taken_over:
            return
        moves = [] if refused.half else [move for move in held.moves if move.event not in refused.problems]
        try:
            for index, problem in refused.problems.items():
                event = held.event(index)
                outcome = self._failed(event, EffectRefusedError(problem))
                if refused.half:
                    reason = f"an effect was refused after others had been carried out: {problem}"
                    outcome = replace(outcome, kind=Kind.DEAD, reason=reason, delay_ms=0)
                moves.append(self._move(event, outcome))
            held.moves = moves
        except DecodeError as error:
            held.verdict = after_failure(error, held.attempt, self._routes[0][0].options.retry)
            self._convict(held)
        self._state.settling.append(held)

    def _move(self, event: Event, outcome: Outcome) -> Move:
        held = held_of(event)
        fields = _alone(event)
        if outcome.kind is Kind.DEAD:
            letter = self._letter(event, outcome)
            return Move("dead", dead_fields(letter, fields), event._index, outcome=outcome)
        runs = held.attempt if outcome.kind is Kind.RETRY else held.attempt - 1
        again = self._again(held, event._index, runs, "retry")
        due_ms = (self._state.clock.now_ms(now_ms()) or 0) + outcome.delay_ms
        member = f"{held.shown_id}:{again.index}:{secrets.token_hex(6)}"
        if outcome.kind is Kind.RETRY:
            self._state.say.warning(
                f"retry {outcome.error}",
                "event failed, it runs again",
                stream=held.ref.keys.stream,
                group=held.ref.group,
                entry_id=held.shown_id,
                attempt=held.attempt,
                in_ms=outcome.delay_ms,
                error=f"{outcome.error}: {outcome.reason}",
            )
        body = retry_body(again_fields(again, fields))
        return Move("retry", (due_ms, member, body), event._index, outcome=outcome)

    def _again(self, held: Held, index: int, runs: int, why: str) -> Again:
        before = held.again
        replayed = before is not None and before.why.startswith(WORD)
        return Again(
            runs=runs,
            crashes=held.crashes,
            stream=before.stream if before else held.ref.keys.stream,
            entry_id=held.shown_id,
            index=before.index if before else index,
            first_failed_ms=(before.first_failed_ms if before else 0)
            or (int(time.time() * 1_000) if why == "retry" else 0),
            why=before.why if replayed and before else why,
        )

    def _letter(self, event: Event, outcome: Outcome, *, whole: bool = False) -> DeadLetter:
        """Why this event died; whole: and all that its entry holds."""
        held = held_of(event)
        before = held.again
        failed_ms = int(time.time() * 1_000)
        letter = DeadLetter(
            reason=outcome.reason,
            error=outcome.error,
            message=outcome.message or outcome.reason,
            traceback=outcome.traceback,
            attempts=held.attempt if outcome.error != "WorkerKilled" else held.attempt - 1,
            crashes=held.crashes,
            first_failed_ms=(before.first_failed_ms if before else 0) or failed_ms,
            last_failed_ms=failed_ms,
            host=HOST,
            consumer=self._state.consumer,
            group=held.ref.group,
            stream=before.stream if before else held.ref.keys.stream,
            entry_id=held.shown_id,
            index=before.index if before else event._index,
            event_id=_id_of(event, whole=whole),
            replay=before.why if before and before.why.startswith(WORD) else "",
        )
        self._state.say.warning(
            f"dead {outcome.error}",
            "event moved to dead letters",
            stream=letter.stream,
            group=letter.group,
            entry_id=letter.entry_id,
            attempts=letter.attempts,
            reason=letter.reason,
        )
        return letter

    def _bury(self, held: Held, outcome: Outcome) -> None:
        """The whole entry becomes a dead letter."""
        held.verdict = outcome
        with self._state.lock:
            self._convict(held)
            self._decided(held)

    def _convict(self, held: Held) -> None:
        """The entry as a whole is moved, its bytes unchanged. Under the lock."""
        assert held.verdict is not None, "there is something to be convicted for"
        letter = self._letter(held.event(0), held.verdict, whole=True)
        held.moves = (Move("dead", dead_fields(letter, held.fields), outcome=held.verdict),)

    def _split(self, held: Held, events: Sequence[Event], why: str = "split") -> None:
        """A pack that was running when its worker died: each event goes on alone, so that one convicts no others."""
        held.moves = [self._to_again(held, event, why) for event in events]
        self._decided(held)

    def _to_again(self, held: Held, event: Event, why: str) -> Move:
        """An event runs again, on its own; the attempt is not spent."""
        again = self._again(held, event._index, held.attempt - 1, why)
        return Move("again", again_fields(again, _alone(event)), event._index)

    def _return(self, held: Held) -> None:
        held.returning = True
        self._decided(held)

    def _release(self, held: Held) -> None:
        """Leave an entry to another member: not renewed any more, claimable after claim_after."""
        state, now = self._state, now_ms()
        state.releasing.add(held)
        if now >= state.released_until_ms + state.claim_after_ms:
            # Half of the time at most: what else the one on duty does must go on, and there may be no other.
            state.released_until_ms = now + state.claim_after_ms
        self._return(held)

    def _decided(self, held: Held) -> None:
        held.unfinished = 0
        self._state.settling.append(held)


def effect_moves(effects: Effects, index: int) -> list[Move]:
    """What the run of a handler wants done for the entry's event with this index: commands first, then events."""
    moves = [Move("call", (c.type, c.command, *c.args), index, (c.key,)) for c in effects.calls]
    for one in effects.emitted:
        keys = StreamKeys(one.stream)
        words: list[int | bytes] = [DEDUPE_MS, *one.fields]
        moves.append(Move("emit", words, index, (keys.stream, keys.ids(one.dedupe_id)), one.dedupe))
    return moves


def _alone(event: Event) -> Sequence[bytes]:
    """What holds this event alone: its entry's fields as they were sent, or, out of a pack, fields of its own.

    Raises:
        DecodeError: what it came in cannot be taken apart.
    """
    held = held_of(event)
    return encode_again(event) if held.is_pack else held.fields


def _id_of(event: Event, *, whole: bool) -> str:
    """The event's id, as far as it can be read; none for a pack as a whole."""
    try:
        return "" if whole and held_of(event).is_pack else event.id
    except (DecodeError, UnknownFormatError):
        return ""
