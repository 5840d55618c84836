"""Durability: what of a server's settings could lose what is kept there, the worst first, each with its remedy."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import MillstreamError
from pipeline.server.capabilities import Capabilities, probe
from pipeline.server.connect import Link
from pipeline.server.replies import pairs, text

GRADES = ("loses", "risks", "unknown", "fine")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    grade: str
    """loses: tasks are gone in a case that comes; risks: in one that may; unknown: the server does not say; fine."""
    what: str
    """The setting, such as appendonly."""
    says: str
    """What was found, and what it means."""
    remedy: str = ""
    """What to do about it; empty if nothing need be done."""


def findings(link: Link) -> list[Finding]:
    """Look at a server's settings; where CONFIG is denied, as on managed services, INFO tells the most of it."""
    capabilities = probe(link.calls)
    config = link.calls([("CONFIG", "GET", "min-replicas-to-write")])[0]
    least = None if isinstance(config, MillstreamError) else pairs(config).get("min-replicas-to-write")
    found = [
        *_append_only(capabilities),
        *_eviction(capabilities),
        *_replicas(capabilities, None if least is None else int(text(least))),
    ]
    return sorted(found, key=lambda one: GRADES.index(one.grade))


def _append_only(server: Capabilities) -> Iterator[Finding]:
    if server.aof is None:
        yield Finding(
            "unknown", "appendonly", "the server does not say whether it keeps an append-only file",
            "look it up with whoever runs it: without one a restart loses tasks",
        )  # fmt: skip
        return
    if not server.aof:
        yield Finding(
            "loses", "appendonly",
            "no append-only file: a restart loses all tasks since the last snapshot, or all there are",
            "CONFIG SET appendonly yes, and the same in the configuration file",
        )  # fmt: skip
        return
    yield Finding("fine", "appendonly", "yes: a crash of the server loses nothing that was written")
    policy = {
        "always": Finding("fine", "appendfsync", "always: on the disk before it is answered"),
        "everysec": Finding(
            "risks", "appendfsync", "everysec: a power cut loses up to 2 s of tasks",
            "CONFIG SET appendfsync always, if that is too much; it costs throughput",
        ),
        "no": Finding(
            "risks", "appendfsync", "no: a power cut loses what the system has not written, up to 30 s",
            "CONFIG SET appendfsync everysec (or always)",
        ),
    }  # fmt: skip
    yield policy.get(
        server.fsync or "",
        Finding(
            "unknown", "appendfsync", "the server does not say when it writes through to the disk",
            "look it up with whoever runs it: everysec loses up to 2 s in a power cut",
        ),
    )  # fmt: skip


def _eviction(server: Capabilities) -> Iterator[Finding]:
    if server.eviction is None:
        yield Finding(
            "unknown", "maxmemory-policy", "the server does not say what it evicts when memory is out",
            "look it up: anything but noeviction may delete a whole list",
        )  # fmt: skip
    elif server.evicts:
        yield Finding(
            "loses", "maxmemory-policy", f"{server.eviction}: when memory is out, a whole list may be deleted",
            "CONFIG SET maxmemory-policy noeviction: pushes are refused then, and tried again",
        )  # fmt: skip
    else:
        yield Finding("fine", "maxmemory-policy", "noeviction: nothing is deleted when memory is out")


def _replicas(server: Capabilities, least: int | None) -> Iterator[Finding]:
    if server.replicas is None:
        yield Finding("unknown", "replicas", "the server does not say whether it has replicas")
    elif not server.replicas:
        yield Finding(
            "risks", "replicas", "none: if this machine's disk is lost, so are the tasks",
            "a replica on another machine, where that matters",
        )  # fmt: skip
    elif not least:
        yield Finding(
            "risks", "min-replicas-to-write",
            f"{server.replicas} connected, none needed for a write: a failover loses what has not reached one",
            "CONFIG SET min-replicas-to-write 1; for each event by itself, a stream with confirm='replicated:1'",
        )  # fmt: skip
    else:
        yield Finding(
            "fine", "min-replicas-to-write", f"{least} of {server.replicas} replicas must keep up for a write"
        )
