"""Running: the members of one process, from start to a clean end."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

from consumers.member import MakeExecutor, Member
from pipeline.backoff import Backoff
from pipeline.declare import ConsumerSpec
from pipeline.errors import MillstreamError, ServerRefusedError
from pipeline.observe.log import get_logger
from pipeline.observe.trouble import trouble_with
from pipeline.position import position_id
from pipeline.server.connect import Connector

START_S = 60.0
"""A server that refuses for a cause that may pass is waited for so long at the start, in s."""
WAITING = Backoff(initial_ms=100, longest_ms=1_000, jitter=0.5)
Lifespan: TypeAlias = Callable[[], contextlib.AbstractAsyncContextManager[Any]]


class LoopThread:
    """An event loop in a thread of its own, for async handlers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="millstream-loop", daemon=True)
        self._thread.start()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """Stop the loop; what still runs on it is cancelled."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class Running:
    """One member per (stream, group) of the specs, over one connector. Start once, stop once."""

    def __init__(
        self,
        connector: Connector,
        specs: Sequence[ConsumerSpec],
        *,
        make_executor: MakeExecutor | None = None,
        raises: bool = False,
    ) -> None:
        """raises: the caller looks at `failure` and raises it; else a member that ends by itself says so."""
        self._raises = raises
        self.connector = connector
        self._make_executor = make_executor
        groups: dict[tuple[str, str], list[ConsumerSpec]] = {}
        for spec in specs:
            groups.setdefault((spec.stream, spec.group), []).append(spec)
        self._groups = list(groups.values())
        self.members: list[Member] = []
        self._log = get_logger("run")

    def start(
        self, loop: asyncio.AbstractEventLoop | None, *, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Connect, say how durable the server is, and start all members; if one cannot start, none is left running.

        A server that loads its data, or refuses for another cause that may pass, is waited for, START_S long; stopping
        ends that, and nothing is started.

        Raises:
            MillstreamError: the server cannot be reached or used.
        """
        link = self.connector.link("start")
        seconds, micros = link.call("TIME")
        link.close()
        server_ms = int(seconds) * 1_000 + int(micros) // 1_000
        capabilities = self.connector.capabilities()
        say = self._log.warning if capabilities.evicts else self._log.info
        say(f"connected to {self.connector.shown}: {capabilities.durability_line()}")
        try:
            for specs in self._groups:
                start = position_id(specs[0].options.start, server_ms, "start")
                member = Member(
                    self.connector, specs, loop=loop, start=start, make_executor=self._make_executor
                )
                member.state.raises = self._raises
                if not self._started(member, stopping):
                    return
                self.members.append(member)
                self._log.info(
                    "consuming", **_what(specs[0]), group=specs[0].group, consumer=member.name,
                    handlers=", ".join(spec.name for spec in specs),
                )  # fmt: skip
        except MillstreamError:
            self.stop(grace_ms=0)
            raise

    def _started(self, member: Member, stopping: Callable[[], bool]) -> bool:
        """Start a member as soon as the server lets it; False if stopping came first."""
        trouble, tries, until_s = trouble_with(self.connector.shown), 0, time.monotonic() + START_S
        try:
            while not stopping():
                try:
                    member.start()
                except ServerRefusedError as error:
                    if not error.passing or time.monotonic() > until_s:
                        raise
                    trouble.met(self, error)
                else:
                    trouble.over(self)
                    return True
                tries += 1
                time.sleep(WAITING.wait_ms(tries) / 1_000)
        finally:
            trouble.left(self)
        return False

    @property
    def failure(self) -> MillstreamError | None:
        """Why a member ended by itself."""
        return next((member.failure for member in self.members if member.failure), None)

    def stop(self, *, grace_ms: int | None = None) -> bool:
        """Stop all members at the same time; True if everything they held is settled or handed back."""
        clean: list[bool] = []
        threads = [
            threading.Thread(target=lambda m=member: clean.append(m.stop(grace_ms=grace_ms)), daemon=True)
            for member in self.members
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return all(clean)


def _what(spec: ConsumerSpec) -> dict[str, str]:
    """What a handler consumes, as it was declared."""
    return {"stream" if spec.list is None else "list": spec.consumed}


@contextlib.asynccontextmanager
async def entered(lifespans: Sequence[Lifespan]) -> AsyncIterator[None]:
    """All lifespans entered in order, left in the opposite order."""
    async with contextlib.AsyncExitStack() as stack:
        for lifespan in lifespans:
            await stack.enter_async_context(lifespan())
        yield
