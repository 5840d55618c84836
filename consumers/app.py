"""Pipeline: what an application declares (which handler consumes which stream for which group), and how it runs."""

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, TypeVar

from consumers.route import Route
from consumers.running import Lifespan, LoopThread, Running, entered
from pipeline.declare import ConsumerSpec, consumed
from pipeline.errors import NotFoundError, UsageError
from pipeline.functions import TaskFunction, task_function
from pipeline.keys import StreamKeys
from pipeline.list_options import ListOptions
from pipeline.observe.log import get_logger, log_to_stderr
from pipeline.options import Retry, consumer_options
from pipeline.server.connect import Connector
from pipeline.units import Duration, Size, size_bytes

Handler = TypeVar("Handler", bound=Callable[..., Any])
CHECK_S = 0.5
"""A waiting run() looks this often whether a member has ended by itself, in s."""


class Pipeline:
    """An application's consumers.

    Example:
        app = Pipeline("redis://localhost:6379/0")

        @app.consumer("orders", group="billing")
        def bill(event: Event) -> None:
            print(event.id, event.data)

        if __name__ == "__main__":
            app.run()          # or: millstream run module:app --processes 4
    """

    def __init__(self, url: str | None = None, *, namespace: str = "") -> None:
        """url: where the server is (else MILLSTREAM_URL, else REDIS_URL, read when it runs); namespace: prefix of all
        stream names, "prod" makes `orders` `prod:orders`."""
        self.url = url
        self.namespace = namespace
        self._specs: list[ConsumerSpec] = []
        self._lifespans: list[Lifespan] = []

    @property
    def specs(self) -> Sequence[ConsumerSpec]:
        """The declared consumers."""
        return tuple(self._specs)

    def consumer(
        self,
        stream: str | None = None,
        *,
        list: str | ListOptions | None = None,  # noqa: A002 - the server's word
        group: str | None = None,
        types: Collection[str] = (),
        concurrency: int | None = None,
        batch: int | None = None,
        batch_wait: Duration | None = None,
        retry: Retry | int | None = None,
        claim_after: Duration | None = None,
        max_run: Duration | None = None,
        start: str | None = None,
        grace: Duration | None = None,
        window_events: int | None = None,
        window_bytes: Size | None = None,
        once: bool | None = None,
        once_for: Duration | None = None,
        pause_above: float | None = None,
        on_success: Callable[..., Any] | None = None,
        on_retry: Callable[..., Any] | None = None,
        on_dead: Callable[..., Any] | None = None,
        executor: str | None = None,
        function: str | bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declare the decorated function a consumer of `stream` for `group`; the function itself stays as it is.

        Or of a list queue, `list="emails"`, shared with whoever else pushes to it and pops from it. Its name stands as
        it is, without the namespace; its group is called "workers" unless another name is given.

        With `function="send_email"` (True: its own name) it is a function that tasks ask for, and is called with their
        arguments: `{"function": "send_email", "args": [7], "kwargs": {"to": "x"}}`; several may share a list or stream.

        It takes the event, and the delivery as an optional second parameter; with `batch`, a list of up to so many
        events. Returning is done, raising is retry, raise Reject or Later for more. Options: see ConsumerOptions.

        Raises:
            UsageError: a name or option that cannot be.
        """
        if function and (types or batch):
            raise UsageError(
                f"function={function!r}: "
                + (
                    "it is the type of its tasks, types= is not"
                    if types
                    else "it is called for one task, not a batch"
                )
            )
        options = consumer_options(
            types=types or None,
            concurrency=concurrency,
            batch=batch,
            batch_wait=batch_wait,
            retry=retry,
            claim_after=claim_after,
            max_run=max_run,
            start=start,
            grace=grace,
            window_events=window_events,
            window_bytes=None if window_bytes is None else size_bytes(window_bytes, "window_bytes"),
            once=once,
            once_for=once_for,
            pause_above=pause_above,
            on_success=on_success,
            on_retry=on_retry,
            on_dead=on_dead,
            executor=executor,
        )

        name, of_group, queue = consumed(stream, list, group, self.stream_name)

        def declare(handler: Handler) -> Handler:
            called = task_function(handler, function) if function else handler
            self.add(
                ConsumerSpec(
                    stream=name,
                    group=of_group,
                    handler=called,
                    options=replace(options, types=(called.name,))
                    if isinstance(called, TaskFunction)
                    else options,
                    namespace=self.namespace,
                    list=queue,
                )
            )
            return handler

        return declare

    def route(
        self, stream: str, *, to: str, types: Collection[str] = (), group: str | None = None, **options: Any
    ) -> None:
        """Have events of `stream` go on to the stream `to`, each once, as they are: `app.route("orders", to="mail")`.

        Args:
            types: only those of these types ("order.mail.*"). group: of `stream`; default: `to-<to>`.
            options: see ConsumerOptions ("start", "retry", "concurrency", …).

        Raises:
            UsageError: a name or option that cannot be, or `to` is `stream`.
        """
        StreamKeys(self.stream_name(to))
        self.add(
            ConsumerSpec(
                stream=self.stream_name(stream),
                group=group or f"to-{to}",
                handler=Route(stream, to),
                options=consumer_options(types=types or None, **options),
                namespace=self.namespace,
            )
        )

    def add(self, spec: ConsumerSpec) -> None:
        """Declare a consumer that is not a decorated function.

        Raises:
            UsageError: the group has a handler that takes the same event types already.
        """
        for other in self._specs:
            if spec.list is not None and other.stream == spec.stream:
                _check_same_list(spec, other)
            same = other.stream == spec.stream and other.group == spec.group
            if same and (
                not other.options.types or not spec.options.types or other.options.types == spec.options.types
            ):
                raise UsageError(
                    f"group {spec.group!r} of stream {spec.stream!r} has a handler already ({other.name}): give both "
                    f"`types=`, or {spec.name} a group of its own"
                )
        self._specs.append(spec)

    def lifespan(self, function: Callable[[], AsyncIterator[Any]]) -> Callable[[], AsyncIterator[Any]]:
        """Declare resources: an async generator that sets up, yields once, and tears down after the handlers ended."""
        self._lifespans.append(contextlib.asynccontextmanager(function))
        return function

    def stream_name(self, stream: str) -> str:
        """The stream's name on the server, with the namespace."""
        return f"{self.namespace}:{stream}" if self.namespace else stream

    def select(self, groups: Collection[str] = (), streams: Collection[str] = ()) -> list[ConsumerSpec]:
        """The declared consumers of these groups and streams, or lists; all, if none are named.

        Raises:
            NotFoundError: a name that nothing is declared for, or nothing is declared at all.
        """
        lists = {spec.list.name for spec in self._specs if spec.list is not None}
        full = {stream if stream in lists else self.stream_name(stream) for stream in streams}
        for what, asked, known in (
            ("group", set(groups), {spec.group for spec in self._specs}),
            ("stream", full, {spec.consumed for spec in self._specs}),
        ):
            if asked - known:
                raise NotFoundError(
                    f"no consumer is declared for {what} {min(asked - known)!r}; there are: "
                    + (", ".join(sorted(known)) or "none")
                )
        chosen = [
            spec
            for spec in self._specs
            if (not groups or spec.group in groups) and (not streams or spec.consumed in full)
        ]
        if not chosen:
            raise NotFoundError("this pipeline declares no consumer (decorate a function with @app.consumer)")
        return chosen

    def run(
        self, *, groups: Collection[str] = (), streams: Collection[str] = (), url: str | None = None
    ) -> bool:
        """Consume until SIGTERM or SIGINT; a second signal ends the process at once.

        Returns:
            True after a clean stop: what was held is settled or handed back. False if grace was not enough.

        Raises:
            MillstreamError: it could not start, or ended by itself (wrong key type, access denied).
        """
        if not logging.getLogger().handlers and not logging.getLogger("millstream").handlers:
            log_to_stderr()  # this is the program's main loop: what it does should be seen
        specs = self.select(groups, streams)
        connector = Connector(url or self.url)
        loops = LoopThread() if self._lifespans or any(spec.is_async for spec in specs) else None
        running = Running(connector, specs, raises=True)
        try:
            with StopSignal() as stop:
                lifespans = entered(self._lifespans)
                if loops is not None:
                    loops.call(lifespans.__aenter__())
                try:
                    running.start(loops.loop if loops else None, stopping=lambda: bool(stop.number))
                    while not stop.wait(CHECK_S) and running.failure is None:
                        pass
                    if stop.number:
                        name = signal.Signals(stop.number).name
                        get_logger("run").info("stopping: running handlers may finish", signal=name)
                    clean = running.stop()
                finally:
                    if loops is not None:
                        loops.call(lifespans.__aexit__(None, None, None))
            if running.failure is not None:
                raise running.failure
            return clean
        finally:
            if loops is not None:
                loops.close()
            connector.close()

    @contextlib.asynccontextmanager
    async def running(self, *, url: str | None = None) -> AsyncIterator[Running]:
        """Consume while the block runs, with async handlers on the caller's event loop: for FastAPI and its like."""
        connector = Connector(url or self.url)
        running = Running(connector, self.select())
        try:
            async with entered(self._lifespans):
                await asyncio.to_thread(running.start, asyncio.get_running_loop())
                try:
                    yield running
                finally:
                    await asyncio.to_thread(running.stop)
        finally:
            await asyncio.to_thread(connector.close)


def _check_same_list(spec: ConsumerSpec, other: ConsumerSpec) -> None:
    """A list has one group, to which all its tasks go, and is laid out in one way."""
    assert spec.list is not None, "the caller looked"
    if other.list is None:
        raise UsageError(f"stream {spec.stream!r} is that of the list {spec.list.name!r}: consume the list")
    if other.group != spec.group:
        raise UsageError(
            f"list {spec.list.name!r} has the group {other.group!r} already ({other.name}): each of its tasks is done "
            f"once, so {spec.name} cannot have it for {spec.group!r} as well"
        )
    if other.list != spec.list:
        raise UsageError(
            f"list {spec.list.name!r}: {other.name} and {spec.name} are given other ListOptions for it"
        )


class StopSignal:
    """SIGTERM and SIGINT while the block runs: the first ends wait(), a second ends the process at once.

    Written with a pipe: a threading.Event set by a signal handler can deadlock with the wait it interrupts.
    """

    def __init__(self) -> None:
        self.number = 0
        self._read_end, self._write_end = os.pipe()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if (
            threading.current_thread() is threading.main_thread()
        ):  # else signals belong to whoever runs that thread
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read_end)
        os.close(self._write_end)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal; whether one has come."""
        return bool(self.number) or bool(select.select([self._read_end], [], [], timeout_s)[0])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
        os.write(self._write_end, b"x")
