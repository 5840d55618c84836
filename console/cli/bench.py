"""millstream bench: this server's limit, and beside it what Millstream reaches on it."""

import os
import platform
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

import click

from console.bench.benchmark_program import BenchmarkProgram, find_program
from console.bench.measures import BARE_APPEND, LIMIT, NAMES, Measure, chosen
from console.bench.process import BenchError
from console.bench.report import BYTES, LATENCY, RATES, report
from console.bench.room import EVENT_BYTES, check_room, needed_bytes
from console.bench.rounds import Load, Rounds
from console.cli.progress import Status
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import as_bytes, counted
from pipeline.server.capabilities import Capabilities


@click.command(
    "bench",
    cls=Verb,
    examples=[
        ("millstream bench", "all measurements, three rounds each: a minute or two"),
        ("millstream bench --url embedded://./data --events 20000 --rounds 1", "a quick look, on a server of its own"),
        ("millstream bench --only send-many --only consume --json", "two of them, and what they are compared with"),
        ("millstream bench --redis-benchmark /opt/redis/bin/redis-benchmark", "the limit by a program not on PATH"),
    ],
)  # fmt: skip
@click.option("--events", type=click.IntRange(100, 10_000_000), metavar="COUNT", default=100_000, show_default=True,
              help="Events per measurement; with few, what starting costs shows in the rates.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 100), metavar="COUNT", default=3, show_default=True,
              help="How often each is measured; what is shown is the median.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(1, 1_000_000), metavar="PER_S", default=1_000, show_default=True,
              help="Events per second while latency is measured.")  # fmt: skip
@click.option("--only", "--measure", "only", type=click.Choice(NAMES), metavar="NAME", multiple=True,
              help=f"Only this one and what it is compared with; may be repeated: {', '.join(NAMES)}.")  # fmt: skip
@click.option("--redis-benchmark", "program", metavar="PATH",
              help="The program that finds the server's limit; else redis-benchmark or valkey-benchmark on PATH, "
                   "else a bare loop of ours.")  # fmt: skip
@click.pass_obj
def verb(
    session: Session, events: int, rounds: int, rate: float, only: tuple[str, ...], program: str | None
) -> None:
    """Measure this server's limit, and how much of it Millstream reaches.

    The limit of appending is what redis-benchmark reaches with the same two-field entry; consuming, packs and latency
    are compared with bare socket loops that do nothing but the work itself. Each measurement runs in a fresh process
    and in every round; what arrived is counted and checksummed, and a difference is an error (exit code 1).

    It writes to keys of its own (millstream-bench-...), which it removes at the end, and keeps the server busy
    meanwhile: on a server that others use, both they and the figures suffer. The server is measured as it is set:
    durability is said with the result.
    """
    out = session.out
    measures = chosen(only)
    link = session.link("bench")
    check_room(link, measures, events)
    connector = session.connector()
    found = find_program(program, connector.reached())
    limit = found if isinstance(found, BenchmarkProgram) else None
    limit_by = limit.name if limit else "a bare loop of ours"
    if limit is None and any(measure.name == LIMIT for measure in measures):
        out.talk(f"the limit is measured by a bare loop in Python: {found}")
        measures = [measure for measure in measures if measure.name != BARE_APPEND or BARE_APPEND in only]
    load = Load(events=events, rounds=rounds, rate=rate)
    capabilities = connector.capabilities()
    run = Rounds(connector, session.url, load, limit, lambda doing: status.now(doing), out.warn)
    out.talk(f"{connector.shown}: {capabilities.durability_line()}")
    if capabilities.aof is False:
        out.warn("without an append-only file a server is faster than one that keeps its events")
    out.talk(_plan(measures, load, run.keys.name))
    with _signals_interrupt(), Status(out) as status:
        figures = run.run(measures)
    tables = report(figures, limit_by)
    about = _about(connector.shown, capabilities, load, limit_by)
    wrong = [one.measure.name for one in figures if not one.right]
    if out.for_people:
        _show(session, about, tables)
    else:
        out.done("", **about, **tables, right=not wrong)
    if wrong:
        raise BenchError(f"not all events arrived, or others than were sent: {', '.join(wrong)}")


def _plan(measures: Sequence[Measure], load: Load, name: str) -> str:
    memory = as_bytes(needed_bytes(measures, load.events))
    return (
        f"{counted(len(measures), 'measurement')}, {counted(load.rounds, 'round')}, "
        f"{counted(load.events, 'event')} of {EVENT_BYTES} bytes each; "
        f"up to {memory} of the server's memory at a time, in keys {name}-..., removed at the end"
    )


def _about(shown: str, capabilities: Capabilities, load: Load, limit_by: str) -> dict[str, Any]:
    return {
        "server": {
            "url": shown,
            "name": capabilities.name,
            "aof": capabilities.aof,
            "fsync": capabilities.fsync,
            "durability": capabilities.durability_line(),
        },
        "client": {
            "python": platform.python_version(),
            "hiredis": version("hiredis"),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "load": {
            "events": load.events,
            "rounds": load.rounds,
            "event_bytes": EVENT_BYTES,
            "latency_rate_per_s": load.rate,
            "latency_events": load.latency_events,
            "limit_by": limit_by,
        },
    }


def _show(session: Session, about: dict[str, Any], tables: dict[str, list[dict[str, Any]]]) -> None:
    out, client, load = session.out, about["client"], about["load"]
    out.line(f"{about['server']['durability']}")
    out.line(
        f"Python {client['python']}, hiredis {client['hiredis']}, {counted(client['cores'], 'core')}, "
        f"{client['system']}; {load['events']:,} events of {load['event_bytes']} bytes, "
        f"median of {counted(load['rounds'], 'round')}, limit by {load['limit_by']}"
    )
    for columns, rows in ((RATES, tables["rates"]), (LATENCY, tables["latency"]), (BYTES, tables["bytes"])):
        if rows:
            out.line("")
            for line in out.table(columns, rows):
                out.line(line)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end the bench as Ctrl-C does: what it wrote is removed first."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
