"""Consuming: reading, running, settling, renewing, claiming; and what applications declare."""
