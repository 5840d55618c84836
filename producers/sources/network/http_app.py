"""HttpApp: takes events over HTTP, an ASGI application.

Stands on ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html) and on `Take`, what sends. POST / is answered 200
only once all of its events are confirmed; whatever else is answered, or no answer at all, and the sender has to send
again. A repeat does no harm if it comes with the same Idempotency-Key (or X-Request-Id) and the same body: the events'
ids are made of both.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol, TypeAlias

from pipeline.errors import EncodeError, EventTooLargeError, MillstreamError, UsageError
from pipeline.observe.log import get_logger
from pipeline.units import show_bytes
from producers.sources.network.body import records_of
from producers.sources.network.inflate import inflated, too_large
from producers.sources.network.refused import Refused, not_now

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

KEYS = (b"idempotency-key", b"x-request-id")
"""Headers that make a repeat known, the first that is there."""
MAX_KEY_CHARACTERS = 200
SMALL_BYTES = 65_536
"""A body up to this is parsed at once, a larger one in a thread while others go on."""
_AWAY = "the events are not confirmed"
_BEARER = 'Bearer realm="millstream"'

_log = get_logger("intake")


class Take(Protocol):
    """Sends events and waits until they are confirmed."""

    async def __call__(
        self, records: Sequence[Any], ids: Sequence[str] | None, headers: dict[str, str] | None
    ) -> None: ...


class Gone(Exception):
    """The sender went away before its request had ended."""


class HttpApp:
    """POST / takes events, GET /health says whether the server can be reached.

    Args:
        take: sends. healthy: empty, or what is wrong.
        token: that every POST has to bring; empty: none.
        max_body_bytes: of a body, as it comes and decompressed.
        max_held_bytes: of all bodies in hand.
        body_timeout_s: how long a body may take to come.
    """

    def __init__(
        self,
        take: Take,
        healthy: Callable[[], Awaitable[str]],
        *,
        token: str = "",
        max_body_bytes: int,
        max_held_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._take = take
        self._healthy = healthy
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._max_held_bytes = max_held_bytes
        self._body_timeout_s = body_timeout_s
        self._held_bytes = 0
        self._parsing = asyncio.Lock()
        self.events = 0
        """Confirmed."""
        self.refused = 0
        """Requests that were answered anything but 200."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            raise RuntimeError(f"not HTTP: {scope['type']}")
        try:
            answer = await self._answer(scope, receive)
            status, extra = 200, {}
        except Gone:
            return
        except Refused as refused:
            self.refused += 1
            status, extra, answer = refused.status, refused.headers, {"error": str(refused)}
        except Exception as error:  # noqa: BLE001 - said in the log, and answered
            self.refused += 1
            _log.error("a request failed", error=repr(error))
            status, extra = 500, {}
            answer = {"error": "a fault of Millstream: see its log"}
        body = json.dumps(answer).encode() + b"\n"
        headers = {b"content-type": b"application/json", b"content-length": b"%d" % len(body), **extra}
        await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Message, receive: Receive) -> dict[str, Any]:
        """What is answered with 200.

        Raises:
            Refused: anything else.
        """
        path, method = scope["path"], scope["method"]
        if path == "/health":
            if method not in ("GET", "HEAD"):
                raise Refused(405, f"{method[:20]} /health: GET or HEAD", allow="GET, HEAD")
            if wrong := await self._healthy():
                raise not_now(wrong)
            return {"status": "ok"}
        if path != "/":
            raise Refused(404, f"nothing at {path[:80]}: POST events to /")
        if method != "POST":
            raise Refused(405, f"{method[:20]} /: POST events", allow="POST")
        given = {name.lower(): value for name, value in reversed(scope["headers"])}
        self._check_token(given.get(b"authorization", b""))
        key = _key(given)
        length = given.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        held = [0]
        try:
            raw = await self._body(receive, held)
            records = await self._records(raw, given, held)
            ids = None
            if key:
                digest = hashlib.sha256(raw).hexdigest()[:16]
                ids = [f"{key}-{digest}-{n}" for n in range(1, len(records) + 1)]
            del raw
            trace = given.get(b"traceparent", b"").decode("latin-1")
            await self._confirmed(records, ids, {"traceparent": trace[:100]} if trace else None)
        finally:
            self._held_bytes -= held[0]
        self.events += len(records)
        return {"events": len(records)}

    async def _confirmed(
        self, records: Sequence[Any], ids: Sequence[str] | None, headers: dict[str, str] | None
    ) -> None:
        try:
            await self._take(records, ids, headers)
        except EventTooLargeError as error:
            raise Refused(413, str(error)) from None
        except (EncodeError, UsageError) as error:
            raise Refused(400, str(error)) from None
        except MillstreamError as error:
            raise not_now(f"{_AWAY}: {error}") from None

    def _check_token(self, given: bytes) -> None:
        if not self._token:
            return
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise Refused(401, "Authorization: Bearer TOKEN is missing or wrong", www_authenticate=_BEARER)

    async def _body(self, receive: Receive, held: list[int]) -> bytes:
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    self._hold(len(part), held)
                    if held[0] > self._max_body_bytes:
                        raise too_large(self._max_body_bytes)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(
                408, f"the body did not come within {self._body_timeout_s:g} s", connection="close"
            ) from None

    async def _records(self, raw: bytes, given: dict[bytes, bytes], held: list[int]) -> list[Any]:
        coding = given.get(b"content-encoding", b"").decode("latin-1")
        kind = given.get(b"content-type", b"").decode("latin-1")

        def records() -> tuple[int, list[Any]]:
            body = inflated(raw, coding, self._max_body_bytes)
            return len(body), records_of(body, kind)

        if len(raw) <= SMALL_BYTES and not coding:
            return records()[1]
        async with self._parsing:  # one at a time: what a body becomes is larger than itself
            size, found = await asyncio.to_thread(records)
            self._hold(size if coding else 0, held)
            return found

    def _hold(self, size: int, held: list[int]) -> None:
        if self._held_bytes + size > self._max_held_bytes:
            raise not_now(f"{show_bytes(self._held_bytes)} of other requests are in hand")
        self._held_bytes += size
        held[0] += size


def _key(given: dict[bytes, bytes]) -> str:
    """What the sender calls this request; empty: nothing."""
    for name in KEYS:
        if value := given.get(name, b"").strip():
            key = value.decode("latin-1")
            if len(key) > MAX_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
                raise Refused(
                    400, f"{name.decode().title()}: at most {MAX_KEY_CHARACTERS} printable ASCII characters"
                )
            return key
    return ""
