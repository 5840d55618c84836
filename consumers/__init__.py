"""Consumers: everything that hands events to handlers (floor 2)."""
