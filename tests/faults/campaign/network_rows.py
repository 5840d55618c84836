"""Rows in which the network suffers: replies swallowed, connections cut at any byte, packets lost, resets."""

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.faults.campaign.checker import Demands
from tests.faults.campaign.field import Crew, Field, Load
from tests.faults.campaign.row import Row, Site
from tests.faults.campaign.wire import PORT, NamespaceWire, no_namespaces, proxied
from tests.proxy import Proxy
from tests.until import until

PATIENT = {"claim_after": "30s", "work_ms": 3}
"""What was never seen is fetched at once: with so long a lease, what is not would be missing at the end."""
APPENDED = re.compile(rb"\*2\r\n\$(2\r\nok|8\r\nrepeated)\r\n")
READ = re.compile(rb"\*[12]\r\n\*2\r\n\$\d+\r\n[^\r]+\r\n\*\d+\r\n\*2\r\n")
SETTLED = re.compile(rb"\*\d+\r\n:\d+\r\n\$\d+\r\n[^\r]*\r\n:[01]\r\n")

LEDGER = Crew(
    group="ledger",
    kinds=("plain",),
    options={"concurrency": 1, "work_ms": 0.2, "claim_after": "30s"},
    ordered=True,
)
PATIENTLY = Load(
    rate=500,
    crews=(
        Crew(group="audit", kinds=("plain", "async"), options=PATIENT),
        Crew(group="bill", kinds=("batch", "async"), obeys=True, options=PATIENT),
        LEDGER,
    ),
)
STRICT = Demands(repeats=False, effect=3, claim_after_s=30)


def proxy_of(field: Field) -> Proxy:
    """The proxy that stands before workers, or producers, or both."""
    assert field.proxy is not None, "the row has one"
    return field.proxy


@contextlib.contextmanager
def before_producers(field: Field) -> Iterator[None]:
    """A proxy between the producers and the server."""
    with Proxy(field.server.address) as field.proxy:
        field.producer_url = field.proxy.url
        yield


@contextlib.contextmanager
def before_workers(field: Field) -> Iterator[None]:
    """A proxy between the workers and the server."""
    with Proxy(field.server.address) as field.proxy:
        field.worker_url = field.proxy.url
        yield


@contextlib.contextmanager
def before_all(field: Field) -> Iterator[None]:
    """A proxy between everybody and the server."""
    with Proxy(field.server.address) as field.proxy:
        field.worker_url = field.producer_url = field.proxy.url
        yield


def swallow(what: "re.Pattern[bytes]") -> Callable[[Field, random.Random], None]:
    """A few replies of one kind disappear, each with its connection; which ones is drawn."""

    def storm(field: Field, rng: random.Random) -> None:
        proxy = proxy_of(field)
        before = proxy.swallowed
        waits = [rng.randrange(1, 12) for _ in range(4)]

        def rule(number: int, reply: bytes) -> bool:
            if not waits or not what.match(reply):
                return False
            waits[0] -= 1
            if waits[0]:
                return False
            del waits[0]
            return True

        with field.fault("replies swallowed", lambda: proxy.swallowed - before):
            proxy.swallow = rule
            until(lambda: not waits, 60, what=field.said)
            proxy.swallow = None
        field.until_confirmed(30)

    return storm


def pile_up(field: Field, rng: random.Random) -> None:
    """The server stands still while as much as may be is on its way; what it then answers is lost."""
    proxy = proxy_of(field)
    before = proxy.swallowed
    field.until_confirmed(60)
    with field.fault("answers lost after a standstill", lambda: proxy.swallowed - before):
        with field.server.stopped():
            proxy.hold()
            field.pause(rng.uniform(0.2, 0.4))
        field.pause(0.1)  # all that is in its socket is carried out
        lost = iter(range(rng.randrange(1, 4)))
        proxy.swallow = lambda _number, reply: bool(APPENDED.match(reply)) and next(lost, None) is not None
        proxy.release()
        until(lambda: proxy.swallowed > before, 60, what=field.said)
        proxy.swallow = None
    field.until_confirmed(60)


def cut_anywhere(field: Field, rng: random.Random) -> None:
    """The connection on which the k-th byte passes breaks there: k is drawn, from 1 to beyond the largest batch."""
    proxy = proxy_of(field)
    for _ in range(6):
        before = proxy.cuts
        where = rng.choice(("request_bytes", "reply_bytes"))
        # Small ones as often as large ones: the first bytes of a batch are its numbers.
        amount = round(2 ** rng.uniform(0, 16))
        with field.fault(f"cut after {where}", lambda before=before: proxy.cuts - before):  # type: ignore[misc]
            proxy.cut_after(**{where: amount})
            until(lambda before=before: proxy.cuts > before, 60, what=field.said)  # type: ignore[misc]
    field.until_confirmed(30)


def hole(
    seconds: tuple[float, float], *, requests: bool, replies: bool
) -> Callable[[Field, random.Random], None]:
    """Packets disappear for a while, drawn from this range."""

    def storm(field: Field, rng: random.Random) -> None:
        assert field.wire is not None, "the row has one"
        field.until_confirmed(40)
        with field.fault("packets lost", repeats=True):
            field.wire.lose(requests=requests, replies=replies)
            field.pause(rng.uniform(*seconds))
            field.wire.lose(requests=False, replies=False)
        field.until_all_told()  # TCP tries again ever more rarely: the next hole is not to be the same one for anybody

    return storm


def reset(field: Field, rng: random.Random) -> None:
    """Every connection is reset, for a moment, again and again."""
    assert field.wire is not None, "the row has one"
    for _ in range(3):
        with field.fault("reset", repeats=True):
            field.wire.reset(True)
            field.pause(rng.uniform(0.05, 0.3))
            field.wire.reset(False)
        field.until_confirmed(40)


@contextlib.contextmanager
def wired(folder: Path) -> Iterator[Site]:
    """A server behind a network of its own, if there can be one; else a proxy is put before it later."""
    if no_namespaces():
        yield Site()
        return
    with NamespaceWire() as wire:
        yield Site({"before": wire.before, "listen": (wire.host, PORT)}, wire)


@contextlib.contextmanager
def over_wire(field: Field) -> Iterator[None]:
    """Everybody talks to the server over the wire."""
    if field.wire is not None:
        field.notes.append(f"by {field.wire.kind}")
        yield
        return
    with proxied(field.server.address) as wire:
        field.notes.append(f"by {wire.kind}, as there are no network namespaces here: {no_namespaces()}")
        field.wire = wire
        field.worker_url = field.producer_url = wire.proxy.url
        yield


def away(seconds: tuple[float, float], name: str, says: str, *, requests: bool, replies: bool) -> Row:
    """A row in which packets are lost for longer than anybody waits for an answer."""
    return Row(
        name=name,
        says=says,
        storm=hole(seconds, requests=requests, replies=replies),
        site=wired,
        around=over_wire,
        load=Load(rate=200),
        rounds=1,
        most_rounds=6,
        demands=Demands(repeats=False),
    )


ROWS = (
    Row(
        name="append-replies-swallowed",
        says="replies to appends disappear, and their connections with them",
        storm=swallow(APPENDED),
        around=before_producers,
        load=PATIENTLY,
        demands=STRICT,
    ),
    Row(
        name="appends-piled-up",
        says="the server stands still while small batches pile up, and then its answers are lost",
        storm=pile_up,
        around=before_producers,
        load=replace(PATIENTLY, rate=900, options={"batch_events": 4}),
        demands=Demands(repeats=False, effect=2, claim_after_s=30),
    ),
    Row(
        name="read-replies-swallowed",
        says="replies to reads disappear, and their connections with them",
        storm=swallow(READ),
        around=before_workers,
        load=PATIENTLY,
        demands=STRICT,
        drain_s=20,
    ),
    Row(
        name="settle-replies-swallowed",
        says="replies to settlements disappear, and their connections with them",
        storm=swallow(SETTLED),
        around=before_workers,
        load=PATIENTLY,
        demands=STRICT,
        drain_s=20,
    ),
    Row(
        name="cut-at-any-byte",
        says="connections break after the k-th byte of a request or a reply, k from 1 to 65,536",
        storm=cut_anywhere,
        around=before_all,
        load=PATIENTLY,
        demands=STRICT,
        drain_s=20,
    ),
    away((5.5, 7.5), "black-hole", "all packets are lost for 5.5 to 7.5 s", requests=True, replies=True),
    away(
        (5.5, 7.5),
        "replies-lost",
        "packets from the server are lost for 5.5 to 7.5 s",
        requests=False,
        replies=True,
    ),
    away(
        (5.5, 7.5),
        "requests-lost",
        "packets to the server are lost for 5.5 to 7.5 s",
        requests=True,
        replies=False,
    ),
    Row(
        name="connections-reset",
        says="every connection is answered by RST, for moments; the server keeps its half",
        storm=reset,
        site=wired,
        around=over_wire,
        # No ledger: the server may hand entries to the half that it keeps, and what comes later runs before.
        load=replace(PATIENTLY, crews=PATIENTLY.crews[:2]),
        demands=Demands(repeats=False, claim_after_s=30),
        drain_s=20,
    ),
)
