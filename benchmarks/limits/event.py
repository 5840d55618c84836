"""The load: a log event of nine fields, 161 bytes as msgpack, different for each index and the same every time.

Its request_id is a number spread over 64 bits, so the sum of the ids that arrived tells a lost event, a repeated one
and a stranger from what was sent, whatever order they came in.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]

_SPREAD = 0x9E37_79B9_7F4A_7C15
"""Odd, so that no two indexes below 2^64 share an id."""
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_UNSPREAD = pow(_SPREAD, -1, _MASK + 1)

_WHAT = ("request handled", "request refused", "session renewed", "payment settled")
_LEVELS = ("info", "info", "info", "debug", "info", "info", "warn", "info")
_LOGGERS = ("shop.orders", "shop.basket", "shop.search", "shop.access")
_METHODS = ("GET", "GET", "POST", "GET", "PUT")
_STATUSES = (200, 200, 200, 201, 200, 204, 404, 200, 503)


def event(index: int) -> dict[str, Any]:
    """The event of this index."""
    spread = (index * _SPREAD + 1) & _MASK
    return {
        "event": _WHAT[spread >> 62],
        "level": _LEVELS[index % 8],
        "logger": _LOGGERS[index % 4],
        "method": _METHODS[index % 5],
        "path": f"/v1/orders/{(spread >> 40) % 900_000 + 100_000}",
        "status": _STATUSES[index % 9],
        "duration_ms": (spread >> 32) % 100_000 / 128,
        "request_id": f"{spread:016x}",
        "user": f"user-{(spread >> 20) % 90_000 + 10_000}",
    }


def events(count: int, first: int = 0) -> list[dict[str, Any]]:
    """So many events, from the index `first` on."""
    return [event(index) for index in range(first, first + count)]


def bodies(count: int, first: int = 0) -> list[bytes]:
    """The same as msgpack."""
    pack = msgpack.Packer().pack
    return [pack(event(index)) for index in range(first, first + count)]


def index_of(request_id: str) -> int:
    """Which event has this request_id."""
    return (int(request_id, 16) - 1) * _UNSPREAD & _MASK


@dataclass(frozen=True, slots=True)
class Tally:
    """Events by their number and the sum of their ids; two are equal only if the same events arrived as often."""

    events: int = 0
    checksum: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.events + other.events, (self.checksum + other.checksum) & _MASK)


def tally(request_ids: Iterable[str]) -> Tally:
    """What arrived."""
    numbers = [int(request_id, 16) for request_id in request_ids]
    return Tally(len(numbers), sum(numbers) & _MASK)


def expected(count: int, first: int = 0) -> Tally:
    """What events(count, first) must add up to, without making them."""
    indexes = count * first + count * (count - 1) // 2
    return Tally(count, (indexes * _SPREAD + count) & _MASK)
