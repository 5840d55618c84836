"""Sinks: ready-made handlers."""
