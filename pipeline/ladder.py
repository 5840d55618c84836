"""Ladder: in whose company an event may run that was running when a worker died.

A crash raises the delivery count of everything the worker held, so one killer makes suspects of the innocent. Each
crash narrows the company an event may run in, until it is alone; only who crashes alone is convicted.
"""

MAX_CRASHES = 5
"""So many crashes make an event a dead letter, the last two of them alone."""
_COMPANY = (None, 100, 10, 1, 1)


def company(crashes: int) -> int | None:
    """How many events a member may hold while this one runs: None for any number, 0 to run it never again."""
    return _COMPANY[crashes] if crashes < MAX_CRASHES else 0
