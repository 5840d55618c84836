"""Member: one process's part in a consumer group: two threads, and a clear end.

The reader thread reads and settles; the duty thread keeps the heartbeat, renews, sweeps, promotes, and settles while
the reader waits at the server. Handlers run elsewhere (executors). Each thread has its own connection, and after any
failure a new one. Killed at any instruction, it leaves its entries pending under its name, for others to take over.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from consumers.callbacks import Callbacks
from consumers.claimer import Claimer
from consumers.dispatch import Dispatch
from consumers.executors import Executor
from consumers.heartbeat import Heartbeat
from consumers.inbox import Inbox
from consumers.janitor import Janitor
from consumers.list_duties import ListDuties
from consumers.list_watcher import ListWatcher
from consumers.loop_executor import LoopExecutor
from consumers.membership import Membership
from consumers.promoter import Promoter
from consumers.reader import Reader, unseen, unwatch
from consumers.settler import Settler
from consumers.state import Counts, MemberState, now_ms
from consumers.thread_executor import ThreadExecutor
from consumers.turns import Turns
from consumers.window import Held, Window
from pipeline.backoff import RECONNECT, Backoff
from pipeline.declare import CALLBACKS, ConsumerSpec
from pipeline.errors import (
    MillstreamError,
    NoSuchGroupError,
    ServerRefusedError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.filters import GroupFilter, filter_text
from pipeline.keys import StreamKeys
from pipeline.list_options import ListOptions
from pipeline.observe.log import get_logger
from pipeline.observe.trouble import trouble_with
from pipeline.server.connect import Connector, Link
from pipeline.server.error_map import Reaction, row_of
from pipeline.server.groups import names_left, retire, wrong_keys
from pipeline.server.lists import drain_hand, give_back

TICK_S = 0.5
"""Heartbeats, and looks for something to take over, come at least this often, in s."""
TICKS_PER_CLAIM_AFTER = 6
"""And so often within claim_after: what is due for renewal after a third of it is renewed by half of it."""
STEADY_S = 5.0
"""A link that worked for so long starts the backoff anew, in s."""
AWAY = Backoff(initial_ms=100, longest_ms=1_000, jitter=0.5)
"""Between tries of a member that leaves while the server is away, or refuses."""
PROMOTE_AGAIN_MS = 1_000
"""A server that is out of memory is asked so much later to promote what is due, in ms."""
RENEWED = 3
"""What is held is renewed this often within claim_after: for a part of it nothing comes amiss."""
LOG_IN_S = 30.0
"""A password that is kept in a file may be refused for so long before the member ends: it is being changed."""
LEAVE_S = 2.0
"""Settling and leaving may take so long at the end, in s, even if grace is used up."""

MakeExecutor = Callable[[ConsumerSpec, MemberState], Executor]


class Member:
    """A member of a group of one stream, with one or more handlers that share the group by event type."""

    def __init__(
        self,
        connector: Connector,
        specs: Sequence[ConsumerSpec],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        start: str = "0-0",
        make_executor: MakeExecutor | None = None,
    ) -> None:
        """specs: handlers of one stream and group; loop: where async ones run; start: entry id or $ for a new group."""
        first = specs[0]
        options = [spec.options for spec in specs]
        per_call = max(spec.concurrency * (spec.options.batch or 1) for spec in specs)
        fixed = [o.window_events for o in options if o.window_events is not None]
        claim_after_ms = max(o.claim_after_ms for o in options)
        self.specs = specs
        self.state = MemberState(
            keys=StreamKeys(first.stream),
            group=first.group,
            window=Window(
                least_events=2 * per_call,
                fixed_events=min(fixed) if fixed else None,
                max_bytes=max(o.window_bytes for o in options),
            ),
            list_options=first.list,
            claim_after_ms=claim_after_ms,
            own_claim_after_ms=claim_after_ms,
            pause_above=min(o.pause_above for o in options),
            filter=GroupFilter(own=filter_text(o.types for o in options)),
        )
        self._connector = connector
        self._trouble = trouble_with(connector.shown)
        self._grace_ms = max(o.grace_ms for o in options)
        self._executors = [(spec, self._executor(spec, loop, make_executor)) for spec in specs]
        self._inbox = Inbox(self.state, lambda: connector.link(f"{first.group} inbox"))
        self._dispatch = Dispatch(self.state, self._executors, self._inbox)
        self._settler = Settler(self.state)
        wanted = any(getattr(o, name) is not None for o in options for name in CALLBACKS)
        self._callbacks = Callbacks(self.state, specs, loop) if wanted else None
        self.state.callbacks = self._callbacks
        self._membership = Membership(self.state, start=start)
        self._heartbeat = Heartbeat(self.state, self._dispatch)
        self._claimer = Claimer(self.state, self._dispatch, self._settler)
        self._promoter = Promoter(self.state)
        self._janitor = Janitor(self.state)
        self._turns = Turns()
        block_ms = min(o.block_ms for o in options)
        self._readers = [
            Reader(self.state, self._dispatch, self._settler, block_ms=block_ms, turns=self._turns)
            for _ in range(
                2 if any(isinstance(executor, ThreadExecutor) for _, executor in self._executors) else 1
            )
        ]
        self._list_duties = ListDuties(self.state, first.list) if first.list else None
        self._watcher = ListWatcher(self.state, first.list, block_ms=block_ms) if first.list else None
        self._joining = threading.Lock()
        self._ended = threading.Event()
        self._run_id = ""
        self._swept = ""
        self._promote_from_ms = 0
        self._beat_ms: int | None = None
        """When the last heartbeat was answered, if none has failed since."""
        self._silent_since_ms: int | None = None
        """Since when none was answered."""
        self._leave_by_s = 0.0
        self._returned: int | None = None
        """How much had been handed back when tasks that nobody asked for were last put back to their list."""
        self._reader_threads = [
            threading.Thread(
                target=self._read,
                args=(reader,),
                name=f"millstream-{first.group}-reader-{number}",
                daemon=True,
            )
            for number, reader in enumerate(self._readers)
        ]
        self._watcher_thread = threading.Thread(
            target=self._watch, name=f"millstream-{first.group}-watcher", daemon=True
        )
        self._duty_thread = threading.Thread(
            target=self._do_duties, name=f"millstream-{first.group}-duty", daemon=True
        )

    @property
    def name(self) -> str:
        """The consumer name in the group."""
        return self.state.consumer

    @property
    def counts(self) -> Counts:
        """What this member has done so far."""
        return self.state.counts

    @property
    def failure(self) -> MillstreamError | None:
        """Why the member stopped by itself; None while it runs, or after a stop that was asked for."""
        return self.state.failure

    def start(self) -> None:
        """Join the group and begin to read.

        Raises:
            MillstreamError: the server cannot be reached or used, or the stream's key holds something else. Later
            failures do not raise: what passes is waited out, what does not ends the member (see failure).
        """
        link = self._connector.link(f"{self.state.group} join")
        try:
            self._membership.join(link)
        except WrongKeyTypeError as error:
            raise self._named(link, error) from None
        finally:
            link.close()
        capabilities = self._connector.capabilities()
        self._run_id, self.state.cluster = capabilities.run_id, capabilities.cluster_nodes > 0
        for thread in self._reader_threads:
            thread.start()
        if self._watcher is not None:
            self._watcher_thread.start()
        if self._callbacks is not None:
            self._callbacks.start()
        self._duty_thread.start()

    def idle(self) -> bool:
        """Whether nothing is held: all that was read is settled."""
        return not self.state.finished and not len(self.state.window)

    def told(self) -> bool:
        """Whether callbacks were told of all that is settled."""
        return self._callbacks is None or self._callbacks.idle()

    def stop(self, *, grace_ms: int | None = None) -> bool:
        """Stop reading, let handlers finish within grace, settle, hand back what did not start, and leave.

        Returns:
            True if everything held was settled or handed back; False if handlers were still running, or the server
            was away: then the rest is taken over by others after claim_after.
        """
        state = self.state
        grace_s = (self._grace_ms if grace_ms is None else grace_ms) / 1_000
        deadline_s = time.monotonic() + grace_s
        state.stop_asked.set()
        state.wake_all()
        if self._reader_threads[0].ident is not None:
            self._turns.await_end(max(grace_s, LEAVE_S))
        if self._watcher_thread.ident is not None:
            self._watcher_thread.join(LEAVE_S)
        self._dispatch.hand_back_unstarted()
        self._await_handlers(deadline_s)
        if not self._dispatch.idle():
            for _, executor in self._executors:
                executor.cancel_running()
            self._await_handlers(time.monotonic() + LEAVE_S)
        self._leave_by_s = max(deadline_s, time.monotonic() + LEAVE_S)
        self._ended.set()
        state.wake_all()
        if self._duty_thread.ident is not None:
            self._duty_thread.join(max(deadline_s - time.monotonic(), LEAVE_S) + LEAVE_S)
        for _, executor in self._executors:
            executor.close()
        self._inbox.close()
        if self._callbacks is not None:
            self._callbacks.close(max(deadline_s - time.monotonic(), LEAVE_S))
        for one in (self, self._promoter):
            self._trouble.left(one)
        return self.idle()

    def _executor(
        self, spec: ConsumerSpec, loop: asyncio.AbstractEventLoop | None, make: MakeExecutor | None
    ) -> Executor:
        if make is not None:
            return make(spec, self.state)
        if spec.is_async:
            if loop is None:
                raise UsageError(f"handler {spec.name} is async: it needs an event loop")
            return LoopExecutor(spec, self.state.finished, self.state.abandoned, self.state.wake, loop)
        return ThreadExecutor(spec, self.state.finished, self.state.abandoned, self.state.wake)

    def _await_handlers(self, deadline_s: float) -> None:
        state = self.state
        while not self._dispatch.idle() and time.monotonic() < deadline_s:
            self._dispatch.hand_back_unstarted()  # a thread may have had the rest of a pack in its hands before
            state.reader_wake.wait(0.05)  # set by each handler that finishes; the reader has gone
            state.reader_wake.clear()

    def _read(self, reader: Reader) -> None:
        while self._turns.wait(reader):
            try:
                self._keep_up("reader", reader.run, self.state.stop_asked)
            finally:
                self._turns.end(reader)

    def _watch(self) -> None:
        assert self._watcher is not None, "start() looked"
        self._keep_up("watcher", self._watcher.run, self.state.stop_asked)

    def _do_duties(self) -> None:
        link = self._keep_up("duty", self._duties, self._ended)
        # A server that is away just now may be back within grace: what is finished is worth waiting for.
        tries, idle_by_s = 0, time.monotonic()
        if self.state.list_options is not None:
            idle_by_s += LEAVE_S  # what lies unread in the stream is still to go back to the list
        while link is None or not self._left(link):
            idle = self.idle() and time.monotonic() > idle_by_s
            if self.state.failure is not None or idle or time.monotonic() > self._leave_by_s:
                return
            if tries:
                time.sleep(AWAY.wait_ms(tries) / 1_000)
            tries += 1
            try:
                link = self._connect("duty")
            except MillstreamError as error:
                link = None
                self.state.say.warning("leave", "cannot settle what is finished yet", error=str(error))

    def _keep_up(self, purpose: str, run: Callable[[Link], None], over: threading.Event) -> Link | None:
        """Do one thread's work over a link, and over a new one after each failure, until it is over."""
        state = self.state
        link: Link | None = None
        failures, denied_s = 0, 0.0
        while not over.is_set():
            begun_s, done = time.monotonic(), state.counts.read + state.counts.settled
            try:
                if link is None or link.closed:
                    link = self._connect(purpose)
                run(link)
                break
            except NoSuchGroupError:
                if link is not None and not self._rejoined(link):
                    link.close()
            except MillstreamError as error:
                reaction = row_of(error).member
                if reaction is Reaction.LOG_IN and self._connector.may_log_in_anew:
                    denied_s = denied_s or time.monotonic()
                    if time.monotonic() - denied_s < LOG_IN_S:
                        reaction = Reaction.WAIT
                if reaction not in (Reaction.WAIT, Reaction.ELSEWHERE, Reaction.TEACH):  # no waiting mends it
                    state.fail(self._named(link, error))
                    break
                if link is not None and reaction is Reaction.ELSEWHERE:
                    link.close()
                self._trouble.met(self, error)
                if purpose == "duty":
                    self._silent()
            except (
                BaseException
            ) as error:  # a defect of ours must end the member in plain sight, not one thread of it
                state.fail(MillstreamError(f"the {purpose} thread failed: {error!r}"))
                raise
            # What was read or settled meanwhile shows that the server can be worked with: only a dead one is spared.
            worked = state.counts.read + state.counts.settled > done or time.monotonic() - begun_s > STEADY_S
            failures = 1 if worked else failures + 1
            denied_s = 0.0 if worked else denied_s
            wait_s = RECONNECT.wait_ms(failures) / 1_000
            if purpose != "reader":  # back in time to renew what is held, as soon as that can be done
                over.wait(min(wait_s, state.claim_after_ms / RENEWED / 1_000))
            else:
                state.back.wait(wait_s)
                state.back.clear()
        if purpose != "duty":
            if link is not None:
                link.close()
            return None
        return link if link is not None and not link.closed else None

    def _connect(self, purpose: str) -> Link:
        """A new link; another server process behind the address means that idle times are not to be trusted yet."""
        state = self.state
        if purpose == "duty":
            self._connector.forget_capabilities()
        link = self._connector.link(f"{state.group} {purpose}")
        run_id = self._connector.capabilities().run_id
        if (
            run_id and run_id != self._run_id
        ):  # while a script or loading keeps it busy, a server does not say
            # Live members could not renew while the server was away; give them one claim_after.
            self._run_id = run_id
            state.clock.suspend(now_ms(), state.claim_after_ms)
        return link

    def _named(self, link: Link | None, error: MillstreamError) -> MillstreamError:
        """The error, with the name of the key that holds something else, where the server tells."""
        if not isinstance(error, WrongKeyTypeError) or link is None or link.closed:
            return error
        try:
            wrong = wrong_keys(link, self.state.keys, self.state.group, queue=self.state.list_options)
        except MillstreamError:
            return error
        what = "stream" if self.state.list_options is None else "list"
        return (
            WrongKeyTypeError(
                f"{what} {self.specs[0].consumed!r}, group {self.state.group!r}: {', '.join(wrong)}"
            )
            if wrong
            else error
        )

    def _silent(self) -> None:
        """No heartbeat got through: whatever the duty thread does that needs no server goes on."""
        self._dispatch.fail_overdue()
        if self._beat_ms is not None:
            self._silent_since_ms, self._beat_ms = self._beat_ms, None

    def _answered(self) -> None:
        """A heartbeat got through. After a long silence others may not have renewed either: they get their time."""
        state, now = self.state, now_ms()
        since_ms, self._silent_since_ms, self._beat_ms = self._silent_since_ms, None, now
        if since_ms is not None:
            if now - since_ms > state.claim_after_ms // RENEWED:
                state.clock.suspend(now, state.claim_after_ms)
            state.back.set()  # the reader need not wait out its backoff
        self._trouble.over(self)

    def _rejoined(self, link: Link) -> bool:
        """Recreate the lost group; False if that failed too, and is to be tried again."""
        with self._joining:
            try:
                self._membership.join(link)
            except MillstreamError as error:
                if isinstance(error, UsageError) or row_of(error).member is Reaction.END:
                    self.state.fail(self._named(link, error))
                else:
                    self._trouble.met(self, error)
                return False
        return True

    def _duties(self, link: Link) -> None:
        """The duty thread's work, until the member has ended."""
        state = self.state
        try:
            tick_s = 0.0
            while not self._ended.is_set():
                ticking = time.monotonic() >= tick_s or state.alarming()
                if ticking:
                    tick_s = time.monotonic() + min(
                        TICK_S, state.claim_after_ms / 1_000 / TICKS_PER_CLAIM_AFTER
                    )
                    self._tick(link)
                elif self._on_duty() and state.pause is None:
                    self._promote(link)
                    if state.sweeping or state.splitting:
                        self._sweep(link)
                if self._list_duties is not None and self._on_duty():
                    self._list_duties.run_once(link)
                if state.resting and state.reader_blocked and state.reader_client:
                    link.calls(
                        [("CLIENT", "UNBLOCK", state.reader_client)]
                    )  # refused: the block ends by itself
                if state.resting and state.watching and state.watcher_client:
                    link.calls([unwatch(state)])
                self._dispatch.collect()
                settled = 0
                if ticking or state.stopping or state.reader_blocked or state.sweeping:
                    settled = self._settler.run_once(link)
                if ticking and state.list_options is not None:
                    self._return_unasked(link, state.list_options)
                if (settled or state.settling or state.beginning) and not state.reader_blocked:
                    state.reader_wake.set()  # it may wait for just this: room to read, or something to settle
                if settled and state.sweeping:
                    continue  # there may be room now
                state.duty_wake.wait(max(min(tick_s - time.monotonic(), self._until_due_s()), 0))
                state.duty_wake.clear()
        finally:
            self._sweep_no_more()  # whatever ended it: the reader settles again

    def _tick(self, link: Link) -> None:
        """One heartbeat and what it asks for."""
        swept, self._swept = self._swept, ""
        known = self._membership.duty
        others = known is not None and len(known.members) > 1
        full = self._claimer.full() and self.state.sweeping and others
        duty = self._membership.run_once(link, swept=swept, no_room=full)
        self._answered()
        self._heartbeat.run_once(link)
        self._membership.say_taken_over(link)
        if duty.next_due_ms is not None:
            self._promoter.next_due_ms = duty.next_due_ms
        if self.state.pause is not None:
            self._dispatch.hand_back_unstarted()  # all of it: a thread may have had the rest of a pack in its hands
        if not duty.on_duty or self.state.pause is not None:
            self._sweep_no_more()
            if duty.on_duty:
                self._janitor.run_once(link, duty)
            return
        if self.state.list_options is not None:
            drain_hand(link, self.state.list_options, self.state.group)
        self._promote(link)
        self._sweep(link)
        self._janitor.run_once(link, duty)

    def _promote(self, link: Link) -> None:
        """Promote what is due. For want of memory it waits on, and nothing else with it."""
        if not self._promoter.due() or now_ms() < self._promote_from_ms:
            return
        try:
            self._promoter.run_once(link)
        except ServerRefusedError as error:
            if error.code != "OOM":
                raise
            self._promote_from_ms = now_ms() + PROMOTE_AGAIN_MS
            self._trouble.met(self._promoter, error)
        else:
            self._trouble.over(self._promoter)

    def _sweep(self, link: Link) -> None:
        duty = self._membership.duty
        if duty is not None:
            self._swept = (
                self._claimer.run_once(link, duty, missing=self._janitor.missing(duty)) or self._swept
            )
            if not self.state.sweeping:
                self.state.reader_wake.set()  # it settles again, and the room it left for the sweep is its own

    def _sweep_no_more(self) -> None:
        self.state.sweeping = self.state.splitting = False
        self.state.reader_wake.set()

    def _on_duty(self) -> bool:
        return self._membership.duty is not None and self._membership.duty.on_duty

    def _until_due_s(self) -> float:
        """How long until something is due that this member should promote, in s."""
        longest_s = TICK_S
        if self._list_duties is not None and self._on_duty():
            longest_s = self._list_duties.wait_ms() / 1_000
        wait_ms = self._promoter.wait_ms() if self._on_duty() and self.state.pause is None else None
        if wait_ms is None:
            return longest_s
        return min(max(wait_ms, self._promote_from_ms - now_ms(), 5) / 1_000, longest_s)

    def _return_unasked(self, link: Link, options: ListOptions) -> None:
        """What came when nobody asks here any more is for whoever takes from the list: we may be the only member."""
        state, given = self.state, self.state.counts.handed_back
        if not state.unasked:
            self._returned = None
        elif given != self._returned and not (state.reader_blocked or state.watching):
            give_back(link, options, state.group)
            self._returned = given

    def _give_back(self, link: Link, options: ListOptions) -> None:
        """The last member gives what nobody began back to the list, for other workers."""
        state = self.state
        given = give_back(link, options, state.group, leaving=True, until_s=self._leave_by_s)
        if given:
            get_logger("consumer").info(
                "tasks that were not begun are given back to the list: no worker is left",
                list=options.name,
                group=state.group,
                tasks=given,
            )
            # Names that stood as they held just that: ours, and those of members who left while we were here.
            for name in names_left(link, state.keys, state.group):
                retire(link, state.keys, state.group, name)

    def _left(self, link: Link) -> bool:
        """Settle what is finished, hand back what was never seen, leave the group; False if the server went away."""
        state = self.state
        found: list[Held] = []
        try:
            try:
                unseen(link, state, found)
            except NoSuchGroupError:
                self._membership.join(link)
            self._dispatch.hand_back(found)
            self._dispatch.collect()
            while state.settling and time.monotonic() < self._leave_by_s:
                self._settler.run_once(link)
                self._dispatch.collect()  # what was passed over may have to be looked at again
            # While others have not taken what was handed back, the name stays a member's, so that they will retire it.
            gone = retire(link, state.keys, state.group, state.consumer)
            self._membership.leave(link, for_good=gone)
            if state.list_options is not None:
                self._give_back(link, state.list_options)
        except MillstreamError as error:
            state.say.warning("leave", "could not settle everything before leaving", error=str(error))
            return False
        finally:
            link.close()
        return True
