"""What tests of sinks share: events of an application's log, and a sink called as a consumer would call it."""

from collections.abc import Iterable, Sequence
from typing import Any

from consumers.sinks.by_url import kind_of
from consumers.sinks.kind import Sink
from consumers.sinks.sink_url import read_sink_url
from pipeline.event import Event
from pipeline.outcome import Outcomes, Reject
from pipeline.wire import decode_entry, encode_entry

TIME_MS = 1_795_658_400_123  # 2026-11-26T02:00:00.123Z
CANARY = "Can4ry-s3cret"


def log_events(numbers: Iterable[int], **data: Any) -> list[Event]:
    """Events as ship_logs sends them, read from the wire: ids p-<number>."""
    return [
        received(
            Event(
                {"event": f"request {number} done", "level": "info", "n": number, **data},
                type="log",
                key=f"k{number}",
                time_ms=TIME_MS + number,
                headers={"host": "web-1", "pid": "7"},
                source="shop",
            ),
            number,
        )
        for number in numbers
    ]


def received(event: Event, number: int, producer: str = "p") -> Event:
    """The event as a consumer gets it."""
    return decode_entry(b"1-0", encode_entry(event, producer=producer, number=number)).events[0]


def corrupt(number: int = 0) -> Event:
    """An event whose data cannot be read."""
    fields = encode_entry(Event({"n": 7}), producer="p", number=number)
    return decode_entry(b"1-0", [*fields[:3], b"\xc1" + fields[3][1:]]).events[0]


def made(url: str) -> Sink:
    """The sink of a URL, without what waits around it."""
    kind = kind_of(url)
    return kind.make(read_sink_url(url, kind.options, others=kind.others))


def handed(url: str, events: Sequence[Event]) -> Outcomes:
    """What a sink says of events."""
    sink = made(url)
    try:
        outcomes = sink(list(events))
    finally:
        sink.close()
    return outcomes or Outcomes()


def rejected(outcomes: Outcomes) -> dict[int, str]:
    """Why events were rejected; asserts that none went wrong otherwise."""
    assert all(isinstance(error, Reject) for error in outcomes.errors.values()), outcomes.errors
    return {index: str(error) for index, error in outcomes.errors.items()}
