"""The test vectors of docs/wire.md, read from it and checked both ways: the page is what the code does."""

import json
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pipeline import envelope, errors
from pipeline.codec import Codec
from pipeline.event import Event
from pipeline.limits import DEFAULT_LIMITS
from pipeline.wire import decode_entry, encode_entry, encode_pack
from tests.pure.event_data import identical

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
VECTORS = [json.loads(block) for block in re.findall(r"```json vector\n(.*?)```", PAGE, re.DOTALL)]


def vectors(kind: str) -> pytest.MarkDecorator:
    """The page's vectors that have this element, each a test of its own."""
    return pytest.mark.parametrize(
        "vector", [pytest.param(vector, id=vector["vector"]) for vector in VECTORS if kind in vector]
    )


def fields_of(vector: dict[str, Any]) -> list[bytes]:
    """Its fields: names as text, values in hex."""
    return [part for name, value in vector["fields"] for part in (name.encode(), bytes.fromhex(value))]


def data_of(value: Any) -> Any:
    """Data as the page writes what JSON does not have: {"$uuid": …} and the like."""
    if isinstance(value, list):
        return [data_of(item) for item in value]
    if not isinstance(value, dict):
        return value
    kinds: dict[str, Any] = {
        "$bytes": bytes.fromhex, "$time": datetime.fromisoformat, "$decimal": Decimal, "$uuid": UUID,
    }  # fmt: skip
    for name, made in kinds.items():
        if name in value:
            return made(value[name])
    return {key: data_of(item) for key, item in value.items()}


@vectors("events")
def test_the_entry_is_read_as_the_page_says(vector: dict[str, Any]) -> None:
    """Ids, types, keys, times, headers and data of its events."""
    entry = decode_entry(vector["entry_id"].encode(), fields_of(vector))
    assert entry.count == len(vector["events"])
    for event, says in zip(entry.events, vector["events"], strict=True):
        assert event.id == says["id"]
        assert (event.type, event.key) == (says.get("type", ""), says.get("key", ""))
        assert event.time_ms == says["time_ms"]
        assert event.headers == says.get("headers", {})
        assert identical(event.data, data_of(says["data"]))


@vectors("write")
def test_the_entry_is_written_as_the_page_says(vector: dict[str, Any]) -> None:
    """The same events give the same bytes."""
    write = vector["write"]
    given = [
        Event(
            data_of(says["data"]),
            type=says.get("type", ""),
            key=says.get("key", ""),
            id=says["id"] if says.get("id_given") else "",
            time_ms=says["time_ms"] if says.get("time_given") else None,
            headers=says.get("headers"),
        )
        for says in vector["events"]
    ]
    if write["as"] == "pack":
        fields = encode_pack(given, producer=write["producer"], first_number=write["number"], compress=False)
    else:
        codec = Codec.named(write["as"])
        fields = encode_entry(given[0], producer=write["producer"], number=write["number"], codec=codec)
    assert fields == fields_of(vector)


@vectors("error")
def test_the_entry_is_refused_as_the_page_says(vector: dict[str, Any]) -> None:
    """By the error that decides whether it is a dead letter."""
    error: type[Exception] = getattr(errors, vector["error"])
    with pytest.raises(error):
        _ = [event.data for event in decode_entry(b"1700000000000-3", fields_of(vector)).events]


@vectors("again")
def test_the_envelope_of_an_event_that_runs_again_is_as_the_page_says(vector: dict[str, Any]) -> None:
    """Read and written."""
    again = envelope.Again(**vector["again"])
    fields = fields_of(vector)
    assert envelope.read_again(fields) == (again, fields[2:])
    assert envelope.again_fields(again, fields[2:]) == fields


@vectors("dead_letter")
def test_the_envelope_of_a_dead_letter_is_as_the_page_says(vector: dict[str, Any]) -> None:
    """Read and written."""
    letter = envelope.DeadLetter(**vector["dead_letter"])
    fields = fields_of(vector)
    assert envelope.read_dead(fields) == (letter, fields[2:])
    assert envelope.dead_fields(letter, fields[2:]) == fields


@vectors("retry_body")
def test_the_body_of_a_retry_is_as_the_page_says(vector: dict[str, Any]) -> None:
    """Read and written."""
    body = bytes.fromhex(vector["retry_body"])
    assert envelope.retry_body(fields_of(vector)) == body
    assert envelope.read_retry_body(body) == fields_of(vector)


def test_the_page_has_a_vector_for_every_form() -> None:
    """So that none of the tests above is empty."""
    assert len(VECTORS) >= 18
    for kind in ("events", "write", "error", "again", "dead_letter", "retry_body"):
        assert any(kind in vector for vector in VECTORS)


def test_the_page_names_every_limit_as_it_is() -> None:
    """The table of limits is the one the code has."""
    for name in DEFAULT_LIMITS.__dataclass_fields__:
        assert f"| `{name}` | {getattr(DEFAULT_LIMITS, name):,} |" in PAGE
