"""Webhook: requests signed and verified as Standard Webhooks has it: HMAC-SHA256 over `id.timestamp.body`. Pure.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping, Sequence

from pipeline.errors import DecodeError, UsageError, WebhookError
from pipeline.event import Event
from pipeline.units import Duration, duration_ms

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
"""Of a secret: "at least 24 bytes (192 bits, 512 maximum)"."""
MAX_SIGNATURES = 32
"""In one request: while secrets change there are two."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


def key_of(secret: str) -> bytes:
    """The key of a secret such as whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw (base64 of 24 to 64 random bytes).

    Raises:
        UsageError: it is none; does not show it.
    """
    try:
        key = base64.b64decode(secret.strip().removeprefix(PREFIX), validate=True)
    except ValueError:
        raise UsageError(f"the secret is not {PREFIX} and base64 behind it") from None
    if not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise UsageError(f"the secret has {len(key)} bytes: {LEAST_BYTES} to {MOST_BYTES} random ones")
    return key


def webhook_id(event_ids: Sequence[str]) -> str:
    """The id of a request: the same each time these events are sent together; without a '.', as it is signed."""
    if len(event_ids) == 1 and _ID.fullmatch(event_ids[0]):
        return event_ids[0]
    digest = hashlib.sha256()
    for event_id in event_ids:
        raw = event_id.encode("utf-8", "replace")
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return f"sha256-{digest.hexdigest()}"


def signed_headers(request_id: str, body: bytes, secrets: Sequence[str], now_s: float) -> dict[str, str]:
    """The headers that sign a request: one signature for each secret, so that secrets can be changed.

    Raises:
        UsageError: a secret is none.
    """
    at = str(int(now_s))
    signatures = [_signature(key_of(secret), request_id, at, body) for secret in secrets]
    return {"webhook-id": request_id, "webhook-timestamp": at, "webhook-signature": " ".join(signatures)}


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secret: str | Sequence[str],
    *,
    tolerance: Duration = "5m",
    now_s: float | None = None,
) -> list[Event]:
    """The events of a request that the sink `webhook` sent, if it was signed with the secret, or one of several.

    An event may come more than once: what handles it goes by its id, which is unique in its stream: headers["stream"].

    Args:
        headers: of the request, their names in any case. body: exactly as it came. tolerance: how old or new a request
            may be. now_s: seconds since 1970; this machine's clock if None.

    Example:
        events = verify_webhook(request.headers, request.body, os.environ["WEBHOOK_SECRET"])

    Raises:
        WebhookError: not signed with this secret, too old, or no events in it: answer 400 or 401.
        UsageError: the secret is none.
    """
    named = {name.lower(): value for name, value in headers.items()}
    request_id, at, signatures = (
        named.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    if not (request_id and at and signatures):
        raise WebhookError("it lacks webhook-id, webhook-timestamp or webhook-signature")
    if not re.fullmatch(r"[0-9]{1,12}", at):
        raise WebhookError("its webhook-timestamp is no number")
    off_s = (time.time() if now_s is None else now_s) - int(at)
    if abs(off_s) * 1_000 > duration_ms(tolerance, "tolerance"):
        raise WebhookError(
            f"it is {abs(off_s):.0f} s too {'old' if off_s > 0 else 'new'} (tolerance={tolerance!r})"
        )
    secrets = [secret] if isinstance(secret, str) else secret
    expected = [_signature(key_of(one), request_id, at, body).encode() for one in secrets]
    given = [one.encode("utf-8", "replace") for one in signatures.split(" ", MAX_SIGNATURES)[:MAX_SIGNATURES]]
    # All are compared, whatever the first says: how long it takes tells nothing.
    if not sum(hmac.compare_digest(one, other) for one in expected for other in given):
        raise WebhookError("its signature is not of this secret")
    return _events(body)


def _signature(key: bytes, request_id: str, at: str, body: bytes) -> str:
    signed = f"{request_id}.{at}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _events(body: bytes) -> list[Event]:
    try:
        parsed = json.loads(body)
        return [Event.from_cloudevent(one) for one in (parsed if isinstance(parsed, list) else [parsed])]
    except (ValueError, RecursionError, DecodeError) as error:
        raise WebhookError(f"it holds no CloudEvents: {error}") from None
