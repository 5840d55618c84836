"""ListDuties: what the member on duty does for its list itself: promotes delayed tasks, puts back what was left behind.

Goes on while the group is paused: the list belongs to old workers too. Each step is a script, or looks only, so that
any number of members, old promoters and old recoverers may do the same, and a kill leaves nothing half done. What fails
here is said and tried again, and neither ends the member nor keeps its heartbeat waiting.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from consumers.state import MemberState, now_ms
from pipeline.errors import MillstreamError, NotConnectedError, UsageError
from pipeline.list_options import ListOptions
from pipeline.observe.log import get_logger
from pipeline.server.connect import Link
from pipeline.server.error_map import Reaction, row_of
from pipeline.server.list_due import BATCH, promote_tasks
from pipeline.server.list_old import OldTasks, Recovered
from pipeline.server.list_pop import return_tasks

LOOK_MS = 40
"""Between two looks for what is due, in ms: a task may be scheduled by anybody, at any moment, for the next."""
LEAST_MS = 2
CALLS = 20
"""Calls that promote, one after another, before the heartbeat has its turn."""
STEP_MS = 50
"""Between two steps of one look at what old workers left, in ms."""
LEAST_PAUSE_MS, LONGEST_PAUSE_MS = 100, 2_000
"""Between two looks: a fiftieth of the old timeout, in ms, within these."""
RETURN_MS = 10_000
"""Between two looks for what plain pops took whose callers died, in ms."""
RETRY_MS = 1_000
"""After something was refused, in ms."""
DECLARED_MS = 60_000
"""And so much later where what is declared cannot be: only a person mends it."""

_log = get_logger("list")


class ListDuties:
    """Promotes and recovers for one list queue."""

    def __init__(self, state: MemberState, options: ListOptions) -> None:
        self._state = state
        self._options = options
        self._delayed = {options: 0}
        """How delayed tasks are kept, to when they are looked at next, in ms. Those of the format unique stand in a key
        of our own, and are promoted by workers of the format classic as well: so producers may go over to it first."""
        if options.format == "classic" and not options.is_sorted:
            self._delayed[replace(options, format="unique")] = 0
        self._old: OldTasks | None = None
        self._pause_ms = min(max(options.old_timeout_ms // 50, LEAST_PAUSE_MS), LONGEST_PAUSE_MS)
        self._recover_at_ms = 0
        self._return_at_ms = 0
        self.promoted = 0
        """Delayed tasks moved to the list so far."""
        self.recovered = Recovered()
        """What of old workers' was put back so far."""

    def run_once(self, link: Link) -> None:
        """Do what is due by now.

        Raises:
            NotConnectedError: the link broke. MillstreamError: the server is a replica now, or its like: connect anew.
        """
        for options, at_ms in self._delayed.items():
            if now_ms() >= at_ms:
                self._delayed[options] = now_ms() + self._tried(link, partial(self._promote, options=options))
        if now_ms() >= self._recover_at_ms:
            self._recover_at_ms = now_ms() + self._tried(link, self._recover)
        if now_ms() >= self._return_at_ms:
            self._return_at_ms = now_ms() + self._tried(link, self._return)

    def wait_ms(self) -> int:
        """How long until something is to be done, in ms."""
        return max(min(*self._delayed.values(), self._recover_at_ms, self._return_at_ms) - now_ms(), 0)

    def _tried(self, link: Link, step: Callable[[Link], int]) -> int:
        """Do a step; in how many ms the next is to be done."""
        try:
            return step(link)
        except MillstreamError as error:
            if isinstance(error, NotConnectedError) or row_of(error).member is Reaction.ELSEWHERE:
                raise
            self._state.say.warning(
                f"list duty {type(error).__name__}",
                "cannot look after the list just now",
                list=self._options.name,
                error=str(error),
            )
            return DECLARED_MS if isinstance(error, UsageError) else RETRY_MS

    def _promote(self, link: Link, options: ListOptions) -> int:
        calls, merged = 0, 0
        while True:
            done = promote_tasks(link, options, cluster=self._state.cluster)
            calls += 1
            self.promoted += done.moved
            merged += done.merged
            if done.moved < BATCH or calls == CALLS:
                break
        if merged:
            _log.info(
                "delayed tasks stood in the priority queue already, and are one task now",
                list=self._options.name,
                tasks=merged,
            )
        if done.moved == BATCH:
            return 0
        server_ms = self._state.clock.now_ms(now_ms())
        if done.next_due_ms is None or server_ms is None:
            return LOOK_MS
        return int(min(max(done.next_due_ms - server_ms + 1, LEAST_MS), LOOK_MS))

    def _recover(self, link: Link) -> int:
        if self._old is None:
            self._old = OldTasks(self._options, cluster=self._state.cluster)
        found = self._old.run_once(link, chunks=1)
        self.recovered.add(found)
        if found.tasks or found.bare or found.forgotten:
            _log.info(
                "what old workers left is put back",
                list=self._options.name,
                timed_out=found.tasks,
                without_record=found.bare,
                records_of_done_tasks=found.forgotten,
            )
        for key, why in found.malformed.items():
            self._state.say.warning(
                "malformed record",
                "a record of an old worker says nothing that can be used, and is left alone",
                list=self._options.name,
                key=key,
                error=why,
            )
        return self._pause_ms if found.complete else STEP_MS

    def _return(self, link: Link) -> int:
        back = return_tasks(link, self._options, hand=False)
        if back.of_callers:
            _log.info(
                "tasks of plain pops whose callers died are put back",
                list=self._options.name,
                tasks=back.of_callers,
            )
        return RETURN_MS
