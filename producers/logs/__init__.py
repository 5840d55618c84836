"""Logs: an application's log lines into a stream, from structlog and from the standard library (G12)."""

from producers.logs.handler import LogHandler
from producers.logs.processor import ShipLogs, ship_logs

__all__ = ["LogHandler", "ShipLogs", "ship_logs"]
