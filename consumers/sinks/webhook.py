"""Webhook: a batch handler that posts events to a receiver of one's own, signed as Standard Webhooks has it.

The body is a JSON array of CloudEvents (application/cloudevents-batch+json), or, with batch=1, one CloudEvent
(application/cloudevents+json). `webhook-id` is made of the events' ids, so the same request again has the same; an
event may come again in another one, so receivers go by the ids of events, which are unique within a stream: the
attribute `stream` names it.

Any 2xx is success. A receiver may say more, in JSON: `{"results": [{"id": …, "status": …, "reason": …}]}`: events that
it names with a status beyond 2xx and 409 (there already) are retried (500), put off (429, 408, 503 and the like, for
`retry_after` seconds if it says so) or dead letters (every other 4xx); those it does not name are done. Sources:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md,
https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md#33-batched-content-mode
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from consumers.sinks.documents import in_requests, json_bytes, made_of, unique_id
from consumers.sinks.event_rows import stream_of
from consumers.sinks.halving import Halving
from consumers.sinks.http import CA, MAX_RETRY_AFTER_S, TOKEN, Answer, Http, not_understood, taken, with_query
from consumers.sinks.json_lines import cloudevent_of
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import PASSWORD, TIMEOUT, Option, Secret, SinkUrl
from consumers.sinks.words import words_of
from pipeline.errors import SinkAway, SinkError, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.outcome import Outcomes
from pipeline.webhook import signed_headers, webhook_id

PORT, TLS_PORT = 80, 443
MAX_BODY_BYTES = 1_000_000
"""Of one request: what web servers take as they are set up usually (nginx: client_max_body_size 1m)."""
BATCH, SINGLE = "application/cloudevents-batch+json", "application/cloudevents+json"


class Webhook:
    """Posts events to a receiver; see the text of this module for what it may answer."""

    def __init__(self, url: SinkUrl) -> None:
        """As `webhook+https://example.com/events?secret_file=FILE` says."""
        self._secret: Secret = url.options["secret"]
        self._batch: int = url.options["batch"]
        query = url.options["query"]
        path = with_query(url.path or "/", {})
        self._path = f"{path}?{query}" if query else path
        if query is not None and not (query.isascii() and query.isprintable() and " " not in query):
            raise UsageError(f"query={query!r}: percent-encoded, once more in the URL of the sink (%26 is &)")
        self._http = Http(url, TLS_PORT if url.scheme.endswith("https") else PORT)
        self._send = Halving()

    def __call__(self, events: list[Event]) -> Outcomes:
        """Post the events; each that the receiver names is treated as it says."""
        bodies, outcomes = made_of(events, cloudevent)

        def send(part: Sequence[int]) -> None:
            if self._batch == 1:
                content_type, body = SINGLE, bodies[part[0]]
            else:
                content_type, body = BATCH, b"[" + b",".join(bodies[index] for index in part) + b"]"
            request_id = webhook_id([unique_id(events[index]) for index in part])
            answer = self._http.post(self._path, body, content_type, headers=self._signed(request_id, body))
            taken(answer)
            read_results(answer, {index: events[index].id for index in part}, outcomes)

        self._send(in_requests(bodies, MAX_BODY_BYTES, self._batch), send, outcomes)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _signed(self, request_id: str, body: bytes) -> dict[str, str]:
        """The signature; secrets are read anew, one a line, so that they can be changed while we run."""
        secrets = self._secret.read().split()
        try:
            if not secrets:
                raise UsageError("the secret is empty")
            return signed_headers(request_id, body, secrets, time.time())
        except UsageError as error:
            raise SinkRefused(f"{error}: see secret or secret_file") from None


def cloudevent(event: Event) -> bytes:
    """The event as a CloudEvent in JSON, with the extension attribute `stream`: ids are unique within one."""
    stream = stream_of(event)
    made = cloudevent_of(event)
    return json_bytes(made | {"stream": stream} if stream else made)


def read_results(answer: Answer, ids: Mapping[int, str], outcomes: Outcomes) -> None:
    """Put down what the receiver says of single events, if it says anything.

    Raises:
        SinkAway: it says it in a way that cannot be understood.
    """
    try:
        reply = json.loads(answer.body)
    except (ValueError, RecursionError):
        return
    if not isinstance(reply, dict) or "results" not in reply:
        return
    results = reply["results"]
    if not isinstance(results, list):
        not_understood(answer, "results is no list")
    for result in results:
        status = result.get("status") if isinstance(result, dict) else None
        if not isinstance(status, int) or isinstance(status, bool) or not isinstance(result.get("id"), str):
            not_understood(answer, "a result needs an id and a status")
        if 200 <= status < 300 or status == 409:
            continue
        for index, event_id in ids.items():
            if event_id == result["id"]:
                _one(index, status, result, outcomes)


def _one(index: int, status: int, result: Mapping[str, Any], outcomes: Outcomes) -> None:
    reason = words_of(str(result.get("reason") or ""))
    said = f"{status}: {reason}" if reason else f"{status}"
    if status in (408, 425, 429) or status > 501:
        wait = result.get("retry_after")
        known = isinstance(wait, int | float) and not isinstance(wait, bool) and wait >= 0
        outcomes.fail(index, SinkAway(said, float(min(wait or 0, MAX_RETRY_AFTER_S)) if known else None))
    elif status in (500, 501):
        outcomes.fail(index, SinkError(said))
    else:
        outcomes.reject(index, said)


KIND = SinkKind(
    make=Webhook,
    options=(
        Option(
            "secret", "secret", None,
            "whsec_… that requests are signed with; better ${VARIABLE}, or secret_file=FILE (one a line)", needed=True,
        ),
        Option("batch", "count", "100", "events in one request; 1: a CloudEvent by itself", least=1, most=1_000),
        Option("query", "text", None, "query of the receiver's address, percent-encoded"),
        TIMEOUT,
        CA,
        PASSWORD,
        TOKEN,
    ),
)  # fmt: skip
