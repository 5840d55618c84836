"""Course: what one run of a bridge from a list goes by, whichever way tasks take: options, counts, rate, waiting."""

import secrets
import threading
import time
from collections.abc import Callable

from pipeline.errors import MillstreamError
from pipeline.list_options import ListOptions
from pipeline.observe.log import Limited, get_logger
from pipeline.pace import Pace
from pipeline.server.bridging import MOST_BYTES, MOST_TASKS, wait_command
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.report import Report
from producers.sources.tasks import Made, TaskEntries, TaskOptions

WAIT_S = 20.0
"""How long one wait for a task lasts at the server; then it is asked anew whether it is still there."""
LOOK_MS = 100
"""How soon a wait notices that it is to end."""
POLL_S = 0.25
"""Where the server refuses to wait (it is out of memory), it is asked so often."""
BEHIND_S = 1.0
"""Of the time in which there was nothing to do, no more than this is made up for: the rate is steady."""
FIRST_TASKS = 16
"""Looked at before it is known how large tasks are."""

_log = get_logger("bridge")


class Course:
    """What one run of a bridge goes by, whichever way it takes."""

    def __init__(
        self,
        producer: Producer,
        stream: str,
        queue: ListOptions,
        options: TaskOptions,
        follow: bool,
        rate: float | None,
        stop: threading.Event,
        fed: Fed,
        progress: Callable[[Fed], None] | None,
    ) -> None:
        self.producer, self.stream, self.queue = producer, stream, queue
        self.follow, self.stop, self.fed = follow, stop, fed
        self.limited = Limited(_log)
        # A producer of its own in each run: another one's numbers would begin at 1 again.
        self.entries = TaskEntries(f"bridge-{secrets.token_hex(8)}", queue.codec, options)
        self._report = Report(fed, progress)
        self._rate = rate
        self._pace, self._paced = Pace(time.monotonic(), rate), 0
        self._most = FIRST_TASKS

    @property
    def most(self) -> int:
        """How many tasks the next step may move."""
        return self._pace.most(self._most)

    def next(self, looked: list[bytes]) -> Made:
        """The entries of the next step's tasks, taken off what was looked at."""
        count, size = 0, 0
        for payload in looked[: self.most]:
            size += len(payload)
            if count and size > MOST_BYTES:
                break
            count += 1
        if count:
            self._most = max(1, min(MOST_TASKS, MOST_BYTES // max(size // count, 1)))
        made = self.entries.made(looked[:count])
        del looked[:count]
        self.fed.lines += len(made.tasks)
        return made

    def moved(self, made: Made, indices: list[int]) -> None:
        """So many are in the stream; waits as long as the rate asks for."""
        self.fed.confirmed += len(indices)
        kept = set(indices).intersection(made.kept) if made.kept else ()
        for index in kept:
            self.fed.unparsed += 1
            self.limited.warning(
                "kept", "a task goes on as it is", list=self.queue.name, why=made.kept[index]
            )
        self._report.soon()
        if self._rate is not None:
            self._keep_pace(self._rate, len(indices))

    def await_task(self, link: Link) -> None:
        """Return once the list holds a task, or after a while; at once when the bridge is stopped."""
        self._report.now()
        link.send(wait_command(self.queue, WAIT_S))
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s and not link.ready(LOOK_MS):
            if self.stop.is_set():
                link.close()  # the server forgets the wait, and no task was taken by it
                return
        reply = link.read_or_error()
        if isinstance(reply, MillstreamError):
            if reply.code != "OOM":
                raise reply
            self.stop.wait(POLL_S)

    def close(self) -> None:
        """Say the last count."""
        self._report.now()

    def _keep_pace(self, rate: float, moved: int) -> None:
        self._paced += moved
        now_s = time.monotonic()
        wait_s = self._pace.wait_s(self._paced, now_s)
        if wait_s:
            self.stop.wait(wait_s)
        elif now_s - self._pace.begun_s - self._paced / rate > BEHIND_S:
            self._pace, self._paced = Pace(now_s, rate), 0
