"""Capabilities: what a server can do and how durable it is, probed and never read off a version string.

A command is known if calling it without arguments is refused for their number, which every user may try; CONFIG and
INFO are asked where they are allowed. What cannot be found out is None, and said to be unknown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import AccessDeniedError, MillstreamError
from pipeline.server.replies import Reply, info_fields, pairs, text
from pipeline.server.scripts import Arg

Calls = Callable[[Sequence[Sequence[Arg]]], list[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """One server's abilities and settings, as far as they could be found out."""

    name: str
    """Product and version for people, such as "valkey 9.1.2"."""
    supported: bool
    """XAUTOCLAIM exists: Redis 6.2 or Valkey 7.2, or later."""
    waitaof: bool
    """WAITAOF exists: confirm levels fsynced (without appendfsync always) and durable:N can be given."""
    aof: bool | None
    """The append-only file is on; None if the server does not say."""
    fsync: str | None
    """appendfsync: always, everysec or no; None if the server does not say."""
    eviction: str | None
    """maxmemory-policy; anything but noeviction may evict whole streams."""
    replicas: int | None
    """Replicas connected at the time of asking."""
    cluster_nodes: int
    """Nodes that share the cluster's slots; 0 for a server that is not in a cluster."""
    run_id: str
    """Changes when the server process does; empty if INFO is denied."""

    @property
    def evicts(self) -> bool:
        """Whether whole streams may be evicted, as far as the server tells."""
        return self.eviction not in (None, "noeviction")

    def durability_line(self) -> str:
        """One line for people: what a crash of this server would cost."""
        if self.aof is None:
            kept = (
                "durability unknown (the server does not show its settings): find out before you rely on it"
            )
        elif not self.aof:
            kept = "NOT durable: no append-only file, a restart loses events (set appendonly yes)"
        elif self.fsync == "always":
            kept = "durable: every event is on disk before it is confirmed (appendfsync always)"
        elif self.fsync == "no":
            kept = "durable against a crash of the server; a power cut loses what is not written yet (appendfsync no)"
        else:
            kept = "durable against a crash of the server; a power cut may lose the last second (appendfsync everysec)"
        if self.evicts:
            kept += f"; WARNING: maxmemory-policy {self.eviction} may evict whole streams (set noeviction)"
        return f"{self.name}, {kept}"


def probe(calls: Calls) -> Capabilities:
    """Ask a server, in one round trip.

    Raises:
        AccessDeniedError: the server wants a password first.
    """
    hello, xautoclaim, waitaof, config, persistence, memory, server, replication, cluster = calls(
        [
            ("HELLO", "2"),
            ("XAUTOCLAIM",),
            ("WAITAOF",),
            ("CONFIG", "GET", "append*"),
            ("INFO", "persistence"),
            ("INFO", "memory"),
            ("INFO", "server"),
            ("INFO", "replication"),
            ("CLUSTER", "INFO"),
        ]
    )
    if isinstance(hello, AccessDeniedError):  # no password given where one is needed: nothing else would tell
        raise hello
    greeting = pairs(hello) if isinstance(hello, list) else {}
    settings = {key: text(value) for key, value in pairs(config).items()} if isinstance(config, list) else {}
    about = _info(server)
    aof = settings.get("appendonly") or {"1": "yes", "0": "no"}.get(_info(persistence).get("aof_enabled", ""))
    replicas = _info(replication).get("connected_slaves")
    product = "valkey" if "valkey_version" in about else text(greeting.get("server", "redis"))
    version = (
        about.get("valkey_version")
        or about.get("redis_version")
        or text(greeting.get("version", "of unknown version"))
    )
    return Capabilities(
        name=f"{product} {version}",
        supported=_exists(xautoclaim),
        waitaof=_exists(waitaof),
        aof=None if aof is None else aof == "yes",
        fsync=settings.get("appendfsync"),
        eviction=_info(memory).get("maxmemory_policy"),
        replicas=int(replicas) if replicas is not None else None,
        cluster_nodes=int(_info(cluster).get("cluster_size", 0)),
        run_id=about.get("run_id", ""),
    )


def _info(reply: Reply) -> dict[str, str]:
    """INFO's fields; none where the user may not ask."""
    return {} if isinstance(reply, MillstreamError) else info_fields(reply)


def _exists(reply: Reply) -> bool:
    """Whether a command called without its arguments is known; a user's lack of rights proves that it is."""
    return isinstance(reply, AccessDeniedError) or (
        isinstance(reply, MillstreamError) and "number of arg" in str(reply)
    )
