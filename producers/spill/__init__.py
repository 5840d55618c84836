"""Spill: entries that wait on disk while the server is away, in the order in which they are to be appended."""
