"""ReplayRecord: what the server keeps of a replay of a range: what was asked for, and how far it has come.

One text under one key, written by the script that hands events over, and compared as a whole: a replay that is resumed
cannot be another one, and two that resume the same do not hand over anything twice. Pure.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import UnknownFormatError, UsageError
from pipeline.position import after, parse_entry_id
from pipeline.replay_plan import ReplayPlan
from pipeline.replayed import Replayed
from pipeline.selection import Selection

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRecord:
    """A replay of a range, and where it stands."""

    next_id: str
    """The entry it goes on with: this one, or the first one after it."""
    next_index: int = 0
    """The event of that entry it goes on with: above 0 in the midst of a pack."""
    handed_over: int = 0
    """Events handed over so far."""
    planned: int
    """Events selected when it was planned."""
    id: str
    group: str
    first_id: str
    last_id: str
    selection: Selection
    again: bool
    begun_ms: int
    """By the server's clock, in ms since 1970."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be handed over."""
        return parse_entry_id(self.next_id) > parse_entry_id(self.last_id)

    @property
    def replayed(self) -> Replayed:
        """What its events say of it."""
        return Replayed(id=self.id, at_ms=self.begun_ms, again=self.again, what=self.plan().what)

    def plan(self, *, members: int = 0) -> ReplayPlan:
        """The plan that is left of it; what had been counted beside the events is not kept."""
        return ReplayPlan(
            id=self.id, source="range", first_id=self.first_id, last_id=self.last_id, selection=self.selection,
            again=self.again, selected=self.planned, handed_over=self.handed_over, members=members,
            begun_ms=self.begun_ms,
        )  # fmt: skip

    def text(self) -> str:
        """What is kept."""
        values = asdict(self) | {"selection": self.selection.as_facts()}
        return json.dumps({"v": VERSION} | values, ensure_ascii=False, separators=(",", ":"))


def new_record(plan: ReplayPlan, group: str, now_ms: int) -> ReplayRecord:
    """The record of a replay that begins now; last_id is never beyond what an entry id can be."""
    after(plan.last_id)
    return ReplayRecord(
        next_id=plan.first_id, planned=plan.selected, id=plan.id, group=group, first_id=plan.first_id,
        last_id=plan.last_id, selection=plan.selection, again=plan.again, begun_ms=now_ms,
    )  # fmt: skip


def read_record(text: str) -> ReplayRecord:
    """The record that text() gave.

    Raises:
        UnknownFormatError: of a newer version, or no such record.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        if values.pop("v") != VERSION:
            raise UnknownFormatError("the record of this replay is of a newer version: upgrade Millstream")
        values["selection"] = Selection.from_facts(values["selection"])
        record = ReplayRecord(**values)
        for position in (record.next_id, record.first_id, record.last_id):
            parse_entry_id(position)
        for name in ("next_index", "handed_over", "planned", "begun_ms"):
            if type(values.get(name)) is not int:
                raise UnknownFormatError(f"the record of this replay has no number {name}")
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
        raise UnknownFormatError(f"the record of this replay cannot be read: {text[:100]!r}") from error
    return record
