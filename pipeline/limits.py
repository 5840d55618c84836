"""Limits: how large, how deep and how dense an entry may be, on the way out and on the way in.

What encoding lets through, decoding accepts: a reader with the same limits never refuses what a writer was allowed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one entry."""

    max_entry_bytes: int = 1 << 20
    """Most bytes of an entry's fields when sent; for a reader, of its body. Default 1 MiB."""
    max_header_bytes: int = 1 << 16
    """Most bytes of the header: type, key, id and headers. Default 64 KiB."""
    max_body_bytes: int = 16 << 20
    """Most bytes of a body once it is decompressed. Default 16 MiB."""
    max_ratio: int = 1_000
    """Above max_entry_bytes decompressed, most bytes of content per byte of zstd frame. Log lines that differ in no
    more than a time stay below 500, and what repeats more is written in smaller blocks (compression.py); a reader is
    so made to unpack 16 MiB by no less than 16 KiB, not by 500 bytes."""
    max_depth: int = 32
    """Most dicts and lists within one another in an event's data."""
    max_values: int = 1 << 20
    """Most values (keys, items, containers) in one body: a byte each is enough to write them, 100 bytes each is what
    they take in memory."""
    max_pack_events: int = 500
    """Most events that a writer puts into one pack."""
    max_read_pack_events: int = 10_000
    """Most events of a pack that a reader accepts."""


DEFAULT_LIMITS = Limits()
