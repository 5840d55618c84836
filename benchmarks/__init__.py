"""Benchmarks: what the server can do, and how much of it Millstream reaches."""
