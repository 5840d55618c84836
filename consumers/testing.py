"""TestPipeline: an application's consumers on a real embedded server of their own, for its tests."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Self

from consumers.app import Pipeline
from consumers.running import LoopThread, Running, entered
from pipeline.declare import ConsumerSpec
from pipeline.envelope import DeadLetter, read_dead
from pipeline.errors import MillstreamError, NotFoundError
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.list_options import WORKERS
from pipeline.server.connect import Connector, Link
from pipeline.server.groups import nonce
from pipeline.server.list_push import push
from pipeline.server.replies import pairs, parse_entries, text
from pipeline.task import encode_task
from pipeline.units import Duration, duration_ms
from pipeline.wire import decode_entry, encode_entry

SLACK_MS = 50
"""What is due so soon is waited for, in ms: members reckon the server's clock, and may be a little ahead of it."""


class TestPipeline:
    """Runs a Pipeline until nothing is left to do.

    Example:
        def test_billing():
            with TestPipeline(app) as test:
                test.send("orders", {"id": 7}, type="order.placed")
                test.run_until_idle()
                assert test.dead("orders", "billing") == []

    Needs the `embedded` extra, or a redis-server on PATH. Time that handlers asked to pass (retries, Later) passes by
    advance(), not by waiting.
    """

    __test__ = False  # for pytest: a helper, not a test class

    def __init__(self, app: Pipeline) -> None:
        self.app = app
        self._folder = ""
        self._stack = contextlib.ExitStack()
        self._number = 0
        self._producer = f"test-{nonce()}"

    @property
    def url(self) -> str:
        """Address of the embedded server, for a Producer in the test."""
        return f"embedded://{self._folder}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._folder = tempfile.mkdtemp(prefix="millstream-test-")
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._connector = Connector(self.url)
            stack.callback(self._connector.close)
            self._link: Link = self._connector.link("test")
            stack.callback(lambda: self._link.close())
            loops = LoopThread()
            stack.callback(loops.close)
            lifespans = entered(self.app._lifespans)
            loops.call(lifespans.__aenter__())
            stack.callback(lambda: loops.call(lifespans.__aexit__(None, None, None)))
            self._running = Running(self._connector, self.app.select())
            self._running.start(loops.loop)
            stack.callback(self._running.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(
        self,
        stream: str,
        data: Any = None,
        *,
        type: str = "",  # noqa: A002 - the word of Event and Producer.send
        key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Append an event to a stream of the app; its event id."""
        self._number += 1
        event = Event(data, type=type, key=key, headers=dict(headers or {}))
        fields = encode_entry(event, producer=self._producer, number=self._number)
        self._link.call("XADD", self.app.stream_name(stream), "*", *fields)
        return f"{self._producer}-{self._number}"

    def push(self, queue: str, *tasks: Any) -> None:
        """Push tasks to a list of the app, as old producers do: dict, list, text, or bytes as they are. To a sorted set
        all with priority 0.

        Raises:
            NotFoundError: the app consumes no such list.
        """
        options = next((spec.list for spec in self.app.specs if spec.list and spec.list.name == queue), None)
        if options is None:
            raise NotFoundError(f"the app consumes no list {queue!r}")
        for task in tasks:
            self._number += 1
            push(self._link, options, self._producer, self._number, [encode_task(task, options.codec)])

    def run_until_idle(self, timeout: Duration = "10s") -> None:
        """Wait until every group has handled all there is, but for what waits for a later time (advance()).

        Raises:
            TimeoutError: not idle in time. MillstreamError: a consumer ended by itself, or its group was paused, by its
            breaker for one.
        """
        deadline_s = time.monotonic() + duration_ms(timeout, "timeout") / 1_000
        while not self._idle():
            if self._running.failure is not None:
                raise self._running.failure
            for member in self._running.members:
                if member.state.pause is not None:
                    raise MillstreamError(
                        f"group {member.state.group!r} of stream {member.state.keys.stream!r} is paused: "
                        f"{member.state.pause.reason}"
                    )
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"consumers are still busy after {timeout}")
            time.sleep(0.005)

    def advance(self, delay: Duration) -> None:
        """Let time pass for what waits: what is due within `delay` becomes due now."""
        ms = duration_ms(delay, "delay")
        for spec in self._groups():
            key = StreamKeys(spec.stream).retry(spec.group)
            for member in self._link.call("ZRANGE", key, 0, -1):
                self._link.call("ZINCRBY", key, -ms, member)

    def waiting(self, stream: str, group: str = WORKERS) -> int:
        """How many deliveries of a group of a stream, or of a list, wait for a later time."""
        return int(self._link.call("ZCARD", self._keys(stream).retry(group)))

    def dead(self, stream: str, group: str = WORKERS) -> list[tuple[DeadLetter, Event | None]]:
        """Dead letters of a group of a stream, or of a list, oldest first, each with its event, or None if that cannot
        be decoded."""
        letters = []
        reply = self._link.call("XRANGE", self._keys(stream).dead(group), "-", "+")
        for entry_id, fields in parse_entries(reply):
            letter, original = read_dead(fields or [])
            if letter is None:
                continue
            try:
                event = decode_entry(entry_id, original, origin=letter.entry_id.encode()).events[0]
            except MillstreamError:  # corrupt bytes are one reason to be here
                event = None
            letters.append((letter, event))
        return letters

    def _keys(self, name: str) -> StreamKeys:
        """The keys of a stream of the app, or of the stream of a list's tasks."""
        lists = (spec.list.keys.tasks for spec in self.app.specs if spec.list and spec.list.name == name)
        return next(lists, None) or StreamKeys(self.app.stream_name(name))

    def _groups(self) -> list[ConsumerSpec]:
        return list({(spec.stream, spec.group): spec for spec in self.app.specs}.values())

    def _idle(self) -> bool:
        # In one transaction: an event that fails goes from pending to the retries, from there to `again`, and round.
        return all(self._drained(spec) for spec in self._groups()) and all(
            member.idle() and member.told() for member in self._running.members
        )

    def _drained(self, spec: ConsumerSpec) -> bool:
        """Whether a group had nothing to do, as of one moment."""
        keys = StreamKeys(spec.stream)
        replies = self._link.calls(
            [
                ("MULTI",),
                ("TIME",),
                ("XLEN", keys.again(spec.group)),
                ("ZRANGE", keys.retry(spec.group), 0, 0, "WITHSCORES"),
                ("XINFO", "STREAM", keys.stream),
                ("XINFO", "GROUPS", keys.stream),
                ("EXISTS", *([spec.list.keys.list, spec.list.keys.hand] if spec.list else [keys.never])),
                ("EXEC",),
            ]
        )[-1]
        if isinstance(replies, MillstreamError):
            raise replies
        (seconds, micros), again, waiting, stream, groups, listed = replies
        due = bool(waiting) and float(waiting[1]) <= int(seconds) * 1_000 + int(micros) / 1_000 + SLACK_MS
        return not (again or due or listed) and any(
            text(group["name"]) == spec.group
            and not group["pending"]
            and group["last-delivered-id"] == pairs(stream)["last-generated-id"]
            for group in map(pairs, groups)
        )
