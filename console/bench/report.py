"""Report: from figures of several rounds to medians and shares, as values; and how people see them."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from console.bench.measures import LIMIT
from console.bench.rounds import Figures
from console.output import Column, as_bytes, number

Row = dict[str, Any]
POINTS = ("p50_us", "p90_us", "p99_us", "p99.9_us", "p100_us")


def report(figures: Sequence[Figures], limit_by: str) -> dict[str, list[Row]]:
    """The rows of the three tables: rates, latency, bytes. Unknown is None."""
    by_name = {one.measure.name: one for one in figures}
    rates, latencies, sizes = [], [], []
    for one in figures:
        measure = one.measure
        base: Row = {"measure": measure.name, "what": measure.what}
        if measure.name == LIMIT:
            base["what"] += f" ({limit_by})"
        arrived: Row = {"arrived": one.events, "right": one.right, "checked": one.checked}
        if measure.kind == "latency":
            points = {point: _median(one.rounds, point) for point in POINTS}
            of = by_name.get(measure.of)
            share = _ratio(points["p99_us"], _median(of.rounds, "p99_us")) if of else None
            kept = {"per_s": _median(one.rounds, "per_s")}
            latencies.append(base | kept | points | {"times_p99": share, "of": measure.of or None} | arrived)
        elif measure.kind == "bytes":
            sizes += [_size(one.rounds[0], kind) for kind in ("singles", "packs")] if one.rounds else []
        else:
            per_s = _median(one.rounds, "per_s")
            of = by_name.get(measure.of)
            every = [found["per_s"] for found in one.rounds]
            rates.append(
                base
                | {
                    "per_s": per_s,
                    "share": _ratio(per_s, _median(of.rounds, "per_s")) if of else None,
                    "of": measure.of or None,
                    "least_per_s": min(every, default=None),
                    "most_per_s": max(every, default=None),
                    "rounds_per_s": every,
                    "cpu_us": _median(one.rounds, "cpu_us"),
                    "peak_bytes": _most(one.rounds, "peak_bytes"),
                }
                | arrived
            )
    return {"rates": rates, "latency": latencies, "bytes": sizes}


def _size(found: Mapping[str, Any], kind: str) -> Row:
    return {
        "stream": kind,
        "bytes_per_event": found.get(f"{kind}_bytes"),
        "entries": found.get(f"{kind}_entries"),
    }


def _median(rounds: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [found[name] for found in rounds if found.get(name) is not None]
    return median(values) if values else None


def _most(rounds: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return max((found[name] for found in rounds if found.get(name) is not None), default=None)


def _ratio(value: float | None, of: float | None) -> float | None:
    return value / of if value is not None and of else None


def as_rate(per_s: float | None) -> str:
    """Events per second."""
    return "?" if per_s is None else f"{per_s:,.0f}"


def as_share(share: float | None) -> str:
    """A share in percent; nothing for what is none."""
    return "" if share is None else f"{share * 100:.0f}%"


def as_us(us: float | None) -> str:
    """Microseconds; nothing where they are not the event's."""
    return "" if us is None else f"{us:.2f}" if us < 10 else f"{us:,.0f}"


def as_times(times: float | None) -> str:
    """How many times as long."""
    return "" if times is None else f"{times:.1f}x"


def as_right(right: bool) -> str:
    """Whether what arrived is what was sent."""
    return "all" if right else "WRONG"


_NAME = (Column("measure", "MEASURE"),)
_END = (
    Column("right", "ARRIVED", as_right, style=lambda right: "" if right else "red"),
    Column("what", "WHAT", shrinks=True),
)
RATES = (
    *_NAME,
    number("per_s", "EVENTS/S", as_rate),
    number("share", "SHARE", as_share),
    Column("of", "OF"),
    number("least_per_s", "LEAST", as_rate),
    number("most_per_s", "MOST", as_rate),
    number("cpu_us", "CPU US", as_us),
    number("peak_bytes", "MEMORY", lambda size: "" if size is None else as_bytes(size)),
    *_END,
)
LATENCY = (
    *_NAME,
    number("per_s", "EVENTS/S", as_rate),
    *(
        number(point, f"{point.removesuffix('_us').replace('p100', 'max').upper()} US", as_us)
        for point in POINTS
    ),
    number("times_p99", "P99", as_times),
    Column("of", "OF"),
    *_END,
)
BYTES = (
    Column("stream", "STREAM OF"),
    number("bytes_per_event", "BYTES/EVENT", lambda size: "?" if size is None else f"{size:.1f}"),
    number("entries", "ENTRIES"),
)
