"""Ladder: in whose company an event may run that was running when a worker died.

A crash raises the delivery count of everything the worker held, begun or not, so one killer makes suspects of the
innocent. Each crash narrows the company an event may run in, until it is alone; only who was noted to begin alone, and
was delivered again since, has shown that the crash was its own.
"""

MAX_CRASHES = 5
"""After so many crashes an event is a dead letter, if a run that it began alone was among them."""
_COMPANY = (None, 100, 10, 1)


def company(crashes: int) -> int | None:
    """How many events a member may hold while this one runs: None for any number."""
    return _COMPANY[min(crashes, len(_COMPANY) - 1)]


def convicted(crashes: int, *, deliveries: int, noted: int) -> bool:
    """Whether it has killed its workers. noted: how often it was delivered when it last began alone, or 0."""
    return crashes >= MAX_CRASHES and 0 < noted < deliveries
