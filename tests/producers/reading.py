"""Reading: what stands in a stream, as the tests of producers look at it."""

from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.server.replies import parse_entries
from pipeline.wire import decode_entry


def events(link: Link, stream: str) -> list[Event]:
    """All events of a stream, those of packs one by one, in order."""
    found: list[Event] = []
    start = "-"
    while True:
        entries = parse_entries(link.call("XRANGE", stream, start, "+", "COUNT", 1_000))
        for entry_id, fields in entries:
            found += decode_entry(entry_id, fields or []).events
        if len(entries) < 1_000:
            return found
        start = f"({entries[-1][0].decode()}"


def datas(link: Link, stream: str) -> list[object]:
    """The data of all events of a stream."""
    return [event.data for event in events(link, stream)]
