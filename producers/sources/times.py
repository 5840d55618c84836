"""Times: when what a line says happened, as the line has it.

Pure: the present and the zone of this machine are passed in. Known are ISO 8601 in the forms that loggers write, the
stamps of syslog (without a year or a zone), of web servers (`26/Nov/2026:02:28:19 +0000`), of nginx's error log, and
seconds, ms, us or ns since 1970. A time without a zone is this machine's. What lies before 2000, or more than a day
ahead, is no time at which anything was logged: a clock that was not set, or a field that means something else.
"""

import calendar
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

EARLIEST_MS = 946_684_800_000
"""2000-01-01: before that, a clock was not set."""
AHEAD_MS = 86_400_000
"""So far a clock may be ahead of ours."""
FIELDS = ("time", "timestamp", "@timestamp", "ts", "datetime", "date", "asctime", "t")
"""Of a line's fields those looked at, in this order."""

TimeOf: TypeAlias = Callable[[Any, int], int | None]
"""The time of a line's data in ms since 1970, given the present; None: it names none. Untimed: it cannot be right."""
Offset: TypeAlias = Callable[[int], int]
"""How far local time is ahead of UTC, in ms, at a moment given as local time in ms since 1970."""

_MONTHS = {
    name: number for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}
_ZONE = r"(?: ?(Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)(?!\w))?"
_ISO = re.compile(rf"(\d{{4}}[-/]\d\d[-/]\d\d)[T ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d{{1,9}}))?)?{_ZONE}")
_SYSLOG = re.compile(r"([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?")
_WEB = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d\d)(\d\d)")
_NUMBER = re.compile(r"\d{9,19}(?:\.\d{1,9})?")
_SECOND_MS, _MINUTE_MS, _DAY_MS = 1_000, 60_000, 86_400_000
_UNITS = ((10**11, 1_000), (10**14, 1), (10**17, 1e-3), (float("inf"), 1e-6))
"""Below the first a number is seconds, below the second ms, then us, then ns."""
_LEAST_NUMBER = 10**8
"""1973: what is less is more likely a duration, unless its field is called so that it cannot be."""
_MOST_NUMBER = 10**24
"""What is more is no other time than this, which cannot be right either: a line may hold 1e400, or 400 digits."""
_CERTAIN = frozenset(("timestamp", "@timestamp", "ts"))
_NOTED = 4_096
_TEXT_LOOKED_AT = 64


class Untimed(ValueError):
    """There is a time, and it cannot be right."""


def local_offset(local_ms: int) -> int:
    """This machine's; of an hour that comes twice, the first."""
    naive = datetime.fromtimestamp(local_ms // 1_000, UTC).replace(tzinfo=None)
    offset = naive.astimezone().utcoffset()
    assert offset is not None, "astimezone gives a zone"
    return round(offset.total_seconds() * 1_000)


class Times:
    """Reads times; keeps what it has worked out of a day and an hour."""

    def __init__(self, offset: Offset = local_offset) -> None:
        self._offset = offset
        self._days: dict[str, int] = {}
        self._offsets: dict[int, int] = {}

    def of_text(self, text: str, now_ms: int) -> int | None:
        """The time with which a text begins, in any of the forms; None: with none."""
        match = _ISO.match(text)
        if match is not None:
            day, clock, seconds, fraction, zone = match.groups()
            local_ms = self._day_ms(day) + _clock_ms(clock) + _seconds_ms(seconds, fraction)
            return local_ms - (self._here_ms(local_ms) if zone is None else _zone_ms(zone))
        match = _SYSLOG.match(text)
        if match is not None:
            return self._without_year(match, now_ms)
        match = _WEB.match(text)
        if match is not None:
            date, month, year, hour, minute, second, zone_hours, zone_minutes = match.groups()
            day_ms = self._day_ms(f"{year}-{_MONTHS.get(month, 0):02}-{date}")
            return (
                day_ms
                + _clock_ms(f"{hour}:{minute}")
                + int(second) * 1_000
                - _zone_ms(zone_hours + zone_minutes)
            )
        return None

    def of_value(self, value: Any, now_ms: int) -> int | None:
        """The time that a field's value is; None: none."""
        if isinstance(value, str):
            found = self.of_text(value, now_ms)
            if found is None and _NUMBER.fullmatch(value):
                return _since_1970(float(value) if "." in value else int(value))
            return found
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return _since_1970(value)

    def _day_ms(self, day: str) -> int:
        known = self._days.get(day)
        if known is None:
            year, month, date = int(day[:4]), int(day[5:7]), int(day[8:])
            if not (1 <= month <= 12 and 1 <= date <= calendar.monthrange(max(year, 1), month)[1]):
                raise Untimed(f"there is no day {day}")
            if len(self._days) >= _NOTED:
                self._days.clear()
            known = self._days[day] = calendar.timegm((max(year, 1), month, date, 0, 0, 0)) * 1_000
        return known

    def _here_ms(self, local_ms: int) -> int:
        quarter = local_ms // (15 * _MINUTE_MS)
        known = self._offsets.get(quarter)
        if known is None:
            if (
                not EARLIEST_MS - _DAY_MS < local_ms < EARLIEST_MS * 5
            ):  # far off: refused anyway, and no calendar's
                return 0
            if len(self._offsets) >= _NOTED:
                self._offsets.clear()
            known = self._offsets[quarter] = self._offset(local_ms)
        return known

    def _without_year(self, match: re.Match[str], now_ms: int) -> int | None:
        name, date, hour, minute, second, fraction = match.groups()
        month = _MONTHS.get(name)
        if month is None:
            return None
        rest_ms = _clock_ms(f"{hour}:{minute}") + _seconds_ms(second, fraction)
        year = datetime.fromtimestamp((now_ms + AHEAD_MS) // 1_000, UTC).year
        # The latest year in which this is no more than a day ahead; the 29th of February may be long ago.
        for each in range(year, year - 9, -1):
            try:
                local_ms = self._day_ms(f"{each:04}-{month:02}-{int(date):02}") + rest_ms
            except Untimed:
                continue
            time_ms = local_ms - self._here_ms(local_ms)
            if time_ms <= now_ms + AHEAD_MS:
                return time_ms
        raise Untimed(f"there is no day {name} {date}")


def time_auto(offset: Offset = local_offset) -> TimeOf:
    """The time in the fields that are called so, or with which the text begins."""
    times = Times(offset)

    def of(data: Any, now_ms: int) -> int | None:
        if data.__class__ is str:
            text = data[:_TEXT_LOOKED_AT].lstrip("[<( ")
            return plausible(times.of_text(text, now_ms), now_ms) if text[:1].isalnum() else None
        if isinstance(data, Mapping):
            for name in FIELDS:
                value = data.get(name)
                if value.__class__ in (int, float) and value < _LEAST_NUMBER and name not in _CERTAIN:
                    continue
                if value is not None and (found := times.of_value(value, now_ms)) is not None:
                    return plausible(found, now_ms)
        return None

    return of


def time_field(name: str, offset: Offset = local_offset) -> TimeOf:
    """The time in the field of this name, which may be `outer.inner`; what is none is Untimed."""
    times = Times(offset)
    parts = name.split(".")

    def of(data: Any, now_ms: int) -> int | None:
        value = data.get(name) if isinstance(data, Mapping) else None
        if value is None:
            value = data
            for part in parts:
                value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            raise Untimed(f"there is no field {name!r}")
        found = times.of_value(value, now_ms)
        if found is None:
            raise Untimed(f"{str(value)[:60]!r} is no time")
        return plausible(found, now_ms)

    return of


def plausible(time_ms: int | None, now_ms: int) -> int | None:
    """The time itself.

    Raises:
        Untimed: nothing was logged then.
    """
    if time_ms is None or EARLIEST_MS <= time_ms <= now_ms + AHEAD_MS:
        return time_ms
    what = "lies before 2000" if time_ms < EARLIEST_MS else "lies more than a day ahead"
    raise Untimed(f"{_shown(time_ms)} {what}")


def _shown(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def _since_1970(number: float) -> int | None:
    if number != number or number < 0:
        return None
    number = min(number, _MOST_NUMBER)
    return int(next(number * factor for below, factor in _UNITS if number < below or below == float("inf")))


def _clock_ms(clock: str) -> int:
    hour, minute = int(clock[:2]), int(clock[3:])
    if hour > 24 or minute > 59:
        raise Untimed(f"there is no {clock} o'clock")
    return (hour * 60 + minute) * _MINUTE_MS


def _seconds_ms(seconds: str | None, fraction: str | None) -> int:
    found = int(seconds or 0) * _SECOND_MS
    return found + int(f"{fraction}00"[:3]) if fraction else found


def _zone_ms(zone: str) -> int:
    if zone[0] not in "+-":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[-2:] if len(zone) > 3 else 0)
    return (-minutes if zone[0] == "-" else minutes) * _MINUTE_MS
