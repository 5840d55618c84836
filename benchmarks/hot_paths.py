"""Hot paths: what is done for every event, each as a function that runs it once and says what an event cost.

A cost is what a meter says of this process, all threads of it, and none of the server's. Pure paths take
milliseconds; those that end at a server go through the public API, a stream or a group of their own each time.
"""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from benchmarks.limits.event import bodies, events
from benchmarks.meter import CostMeter
from console.bench.consuming import consume
from console.bench.own_keys import OwnKeys
from console.bench.producing import produce
from console.bench.stopwatch import Stopwatch
from pipeline.event import Event
from pipeline.header import read_header
from pipeline.limits import DEFAULT_LIMITS
from pipeline.server.connect import Connector
from pipeline.wire import decode_entry, encode_entry, encode_pack

HotPath: TypeAlias = Callable[[CostMeter], float]
PURE_EVENTS = 1_000
SERVED_EVENTS = 5_000
PACK = 100
_PRODUCER = "0123456789abcdef"
_ENTRY_ID = b"1700000000000-0"


def metered(work: Callable[[], object], meter: CostMeter) -> float:
    """What the events of a pure path cost, each."""
    meter.start()
    work()
    meter.stop()
    return meter.cost / PURE_EVENTS


def calibration() -> HotPath:
    """The kind of work an event is (dicts, calls, attributes, small bytes), by no code and no library of ours."""
    rows = events(PURE_EVENTS)

    def step(row: dict[str, Any], total: int) -> int:
        return int(total + len(row["path"]) + row["status"])

    def work() -> None:
        total = 0
        kept: list[tuple[bytes, bytes]] = []
        for row in rows:
            made = dict(row)
            for _ in range(8):
                total = step(made, total)
            kept.append((b"%d-%d" % (total, len(kept)), repr(made).encode()))

    return partial(metered, work)


def pure_paths() -> dict[str, HotPath]:
    """Encoding and decoding."""
    rows = events(PURE_EVENTS)
    made = [Event(row) for row in rows]
    packed = bodies(PURE_EVENTS)

    def encode_singles() -> list[list[bytes]]:
        return [encode_entry(Event(row), producer=_PRODUCER, number=at) for at, row in enumerate(rows)]

    def encode_around_bodies() -> None:
        for one, body in zip(made, packed, strict=True):
            encode_entry(one, producer=_PRODUCER, number=70_000, body=body)

    def encode_packs() -> list[list[bytes]]:
        return [
            encode_pack(made[at : at + PACK], producer=_PRODUCER, first_number=at)
            for at in range(0, PURE_EVENTS, PACK)
        ]

    singles, packs = encode_singles(), encode_packs()
    headers = [fields[1] for fields in singles]

    def decode(entries: list[list[bytes]]) -> None:
        for fields in entries:
            for one in decode_entry(_ENTRY_ID, fields).events:
                one.data["request_id"]

    return {
        "encode an event": partial(metered, encode_singles),
        "encode a header": partial(metered, encode_around_bodies),
        "encode a pack of 100": partial(metered, encode_packs),
        "decode a header": partial(metered, lambda: [read_header(raw, DEFAULT_LIMITS) for raw in headers]),
        "decode an event": partial(metered, partial(decode, singles)),
        "decode a pack of 100": partial(metered, partial(decode, packs)),
    }


class Served:
    """The paths that end at a server. Two streams are filled before; all keys are removed at the end."""

    def __init__(self, url: str | None, events: int = SERVED_EVENTS) -> None:
        self._url, self._events = url, events
        self._keys = OwnKeys()
        self._connector = Connector(url)
        self._link = self._connector.link("check-speed")
        for kind, pack in (("singles", False), ("packs", True)):
            self._send(self._keys.stream(kind), Stopwatch(), many=True, pack=pack)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        gc.unfreeze()  # what the stopwatch put aside
        self._link.close()
        self._keys.remove(self._connector)
        self._connector.close()

    def paths(self) -> dict[str, HotPath]:
        """The paths by name."""
        return {
            "send_many()": partial(self._produce, many=True),
            "send()": partial(self._produce),
            "send_many(), packs": partial(self._produce, many=True, pack=True),
            "send(), packs": partial(self._produce, pack=True),
            "plain handler": partial(self._consume, "plain", "singles"),
            "async handler": partial(self._consume, "async", "singles"),
            "batch handler": partial(self._consume, "batch", "singles"),
            "plain handler, data": partial(self._consume, "data", "singles"),
            "plain handler, packs": partial(self._consume, "plain", "packs"),
            "batch handler, packs": partial(self._consume, "batch", "packs"),
            "batch handler, packs, data": partial(self._consume, "batch-data", "packs"),
        }

    def _produce(self, meter: CostMeter, *, many: bool = False, pack: bool = False) -> float:
        stream = self._keys.stream("sent")
        try:
            self._send(stream, Stopwatch(beside=meter), many=many, pack=pack)
        finally:
            self._link.call("UNLINK", stream)
        return meter.cost / self._events

    def _send(self, stream: str, watch: Stopwatch, *, many: bool, pack: bool) -> None:
        produce(
            self._url, stream=stream, count=self._events, many=many, pack=pack, ready=_nothing, watch=watch
        )

    def _consume(self, handler: str, kind: str, meter: CostMeter) -> float:
        consume(
            self._url,
            stream=self._keys.stream(kind),
            group=self._keys.group(),
            count=self._events,
            handler=handler,
            ready=_nothing,
            watch=Stopwatch(beside=meter),
        )
        return meter.cost / self._events


def _nothing() -> None:
    """Nobody waits to be told that a run is ready."""
