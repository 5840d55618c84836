"""Limits: bare-socket loops, the least that Python can do for an event. Millstream is compared with them.

They import nothing of Millstream, so that no fault of its own can flatter it, and each is read in a minute.
"""
