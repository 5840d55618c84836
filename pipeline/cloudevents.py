"""CloudEvents: an event in their structured JSON mode, and back.

Version 1.0 of the vocabulary: subject is our key, extension attributes are our headers. Source:
https://github.com/cloudevents/spec/blob/main/cloudevents/formats/json-format.md
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import DecodeError, UsageError
from pipeline.text_codecs import json_value

NO_TYPE = "event"
"""The type of a CloudEvent whose event has none: CloudEvents demands one."""
OTHER_HEADERS = "millstreamheaders"
"""The extension attribute that holds, as JSON text, headers whose names CloudEvents does not allow."""
_OWN_ATTRIBUTES = frozenset(
    "specversion id source type subject time datacontenttype data data_base64".split()
)
_EXTENSION = re.compile("[a-z0-9]+")


def structured(
    *,
    id: str,  # noqa: A002 - CloudEvents' words
    type: str,  # noqa: A002
    key: str,
    time: datetime | None,
    headers: Mapping[str, str],
    data: Any,
) -> dict[str, Any]:
    """The CloudEvent of an event's parts, as a dict of what JSON can hold; headers has its source.

    Raises:
        EncodeError: JSON cannot hold the data. UsageError: it has no id.
    """
    if not id:
        raise UsageError("the event has no id: CloudEvents demands one, so give it one or send it first")
    cloudevent: dict[str, Any] = {
        "specversion": "1.0", "id": id, "source": headers["source"], "type": type or NO_TYPE,
    }  # fmt: skip
    if key:
        cloudevent["subject"] = key
    if time is not None:
        cloudevent["time"] = time.isoformat().replace("+00:00", "Z")
    others: dict[str, str] = {}
    for name, value in headers.items():
        if name == "datacontenttype" or (_EXTENSION.fullmatch(name) and name not in _OWN_ATTRIBUTES):
            cloudevent[name] = value
        elif name != "source":
            others[name] = value
    if others:
        cloudevent[OTHER_HEADERS] = json.dumps(others, ensure_ascii=False)
    if isinstance(data, bytes):
        cloudevent.setdefault("datacontenttype", "application/octet-stream")
        cloudevent["data_base64"] = base64.b64encode(data).decode()
    else:
        cloudevent.setdefault("datacontenttype", "application/json")
        cloudevent["data"] = json_value(data)
    return cloudevent


def event_arguments(cloudevent: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an Event, from a CloudEvent in structured JSON mode.

    Raises:
        DecodeError: not a CloudEvent of version 1.
    """
    if not isinstance(cloudevent, Mapping):
        raise DecodeError(f"a CloudEvent is a dict, not {type(cloudevent).__name__}")
    version = cloudevent.get("specversion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise DecodeError(f"specversion={version!r}: a CloudEvent of version 1 says 1.0")
    for name in ("id", "source", "type"):
        if not isinstance(cloudevent.get(name), str) or not cloudevent[name]:
            raise DecodeError(f"{name}={cloudevent.get(name)!r}: a CloudEvent has one, as text")
    if not isinstance(cloudevent.get("subject", ""), str):
        raise DecodeError(f"subject={cloudevent['subject']!r}: a CloudEvent's subject is text")
    headers = _others(cloudevent.get(OTHER_HEADERS, "{}"))
    for name, value in cloudevent.items():
        if name in _OWN_ATTRIBUTES or name == OTHER_HEADERS or value is None:
            continue
        if not isinstance(name, str) or not isinstance(value, str | bool | int):
            raise DecodeError(
                f"{name}={value!r}: an extension attribute of a CloudEvent is text, a number or a bool"
            )
        headers[name] = str(value).lower() if isinstance(value, bool) else str(value)
    headers["source"] = cloudevent["source"]
    data, usual = cloudevent.get("data"), "application/json"
    if "data_base64" in cloudevent:
        if data is not None:
            raise DecodeError("a CloudEvent has either data or data_base64, not both")
        data, usual = _base64(cloudevent["data_base64"]), "application/octet-stream"
    content_type = cloudevent.get("datacontenttype") or usual
    if content_type != usual:
        headers["datacontenttype"] = str(content_type)
    return {
        "data": data,
        "id": cloudevent["id"],
        "type": "" if cloudevent["type"] == NO_TYPE else cloudevent["type"],
        "key": cloudevent.get("subject", ""),
        "time": _time(cloudevent.get("time")),
        "headers": headers,
    }


def _others(text: Any) -> dict[str, str]:
    try:
        others = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        others = None
    if not isinstance(others, dict) or not all(isinstance(value, str) for value in others.values()):
        raise DecodeError(f"{OTHER_HEADERS} is JSON of text by name")
    return others


def _base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, binascii.Error, ValueError) as error:
        raise DecodeError(f"data_base64 is not base64: {error}") from None


def _time(text: Any) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.utcoffset() is not None else time.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise DecodeError(f"time={text!r}: a CloudEvent's time is as in 2026-11-23T14:00:00Z") from None
