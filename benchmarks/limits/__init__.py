"""Limits: bare-socket loops that do for an event what must be done and nothing else. Millstream is compared with them.

They import nothing of Millstream, so that no fault of its own can flatter it, and each is read in a minute.
"""
