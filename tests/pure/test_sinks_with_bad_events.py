"""Sinks: one event that cannot be written costs its batch nothing."""

import io
import json
from pathlib import Path

from consumers.sinks.console import Console
from consumers.sinks.json_lines import JsonLines
from pipeline.errors import DecodeError
from pipeline.event import Event
from pipeline.outcome import Outcomes
from pipeline.wire import decode_entry, encode_entry


def batch_with_bad_events() -> list[Event]:
    """Four events: the second is corrupt, the third holds what JSON cannot hold exactly."""
    good = [Event({"n": n}, id=f"good-{n}") for n in range(2)]
    fields = encode_entry(Event({"n": 7}), producer="p", number=7)
    corrupt = decode_entry(b"1-0", [*fields[:3], b"\xc1" + fields[3][1:]]).events[0]
    return [good[0], corrupt, Event({"raw": b"\xff\x00", "far": float("inf")}, id="bytes"), good[1]]


def check(lines: list[str], outcomes: Outcomes) -> None:
    """The good ones are written, bytes as base64; the corrupt one fails alone, and for good."""
    written = [json.loads(line) for line in lines]
    assert [one["id"] for one in written] == ["good-0", "bytes", "good-1"]
    assert written[1]["data"] == {"raw": {"base64": "/wA="}, "far": "inf"}
    assert set(outcomes.errors) == {1}
    assert isinstance(outcomes.errors[1], DecodeError)


def test_json_lines_writes_the_good_events_of_a_batch(tmp_path: Path) -> None:
    """A corrupt event does not make dead letters of 499 others."""
    sink = JsonLines(tmp_path / "out.jsonl")
    outcomes = sink(batch_with_bad_events())
    check((tmp_path / "out.jsonl").read_text().splitlines(), outcomes)


def test_console_writes_the_good_events_of_a_batch() -> None:
    """The same for what is shown."""
    out = io.StringIO()
    outcomes = Console(out)(batch_with_bad_events())
    check(out.getvalue().splitlines(), outcomes)
