"""Measures: what the bench measures, and what each figure is compared with."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["append", "consume", "both", "latency", "bytes"]
Filled = Literal["", "singles", "packs"]
"""Which stream must be there before: of one event per entry, or of packs."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure."""

    name: str
    kind: Kind
    what: str
    of: str = ""
    """The measure it is a share of; empty: of none, it is a limit itself."""
    duty: str = ""
    """What a process of its own is told to do; empty: nothing, the bench itself looks."""
    how: Mapping[str, Any] = field(default_factory=dict)
    filled: Filled = ""
    sender: str = ""
    """What a second process is told to do beside it."""
    sender_how: Mapping[str, Any] = field(default_factory=dict)


LIMIT = "limit"
BARE_APPEND = "bare-append"
BARE_SEND = "bare-send"
BARE_CONSUME = "bare-consume"
BARE_PACKS = "bare-packs-append"
BARE_PACKS_SEND = "bare-packs-send"
BARE_PACKS_CONSUME = "bare-packs-consume"


def _ours(name: str, what: str, *, of: str, **how: bool) -> Measure:
    return Measure(name, "append", what, of=of, duty="produce", how=how)


def _handling(name: str, what: str, handler: str, filled: Filled) -> Measure:
    of = BARE_CONSUME if filled == "singles" else BARE_PACKS_CONSUME
    return Measure(name, "consume", what, of=of, duty="consume", how={"handler": handler}, filled=filled)


MEASURES: Sequence[Measure] = (
    Measure(LIMIT, "append", "the server alone: plain XADD of the same two fields"),
    Measure(
        BARE_APPEND, "append", "bare loop: XADD of packed events, pipelined", of=LIMIT, duty="bare-append"
    ),
    _ours("send-many", "send_many()", of=LIMIT, many=True),
    Measure(
        BARE_SEND, "append", "bare loop: events one by one, by the append script", of=LIMIT, duty=BARE_SEND
    ),
    _ours("send", "send() in a loop, every receipt kept and confirmed", of=BARE_SEND),
    Measure(
        BARE_CONSUME, "consume", "bare loop: read, decode, ack by 1,000", duty=BARE_CONSUME, filled="singles"
    ),
    _handling("consume", "plain no-op handler per event", "plain", "singles"),
    _handling("consume-async", "no-op async handler per event, 64 at a time", "async", "singles"),
    _handling("consume-await", "async handler that suspends once", "await", "singles"),
    _handling("consume-data", "plain handler that reads each event's data", "data", "singles"),
    Measure(BARE_PACKS, "append", "bare loop: pack 100, zstd, XADD", duty=BARE_PACKS),
    _ours("packs-send-many", "send_many(pack=True)", of=BARE_PACKS, many=True, pack=True),
    Measure(
        BARE_PACKS_SEND,
        "append",
        "bare loop: events one by one, packs by the append script",
        of=BARE_PACKS,
        duty=BARE_SEND,
        how={"pack": True},
    ),
    _ours("packs-send", "send() in a loop, Producer(pack=True)", of=BARE_PACKS_SEND, pack=True),
    Measure(
        BARE_PACKS_CONSUME,
        "consume",
        "bare loop: read packs, decode, ack",
        duty=BARE_PACKS_CONSUME,
        filled="packs",
    ),
    _handling("packs-consume", "plain no-op handler per event of packs", "plain", "packs"),
    _handling("packs-batch", "no-op batch handler (500), packs", "batch", "packs"),
    _handling("packs-data", "batch handler that reads each event's data", "batch-data", "packs"),
    Measure(
        "bare-both",
        "both",
        "bare loops: one process appends, one consumes",
        duty=BARE_CONSUME,
        how={"block": True},
        sender=BARE_APPEND,
        sender_how={"once": True},
    ),
    Measure(
        "both",
        "both",
        "one process sends (send_many), one consumes and reads the data",
        of="bare-both",
        duty="consume",
        how={"handler": "data"},
        sender="produce",
        sender_how={"many": True},
    ),
    Measure("bare-latency", "latency", "bare: XADD to XREADGROUP BLOCK, two threads", duty="bare-latency"),
    Measure("latency", "latency", "send() to the handler", of="bare-latency", duty="latency"),
    Measure("bytes", "bytes", "MEMORY USAGE per event: one per entry, and in packs"),
)
NAMES = tuple(measure.name for measure in MEASURES)
_BY_NAME = {measure.name: measure for measure in MEASURES}


def chosen(names: Collection[str]) -> list[Measure]:
    """The measures of these names, those they are compared with, and what these are; all, if none is named."""
    wanted = set(names) | {_BY_NAME[name].of for name in names}
    wanted |= {_BY_NAME[name].of for name in wanted if name}
    return [measure for measure in MEASURES if not names or measure.name in wanted]


def streams_needed(measures: Sequence[Measure]) -> list[Filled]:
    """Which streams must be filled before."""
    needed = {measure.filled for measure in measures if measure.filled}
    if any(measure.kind == "bytes" for measure in measures):
        needed |= {"singles", "packs"}
    return sorted(needed, reverse=True)
