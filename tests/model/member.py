"""SteppedMember: a member of a group without its threads: each duty is done when the test says so.

All but the threads and the handlers is the real thing. The handlers are run by hand: which event starts, and how it
ends, is a step like any other.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Sequence

from consumers.claimer import Claimer
from consumers.delivery import held_of
from consumers.dispatch import Dispatch
from consumers.executors import Queue, done, drained, next_event
from consumers.heartbeat import Heartbeat
from consumers.janitor import Janitor
from consumers.membership import Membership
from consumers.promoter import Promoter
from consumers.reader import Reader
from consumers.settler import Settler
from consumers.state import MemberState
from consumers.window import Held, Window
from pipeline.declare import ConsumerSpec
from pipeline.errors import MillstreamError, NoSuchGroupError, NotConnectedError, ServerRefusedError
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.options import ConsumerOptions, Retry
from pipeline.outcome import Kind, Later, Reject, after_failure
from pipeline.server.connect import Link
from pipeline.server.groups import retire
from tests.model.fickle import FickleConnector, FickleLink
from tests.model.ledger import Run

CLAIM_AFTER_MS = 120_000
"""Longer than any example takes: entries are old when the test makes them so."""
ATTEMPTS = 3


class ByHand:
    """Executor: events wait until a step starts them, and run until a step ends them."""

    def __init__(self) -> None:
        self.queue: Queue = deque()
        self.running: list[Event] = []

    def submit(self, items: Sequence[Held | Event], *, here: bool = False) -> None:
        """See Executor."""
        self.queue.extend(items)

    def drain(self) -> list[Held | Event]:
        """See Executor."""
        return drained(self.queue)

    def idle(self) -> bool:
        """See Executor."""
        return not self.queue and not self.running

    def held_by(self, entries: Collection[Held]) -> list[Event]:
        """See Executor."""
        return [event for event in self.running if held_of(event) in entries]

    def give_up(self, event: Event) -> None:
        """See Executor. The handler runs on: it is one that cannot be cancelled."""

    def overdue(self, now_s: float) -> list[Event]:
        """See Executor."""
        return []

    def exhausted(self) -> bool:
        """See Executor."""
        return False

    def haunted(self) -> bool:
        """See Executor. None goes on."""
        return False

    def cancel_running(self) -> None:
        """See Executor."""

    def close(self) -> None:
        """See Executor."""


class SteppedMember:
    """One member. Whatever breaks a step ends it, as it would end a turn of the member's threads."""

    def __init__(self, connector: FickleConnector, keys: StreamKeys, group: str, name: str) -> None:
        options = ConsumerOptions(
            retry=Retry(attempts=ATTEMPTS, initial="1h", longest="1h"),
            concurrency=4,
            claim_after_ms=CLAIM_AFTER_MS,
            block_ms=1,
            grace_ms=0,
        )
        self.spec = ConsumerSpec(stream=keys.stream, group=group, handler=lambda event: None, options=options)
        self.state = MemberState(
            keys=keys,
            group=group,
            window=Window(least_events=8, fixed_events=8, max_bytes=1 << 20),
            claim_after_ms=CLAIM_AFTER_MS,
            own_claim_after_ms=CLAIM_AFTER_MS,
            consumer=name,
        )
        self._connector = connector
        self.hand = ByHand()
        self.outcomes: dict[Held, dict[int, Kind]] = {}
        """What the steps made of the events of what is held."""
        self.dispatch = Dispatch(self.state, [(self.spec, self.hand)])
        self.settler = Settler(self.state)
        self.membership = Membership(self.state, start="0-0")
        self.heartbeat = Heartbeat(self.state, self.dispatch)
        self.claimer = Claimer(self.state, self.dispatch, self.settler)
        self.promoter = Promoter(self.state)
        self.reader = Reader(self.state, self.dispatch, self.settler, block_ms=options.block_ms)
        self._reading = contextlib.ExitStack()
        self._links: dict[str, FickleLink] = {}
        self._joined = False
        self._swept = ""
        self.went_well = True
        """Whether the last step was not broken off."""

    @property
    def name(self) -> str:
        """The consumer name in the group."""
        return self.state.consumer

    @property
    def paused(self) -> bool:
        """It has heard that the group is paused."""
        return self.state.pause is not None

    def runs(self) -> dict[tuple[bool, str], Run]:
        """What is held, and what came of it so far."""
        running = {held_of(event) for event in self.hand.running}
        found = {}
        for held in self.state.window:
            outcomes = self.outcomes.get(held, {})
            found[held.ref.again, held.entry_id.decode()] = Run(
                held.attempt, tuple(outcomes.get(index) for index in range(held.count or 1)), held in running
            )
        return found

    # The reader's steps.

    def read(self) -> None:
        """One step of the reader: settle, read, hand on."""
        self.state.reader_wake.set()  # with nothing to do it would wait
        self._step("reader", self.reader.run_once)

    # The duty thread's steps.

    def beat(self) -> None:
        """A heartbeat, and the renewal of what is due for it."""

        def step(link: Link) -> None:
            swept, self._swept = self._swept, ""
            self.membership.run_once(link, swept=swept)
            self.heartbeat.run_once(link)
            if self.paused:
                self._hand_back_unstarted()

        self._step("duty", step)

    def sweep(self, *, missing: bool) -> None:
        """A look for what was abandoned, if this member is on duty."""

        def step(link: Link) -> None:
            duty = self.membership.duty
            if duty is not None and duty.on_duty and not self.paused:
                self._swept = self.claimer.run_once(link, duty, missing=missing) or self._swept
            else:
                self.state.sweeping = self.state.splitting = False

        self._step("duty", step)

    def promote(self) -> None:
        """Due retries go to the group's own stream."""
        if not self.paused:
            self._step("duty", self.promoter.run_once)

    def keep_house(self) -> None:
        """The position is saved, and who is gone for good is retired."""

        def step(link: Link) -> None:
            duty = self.membership.duty
            if duty is not None:
                Janitor(self.state).run_once(link, duty)

        self._step("duty", step)

    def settle(self) -> None:
        """What is finished is settled by the duty thread."""

        def step(link: Link) -> None:
            self.dispatch.collect()
            self.settler.run_once(link)

        self._step("duty", step)

    # What handlers do.

    def start(self) -> Event | None:
        """A handler begins with the next event."""
        event = next_event(self.hand.queue)
        if event is not None:
            self.hand.running.append(event)
        return event

    def finish(self, which: int, kind: Kind) -> None:
        """A handler ends: it returns, raises, or says not now."""
        if not self.hand.running:
            self.start()
        if not self.hand.running:
            return
        event = self.hand.running.pop(which % len(self.hand.running))
        held = held_of(event)
        assert event.data is not None
        if kind is Kind.DONE:
            self.state.finished.append(done(event))
        else:
            errors = {Kind.DEAD: Reject("no"), Kind.LATER: Later("1h"), Kind.RETRY: ValueError("no")}
            outcome = after_failure(errors[kind], held.attempt, self.spec.options.retry)
            self.state.finished.append((event, outcome))
        self.outcomes.setdefault(held, {})[event._index] = kind

    # How a member ends.

    def stop(self) -> None:
        """Ask for the end: nothing more is read, and what did not start is handed back."""
        self.state.stop_asked.set()
        self._end("reader")
        self._hand_back_unstarted()

    def _hand_back_unstarted(self) -> None:
        waiting = [item for item in self.hand.queue if isinstance(item, Event)]
        self.dispatch.hand_back_unstarted()
        for event in waiting:
            self.outcomes.setdefault(held_of(event), {})[event._index] = Kind.HAND_BACK

    def leave(self) -> None:
        """The last step, once no handler runs: settle, say goodbye, and take the name along if it holds nothing."""

        def step(link: Link) -> None:
            self.dispatch.collect()
            self.settler.run_once(link)
            empty = not len(self.state.window)
            self.membership.leave(link, for_good=empty)
            if empty:
                retire(link, self.state.keys, self.state.group, self.name)

        self._step("duty", step)

    def crash(self) -> None:
        """kill -9."""
        for link in self._links.values():
            link.close()

    def connect(self, purpose: str) -> None:
        """Make the connection of a thread anew: whatever was under way on it is in doubt."""
        if purpose in self._links:
            self._links[purpose].close()
        self._step(purpose, lambda link: None)

    def trouble(self, purpose: str, lose_from: int) -> None:
        """A thread's connection is going to lose something (see FickleLink)."""
        link = self._links.get(purpose)
        if link is not None:
            link.lose_from = lose_from

    def forget_time(self) -> None:
        """What is held is due for renewal."""
        for held in self.state.window:
            held.renewed_ms -= CLAIM_AFTER_MS

    def _step(self, purpose: str, step: Callable[[Link], object]) -> None:
        """One turn of a thread, with what follows from its failure."""
        self.went_well = False
        try:
            link = self._link(purpose)
            step(link)
            self.went_well = True
        except NoSuchGroupError as error:
            self._end(purpose, error)
            with contextlib.suppress(NotConnectedError, ServerRefusedError):
                self.membership.join(self._link("duty"))
        except (NotConnectedError, ServerRefusedError) as error:
            self._end(purpose, error)

    def _link(self, purpose: str) -> FickleLink:
        link = self._links.get(purpose)
        if link is None or link.closed:
            self._end(purpose)
            link = self._links[purpose] = self._connector.link(purpose)
            if not self._joined:
                self.membership.join(link)
                self._joined = True
            if purpose == "reader":
                self._reading.enter_context(self.reader.over(link))
        return link

    def _end(self, purpose: str, error: MillstreamError | None = None) -> None:
        if purpose == "reader":
            reading, self._reading = self._reading, contextlib.ExitStack()
            with contextlib.suppress(MillstreamError):
                reading.__exit__(type(error) if error else None, error, None)
        link = self._links.pop(purpose, None)
        if link is not None:
            link.close()
