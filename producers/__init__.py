"""Producers: everything that puts events into streams (floor 2)."""
