"""Replayed: by which replay an event runs again, as its envelope says it (Again.why) and as its handler sees it.

Written once, when the event is handed over, and kept as it is through retries, crashes and death. Pure.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.header import MAX_TIME_MS

WORD = "replay"
"""Again.why of a replayed event begins so, and of no other."""
_WHY = re.compile(r"replay (again|once) ([0-9a-f]{1,32}) ([0-9]{1,15}) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Which replay it was."""

    id: str
    """The replay's own id, hexadecimal: what resumes it."""
    at_ms: int
    """When the replay was begun, by the server's clock, in ms since 1970."""
    again: bool
    """It also runs what `once=` would skip."""
    what: str
    """What was replayed, in words: "range 1700000000000-0 to 1700000000500-3, type order.*"."""

    @property
    def why(self) -> str:
        """The text for Again.why."""
        return f"{WORD} {'again' if self.again else 'once'} {self.id} {self.at_ms} {self.what}"

    @property
    def headers(self) -> dict[str, str]:
        """What the event's headers say to its handler, beside those it was sent with."""
        time = datetime.fromtimestamp(min(self.at_ms, MAX_TIME_MS) / 1_000, tz=UTC)
        said = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"replay-id": self.id, "replay-time": said, "replay-of": self.what}


def read_replayed(why: str) -> Replayed | None:
    """The replay that Again.why tells of; None for an event that runs again for another reason."""
    match = _WHY.fullmatch(why)
    if match is None:
        return None
    return Replayed(id=match[2], at_ms=int(match[3]), again=match[1] == "again", what=match[4])


def once_id(event_id: str, why: str) -> str:
    """What an event goes by where something is done once for it: its id; with `again`, the replay's behind it.

    So such a replay does it once more, and once only, however often one of its runs is repeated.
    """
    replayed = read_replayed(why)
    return f"{event_id}:{replayed.id}" if replayed is not None and replayed.again else event_id
