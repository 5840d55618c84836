"""OpenSearch: a batch handler that creates a document for each event, by the bulk API of OpenSearch and Elasticsearch.

The action is `create` with stream and id of the event as `_id`: an event that comes again finds its document (409) and
is done, so each is there once, within one index or backing index. A data stream takes nothing but `create`; after a
rollover it knows nothing of the ids in older backing indices, as an index by date knows nothing of another day's:
`date` is that of the event, not of today, so that an event that comes again goes where it went before.

The answer names each document's status: 429 and 5xx are put off one by one, everything else that is refused is a dead
letter with the target's type and reason. Sources:
https://docs.opensearch.org/latest/api-reference/document-apis/bulk/,
https://docs.opensearch.org/latest/im-plugin/data-streams/,
https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from consumers.sinks.documents import document, in_requests, json_bytes, made_of, unique_id
from consumers.sinks.halving import Halving
from consumers.sinks.http import GZIP, HTTP_OPTIONS, Answer, Http, not_understood, taken, with_query
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import Option, SinkUrl
from consumers.sinks.words import words_of
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.outcome import Outcomes
from pipeline.severity import level_of, message_of

PORT = 9200
MAX_BODY_BYTES = 10_000_000
"""Of one request, before compression: "a good bulk request size typically falls between 5 MB and 15 MB"."""
MAX_ID_BYTES = 512
"""Longest `_id`: https://docs.opensearch.org/latest/api-reference/document-apis/bulk/"""
MENDED = frozenset(
    "index_closed_exception invalid_index_name_exception validation_exception cluster_block_exception "
    "index_not_found_exception security_exception".split()
)
"""Types of errors that no document can help, whatever their status: closed, read-only, no right, too many shards."""
_INDEX = re.compile(r"(?![-_+.])[^A-Z\s\\/*?\"<>|,#:]{1,255}")
_DATES = {"{date}": "%Y.%m.%d", "{month}": "%Y.%m", "{year}": "%Y"}


class OpenSearch:
    """Creates a document for each event; see the text of this module for what is there once."""

    def __init__(self, url: SinkUrl) -> None:
        """As `opensearch+http://host:9200/?index=logs-{date}` says.

        Raises:
            UsageError: no index, or one that cannot be called so.
        """
        self._index = check_index(url.options["index"])
        query = {"filter_path": "errors,items.*.status,items.*.error.type,items.*.error.reason"}
        if url.options["pipeline"] is not None:
            query["pipeline"] = url.options["pipeline"]
        self._path = with_query(url.path.rstrip("/") + "/_bulk", query)
        self._http = Http(url, PORT)
        self._send = Halving()

    def __call__(self, events: list[Event]) -> Outcomes:
        """Create the documents; those that are there already are done."""
        lines, outcomes = made_of(events, lambda event: bulk_lines(event, self._index))

        def send(part: Sequence[int]) -> None:
            answer = self._http.post(
                self._path, b"".join(lines[index] for index in part), "application/x-ndjson"
            )
            taken(answer)
            read_items(answer, part, outcomes)

        self._send(in_requests(lines, MAX_BODY_BYTES), send, outcomes)
        return outcomes

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def check_index(index: str) -> str:
    """The index itself, if the targets accept such a name once its date is filled in.

    Raises:
        UsageError: they do not.
    """
    plain = re.sub(r"\{(date|month|year)\}", "2026", index)
    if not _INDEX.fullmatch(plain) or "{" in plain or "}" in plain:
        raise UsageError(
            f"index={index!r}: small letters, digits, '-', '_', '.', with {{date}}, {{month}} or {{year}} of the event"
        )
    return index


def bulk_lines(event: Event, index: str) -> bytes:
    """The two lines of one event: the action, and its document."""
    for mark, how in _DATES.items():
        if mark in index:
            index = index.replace(mark, event.time.strftime(how))
    action = {"create": {"_index": index, "_id": document_id(unique_id(event))}}
    return json_bytes(action) + b"\n" + json_bytes(log_document(event)) + b"\n"


def document_id(event_id: str) -> str:
    """The id, or, if that is too long for the targets, a digest of it."""
    raw = event_id.encode("utf-8", "replace")
    return event_id if len(raw) <= MAX_ID_BYTES else f"sha256-{hashlib.sha256(raw).hexdigest()}"


def log_document(event: Event) -> dict[str, Any]:
    """document() with @timestamp, which data streams demand, and message and log.level where data tells them.

    Names of https://www.elastic.co/docs/reference/ecs/ecs-log, under which dashboards look for them.
    """
    made = document(event)
    made["@timestamp"] = made.pop("time")
    message, level = message_of(event.data)[0], level_of(event.data)
    if message:
        made["message"] = message
    if level:
        made["log"] = {"level": level}
    return made


def read_items(answer: Answer, part: Sequence[int], outcomes: Outcomes) -> None:
    """Put down what became of each document of a bulk request.

    Raises:
        SinkAway: the answer is not one of the bulk API, so what became of them is not known. SinkRefused: we may not
        write to that index, or it is not there and may not be made.
    """
    reply = answer.json()
    if not isinstance(reply, dict) or not isinstance(reply.get("errors"), bool):
        not_understood(answer, "it is not that of a bulk request")
    if not reply["errors"]:
        return
    items = reply.get("items")
    if not isinstance(items, list) or len(items) != len(part):
        not_understood(answer, f"it does not have the {len(part)} items of the request")
    for index, item in zip(part, items, strict=True):
        result = next(iter(item.values()), None) if isinstance(item, dict) else None
        if not isinstance(result, dict) or not isinstance(result.get("status"), int):
            not_understood(answer, "an item has no status")
        _read_item(index, result, outcomes)


def _read_item(index: int, result: Mapping[str, Any], outcomes: Outcomes) -> None:
    status: int = result["status"]
    if 200 <= status < 300 or status == 409:
        return
    error = result.get("error")
    said = f"{status}: {_words(error)}"
    if status == 429 or status >= 500:
        outcomes.fail(index, SinkAway(said))
    elif status in (401, 403, 404) or _is_mended(error):
        outcomes.fail(index, SinkRefused(said))
    else:
        outcomes.reject(index, said)


def _is_mended(error: object) -> bool:
    """Whether somebody has to mend the index, not the document."""
    if not isinstance(error, Mapping):
        return False
    # A pipeline that does not exist is an illegal argument as many others are: only its words tell.
    return error.get("type") in MENDED or str(error.get("reason", "")).startswith("pipeline with id [")


def _words(error: object) -> str:
    if isinstance(error, Mapping):
        text = f"{error.get('type', '')}: {error.get('reason', '')}"
    else:
        text = str(error or "no reason given")
    return words_of(text)


KIND = SinkKind(
    make=OpenSearch,
    options=(
        Option(
            "index",
            "text",
            None,
            "index or data stream; {date}, {month}, {year} are the event's",
            needed=True,
        ),
        Option("pipeline", "text", None, "ingest pipeline that documents go through"),
        *HTTP_OPTIONS,
        GZIP,
    ),
)
