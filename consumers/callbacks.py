"""Callbacks: tells an application what became of its events: on_success, on_retry, on_dead.

Each is called after the server has done it, at most once, in the order in which the server's answers came, on a thread
of its own, which a member has only if one was given; what an async one returns runs on the handlers' event loop. One
that raises is logged and counted, and changes nothing. Killed, it tells nothing of what was settled and not told yet.
"""

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from consumers.delivery import Delivery
from consumers.state import MemberState
from consumers.window import Held
from pipeline.declare import ConsumerSpec, takes_type
from pipeline.envelope import DeadLetter, read_dead
from pipeline.errors import DecodeError, UnknownFormatError
from pipeline.event import Event
from pipeline.outcome import Kind
from pipeline.server.groups import Move

MOST_EVENTS = 10_000
"""With more events to tell of than this, the member reads no more until some were told."""
_UNREADABLE = (DecodeError, UnknownFormatError)


class Callbacks:
    """What one member has to tell, and the thread that does."""

    def __init__(
        self, state: MemberState, specs: Sequence[ConsumerSpec], loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self._state = state
        self._specs = specs
        self._loop = loop
        self._successes = any(spec.options.on_success is not None for spec in specs)
        self._queue: deque[tuple[Held, Sequence[Event], bool]] = deque()
        """Settled entries, events of them that were passed over, and whether what is done was done by this run."""
        self._waiting = 0
        """Events of these, about."""
        self._there = threading.Condition()
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"millstream-{state.group}-callbacks", daemon=True
        )

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def settled(self, held: Sequence[Held]) -> None:
        """These entries are acknowledged: all their events are done. Under the member's lock."""
        if self._successes:
            self._put([(one, self._state.passed.get(one, ()), True) for one in held])

    def moved(self, held: Held, *, done_here: bool) -> None:
        """This entry is settled, and its events went where its moves say. Under the member's lock.

        done_here: False if what is done was done by another run of it.
        """
        if self._successes or any(move.outcome is not None for move in held.moves):
            self._put([(held, self._state.passed.get(held, ()), done_here)])

    def full(self) -> bool:
        """Whether too much is to be told for more to be read."""
        return self._waiting > MOST_EVENTS

    def idle(self) -> bool:
        """Whether all was told."""
        return not self._queue and not self._busy

    def close(self, timeout_s: float) -> None:
        """Tell what is left, for at most so long."""
        deadline_s = time.monotonic() + timeout_s
        with self._there:
            self._there.wait_for(self.idle, max(timeout_s, 0))
            self._closed = True
            left = self._waiting
            self._queue.clear()
            self._there.notify_all()
        if self._thread.ident is not None:
            self._thread.join(max(deadline_s - time.monotonic(), 0))
        if left:
            self._state.say.warning(
                "callbacks",
                "the member stops before all was told to callbacks",
                group=self._state.group,
                events=left,
            )

    def _put(self, told: list[tuple[Held, Sequence[Event], bool]]) -> None:
        with self._there:
            if self._closed:
                return
            self._queue.extend(told)
            self._waiting += sum(one[0].events for one in told)
            self._there.notify_all()

    def _run(self) -> None:
        while True:
            with self._there:
                self._busy = False
                self._there.notify_all()
                self._there.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                held, passed, done_here = self._queue.popleft()
                self._busy = True
            self._tell(held, passed, done_here)
            with self._there:
                was_full = self.full()
                self._waiting -= held.events
            if was_full and not self.full():
                self._state.reader_wake.set()

    def _tell(self, held: Held, passed: Sequence[Event], done_here: bool) -> None:
        ended = {move.event for move in held.moves if move.kind in ("again", "retry", "dead")}
        for move in held.moves:
            if move.outcome is not None:
                self._tell_move(held, move)
        if not self._successes or not done_here or held.verdict is not None:
            return
        recorded = {move.event for move in held.moves if move.kind == "done"}
        skipped = {event._index for event in passed} | ended
        try:
            events = held.all_events()
        except _UNREADABLE:
            return  # it was acknowledged without anybody looking at it
        for event in events:
            spec = self._spec(event)
            if event._index in skipped or spec is None or spec.options.on_success is None:
                continue
            if not spec.options.once or event._index in recorded:  # else it was done before, and passed over
                self._call("on_success", spec.options.on_success, event, Delivery(event, spec))

    def _tell_move(self, held: Held, move: Move) -> None:
        outcome, event = move.outcome, held.event(move.event)
        spec = self._spec(event) or self._specs[0]
        options = spec.options
        assert outcome is not None, "something was decided"
        if outcome.kind is Kind.RETRY and options.on_retry is not None:
            self._call("on_retry", options.on_retry, event, Delivery(event, spec), outcome)
        elif outcome.kind is Kind.DEAD and options.on_dead is not None:
            letter = _letter(move)
            self._call("on_dead", options.on_dead, event if _readable(event) else None, letter)

    def _spec(self, event: Event) -> ConsumerSpec | None:
        """The declared handler of an event; None if its type is none that is handled here."""
        if len(self._specs) == 1 and not self._specs[0].options.types:
            return self._specs[0]
        try:
            return next((spec for spec in self._specs if takes_type(spec.options.types, event.type)), None)
        except _UNREADABLE:
            return self._specs[0]

    def _call(self, name: str, callback: Callable[..., Any], *args: object) -> None:
        try:
            result = callback(*args)
            if inspect.isawaitable(result):
                assert self._loop is not None, "its handler is async"
                asyncio.run_coroutine_threadsafe(_awaited(result), self._loop).result()
        except BaseException as error:  # noqa: BLE001 - whatever it raises, the event is settled
            self._state.counts.callbacks_failed += 1
            self._state.say.warning(
                f"callback {name} {type(error).__name__}",
                f"{name} raised; what it was told of is settled all the same",
                stream=self._state.keys.stream,
                group=self._state.group,
                error=f"{type(error).__name__}: {error}",
            )


def _letter(move: Move) -> DeadLetter:
    letter, _ = read_dead([field for field in move.fields if isinstance(field, bytes)])
    assert letter is not None, "a dead letter begins with its envelope"
    return letter


def _readable(event: Event) -> bool:
    try:
        _ = event.type, event.data
    except _UNREADABLE:
        return False
    return True


async def _awaited(result: Any) -> None:
    await result
