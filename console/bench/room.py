"""Room: how much of the server's memory a run of the bench takes, and whether there is that much."""

from collections.abc import Sequence

from console.bench.measures import Measure, streams_needed
from pipeline.errors import MillstreamError, UsageError
from pipeline.server.connect import Link
from pipeline.server.replies import info_fields
from pipeline.units import show_bytes

EVENT_BYTES = 161
SINGLE_BYTES = 250
"""What an event in an entry of its own takes in the server, and some more: servers differ."""
PACKED_BYTES = 60
BASE_BYTES = 2_000_000
"""For buffers and replies."""


def needed_bytes(measures: Sequence[Measure], events: int) -> int:
    """The most memory the keys of the run take at a time: the filled streams, and one that is written."""
    filled = streams_needed(measures)
    writes = any(measure.kind in ("append", "both") for measure in measures)
    per_event = SINGLE_BYTES * (("singles" in filled) + writes) + PACKED_BYTES * ("packs" in filled)
    return events * per_event + BASE_BYTES


def check_room(link: Link, measures: Sequence[Measure], events: int) -> None:
    """Refuse what would fill the server: evicted or refused writes would hit others.

    Raises:
        UsageError: less is free below maxmemory than is needed; says for how many events it would do.
    """
    try:
        facts = info_fields(link.call("INFO", "memory"))
    except MillstreamError:  # a user may be denied it
        return
    most, used = int(facts.get("maxmemory", 0)), int(facts.get("used_memory", 0))
    need, free = needed_bytes(measures, events), most - used
    if most and need > free:
        room = max(free - needed_bytes(measures, 0), 0)
        fits = room * events // (need - BASE_BYTES)
        raise UsageError(
            f"--events={events:,} take about {show_bytes(need)}, and the server has {show_bytes(max(free, 0))} left of "
            f"its maxmemory of {show_bytes(most)}: "
            + (f"--events {fits} would fit" if fits >= 100 else "use another")
        )
