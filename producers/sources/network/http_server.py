"""HttpServer: serves an ASGI application on a socket, within an event loop that others use too.

Stands on uvicorn (extra `intake`; https://www.uvicorn.org/settings/): strangers reach its parser, and none of ours.
Signals stay with whoever runs the loop.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from typing import Any

from pipeline.errors import UsageError

HAS_DRIVER = find_spec("uvicorn") is not None
"""Whether the extra `intake` is installed."""


class HttpServer:
    """Serves from start() to stop().

    Raises:
        UsageError: uvicorn is not installed.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, max_connections: int, grace_s: float) -> None:
        if not HAS_DRIVER:
            raise UsageError("an intake over HTTP needs uvicorn: pip install 'millstream[intake]'")
        import uvicorn

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        self._server = Server(
            uvicorn.Config(
                app, loop="none", http="h11", ws="none", lifespan="off", interface="asgi3", log_config=None,
                access_log=False, proxy_headers=False, server_header=False, limit_concurrency=max_connections,
                timeout_graceful_shutdown=max(round(grace_s), 1),
            )
        )  # fmt: skip
        self._task: asyncio.Task[Any] | None = None

    def start(self, listener: socket.socket) -> None:
        """Serve those who connect to this socket, which is closed in the end."""
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def stop(self) -> None:
        """Take no more connections and requests, and answer those that are in hand."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task

    def ended(self) -> asyncio.Task[Any]:
        """The task that serves: it ends before stop() only if it fails."""
        assert self._task is not None
        return self._task
