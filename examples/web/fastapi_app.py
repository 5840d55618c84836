"""FastAPI under uvicorn: the application's lines, uvicorn's access and error log, one stream, one request id.

    cd examples/web
    MILLSTREAM_URL=redis://localhost uvicorn fastapi_app:app --workers 2 --log-config uvicorn_logs.json

uvicorn ends by the signal that stopped it, and what Python does at its exit is not done: the lifespan waits for what
was logged until then (two lines of uvicorn's own come later).

A middleware of ASGI, and not FastAPI's own kind: that runs the application in a task of its own, and what is bound
there is not seen by uvicorn when it writes its access line.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from logs import set_up, shipping
from request_context import begin_request

set_up()
log = structlog.get_logger()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """At the end, what was logged is sent."""
    yield
    await asyncio.to_thread(shipping.flush)


app = FastAPI(lifespan=lifespan)


class RequestContext:
    """Each request begins with an id and a place in a trace; the answer names the id."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application within the request's context."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = begin_request(headers.get)

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await self._app(scope, receive, named)


app.add_middleware(RequestContext)


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, int]:
    """An order; number 0 is one too many."""
    log.info("order shown", order=number, share=100 // number)
    return {"order": number}
