"""When a delayed task is due: what is said clearly is taken, and everything else is refused with what was given."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pipeline.due import Due, due_of
from pipeline.errors import UsageError

NOW_MS = 1_764_136_800_000  # 2025-11-26 06:00:00 UTC


@pytest.mark.parametrize(
    ("said", "due"),
    [
        ({}, None),
        ({"after": "10m"}, Due(after_ms=600_000)),
        ({"after": 0}, Due(after_ms=0)),
        ({"after": 1.5}, Due(after_ms=1_500)),
        ({"after": timedelta(days=1)}, Due(after_ms=86_400_000)),
        ({"at": NOW_MS / 1_000 + 2}, Due(at_ms=NOW_MS + 2_000)),
        ({"at": datetime(2025, 11, 26, 7, tzinfo=UTC)}, Due(at_ms=NOW_MS + 3_600_000)),
        (
            {"at": datetime(2025, 11, 26, 8, tzinfo=timezone(timedelta(hours=1)))},
            Due(at_ms=NOW_MS + 3_600_000),
        ),
        ({"at": NOW_MS / 1_000 - 0.5}, Due(at_ms=NOW_MS - 500)),
    ],
)
def test_a_task_is_due_after_a_while_or_at_a_time(said: dict[str, Any], due: Due | None) -> None:
    """What is said a moment ago to be now is not yet past."""
    assert due_of(**said, now_ms=NOW_MS) == due


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"after": -5}, ["after=-5", "0 or more"]),
        ({"after": timedelta(seconds=-1)}, ["after=", "0 or more"]),
        ({"after": float("nan")}, ["after=nan", "out of range"]),
        ({"after": "soon"}, ["after='soon'", "not a duration"]),
        ({"after": 1, "at": NOW_MS}, ["after=1", "not both"]),
        (
            {"at": NOW_MS / 1_000 - 3_600},
            ["at=2025-11-26 05:00:00+00:00", "1 h in the past", "it is 2025-11-26 06:00:00+00:00 now"],
        ),
        ({"at": 0}, ["at=1970-01-01 00:00:00+00:00", "in the past"]),
        ({"at": -1e11}, ["in the past"]),
        ({"at": datetime(2030, 1, 1)}, ["at=2030-01-01T00:00:00", "no time zone"]),  # noqa: DTZ001
        ({"at": "2030-01-01"}, ["at='2030-01-01'", "datetime with its zone"]),
        ({"at": True}, ["at=True"]),
        ({"at": float("inf")}, ["at=inf", "before the year 10,000"]),
        ({"at": float("nan")}, ["at=nan"]),
        ({"at": NOW_MS}, ["before the year 10,000"]),  # ms where s are meant
    ],
)
def test_what_cannot_be_is_refused_with_what_was_given(said: dict[str, Any], named: list[str]) -> None:
    """A UsageError in words of the option."""
    with pytest.raises(UsageError) as caught:
        due_of(**said, now_ms=NOW_MS)
    assert [part for part in named if part not in str(caught.value)] == []
