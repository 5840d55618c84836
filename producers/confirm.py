"""Confirm: the levels a send can be confirmed at, the command that waits for each, and which servers can give it.

Stands on WAIT and WAITAOF, which cover the writes of their own connection only: they are sent right behind the
appends. Source: https://redis.io/docs/latest/commands/waitaof/
"""

from dataclasses import dataclass

from pipeline.errors import MillstreamError, UnsupportedServerError
from pipeline.options import confirm_level
from pipeline.server.capabilities import Capabilities
from pipeline.server.replies import Reply


@dataclass(frozen=True, slots=True)
class Level:
    """One confirm level, as the option says it."""

    text: str
    name: str
    replicas: int
    timeout_ms: int

    @classmethod
    def of(cls, confirm: str, timeout_ms: int) -> "Level":
        """The level that `confirm` names.

        Raises:
            UsageError: no such level.
        """
        name, replicas = confirm_level(confirm)
        return cls(confirm, name, replicas, timeout_ms)

    @property
    def waits(self) -> bool:
        """Whether more than the server's reply may be needed."""
        return self.name != "accepted"

    def check(self, server: Capabilities, *, replicas_too: bool) -> None:
        """Refuse a server that cannot give the level. Replicas may come back, so they count at start only.

        Raises:
            UnsupportedServerError: it cannot.
        """
        if self.name in ("fsynced", "durable"):
            if server.aof is False:
                raise self._refusal(server, "its append-only file is off (appendonly no)")
            if not server.waitaof and not (self.name == "fsynced" and server.fsync == "always"):
                remedy = ", and appendfsync is not known to be always" if self.name == "fsynced" else ""
                raise self._refusal(server, f"it has no WAITAOF (Redis 7.2){remedy}")
        if replicas_too and server.replicas is not None and server.replicas < self.replicas:
            raise self._refusal(server, f"{server.replicas} replicas are connected")

    def command(self, server: Capabilities) -> tuple[str | int, ...] | None:
        """What to send behind the appends; None where their replies say enough."""
        if self.name == "replicated":
            return ("WAIT", self.replicas, self.timeout_ms)
        if self.name == "durable":
            return ("WAITAOF", 1, self.replicas, self.timeout_ms)
        if self.name == "fsynced" and not (server.aof and server.fsync == "always"):
            return ("WAITAOF", 1, 0, self.timeout_ms)
        return None

    def reached(self, reply: Reply) -> bool:
        """Whether the answer to command() says that the level was reached; a timeout is no error there."""
        if isinstance(reply, MillstreamError):
            return False
        if self.name == "replicated":
            return isinstance(reply, int) and reply >= self.replicas
        return isinstance(reply, list) and reply[0] >= 1 and reply[1] >= self.replicas

    def _refusal(self, server: Capabilities, why: str) -> UnsupportedServerError:
        return UnsupportedServerError(f"confirm={self.text} cannot be given by {server.name}: {why}")
