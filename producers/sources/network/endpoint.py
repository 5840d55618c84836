"""Endpoint: where an intake listens, as people write it. Pure.

`8080` and `:8080` are this machine alone: whoever wants to be reached from elsewhere says so, `0.0.0.0:8080`.
"""

import ipaddress
import re
from dataclasses import dataclass

from pipeline.errors import UsageError

LOOPBACK = "127.0.0.1"

_WRITTEN = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]\s/]*):)?(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a port; port 0 is any that is free."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint(text: str, option: str) -> Endpoint:
    """Read HOST:PORT, [HOST]:PORT, :PORT or PORT.

    Raises:
        UsageError: none of them; names the option.
    """
    match = _WRITTEN.fullmatch(text.strip())
    if match is None or int(match["port"]) > 65_535:
        raise UsageError(f"{option}={text!r} is not HOST:PORT (127.0.0.1:8080, [::1]:8080, or 8080 alone)")
    return Endpoint((match["host"] or LOOPBACK).strip("[]"), int(match["port"]))
