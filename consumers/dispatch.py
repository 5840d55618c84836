"""Dispatch: turns entries into deliveries, and what handlers decided into what is settled.

Pure but for handing deliveries to executors: it decodes, routes by type, keeps suspects of a crash in small company
(pipeline/ladder.py), and writes down where each event of an entry goes. Called by the reader and the duty thread.
"""

import random
import secrets
import socket
import threading
import time
from collections.abc import Sequence

from consumers.delivery import Delivery
from consumers.executors import Executor, MaxRunError
from consumers.state import MemberState, now_ms
from consumers.window import Held
from pipeline.declare import ConsumerSpec, takes_type
from pipeline.envelope import Again, DeadLetter, again_fields, dead_fields, read_again, retry_body
from pipeline.errors import DecodeError, UnknownFormatError
from pipeline.event import Event
from pipeline.ladder import MAX_CRASHES, company
from pipeline.outcome import DONE, Kind, Outcome, after_failure
from pipeline.server.groups import Move
from pipeline.wire import decode_entry, encode_again

HOST = socket.gethostname()


class Dispatch:
    """The way from entries to handlers and back, for one member."""

    def __init__(self, state: MemberState, routes: Sequence[tuple[ConsumerSpec, Executor]]) -> None:
        self._state = state
        self._routes = routes
        self._suspects: list[tuple[Held, list[Event]]] = []
        self._fewest_held = 0
        """The least that was held beside waiting suspects; 0 while none wait."""
        self._fewer_ms = 0
        """When it last got less."""
        self._collecting = threading.Lock()
        self._rng = random.Random()

    def offer(self, entries: Sequence[Held]) -> None:
        """Decode entries that are in the window and start their events, or decide about them without a handler."""
        ready: list[tuple[Held, list[Event]]] = []
        for held in entries:
            events = self._events(held)
            if events is not None:
                ready.append((held, events))
        self._start(ready)
        self.start_suspects()

    def collect(self) -> None:
        """Take in the outcomes of handlers; entries without unfinished events go to the settler."""
        finished = self._state.finished
        if finished:
            with self._collecting, self._state.lock:
                while finished:
                    delivery, outcome = finished.popleft()
                    if not delivery.abandoned and not delivery.held.taken_over:
                        self._finish(delivery, outcome)
        self.start_suspects()

    def fail_overdue(self) -> None:
        """Deliveries beyond max_run have failed: their slot is given up, their outcome decided here."""
        for spec, executor in self._routes:
            for delivery in executor.overdue(time.monotonic()):
                error = MaxRunError(
                    f"handler {spec.name} ran longer than max_run={spec.options.max_run_ms} ms"
                )
                with self._state.lock:
                    if not delivery.abandoned and not delivery.held.taken_over:
                        self._finish(delivery, after_failure(error, delivery.attempt, spec.options.retry))
                executor.give_up(delivery)
            if executor.exhausted():
                self._state.fail(
                    MaxRunError(f"all slots of handler {spec.name} are taken by handlers that never return")
                )

    def give_up(self, lost: Sequence[Held]) -> None:
        """These entries are not ours any more: cancel what can be cancelled. Not under the lock."""
        gone = set(lost)
        for _, executor in self._routes:
            for delivery in executor.held_by(gone):
                executor.give_up(delivery)

    def hand_back_unstarted(self) -> None:
        """Give up what no handler has begun."""
        waiting = [delivery for _, executor in self._routes for delivery in executor.drain()]
        with self._state.lock:
            suspects, self._suspects = self._suspects, []
            for held, _ in suspects:
                self._return(held)
            by_entry: dict[int, list[Delivery]] = {}
            for delivery in waiting:
                by_entry.setdefault(id(delivery.held), []).append(delivery)
            for deliveries in by_entry.values():
                held = deliveries[0].held
                if len(deliveries) == held.events:
                    self._return(held)
                else:
                    for delivery in deliveries:
                        self._finish(delivery, Outcome(Kind.HAND_BACK))

    def hand_back(self, entries: Sequence[Held]) -> None:
        """Give up entries that were read and not offered."""
        with self._state.lock:
            for held in entries:
                self._return(held)

    def idle(self) -> bool:
        """Whether no handler runs and none is about to."""
        return not self._suspects and all(executor.idle() for _, executor in self._routes)

    def start_suspects(self) -> None:
        """Start what may have killed a worker, once the member holds little enough beside it."""
        if not self._suspects:
            return
        state = self._state
        with state.lock:
            self._suspects = [one for one in self._suspects if not one[0].taken_over]
            limit = state.window.limit()
            if not self._suspects or limit is None:
                return
            if len(state.window) > limit:
                if len(state.window) == len(
                    self._suspects
                ):  # nothing but suspects: keep a few, others may have the rest
                    for held, _ in self._suspects[limit:]:
                        self._return(held)
                    del self._suspects[limit:]
                elif not self._fewest_held or len(state.window) < self._fewest_held:
                    self._fewest_held, self._fewer_ms = len(state.window), now_ms()
                elif now_ms() - self._fewer_ms > state.claim_after_ms:
                    # What runs beside them takes long: another member may be free sooner.
                    for held, _ in self._suspects:
                        self._release(held)
                    self._suspects.clear()
                    self._fewest_held = 0
                return
            ready, self._suspects = self._suspects, []
            self._fewest_held = 0
        self._start(ready)

    def _events(self, held: Held) -> list[Event] | None:
        """The events of an entry to be started now; None if it was decided about, or must wait."""
        state = self._state
        fields = list(held.fields)
        try:
            if held.ref.again:
                held.again, fields = read_again(fields)
                if held.again is None:
                    raise DecodeError("an entry of the group's own stream lacks its envelope")
            if held.crashes >= MAX_CRASHES:
                reason = (
                    f"killed its worker: {held.crashes} runs ended without an outcome, the last one alone"
                )
                self._bury(held, fields, Outcome(Kind.DEAD, reason=reason, error="WorkerKilled"))
                return None
            origin = held.again.entry_id.encode() if held.again else None
            entry = decode_entry(held.entry_id, fields, origin=origin)
            events = entry.events
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
            return None
        except DecodeError as error:
            self._bury(held, fields, after_failure(error, held.attempt, self._routes[0][0].options.retry))
            return None
        with state.lock:
            if held.taken_over:
                return None
            if entry.is_pack and held.deliveries > 1:
                self._split(held, events)
                return None
            state.window.counted(held, len(events))
            limit = company(held.crashes)
            if limit is not None:
                state.window.suspect(held, limit)
                self._suspects.append((held, events))
                return None
        return events

    def _start(self, ready: Sequence[tuple[Held, list[Event]]]) -> None:
        routed: list[list[Delivery]] = [[] for _ in self._routes]
        for held, events in ready:
            for index, event in enumerate(events):
                for number, (spec, _) in enumerate(self._routes):
                    if takes_type(spec.options.types, event.type):
                        routed[number].append(Delivery(event, held, index, spec))
                        break
                else:
                    with self._state.lock:
                        self._state.counts.filtered += 1
                        self._finish(Delivery(event, held, index, self._routes[0][0]), DONE)
        for deliveries, (_, executor) in zip(routed, self._routes, strict=True):
            if deliveries:
                executor.submit(deliveries)

    def _finish(self, delivery: Delivery, outcome: Outcome) -> None:
        """Write down one event's outcome. Under the lock."""
        held = delivery.held
        if outcome.kind is Kind.HAND_BACK:
            if held.events == 1:
                held.returning = True
            else:
                again = self._again(held, delivery.index, held.attempt - 1, "handed back")
                held.moves = (*held.moves, Move("again", again_fields(again, encode_again(delivery.event))))
        elif outcome.kind is not Kind.DONE:
            held.moves = (*held.moves, self._move(delivery, outcome))
        held.unfinished -= 1
        if held.unfinished == 0:
            self._state.settling.append(held)

    def _move(self, delivery: Delivery, outcome: Outcome) -> Move:
        held = delivery.held
        fields = encode_again(delivery.event)
        if outcome.kind is Kind.DEAD:
            return Move("dead", dead_fields(self._letter(held, delivery.index, outcome), fields))
        runs = held.attempt if outcome.kind is Kind.RETRY else held.attempt - 1
        again = self._again(held, delivery.index, runs, "retry")
        due_ms = (self._state.clock.now_ms(now_ms()) or 0) + outcome.delay_ms
        member = f"{delivery.entry_id}:{again.index}:{secrets.token_hex(6)}"
        if outcome.kind is Kind.RETRY:
            self._state.say.warning(
                f"retry {outcome.error}",
                "event failed, it runs again",
                stream=delivery.stream,
                group=delivery.group,
                entry_id=delivery.entry_id,
                attempt=delivery.attempt,
                in_ms=outcome.delay_ms,
                error=f"{outcome.error}: {outcome.reason}",
            )
        return Move("retry", (due_ms, member, retry_body(again_fields(again, fields))))

    def _again(self, held: Held, index: int, runs: int, why: str) -> Again:
        before = held.again
        replayed = before is not None and before.why.startswith("replay")
        return Again(
            runs=runs,
            crashes=held.crashes,
            stream=before.stream if before else held.ref.keys.stream,
            entry_id=before.entry_id if before else held.entry_id.decode(),
            index=before.index if before else index,
            first_failed_ms=(before.first_failed_ms if before else 0)
            or (int(time.time() * 1_000) if why == "retry" else 0),
            why=before.why if replayed and before else why,
        )

    def _letter(self, held: Held, index: int, outcome: Outcome) -> DeadLetter:
        before = held.again
        failed_ms = int(time.time() * 1_000)
        letter = DeadLetter(
            reason=outcome.reason,
            error=outcome.error,
            message=outcome.reason,
            traceback=outcome.traceback,
            attempts=held.attempt if outcome.error != "WorkerKilled" else held.attempt - 1,
            crashes=held.crashes,
            first_failed_ms=(before.first_failed_ms if before else 0) or failed_ms,
            last_failed_ms=failed_ms,
            host=HOST,
            consumer=self._state.consumer,
            group=held.ref.group,
            stream=before.stream if before else held.ref.keys.stream,
            entry_id=before.entry_id if before else held.entry_id.decode(),
            index=before.index if before else index,
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

    def _bury(self, held: Held, fields: list[bytes], outcome: Outcome) -> None:
        """The whole entry becomes a dead letter, its bytes unchanged."""
        with self._state.lock:
            held.moves = (Move("dead", dead_fields(self._letter(held, 0, outcome), fields)),)
            self._decided(held)

    def _split(self, held: Held, events: Sequence[Event]) -> None:
        """A pack that was running when its worker died: each event goes on alone, so that one convicts no others."""
        held.moves = [
            Move(
                "again",
                again_fields(self._again(held, index, held.attempt - 1, "split"), encode_again(event)),
            )
            for index, event in enumerate(events)
        ]
        self._decided(held)

    def _return(self, held: Held) -> None:
        held.returning = True
        self._decided(held)

    def _release(self, held: Held) -> None:
        """Leave an entry to another member: not renewed any more, claimable after claim_after."""
        self._state.releasing.add(held)
        self._state.released_until_ms = now_ms() + self._state.claim_after_ms
        self._return(held)

    def _decided(self, held: Held) -> None:
        held.unfinished = 0
        self._state.settling.append(held)
